"""A run: its folder, its versions, and who writes it.

Readers trust manifests and nothing else: not folder names, not times, not the log.
"""

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from everstep.contracts import Draft, ParentRef, Report
from everstep.errors import DamageFound, NotCommitted, UnreachableDisk, UserError
from everstep.places import absolute, as_word
from everstep.versions import commit as committing
from everstep.versions import fsops, manifest
from everstep.versions.annotations import Annotation, read_annotation
from everstep.versions.commit import Coming
from everstep.versions.holder import LockHolder
from everstep.versions.layout import MIRROR, RUNS, RunLayout, claimed_number, is_unmade, version_number
from everstep.versions.lock import Held, adopted, aloud, holder, locked
from everstep.versions.making import make_run, unmake_run
from everstep.versions.quarantine import aside_if_damaged, by_digests, by_sizes, newest
from everstep.versions.reach import cause, reaching
from everstep.versions.readme import BEST_BEFORE, About
from everstep.versions.recovery import last_logged, recover
from everstep.versions.requests import clear_requests
from everstep.versions.strangers import is_lightning_log, stranger
from everstep.versions.version import Version

ABOUT = About()
TRIES = 5


class Run:
    """A run's folder. Reading needs no lock; writing does."""

    def __init__(self, root: Path) -> None:
        self.layout = RunLayout(root)
        self.held: Held | None = None  # its lock, while this process or the one that it was forked from holds it
        self._found_whole: dict[int, tuple[int, ...]] = {}  # manifests read here, so that damaged() need not read them

    # --- finding and making --------------------------------------------------------------------------------

    @classmethod
    def exists(cls, root: Path) -> bool:
        with reaching(root):
            is_there = not is_unmade(root.name) and RunLayout(root).hparams.is_file()
            return is_there and not is_lightning_log(root)

    @classmethod
    def open(cls, root: Path) -> "Run":
        """Raises: UserError with the nearest name, if no run is there."""
        if not cls.exists(root):
            told = f"There is no run {root}{stranger(root) or _near(root)}"
            raise UserError(told if told.endswith("?") else f"{told}.")
        return cls(absolute(root))

    @classmethod
    def create(cls, root: Path, hparams_yaml: str, about: About = ABOUT) -> "Run":
        """Make a run's folder, whole at once; of several that would, one does.

        Raises: UserError if something is there or the disk refuses; DiskFull. Nothing is left then.
        Crash: nothing, or something hidden that the next one of this name clears, or the run.
        """
        place = absolute(root)
        make_run(place, hparams_yaml, about)
        return cls(place)

    def take_back(self, made: Sequence[Path]) -> bool:
        """Unmake a run that came to no version; the lock has to be held. Returns whether it was.

        A run stays where anything in it is somebody else's. Crash: the run, or nothing that anybody sees.
        """
        return unmake_run(self.path, made)

    @property
    def name(self) -> str:
        return self.layout.root.name

    @property
    def path(self) -> Path:
        return self.layout.root

    @property
    def word(self) -> str:
        """What is typed here to name it, so that a command that is printed can be copied."""
        with contextlib.suppress(OSError):
            if (RUNS / self.name).resolve() == self.path and not self.name.startswith("-"):
                return as_word(self.name)
        return as_word(self.path)

    # --- writing -------------------------------------------------------------------------------------------

    def lock(self, command: str, report: Report = aloud) -> AbstractContextManager[Held]:
        """Hold the run for writing; children that inherit the descriptor hold it too, for as long as they live.

        Raises: Busy, a UserError, saying who holds it; UserError of copies that a mirror holds. Reports where the file
        system has no locks.
        """
        if (self.path / MIRROR).is_file():
            raise UserError(
                f"{self.path} holds copies of a run, which stay as they are. Nothing was changed; "
                f"everstep mirror pull {self.word} makes a run of them here."
            )
        return self._as_held(locked(self.layout.lock, self.name, command, report))

    def lock_from(self, descriptor: int, command: str) -> AbstractContextManager[Held]:
        """The same by the descriptor that the holder handed on, which is closed at the end. Raises: Busy; UserError."""
        return self._as_held(adopted(descriptor, self.layout.lock, self.name, command))

    @contextmanager
    def _as_held(self, lock: AbstractContextManager[Held]) -> Iterator[Held]:
        before = self.held
        with lock as self.held:
            try:
                yield self.held
            finally:
                self.held = before

    def recover(self) -> list[str]:
        """Clear what a crash left, and requests that nobody waits for; the lock has to be held."""
        clear_requests(self.layout)
        return recover(self.layout)

    def commit(self, draft: Draft | Coming) -> Version:
        """Make the next version; the lock has to be held. A disk that answers badly is a disk that refuses.

        Raises: NotCommitted, older versions are whole; DamageFound if an image is not what it was sealed as.
        """
        coming = Coming.of(draft) if isinstance(draft, Draft) else draft
        try:
            number = self.next_number()
            path = committing.commit(self.layout, number, coming)
        except (OSError, UnreachableDisk) as error:
            why = f"Step {coming.step:,} is not committed: {cause(error)}. Older versions are whole."
            raise NotCommitted(why) from error
        try:
            return Version(number, path, manifest.read(path))
        except (DamageFound, UnreachableDisk) as error:
            raise NotCommitted(
                f"{path.name} (step {coming.step:,}) was written, but cannot be read back: {cause(error)}. "
                "Older versions are whole."
            ) from error

    def next_number(self) -> int:
        """One more than any number ever used here: numbers of damaged or removed versions are not used again."""
        with reaching(self.path):
            used = self._numbers()
            for aside in (self.layout.quarantine, self.layout.trash):
                entries = aside.iterdir() if aside.is_dir() else ()
                used += [n for entry in entries if (n := claimed_number(entry.name)) is not None]
            return max(max(used, default=-1), last_logged(self.layout)) + 1

    def replace_hparams(self, hparams_yaml: str) -> None:
        """Record settings that were changed on purpose."""
        fsops.replace_file(self.layout.hparams, hparams_yaml.encode())

    def tell_best_score(self, score: str) -> None:
        """Say which score RUN@best goes by; a minus in front where lower is better."""
        if score != self.best_score():
            fsops.replace_file(self.layout.best_score, score.encode())

    # --- reading -------------------------------------------------------------------------------------------

    def versions(self) -> list[Version]:
        """All versions with a whole manifest, by number. Reads manifests only. Raises: UnreachableDisk."""
        with reaching(self.path):
            for _ in range(TRIES):
                folders = self._folders()
                read = list(self._read(folders))
                if len(read) == len(folders):  # else some were removed meanwhile, and newer ones may be there
                    break
        return [found for _, found in read if isinstance(found, Version)]

    def version(self, number: int) -> Version:
        """The version of this number, with nothing else read. Raises: DamageFound."""
        path = self.layout.version(number)
        return Version(number, path, manifest.read(path))

    def ref(self, version: Version) -> ParentRef:
        """The version as the parent of what is made from it."""
        return ParentRef(self.name, version.number, version.manifest_digest)

    def damaged(self) -> list[tuple[Path, str]]:
        """Folders that are named as versions but do not count, with the reason."""
        known = self._found_whole
        with reaching(self.path):
            unknown = [(n, path) for n, path in self._folders() if n not in known or known[n] != manifest.stamp(path)]
            return [(path, str(found)) for path, found in self._read(unknown) if isinstance(found, DamageFound)]

    def annotation(self, number: int) -> Annotation:
        return read_annotation(self.layout, number)

    def best_score(self) -> str:
        """Which score RUN@best goes by."""
        try:
            return self.layout.best_score.read_text()
        except OSError:
            return BEST_BEFORE

    def holder(self) -> LockHolder | None:
        """Who writes the run now."""
        return holder(self.layout.lock)

    def find(self, spec: str) -> Version:
        """A version by "latest", its number, "version_12", "-2", "best" or a label. Raises: UserError."""
        versions = self.versions()
        if not versions:
            raise UserError(f"{self.name} has no version yet.")
        found = self._by_number(spec, versions) or self._by_word(spec, versions)
        if found is None:
            raise UserError(f"{self.name} has no version {spec}. It has {_span(versions)}; everstep list {self.word}.")
        return found

    def newest_whole(self, report: Report) -> Version | None:
        """The newest resumable version whose every digest holds; damaged ones are set aside on the way.

        The lock has to be held. Raises: UserError at a version of a newer format; UnreachableDisk.
        Crash: a damaged version is where it was or in quarantine/, with all its files.
        """
        with reaching(self.path):
            return newest(self.layout, reversed(list(self._read())), by_digests, report)

    def newest_resumable(self, report: Report) -> Version | None:
        """The same by manifests and sizes of files alone, for one who verifies every tensor while loading it.

        Where that finds damage, set_aside_damaged and ask again. Raises, Crash: as newest_whole.
        """
        with reaching(self.path):
            return newest(self.layout, reversed(list(self._read())), by_sizes, report)

    def set_aside_damaged(self, number: int, report: Report) -> bool:
        """Read a version whole, and set it aside if it is damaged; returns whether it was, and is gone from here.

        The lock has to be held. Raises, Crash: as newest_whole.
        """
        with reaching(self.path):
            return aside_if_damaged(self.layout, self._read([(number, self.layout.version(number))]), report)

    def _numbers(self) -> list[int]:
        with os.scandir(self.path) as entries:
            named = ((version_number(entry.name), entry) for entry in entries)
            return sorted(number for number, entry in named if number is not None and entry.is_dir())

    def _folders(self) -> list[tuple[int, Path]]:
        return [(number, self.layout.version(number)) for number in self._numbers()]

    def _read(self, folders: list[tuple[int, Path]] | None = None) -> Iterator[tuple[Path, Version | DamageFound]]:
        for number, path in self._folders() if folders is None else folders:
            stamp = manifest.stamp(path)
            try:
                read = manifest.read(path)
            except DamageFound as damage:
                if path.exists():  # else it was removed since the folder was listed
                    yield path, damage
                continue
            if read["version"] == number:
                self._found_whole[number] = stamp
                yield path, Version(number, path, read)
            else:
                yield path, DamageFound(f"holds the manifest of version_{read['version']}")

    def _by_number(self, spec: str, versions: list[Version]) -> Version | None:
        if spec == "latest":
            return versions[-1]
        if spec.startswith("-") and spec[1:].isdigit() and 0 < int(spec[1:]) <= len(versions):
            return versions[-int(spec[1:])]
        number = int(spec) if spec.isdigit() else version_number(spec)
        return next((version for version in versions if version.number == number), None)

    def _by_word(self, spec: str, versions: list[Version]) -> Version | None:
        if spec == "best":
            return self._best(versions)
        notes = [(version, self.annotation(version.number)) for version in versions]
        labelled = [version for version, note in notes if spec in note.labels]
        return labelled[-1] if labelled else None

    def _best(self, versions: list[Version]) -> Version:
        """Raises: UserError if no version has the score."""
        spelled = self.best_score()
        if not spelled:
            raise UserError(f"Whoever writes {self.name} names no score that it could be the best by.")
        score, sign = spelled.removeprefix("-"), -1 if spelled.startswith("-") else 1
        scored = [(self.annotation(version.number).scores.get(score), version) for version in versions]
        known = [(sign * value, version.number, version) for value, version in scored if value is not None]
        if not known:
            raise UserError(f"{self.name} has no version with a score {score} yet, so none is the best.")
        return max(known)[2]


def _span(versions: list[Version]) -> str:
    first, last = versions[0].name, versions[-1].name
    return first if len(versions) == 1 else f"{len(versions)} versions from {first} to {last}"


def _near(root: Path) -> str:
    siblings = [entry.name for entry in root.parent.iterdir() if Run.exists(entry)] if root.parent.is_dir() else []
    near = difflib.get_close_matches(root.name, siblings, n=1, cutoff=0.4)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; {root.parent} holds {', '.join(sorted(siblings)[:8])}" if siblings else ""

"""Committed versions of a run sent to another place: data first, the manifest last.

There a run lies as it does here, so that every tool reads it. Versions never change, and their numbers are used once: a
break costs the file that was under way.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from everstep.contracts import Report
from everstep.errors import DamageFound, UnreachableDisk, UserError
from everstep.mirror.backend import Place, Still, sending
from everstep.mirror.claims import another, claim_number, claim_place
from everstep.mirror.folder import PART
from everstep.mirror.known import RECORD, Known, known, remember
from everstep.mirror.offered import Offer, file_faults, offer
from everstep.mirror.rate import UNLIMITED, Rate
from everstep.mirror.thinning import clear_unfinished, drop, plan_dropped, plan_passed
from everstep.versions import Run, Version
from everstep.versions.ahead import Ahead
from everstep.versions.digests import digest
from everstep.versions.layout import MANIFEST, MIRROR, TRAINING, RunLayout
from everstep.versions.passing import Passing, passing
from everstep.versions.reach import reaching
from everstep.versions.reading import reading
from everstep.versions.retention import Policy
from everstep.versions.verify import load_digests

HERE = RunLayout(Path())
SIDE_FILES = tuple(str(path) for path in (HERE.hparams, HERE.readme, HERE.identity, HERE.best_score, HERE.log))
RECORDS, IDENTITY = str(HERE.records), str(HERE.identity)
LOG = RECORD  # of records too, with a number: what a send that a training has started prints
LEFT_OUT = ("live.json", "stacks.txt", "nodes", "tensorboard", "wandb")  # of this machine, or of other programs
Sent = Callable[[int, int], None]  # bytes so far, of all


def unheard(done: int, total: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How copies are sent.

    is_slim: without what only a resume needs. is_anew: also where copies were sent before and none is any more.
    may_wait: until whoever sends there now is done, instead of being refused. policy: the mirror's own; None takes all.
    """

    is_slim: bool = False
    is_anew: bool = False
    may_wait: bool = False
    rate: Rate = UNLIMITED
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of sending a run's versions. damaged: with the first thing wrong; these are not sent."""

    sent: tuple[int, ...] = ()
    there: tuple[int, ...] = ()
    damaged: tuple[tuple[int, str], ...] = ()
    gone: tuple[int, ...] = ()  # pruned meanwhile
    passed: tuple[int, ...] = ()  # that the mirror's own policy does not take
    dropped: tuple[int, ...] = ()  # and that went by it

    @property
    def up_to(self) -> int | None:
        """The newest version that is there."""
        return max({*self.sent, *self.there} - {*self.dropped}, default=None)


def send(run: Run, place: Place, terms: Terms, report: Report, said: Sent = unheard) -> Outcome:
    """Bring a place up to date with the run. Only reads the run, which may be trained meanwhile.

    Args:
        said: told of bytes of the version under way.

    Raises: UserError where the place holds another run's copies, or another version of the same number, or somebody
        sends there now; DiskFull, UnreachableDisk.
    Crash: whole versions, and files of one that has no manifest yet; the next send goes on there.
    """
    with sending(place):
        if not terms.is_anew:
            _refuse_if_away(run, place)
        with place.alone(terms.may_wait) as still:
            claim_place(run, place, terms.is_slim)
            seen = known(run, place.address)
            beside = {} if seen is None else dict(seen.beside)
            sender = _Sender(run, place, terms, report, said, still, offer(place), beside)
            sender.remember()
            sender.send_all()
            sender.send_beside()
            sender.thin()
    return sender.outcome


@dataclass(slots=True)
class _Sender:
    run: Run
    place: Place
    terms: Terms
    report: Report
    said: Sent
    still: Still
    there: Offer
    beside: dict[str, str]
    outcome: Outcome = field(default_factory=Outcome)

    def send_all(self) -> None:
        """What turns out to be damaged here counts for nothing, so the mirror's policy may take others in its place."""
        coming, passed = self.run.versions(), set[int]()
        while True:
            passed = plan_passed(self.run, self.there, self._damaged(), self.terms.policy, time.time())
            before = self._damaged()
            for version in coming:
                if version.number not in passed:
                    self._settle(version)
                    self.remember()
            coming = [version for version in coming if version.number in passed]
            if self._damaged() == before:
                break
        for version in coming:
            self._came("passed", version.number)
        self.remember()

    def thin(self) -> None:
        """Last of all, when what is newer is there; by what is there, whatever else there is here."""
        now = self.there if self.terms.policy is None else offer(self.place)
        for offered in plan_dropped(self.run, now, self.terms.policy, time.time()):
            self.still()
            drop(self.place, offered)
            self._came("dropped", offered.number)
        clear_unfinished(self.run, self.place, now)

    def send_beside(self) -> None:
        """What is there as it was sent last is not asked for again."""
        there = {f"{RECORDS}/{path}": size for path, size in self.place.files(RECORDS).items()}
        for name, content in _beside(self.run).items():
            taken = digest(content)
            size = there.get(name) if name.startswith(f"{RECORDS}/") else self.place.size(name)
            if size == len(content) and self.beside.get(name) == taken:
                continue
            if size != len(content) or self.place.read(name) != content:
                self.place.put(name, [content], len(content))
            self.beside[name] = taken
        self.remember()

    def remember(self) -> None:
        settled = {*self.there.whole, *self.outcome.sent, *self.outcome.passed}
        seen = Known(self.place.address, self.terms.is_slim, self.beside, tuple(sorted(settled)))
        remember(self.run, seen)

    def _damaged(self) -> frozenset[int]:
        return frozenset(number for number, _ in self.outcome.damaged)

    def _settle(self, version: Version) -> None:
        number = version.number
        if number in self.there.damaged:
            self._came("damaged", (number, f"its copy there {self.there.damaged[number]}"))
        elif number not in self.there.whole:
            self._try(version)
        elif self.there.whole[number].digest != version.manifest_digest:
            raise another(self.place, version)
        else:
            self._came("there", number)

    def _try(self, version: Version) -> None:
        try:
            with reading(version.path):
                _Sending(version, self.place, self.terms, self.said).send(self.still)
        except DamageFound as damage:
            self._came("damaged", (version.number, str(damage)))
        except UserError as pruned:
            if version.path.is_dir():
                raise
            self.report(str(pruned))
            self._came("gone", version.number)
        else:
            self._came("sent", version.number)

    def _came(self, how: str, what: object) -> None:
        self.outcome = replace(self.outcome, **{how: (*getattr(self.outcome, how), what)})


@dataclass(slots=True)
class _Sending:
    """One version under way."""

    version: Version
    place: Place
    terms: Terms
    said: Sent
    done_bytes: int = 0

    def send(self, still: Still) -> None:
        """Raises: DamageFound where it is not whole here; OSError and UnreachableDisk of the place."""
        claim_number(self.place, self.version)
        path, files = self.version.path, self._files()
        total, digests = sum(files.values()), load_digests(path, self.version.files)
        for name, size in files.items():
            still()
            check = Passing(name, self.version.files[name], digests.get(name, {}))
            self._bring(name, size, check, total)
            self.done_bytes += size
            self.said(self.done_bytes, total)
        still()
        content = (path / MANIFEST).read_bytes()
        name = f"{self.version.name}/{MANIFEST}"
        # Refused where somebody who took over has been quicker; what is there then is the same, or another's.
        if not self.place.create(name, content) and self.place.read(name) != content:
            raise another(self.place, self.version)

    def _files(self) -> dict[str, int]:
        """Path inside the version -> size, of those that are sent."""
        return {
            path: int(entry["size"])
            for path, entry in self.version.files.items()
            if (self.version.path / path).is_file() and not (self.terms.is_slim and path.startswith(f"{TRAINING}/"))
        }

    def _bring(self, path: str, size: int, check: Passing, total: int) -> None:
        """One file; what a break has left of it, or an earlier send has brought, is read and not believed."""
        name = f"{self.version.name}/{path}"
        if self.place.size(name) == size and not file_faults(self.place, name, check.anew(), self.terms.rate):
            return
        pieces = passing(check, self._read_here(path, size, total))
        if self.place.put(name, self.terms.rate.pieces(pieces), size):
            return
        wrong = file_faults(self.place, name, check.anew(), self.terms.rate)
        if wrong:
            self.place.delete(name)
            raise UnreachableDisk(
                f"{self.place.address} does not give back what was sent: {self.version.name}/{wrong[0]}. It is not "
                "offered there; the same line sends it again."
            )

    def _read_here(self, path: str, size: int, total: int) -> Iterator[memoryview | bytes]:
        """Past the page cache, so that neither the data set nor the trainer's memory is pushed out."""
        done = 0
        with reaching(self.version.path), Ahead(self.version.path / path) as ahead:
            if ahead.size_bytes != size:
                raise DamageFound(f"{path}: is {ahead.size_bytes:,} bytes long, not {size:,}")
            for piece in ahead.pieces(size):
                yield piece
                done += len(piece)
                self.said(self.done_bytes + done, total)


def _refuse_if_away(run: Run, place: Place) -> None:
    """Where a disk is not mounted there is an empty folder, and what is sent fills another disk. Raises: UserError."""
    if known(run, place.address) is not None and place.read(MIRROR) is None:
        raise UserError(
            f"Copies of {run.name} were sent to {place.address}, and none is there now. Is its disk mounted? Nothing "
            "was sent; --anew begins again."
        )


def _beside(run: Run) -> dict[str, bytes]:
    """Settings, and what is said of versions: small, and new each time."""
    records = run.path / RECORDS
    found = {name: run.path / name for name in SIDE_FILES}
    for path in sorted(records.rglob("*")) if records.is_dir() else ():
        inside = path.relative_to(records)
        if path.is_file() and not _is_left_out(inside):
            found[f"{RECORDS}/{inside}"] = path
    contents = dict[str, bytes]()
    for name, path in found.items():
        with contextlib.suppress(FileNotFoundError):
            contents[name] = path.read_bytes()
    return contents


def _is_left_out(inside: Path) -> bool:
    is_ours = inside.parts[0] in LEFT_OUT or inside.name.startswith(RECORD)
    return is_ours or inside.name.endswith((".new", PART))

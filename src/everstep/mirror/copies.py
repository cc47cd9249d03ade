"""Committed versions of a run sent to another place, and fetched back: data first, the manifest last.

There a run lies as it does here, so that every tool reads it. Versions never change, and their numbers are used once: a
file that is there with its size was sent whole, and a break costs the file that was under way.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from everstep.contracts import Report
from everstep.errors import DamageFound, DiskFull, UnreachableDisk, UserError
from everstep.mirror.folder import PART, Folder
from everstep.places import FORBIDDEN, NO_ROOM, told
from everstep.versions import Run, Version, fsops, manifest, verify
from everstep.versions.layout import HPARAMS, MANIFEST, MIRROR, TRAINING, RunLayout, identity_of, version_number
from everstep.versions.lock import folder_lock
from everstep.versions.reading import reading

CHUNK_BYTES = 8 << 20
HERE = RunLayout(Path())
SIDE_FILES = tuple(str(path) for path in (HERE.hparams, HERE.readme, HERE.identity, HERE.best_score, HERE.log))
RECORDS, IDENTITY = str(HERE.records), str(HERE.identity)
PLACES = "mirrors.json"  # of records: where copies were sent
LOG = "mirror-"  # of records, with a number: what a send that a training has started prints
LEFT_OUT = (PLACES, "live.json", "stacks.txt", "tensorboard", "wandb")  # of this machine, or of other programs
Sent = Callable[[int, int], None]  # bytes so far, of all


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of sending a run's versions. damaged: with the first thing wrong; these are not sent."""

    sent: tuple[int, ...]
    there: tuple[int, ...]
    damaged: tuple[tuple[int, str], ...]
    gone: tuple[int, ...]  # pruned meanwhile

    @property
    def up_to(self) -> int | None:
        """The newest version that is there."""
        return max((*self.sent, *self.there), default=None)


def send(
    run: Run,
    place: Folder,
    is_slim: bool,
    report: Report,
    said: Sent = lambda done, total: None,
    is_anew: bool = False,
    may_wait: bool = False,
) -> Outcome:
    """Bring a place up to date with the run. Only reads the run, which may be trained meanwhile.

    Args:
        is_slim: without what only a resume needs.
        said: told of bytes of the version under way.
        is_anew: also where copies were sent before and none is any more.
        may_wait: until whoever sends there now is done, instead of being refused.

    Raises: UserError where the place holds another run's copies, or another version of the same number, or somebody
        sends there now; DiskFull, UnreachableDisk.
    Crash: whole versions, and files of one that has no manifest yet; the next send goes on there.
    """
    if not is_anew:
        _refuse_if_away(run, place)
    with sending(place), _alone(place, may_wait):
        _claim(run, place, is_slim)
        _remember(run, place)
        sent, there, damaged, gone = list[int](), list[int](), list[tuple[int, str]](), list[int]()
        for version in run.versions():
            if _is_there(version, place):
                there.append(version.number)
                continue
            try:
                with reading(version.path):
                    wrong = verify(version)
                    if wrong:
                        damaged.append((version.number, str(wrong[0])))
                        continue
                    _send_version(version, place, is_slim, said)
            except UserError as pruned:
                if version.path.is_dir():
                    raise
                report(str(pruned))
                gone.append(version.number)
                continue
            sent.append(version.number)
        _send_beside(run, place)
    return Outcome(tuple(sent), tuple(there), tuple(damaged), tuple(gone))


def versions_in(place: Folder) -> dict[int, str]:
    """Numbers of whole versions with their manifests' digests; damaged manifests are left out."""
    found = {}
    with sending(place):
        for name in place.names():
            number = version_number(name)
            content = None if number is None else place.read(f"{name}/{MANIFEST}")
            if number is not None and content is not None and (digest := _digest(content)) is not None:
                found[number] = digest
    return found


@contextmanager
def sending(place: Folder) -> Iterator[None]:
    """Inside, an error of the system is one of that place. Raises: DiskFull, UserError, UnreachableDisk."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else UserError if error.errno in FORBIDDEN else UnreachableDisk
        raise kind(
            f"{place.root} does not take it: {told(error)}. Versions that are there are whole; the same line goes on."
        ) from error


def _refuse_if_away(run: Run, place: Folder) -> None:
    """Where a disk is not mounted there is an empty folder, and what is sent fills another disk. Raises: UserError."""
    if str(place.root) in _places(run) and place.read(MIRROR) is None:
        raise UserError(
            f"Copies of {run.name} were sent to {place.root}, and none is there now. Is its disk mounted? Nothing was "
            "sent; --anew begins again."
        )


def _remember(run: Run, place: Folder) -> None:
    known = _places(run)
    if str(place.root) not in known:
        with contextlib.suppress(OSError):  # it may be read from a disk that cannot be written
            run.layout.records.mkdir(exist_ok=True)
            told = json.dumps([*known, str(place.root)], indent=1)
            fsops.replace_file(run.layout.records / PLACES, f"{told}\n".encode())


def _places(run: Run) -> list[str]:
    """Where copies of it were sent."""
    try:
        return [str(known) for known in json.loads((run.layout.records / PLACES).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


@contextmanager
def _alone(place: Folder, may_wait: bool) -> Iterator[None]:
    """Raises: UserError while another process sends there; where the file system has no locks, nobody knows."""
    place.root.mkdir(exist_ok=True)
    with folder_lock(place.root, fcntl.LOCK_EX | (0 if may_wait else fcntl.LOCK_NB)) as is_free:
        if not is_free:
            raise UserError(f"Another process sends to {place.root} now. Nothing was sent here.")
        yield


def _claim(run: Run, place: Folder, is_slim: bool) -> None:
    """The place is this run's from now on. Raises: UserError if it is another's, or of the other kind: a slim copy that
    has its manifest is not made whole afterwards.
    """
    mine = {"format": 1, "run": run.name, "identity": identity_of(run.path), "slim": is_slim}
    if place.read(MIRROR) is None and place.read(HPARAMS) is not None:
        raise UserError(f"{place.root} is a run itself. Nothing was sent; a mirror needs a folder of its own.")
    if place.create(MIRROR, (json.dumps(mine) + "\n").encode()):
        return
    try:
        theirs = json.loads(place.read(MIRROR) or b"{}")
    except ValueError:
        theirs = {}
    if theirs.get("identity") != mine["identity"]:
        raise UserError(
            f"{place.root} holds copies of another run, called {theirs.get('run', 'nothing')}. Nothing was sent."
        )

    if theirs.get("slim") != is_slim:
        kinds = ("whole copies", "slim copies")
        raise UserError(
            f"{place.root} holds {kinds[not is_slim]}, and {kinds[is_slim]} were asked for. Nothing was sent; they "
            "need a folder of their own."
        )


def _is_there(version: Version, place: Folder) -> bool:
    """Raises: UserError if another version of the same number is."""
    content = place.read(f"{version.name}/{MANIFEST}")
    if content is None:
        return False
    if _digest(content) != version.manifest_digest:
        raise UserError(
            f"{place.root} has another {version.name}: two trainings went on from copies of one run, and both are "
            "mirrored there. Nothing of it was changed; the younger one needs a place of its own."
        )
    return True


def _digest(content: bytes) -> str | None:
    try:
        return str(manifest.decode(content)["digest"])
    except DamageFound:
        return None


def _send_version(version: Version, place: Folder, is_slim: bool, said: Sent) -> None:
    files = [
        (path, int(entry["size"]))
        for path, entry in version.files.items()
        if (version.path / path).is_file() and not (is_slim and path.startswith(f"{TRAINING}/"))
    ]
    total, done = sum(size for _, size in files), 0
    for path, size in files:
        name = f"{version.name}/{path}"
        if place.size(name) != size:
            with (version.path / path).open("rb") as file:
                place.put(name, pieces(file, partial(told_from, said, done, total)), size)
        done += size
        said(done, total)
    copy = Version(version.number, place.root / version.name, version.manifest)
    wrong = verify(copy)
    if wrong:
        raise UserError(f"{copy.path} is not what was sent: {wrong[0]}. It is not offered there; remove the folder.")
    place.create(f"{version.name}/{MANIFEST}", (version.path / MANIFEST).read_bytes())


def told_from(said: Sent, before: int, total: int, done: int) -> None:
    """Of one file after others."""
    said(before + done, total)


def pieces(file: BinaryIO, said: Callable[[int], None]) -> Iterator[bytes]:
    """What is left of a file; told of bytes so far."""
    done = 0
    while piece := file.read(CHUNK_BYTES):
        yield piece
        done += len(piece)
        said(done)


def _send_beside(run: Run, place: Folder) -> None:
    """Settings, and what is said of versions: small, and new each time."""
    for name in SIDE_FILES:
        _send_small(run.path / name, place, name)
    records = run.path / RECORDS
    for path in sorted(records.rglob("*")) if records.is_dir() else ():
        inside = path.relative_to(records)
        if path.is_file() and not _is_left_out(inside):
            _send_small(path, place, f"{RECORDS}/{inside}")


def _is_left_out(inside: Path) -> bool:
    is_ours = inside.parts[0] in LEFT_OUT or inside.name.startswith(LOG)
    return is_ours or inside.name.endswith((".new", PART))


def _send_small(path: Path, place: Folder, name: str) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    if place.size(name) != len(content) or place.read(name) != content:
        place.put(name, [content], len(content))

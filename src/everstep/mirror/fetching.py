"""A run fetched back from its copies, onto this disk or another machine's."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from everstep.errors import DamageFound, DiskFull, UserError
from everstep.mirror.copies import IDENTITY, RECORDS, SIDE_FILES, Sent, pieces, sending, told_from, versions_in
from everstep.mirror.folder import Folder
from everstep.places import NO_ROOM, absolute, told
from everstep.versions import Run, Version, fsops, manifest, verify
from everstep.versions.layout import HPARAMS, MANIFEST, MIRROR, RunLayout, identity_of
from everstep.versions.making import making_beside

SHEET = (".png", ".json")
NOT_FETCHED = "Nothing half of it is left under its name; the same command goes on."


def is_mirror(folder: Path) -> bool:
    """Whether a folder holds copies of a run and is no run to be trained in."""
    return (folder / MIRROR).is_file()


def fetch(place: Folder, root: Path, numbers: Sequence[int] | None, said: Sent = lambda done, total: None) -> list[int]:
    """Bring versions into a run of this disk, which is made where it is not there. Returns those that came.

    Args:
        root: of the run; what is there has to be the same run.
        numbers: of versions; None for all.

    Raises: UserError where there is no such copy, or another run is in the way; DamageFound where a copy is not whole.
    Crash: a run with the versions that have come, whole; the next fetch goes on.
    """
    there = versions_in(place)
    wanted = sorted(there if numbers is None else numbers)
    missing = [number for number in wanted if number not in there]
    if not there or missing:
        names = ", ".join(f"version_{number}" for number in missing) or "whole version"
        raise UserError(f"{place.root} holds no {names}. Nothing was changed.")
    run = _run_at(place, root)
    came = []
    with run.lock("mirror"):
        run.recover()
        for number in wanted:
            if not run.layout.version(number).exists():
                _fetch_version(place, run, number, said)
                _fetch_notes(place, run, number)
                came.append(number)
    return came


def _run_at(place: Folder, root: Path) -> Run:
    """Made of what lies beside the copies, or the one that is there. Raises: UserError if that is another."""
    whole = absolute(root)
    if whole.exists() and any(whole.iterdir()):
        identity = (place.read(IDENTITY) or b"").decode()
        if not RunLayout(whole).hparams.is_file() or identity_of(whole) != identity:
            raise UserError(f"{whole} is there and is not this run. Nothing was changed; --to takes another place.")
        return Run.open(whole)
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with making_beside(whole) as staging, sending(place):
            for name in (*SIDE_FILES, *_records(place, RECORDS)):
                content = place.read(name)
                if content is None and name == HPARAMS:
                    raise UserError(f"{place.root} has no {HPARAMS}: it holds no copies of a run. Nothing was changed.")
                if content is not None:
                    (staging / name).parent.mkdir(parents=True, exist_ok=True)
                    fsops.write_file(staging / name, [content], len(content))
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else UserError
        raise kind(f"{whole} cannot be made: {told(error)}. {NOT_FETCHED}") from error
    return Run.open(whole)


def _records(place: Folder, folder: str) -> list[str]:
    found = []
    for name in place.names(folder):
        path = f"{folder}/{name}"
        inside = _records(place, path)
        found += inside or [path]
    return found


def _fetch_notes(place: Folder, run: Run, number: int) -> None:
    """What is said of it there, where nothing is here."""
    for path in (run.layout.annotation(number), *(run.layout.samples / f"version_{number}{end}" for end in SHEET)):
        content = place.read(str(path.relative_to(run.path)))
        if content is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fsops.replace_file(path, content)


def _fetch_version(place: Folder, run: Run, number: int, said: Sent) -> None:
    """Copied beside, read whole, and only then under its name."""
    copied = manifest.decode(place.read(f"version_{number}/{MANIFEST}") or b"")
    staging = run.layout.new_staging(number)
    files = [(path, place.size(f"version_{number}/{path}")) for path in copied["files"]]
    total, done = sum(size or 0 for _, size in files), 0
    try:
        fsops.make_folder(staging)
        for path, size in files:
            if size is None:
                continue  # a slim copy has no training/
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            with (place.root / f"version_{number}" / path).open("rb") as file:
                fsops.write_file(staging / path, pieces(file, partial(told_from, said, done, total)), size)
            done += size
            said(done, total)
        wrong = verify(Version(number, staging, copied))
        if wrong:
            raise DamageFound(f"The copy of version_{number} in {place.root} is damaged: {wrong[0]}. {NOT_FETCHED}")
        content = place.read(f"version_{number}/{MANIFEST}") or b""
        fsops.write_file(staging / MANIFEST, [content], len(content))
        for folder in sorted({path.parent for path in staging.rglob("*")}, key=lambda one: -len(one.parts)):
            fsops.flush_folder(folder)
        fsops.rename(staging, run.layout.version(number))
        fsops.flush_folder(run.layout.root)
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else UserError
        raise kind(f"version_{number} cannot be fetched: {told(error)}. {NOT_FETCHED}") from error
    finally:
        if staging.exists():
            fsops.remove_tree(staging)

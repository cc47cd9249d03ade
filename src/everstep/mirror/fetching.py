"""A run fetched back from its copies, onto this disk or another machine's."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from everstep.errors import DamageFound, DiskFull, UserError
from everstep.mirror.backend import Place, sending
from everstep.mirror.claims import facts_of
from everstep.mirror.copies import IDENTITY, RECORDS, SIDE_FILES, Sent, unheard
from everstep.mirror.offered import Offer, Offered, is_resumable, offer
from everstep.mirror.rate import UNLIMITED, Rate
from everstep.places import NO_ROOM, absolute, told
from everstep.versions import Run, Version, fsops, verify
from everstep.versions.layout import HPARAMS, MANIFEST, RunLayout, identity_of, version_number
from everstep.versions.making import making_beside

SHEET = (".png", ".json")
NOT_FETCHED = "Nothing half of it is left under its name; the same command goes on."


def is_mirror(place: Place) -> bool:
    """Whether a place holds copies of a run and is no run to be trained in. Raises: as `sending`."""
    with sending(place):
        return facts_of(place) is not None


def find(place: Place, spec: str | None) -> int:
    """The number of a version that is offered, by what one would call it in a run; None for the newest to go on from.

    Raises: UserError where there is no such version; as `sending`.
    """
    there = offer(place)
    if spec is None:
        for number in sorted(there.whole, reverse=True):
            if is_resumable(place, there.whole[number]):
                return number
        raise UserError(f"{place.address} has no version that can be gone on from; slim copies cannot.")
    with sending(place):
        found = _by_spec(place, there, spec)
    if found is None:
        numbers = ", ".join(map(str, sorted(there.whole))) or "none"
        raise UserError(f"{place.address} has no version {spec}. It has {numbers}. Nothing was changed.")
    return found


def _by_spec(place: Place, there: Offer, spec: str) -> int | None:
    numbers = sorted(there.whole)
    if spec == "latest":
        return numbers[-1] if numbers else None
    if re.fullmatch(r"-[1-9]\d*", spec):
        return numbers[int(spec)] if int(spec[1:]) <= len(numbers) else None
    asked = int(spec) if spec.isdigit() else version_number(spec)
    if asked is not None:
        return asked if asked in there.whole else None
    return next((number for number in reversed(numbers) if spec in _labels(place, number)), None)


def _labels(place: Place, number: int) -> list[str]:
    content = place.read(f"{RECORDS}/version_{number}.json")
    try:
        return list(json.loads(content or b"{}").get("labels", ()))
    except (ValueError, AttributeError):
        return []


def fetch(
    place: Place, root: Path, numbers: Sequence[int] | None, said: Sent = unheard, rate: Rate = UNLIMITED
) -> list[int]:
    """Bring versions into a run of this disk, which is made where it is not there. Returns those that came.

    Args:
        root: of the run; what is there has to be the same run.
        numbers: of versions; None for all.

    Raises: UserError where there is no such copy, or another run is in the way; DamageFound where a copy is not whole.
    Crash: a run with the versions that have come, whole; the next fetch goes on.
    """
    there = offer(place).whole
    wanted = sorted(there if numbers is None else numbers)
    missing = [number for number in wanted if number not in there]
    if not there or missing:
        names = ", ".join(f"version_{number}" for number in missing) or "whole version"
        raise UserError(f"{place.address} holds no {names}. Nothing was changed.")
    run = _run_at(place, root)
    came = []
    with run.lock("mirror"):
        run.recover()
        for number in wanted:
            if not run.layout.version(number).exists():
                _fetch_version(place, run, there[number], said, rate)
                _fetch_notes(place, run, number)
                came.append(number)
    return came


def _run_at(place: Place, root: Path) -> Run:
    """Made of what lies beside the copies, or the one that is there. Raises: UserError if that is another."""
    whole = absolute(root)
    if whole.exists() and any(whole.iterdir()):
        with sending(place):
            identity = (place.read(IDENTITY) or b"").decode()
        if not RunLayout(whole).hparams.is_file() or identity_of(whole) != identity:
            raise UserError(f"{whole} is there and is not this run. Nothing was changed; --to takes another place.")
        return Run.open(whole)
    with sending(place):
        beside = {name: place.read(name) for name in (*SIDE_FILES, *_records(place))}
    if beside[HPARAMS] is None:
        raise UserError(f"{place.address} has no {HPARAMS}: it holds no copies of a run. Nothing was changed.")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with making_beside(whole) as staging:
            for name, content in beside.items():
                if content is not None:
                    (staging / name).parent.mkdir(parents=True, exist_ok=True)
                    fsops.write_file(staging / name, [content], len(content))
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else UserError
        raise kind(f"{whole} cannot be made: {told(error)}. {NOT_FETCHED}") from error
    return Run.open(whole)


def _records(place: Place) -> list[str]:
    return [f"{RECORDS}/{path}" for path in place.files(RECORDS) if not is_outside(path)]


def _fetch_notes(place: Place, run: Run, number: int) -> None:
    """What is said of it there, where nothing is here."""
    for path in (run.layout.annotation(number), *(run.layout.samples / f"version_{number}{end}" for end in SHEET)):
        with sending(place):
            content = place.read(str(path.relative_to(run.path)))
        if content is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fsops.replace_file(path, content)


def _fetch_version(place: Place, run: Run, offered: Offered, said: Sent, rate: Rate) -> None:
    """Copied beside, read whole, and only then under its name."""
    number, folder = offered.number, f"version_{offered.number}"
    staging = run.layout.new_staging(number)
    strange = [path for path in offered.files if is_outside(path)]
    if strange:
        raise DamageFound(f"The copy of {folder} in {place.address} names {strange[0]!r}, outside of it. {NOT_FETCHED}")
    with sending(place):
        content = place.read(f"{folder}/{MANIFEST}") or b""
        sizes = {path: size for path, size in place.files(folder).items() if path in offered.files}
    total, done = sum(sizes.values()), 0
    try:
        fsops.make_folder(staging)
        for path, size in sizes.items():  # a slim copy has no training/
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            fsops.write_file(staging / path, rate.pieces(_stream(place, f"{folder}/{path}", size)), size)
            done += size
            said(done, total)
        wrong = verify(Version(number, staging, dict(offered.manifest)))
        if wrong:
            raise DamageFound(f"The copy of {folder} in {place.address} is damaged: {wrong[0]}. {NOT_FETCHED}")
        fsops.write_file(staging / MANIFEST, [content], len(content))
        for inside in sorted({path.parent for path in staging.rglob("*")}, key=lambda one: -len(one.parts)):
            fsops.flush_folder(inside)
        fsops.rename(staging, run.layout.version(number))
        fsops.flush_folder(run.layout.root)
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else UserError
        raise kind(f"{folder} cannot be fetched: {told(error)}. {NOT_FETCHED}") from error
    finally:
        if staging.exists():
            fsops.remove_tree(staging)


def _stream(place: Place, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
    """What the place says while this disk is written to is told as the place's."""
    with sending(place):
        yield from place.stream(name, size_bytes)


def is_outside(path: str) -> bool:
    """Whether a name that came from elsewhere leads out of the folder that it is meant to lie in."""
    return Path(path).is_absolute() or ".." in Path(path).parts

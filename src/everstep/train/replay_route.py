"""What a replay goes over: from which version, to which, with which settings. All that can refuse it is found here.

Never imports torch. Nothing is written: a run that trains meanwhile is not disturbed.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from everstep.arrival.cache import is_there
from everstep.config.load import changes, known_part, validate
from everstep.config.policy import is_free
from everstep.config.schema import Config
from everstep.contracts import ParentRef, Report
from everstep.data import Source
from everstep.errors import DamageFound, UserError
from everstep.evaluation.moved import as_they_are
from everstep.models.base import locate
from everstep.places import as_word
from everstep.train.ready import Ready, base_digest_of, check_origin, open_data
from everstep.versions import Run, Version, describe_damage, verify
from everstep.versions.lineage import ancestors
from everstep.versions.reading import reading

# Settings of the other sections that change nothing of what is trained; what is in a place is compared by itself.
UNTRAINED = ("versions", "sampling", "data.workers", "compute.threads", "base", "data.path", "optim.start_from")


@dataclass(frozen=True, slots=True)
class Leg:
    """Steps that were trained with one set of settings: from the version to go on from to another."""

    ready: Ready
    until: Version


@dataclass(frozen=True, slots=True)
class Route:
    """All legs, in order; the last ends at the version that is replayed."""

    run: Run
    version: Version
    legs: tuple[Leg, ...]

    @property
    def begins(self) -> Version | None:
        """The version whose state is taken; None where the start is made anew."""
        first = self.legs[0].ready.version
        return first if first is not None and first.resumable else None

    @property
    def first_step(self) -> int:
        """How many steps were done where the route begins."""
        return 0 if self.begins is None else self.begins.step


def find_route(run: Run, version: Version, earlier: str | None, held: ExitStack, report: Report) -> Route:
    """Check all that a replay needs, and hold its versions open until `held` is closed.

    Args:
        earlier: a version before the parent to begin from, as Run.find takes it; None for the parent.

    Raises: UserError if it cannot be replayed, with the nearest way that is open; DamageFound if the version's bytes
        are not those that were committed.
    """
    held.enter_context(reading(version.path))
    _refuse_foreign(version)
    stops = _stops(run, version, earlier)
    if stops[0] is not None:
        held.enter_context(reading(stops[0].path))
        if not _can_begin(stops[0]):  # asked before too, but nobody held it then
            raise UserError(f"{stops[0].name} was made slim meanwhile, so {version.name} was not replayed.")
    wrong = verify(version)
    if wrong:
        raise DamageFound(f"{version.name} {describe_damage(version, wrong)}. It was not replayed.")
    return Route(run, version, tuple(_legs(run, version, stops, report)))


def config_of(version: Version) -> Config:
    """The settings that a version was trained with."""
    return validate(known_part(version.manifest["config"]), f"{version.name}: manifest.json")


def _refuse_foreign(version: Version) -> None:
    lacks = [fact for fact in ("config", "base", "data", "machine", "libraries") if fact not in version.manifest]
    if lacks:
        raise UserError(
            f"{version.name} does not say with what {' and '.join(lacks)} it was made, so it was not made by "
            "everstep train and cannot be replayed."
        )


# --- which versions ----------------------------------------------------------------------------------------


def _stops(run: Run, version: Version, earlier: str | None) -> list[Version | None]:
    """The version to begin from, or None for the start anew, and those after it as far as they are there."""
    line = list(_line(run, version))
    if earlier is not None:
        return list(_from(run, version, run.find(earlier), line))
    parent = version.parent
    if parent is None or "/" in parent.run:
        _check_start(version)
        return [None, version]
    above = next((found for found in line if found.number == parent.version), None)
    if above is None or not _can_begin(above):
        what = "is not there any more" if above is None else "is slim: what a replay needs of it is gone"
        raise UserError(f"{version.name} went on from version_{parent.version}, which {what}.{_nearest(version, line)}")
    return [above, version]


def _line(run: Run, version: Version) -> Iterator[Version]:
    """The version's ancestors in its own run that are still there, nearest first."""
    for folder, number, digest in ancestors(version):
        if folder != run.path:
            return
        try:
            found = run.version(number)
        except DamageFound:
            continue
        if found.manifest_digest == digest:
            yield found


def _from(run: Run, version: Version, begins: Version, line: list[Version]) -> Iterator[Version]:
    if begins.number not in [found.number for found in line]:
        raise UserError(
            f"{version.name} did not come from {begins.name}: everstep list {run.word} --tree.{_nearest(version, line)}"
        )
    if not _can_begin(begins):
        raise UserError(f"{begins.name} is slim: what a replay needs of it is gone.{_nearest(version, line)}")
    between = [found for found in line if begins.number < found.number]
    yield from (begins, *between[::-1], version)


def _can_begin(version: Version) -> bool:
    """Whether its state is there, or, of a start that was made slim, can be made anew."""
    if not version.resumable and version.step == 0:
        _check_start(version)
    return version.resumable or version.step == 0


def _check_start(version: Version) -> None:
    """Raises: UserError if the start cannot be made again."""
    if version.step:
        raise UserError(f"{version.name} is at step {version.step:,}, but does not say from which version it went on.")
    origin, start_from = version.parent, config_of(version).optim.start_from
    if origin is not None and not _is_there(origin):
        raise UserError(
            f"{version.name} began with version_{origin.version} of {origin.run}, which is not there any more."
        )
    if origin is None and start_from is not None and not is_there(start_from):
        raise UserError(f"{version.name} began with {start_from}, which is not there any more.")


def _is_there(origin: ParentRef) -> bool:
    try:
        return Run(Path(origin.run)).version(origin.version).manifest_digest == origin.manifest_digest
    except DamageFound:
        return False


def _nearest(version: Version, line: list[Version]) -> str:
    """The way that is open, as a command."""
    whole = next((found for found in line if found.resumable or found.step == 0), None)
    if whole is None:
        return "\nNo earlier version of its line is whole, so it cannot be replayed."
    run = as_word(version.path.parent)
    return (
        f"\nThe nearest to begin from is {whole.name}, {version.step - whole.step:,} steps before: "
        f"everstep replay {run}@{version.number} --from {run}@{whole.number}"
    )


# --- with which settings, base and data --------------------------------------------------------------------


def _legs(run: Run, version: Version, stops: list[Version | None], report: Report) -> Iterator[Leg]:
    """Raises: UserError if base or data are not those of then, or if nobody knows where settings changed."""
    named = as_they_are(config_of(version), version).base  # a run never changes what it is
    base = locate(named.path, named.revision)
    sources = dict[str, Source]()
    for before, until in itertools.pairwise(stops):
        assert until is not None
        _refuse_unknown_change(before, until)
        config = as_they_are(config_of(until), until)
        data = config.data
        made = f"{data.condition} {data.condition_model} {data.condition_random}"
        columns = f"{data.target_column} {data.condition_column} {data.caption_column}"
        pairs = f"{data.path} {data.resolution} {data.bad_pairs} {made} {columns}"
        source = sources[pairs] = sources[pairs] if pairs in sources else open_data(config, report)
        if check_origin(until, base, source, accepts_data=True):
            raise UserError(
                f"The pairs in {config.data.path} have changed since {until.name} was made, so it cannot be replayed."
            )
        yield Leg(Ready(run, config, base, base_digest_of(base, until), source, before, None), until)


def _refuse_unknown_change(before: Version | None, until: Version) -> None:
    """Settings change at a version; where that one is gone, nobody knows at which step they did."""
    if before is None or (until.parent is not None and until.parent.version == before.number):
        return
    changed = [key for key in changes(config_of(before), config_of(until)) if _is_trained(key)]
    changed += ["the data"] if before.manifest["data"]["fingerprint"] != until.manifest["data"]["fingerprint"] else []
    if changed:
        raise UserError(
            f"Between {before.name} and {until.name} {', '.join(changed)} changed, at a version that is not there any "
            "more, so the steps between cannot be done again as they were."
        )


def _is_trained(key: str) -> bool:
    return not is_free(key) and not any(key == name or key.startswith(f"{name}.") for name in UNTRAINED)

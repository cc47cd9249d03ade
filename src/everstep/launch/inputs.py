"""What settings lead to: a base and pairs, opened and identified once in a start. What they are decides, not where.

Never imports torch.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from everstep.arrival.cache import is_there
from everstep.arrival.finding import is_hub_id
from everstep.config.schema import Config
from everstep.contracts import During, Report
from everstep.data import Source
from everstep.errors import EverstepError, UserError
from everstep.evaluation import moved
from everstep.evaluation.pictures.adherence import check_most_pictures
from everstep.launch.checks import complete
from everstep.models.base import BaseFolder
from everstep.places import absolute, as_text, spelled
from everstep.telling import untold
from everstep.train.ready import base_digest_of, open_data
from everstep.units import size
from everstep.versions import Run, Version, run_folder, split_spec
from everstep.versions.layout import version_number

OF_DATA = ("data.path", "data.condition", "data.condition_model")
# Settings that say only where something is: with the same content there, they may change within a run.
PLACES = ("base.path", "base.revision", *OF_DATA, "optim.start_from")

PATHS = (
    *("base.path", "data.path", "data.condition_model", "optim.start_from", "keeper.ram_dir"),
    *("scoring.extractor", "scoring.clip", "scoring.fid"),
)
MOST_SHOWN = 80


@dataclass(frozen=True)
class Inputs:
    """Settings with nothing left open, and what they name."""

    config: Config
    base: BaseFolder
    report: Report
    during: During = untold

    @cached_property
    def source(self) -> Source:
        """The pairs, checked. Raises: UserError listing every pair that cannot be used."""
        return open_data(self.config, self.report, self.during)

    def base_digest(self, version: Version | None) -> str:
        """Of the base, as the version recorded it where that still holds. Files are read once in a process."""
        with self.during("Reading the base", count=size) as said:
            return base_digest_of(self.base, version, said)

    def is_same(self, key: str, version: Version) -> bool:
        """Whether another place holds what the version was made from."""
        if key in ("base.path", "base.revision"):
            return bool(self.base_digest(version) == version.manifest["base"]["digest"])
        if key in OF_DATA:
            return bool(self.source.fingerprint() == version.manifest["data"]["fingerprint"])
        return key == "optim.start_from" and _is_same_start(self.config.optim.start_from, version)


def new_inputs(config: Config, report: Report, during: During = untold) -> Inputs:
    """Of a run that has not begun. Raises: UserError."""
    _refuse_impossible(config)
    check_most_pictures(config)
    return Inputs(*complete(config, during), report, during)


def inputs_within(run: Run, before: Config, asked: Config, report: Report, during: During = untold) -> Inputs:
    """Of a run that has begun: what it started from lies in it as weights, and need not be there any more.

    Raises: UserError, with the setting to give where base or data were moved.
    """
    _refuse_impossible(asked)
    for key, place, was in (
        ("base", asked.base.path, before.base.path),
        ("data", asked.data.path, before.data.path),
    ):
        if place == was and moved.is_gone(place):
            raise moved.gone(run.path, key, place)
    # Hence only what is new in it is looked at.
    optim = asked.optim.model_copy(update={"start_from": None})
    completed, base = complete(asked.model_copy(update={"optim": optim}), during)
    start_from = _start_meant(asked.optim.start_from, before.optim.start_from)
    optim = completed.optim.model_copy(update={"start_from": start_from})
    return Inputs(completed.model_copy(update={"optim": optim}), base, report, during)


def _refuse_impossible(config: Config) -> None:
    """Raises: UserError for what can be no path at all, so that everybody else may look whether something is there."""
    for key in PATHS:
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        place = value.rpartition("@")[0] or value if value and key == "optim.start_from" else value
        try:
            if place is not None:
                spelled(place).stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # too long, a loop of links, not to be read
            why = getattr(error, "strerror", None) or str(error).rstrip(".")
            shown = value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}..."
            raise UserError(f"{key} is {shown}, which cannot be looked at: {why}. Nothing was started.") from None


def _start_meant(asked: str | None, before: str | None) -> str | None:
    """The start as this run knows it: RUN@latest means the version that it meant when the run began."""
    if asked is None:
        return None
    folder, version = split_spec(asked)
    if version is None:
        is_here = spelled(asked).exists() or not is_hub_id(asked)
        return as_text(absolute(spelled(asked)), "--from") if is_here else asked
    place = absolute(run_folder(folder))
    was, number = split_spec(before or "")
    named = version_number(f"version_{version.removeprefix('version_')}")
    if named is not None:
        return f"{place}@{named}"
    if str(place) == was or (number and _digest_at(f"{place}@{number}") is not None):
        return f"{place}@{number}"
    return f"{place}@{Run.open(place).find(version).number}"


def _is_same_start(spec: str | None, version: Version) -> bool:
    """Whether a start elsewhere is the one that the run began with: its first version names it by its digest."""
    first = _first(version)
    origin: Any = None if first is None else first.manifest.get("parent")
    return bool(spec and origin and _digest_at(spec) == origin["manifest_digest"])


def is_gone(spec: str | None) -> bool:
    """Whether there is neither version nor anything else where it says."""
    return spec is not None and _digest_at(spec) is None and not is_there(spec)


def _first(version: Version) -> Version | None:
    try:
        return Run.open(version.path.parent).version(0)
    except EverstepError:  # it was let go
        return None


def _digest_at(spec: str) -> str | None:
    folder, number = split_spec(spec)
    try:
        return None if number is None else Run.open(Path(folder)).version(int(number)).manifest_digest
    except (EverstepError, ValueError):
        return None

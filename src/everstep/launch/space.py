"""Room on the disk, told before a training starts: what one version weighs, and what the policy lets pile up."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.launch.expected import expected_course
from everstep.launch.footprint import footprint_of, new_footprint
from everstep.models.base import BaseFolder
from everstep.models.files import AVERAGED, OPTIMIZER, WEIGHTS
from everstep.places import absolute, as_word, here
from everstep.units import size
from everstep.versions import Run, Version
from everstep.versions.capacity import free_bytes, seconds_per_step
from everstep.versions.forecast import STEP_S, Footprint, Forecast, coming_versions, forecast
from everstep.versions.pruning import held_versions
from everstep.versions.retention import Policy

WORDS = {WEIGHTS: "weights", OPTIMIZER: "optimizer", AVERAGED: "averaged weights"}


@dataclass(frozen=True, slots=True)
class Space:
    """What a training will take on its disk, and what is free there."""

    folder: Path  # of the run
    footprint: Footprint
    forecast: Forecast
    free_bytes: int
    is_begun: bool
    is_paced: bool  # whether anything depends on a pace that nobody knows yet
    keeps_everything: bool

    @property
    def fits(self) -> bool:
        """Whether the next two versions do."""
        return self.forecast.next_two_bytes <= self.free_bytes

    def sentence(self) -> str:
        """One version is 4.3 GB (weights 1.4 GB, optimizer 2.9 GB); the policy holds about 26 GB; 180 GB free."""
        files, peak = self.footprint.files, size(self.forecast.peak_bytes)
        parts = ", ".join(f"{word} {size(files[path])}" for path, word in WORDS.items() if path in files)
        held = f"all of them take {peak}" if self.keeps_everything else f"the policy holds about {peak}"
        held += "" if self.forecast.count is not None else f" after {len(self.forecast.peaks_bytes)} versions"
        held += f", if a step takes {STEP_S:g} s" if self.is_paced else ""
        told = (
            f"One version is {size(self.footprint.whole_bytes)} ({parts}); {held}; "
            f"{size(self.free_bytes)} free in {_place(self.folder)}"
        )
        full = self.forecast.fills_at(self.free_bytes)
        is_far = full is None or (self.forecast.count is None and full > len(self.forecast.peaks_bytes))
        return told if full is None or is_far or not self.fits else f"{told}\n{_warning(full - 1)}"

    def refuse_if_full(self) -> None:
        """Raises: UserError if the next two versions do not fit, with what is needed, free, and what helps."""
        self._refuse_small_files()
        if self.fits:
            return
        name = self.folder.name
        which, helps = "first", f"On another disk: --run /PATH/TO/DISK/{name}"
        if self.is_begun:
            which, helps = "next", f"What can go: everstep prune {as_word(self.folder)} --dry-run"
        raise UserError(
            f"{name}: the {which} two versions need {size(self.forecast.next_two_bytes)}, each is "
            f"{size(self.footprint.whole_bytes)}; {_place(self.folder)} has {size(self.free_bytes)} free. "
            f"Nothing was started.\n{helps}"
        )

    def _refuse_small_files(self) -> None:
        largest, limit = max(self.footprint.files.values()), resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and largest > limit:
            raise UserError(
                f"{self.folder.name}: the largest file of a version is {size(largest)}, but files may have "
                f"{size(limit)} here. Nothing was started; ulimit -f unlimited allows more, where the machine does."
            )


def plan_space(folder: Path, config: Config, base: BaseFolder, version: Version | None = None) -> Space | None:
    """What the run in this folder, going on from this version, will take. Needs a config with nothing left open.

    None where the network is of a kind whose size cannot be told beforehand.
    """
    run = Run.open(folder) if Run.exists(folder) else None
    footprint = new_footprint(config, base) if version is None else footprint_of(version)
    if footprint is None:
        return None
    ahead = expected_course(config, footprint.whole_bytes)
    there = [] if run is None else held_versions(run, ahead.policy or Policy(everything=True))
    step_s = None if run is None else seconds_per_step(run, ahead)
    number, step = 0 if run is None else run.next_number(), 0 if version is None else version.step
    coming = coming_versions(ahead, footprint, number, step, step_s, is_new=version is None)
    found = forecast(there, coming, ahead.policy, time.time())
    is_paced = _depends_on_time(config) and step_s is None
    return Space(folder, footprint, found, free_bytes(folder), bool(there), is_paced, config.keep.everything)


def _depends_on_time(config: Config) -> bool:
    keep = config.keep
    rules = (keep.within, keep.every.seconds, keep.hourly, keep.daily, keep.weekly)
    return not keep.everything and any(rules)


def _place(folder: Path) -> str:
    """The folder that a run is in, as a person would write it."""
    parent = absolute(folder).parent
    near = os.path.relpath(parent, here().resolve())
    return f"{parent if near.startswith('..') else near}/"


def _warning(room: int) -> str:
    return (
        f"There is room for {room:,} more versions. Once the disk is full, training goes on and older versions stay; "
        "--keep.budget 50GB sets a limit."
    )

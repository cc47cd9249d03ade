"""The cache against what would be best: batches that are ready in memory, and encoders that do nothing else."""

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from everstep.config.load import Settings, resolve
from everstep.config.policy import framing
from everstep.config.schema import Config
from everstep.contracts import Batch, Uint8Array
from everstep.data import Framer
from everstep.encoded.framer import CachedFramer, open_shelves
from everstep.launch.checks import complete
from everstep.models.arithmetic import arithmetic
from everstep.models.family import Family
from everstep.models.registry import open_family
from everstep.telling import untold
from everstep.train.filling import MOST_TOGETHER, PIXELS_TOGETHER, FamilyEncoders, fill, jobs_of
from everstep.train.loop import Loop
from everstep.train.ready import open_data
from everstep.train.together import Prepared
from loop import built_loop, everstep_steps

WARM_STEPS = 5  # of each turn: what the loader prepared while it was not asked is used up


@dataclass
class Ratios:
    """Rates of ours and of what is best, round by round."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        return [ours / bare for ours, bare in zip(self.ours, self.bare, strict=True)]


def in_memory(folder: Path, settings: Settings, rounds: int, steps: int) -> Ratios:
    """Images a second of one loop whose batches come from a full cache, and of the same with batches in memory."""
    found = Ratios()
    with ExitStack() as closing:
        loop = built_loop(folder / "run", closing, settings=settings)
        stream = loop.batches
        ready = itertools.cycle([next(stream) for _ in range(steps)])
        for number in range(-1, rounds):
            for is_ours in (True, False) if number % 2 else (False, True):
                rate = _rate(loop, stream if is_ours else ready, steps)
                if number >= 0:
                    (found.ours if is_ours else found.bare).append(rate)
    print(f"memory: {found.ratios()}", flush=True)
    return found


def _rate(loop: Loop, batches: Iterator[Batch], steps: int) -> float:
    loop.batches = Prepared(batches, loop.config.optim.accumulation_steps)
    everstep_steps(loop, WARM_STEPS)
    return steps * loop.config.optim.images_per_step / everstep_steps(loop, steps)


def filling(place: Path, base: Path | None, pairs: Path, resolution: int, rounds: int) -> Ratios:
    """Pictures a second that a cache is filled with, and that a bare loop encodes.

    Args:
        base: its folder; None for the built-in one.
    """
    of_base: Settings = {} if base is None else {"base": {"path": str(base)}}
    data = {"path": str(pairs), "resolution": resolution}
    config, located = complete(resolve(None, {**of_base, "data": data}))
    source = open_data(config, print)
    family = open_family(located, arithmetic(config.compute), config.compute)
    framer, found = Framer(source, framing(config.data)), Ratios()
    targets = np.stack([framer(pair).target_HWC for pair in range(len(source))])
    source.contents(0)  # digests of all, which the check had; files of this second are not remembered yet
    together = max(1, min(MOST_TOGETHER, PIXELS_TOGETHER // resolution**2))
    _bare(family, targets[:together], together)
    for number in range(rounds):
        for is_ours in (True, False) if number % 2 else (False, True):
            took = _filled(place, config, family, framer) if is_ours else _bare(family, targets, together)
            (found.ours if is_ours else found.bare).append(len(targets) / took)
    print(f"filling: {found.ratios()}", flush=True)
    return found


def _bare(family: Family, targets_NHWC: Uint8Array, together: int) -> float:
    began = time.perf_counter()
    for first in range(0, len(targets_NHWC), together):
        mean, _ = family.moments(targets_NHWC[first : first + together])
        mean.cpu()
    return time.perf_counter() - began


def _filled(place: Path, config: Config, family: Family, framer: Framer) -> float:
    """Seconds for a cache that is empty, until it lies on the disk."""
    os.sync()
    shelves = open_shelves(place, framer.framing, None, family.encoders(), print)
    cached = CachedFramer(framer.source, framer.framing, None, shelves, FamilyEncoders(family))
    pairs = ((pair, None) for pair in range(len(framer.source)))
    began = time.perf_counter()
    fill(cached, family, jobs_of(framer.source, pairs, 0.0), config.data, lambda said: None, untold, lambda: False)
    took = time.perf_counter() - began
    shutil.rmtree(place)
    return took

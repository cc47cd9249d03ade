"""Measures a training that is put together in earnest: a few steps, one evaluation, one version, encoding, the loader.

Runs in a process of its own, in a run that is made for it and removed afterwards. Whatever takes too long is left out,
and said. Knows nothing of what is told of it.
"""

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from rich.console import Console

from everstep.contracts import Batch, Counted, Reason
from everstep.data import BatchStream, PatientSource
from everstep.encoded.records import pack, pack_picture
from everstep.evaluation.allowance import Allowance
from everstep.evaluation.gain import FORWARDS_PER_TRAINED_IMAGE
from everstep.evaluation.scorer import Found
from everstep.models.arithmetic import arithmetic
from everstep.train.filling import FamilyEncoders
from everstep.train.loop import Loop
from everstep.train.measured import Built, Committed, Encoded, Evaluated, Fed, Steps
from everstep.train.peaks import Peak, finish, room_bytes
from everstep.train.progress import Reporter
from everstep.train.ready import Ready, order_of, pairs_of
from everstep.train.session import batches_of, build
from everstep.train.step import take_step
from everstep.train.stop import StopSignals
from everstep.units import duration, size

STEPS, STEPS_S = 3, 10.0  # so many steps at least, and so long
LONG_STEP_S = 60.0  # after a first step of this length one more is counted, and none after twice as long
EVALUATION_S = 60.0  # what control gain may take, and the contact sheet, before it is only estimated, or left out
LOADER_S, SLOW_LOADER_S = 2.0, 20.0  # for each number of workers: once it is under way, and all in all
AHEAD = 6  # batches that a loader has on the way, or nearly, which are not counted
APART = 1 << 20  # examples between two measurements of the loader: none is given pictures that another has just read
Part = TypeVar("Part", Steps, Evaluated, Committed, Encoded)


class Tell(Protocol):
    """What is being done (begin, count, end), found, or left out. Safe from any thread."""

    def __call__(self, kind: str, **facts: Any) -> None: ...


class Telling(Reporter):
    """Hands on what is being done, and drops every sentence: they are of a training, which this is not."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._tell = tell

    def say(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def during(self, what: str, unit: str = "", count: Callable[[int], str] = "{:,}".format) -> Iterator[Counted]:
        """Told to whoever started the measuring."""
        self._tell("begin", what=what, unit=unit, is_bytes=count is size)
        yield lambda done, total: self._tell("count", done=done, total=total)
        self._tell("end")


def measure(ready: Ready, tell: Tell) -> None:
    """All of it, in turn, each told as soon as it is known. Raises: whatever a training would raise."""
    ready, reporter = _with_a_cache_of_its_own(ready), Telling(tell)
    with ExitStack() as closing:
        began = time.perf_counter()
        compute = arithmetic(ready.config.compute)
        room, peak = room_bytes(compute.device), Peak(compute.device)
        loop = build(ready, reporter, StopSignals(reporter.say, is_kept=True), closing, begins=False)
        found = Built(str(compute.device), compute.precision, time.perf_counter() - began, peak.bytes, room)
        tell("found", part="built", facts=asdict(found))
        _Measuring(ready, loop, peak, tell, reporter).all(closing)


def _with_a_cache_of_its_own(ready: Ready) -> Ready:
    """Nothing is filled ahead: what these few steps look at is encoded as they begin, and gone with the run."""
    data = ready.config.data
    if data.cache == "off":
        return ready
    beside = data.model_copy(update={"cache": "along", "cache_folder": str(ready.run.path / "cache")})
    return replace(ready, config=ready.config.model_copy(update={"data": beside}))


class _Measuring:
    def __init__(self, ready: Ready, loop: Loop, peak: Peak, tell: Tell, reporter: Telling) -> None:
        self.ready, self.loop, self.peak, self.tell, self.reporter = ready, loop, peak, tell, reporter
        self.config, self.family, self.state = loop.config, loop.family, loop.state
        self.device = loop.family.arithmetic.device
        assert isinstance(loop.batches.stream, BatchStream), "as build has it"
        self.framer = loop.batches.stream.framer

    def all(self, closing: ExitStack) -> None:
        """In the order of a training, so that each finds memory as it would."""
        images = self.config.optim.images_per_step
        steps = self._phase("steps", self._steps)
        self._phase("evaluated", lambda: self._evaluation((steps.each_s or steps.first_s) / images))
        self._phase("committed", self._commit)
        self._phase("encoded", self._encoding)
        closing.close()  # the training's own loader ends before others are timed
        self._loaders(images / (steps.each_s or steps.first_s))

    def _phase(self, part: str, measure: Callable[[], Part]) -> Part:
        self.tell("phase", part=part)
        self.peak.forget()
        found = measure()
        self.tell("found", part=part, facts=asdict(found))
        return found

    # --- steps ---------------------------------------------------------------------------------------------

    def _steps(self) -> Steps:
        batches = _Waiting(self.loop.batches, self.device)
        with self.reporter.during("Measuring: the first step"):
            first_s = self._step(batches)
        counted, spent_s = 0, 0.0
        with self.reporter.during("Measuring: steps"):
            while first_s < 2 * LONG_STEP_S and (counted < STEPS or spent_s < STEPS_S):
                spent_s += self._step(batches)
                counted += 1
                if first_s > LONG_STEP_S:
                    break
        if counted < STEPS:
            timed = "no step after it was" if counted == 0 else "one more was"
            self.tell("left_out", what=f"the first step took {duration(first_s)}, so {timed} timed")
        return Steps(first_s, spent_s / counted if counted else 0.0, counted, self.peak.bytes)

    def _step(self, batches: "_Waiting") -> float:
        """Seconds, less those that it waited for pictures."""
        finish(self.device)
        began, before = time.perf_counter(), batches.waited_s
        take_step(self.config.optim, self.loop.gradients, self.state, batches)
        finish(self.device)
        return time.perf_counter() - began - (batches.waited_s - before)

    # --- an evaluation -------------------------------------------------------------------------------------

    def _evaluation(self, image_s: float) -> Evaluated:
        """
        Args:
            image_s: seconds of training on one picture.
        """
        scorer, overhead = self.loop.judge.scorer, self.config.scoring.overhead
        account = Allowance(overhead or 1.0, start_s=EVALUATION_S)
        scorer.allowance = account if overhead else None
        began = time.perf_counter()
        if (sheet_s := self._sheet_s(image_s)) > EVALUATION_S:
            self.tell("left_out", what=f"the contact sheet, which would take about {duration(sheet_s)}, was not drawn")
            found, pictures_s = Found(), sheet_s
            with self._averaged(), scorer.allowance.apart() if scorer.allowance else contextlib.nullcontext():
                scorer.measure_gain(self.state.controlnet, found)
        else:
            found = self.loop.judge.measure(self.state, None).found
            finish(self.device)
            pictures_s = time.perf_counter() - began - account.spent_s
        gain_s = account.needed_s if overhead else None
        if gain_s is not None and found.is_put_off:
            self.tell("left_out", what="control gain was not measured to its end; its time is told from its beginning")
        return Evaluated(
            gain_s, pictures_s if scorer.shown else None, not found.is_put_off, self.peak.bytes, found.failed
        )

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.state.ema is None else self.state.ema.swapped_in()

    def _sheet_s(self, image_s: float) -> float:
        """About how long the contact sheet takes, told from the steps."""
        sampling = self.config.sampling
        forwards = sampling.steps * (1 if sampling.guidance_scale == 1 else 2)
        return len(self.loop.judge.scorer.shown) * forwards * image_s / FORWARDS_PER_TRAINED_IMAGE

    # --- a version -----------------------------------------------------------------------------------------

    def _commit(self) -> Committed:
        saver = self.loop.saver
        saver.observers = ()  # an evaluation was measured by itself
        with self.reporter.during("Measuring: writing a version"):
            began = time.perf_counter()
            saver.save(Reason.ASKED)
            seconds = time.perf_counter() - began
        assert saver.last is not None
        peak_bytes = self.peak.bytes
        return Committed(saver.last.size_bytes, seconds, self._copy_s(), peak_bytes)

    def _copy_s(self) -> float:
        """Of the whole state into memory that is there already, tensor by tensor: no room for a second is needed."""
        tensors = [tensor for of_file in self.state.tensors().values() for tensor in of_file.values()]
        room = torch.empty(max(tensor.nbytes for tensor in tensors), dtype=torch.uint8)
        room.fill_(0)
        finish(self.device)
        began = time.perf_counter()
        for tensor in tensors:
            room[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
        return time.perf_counter() - began

    # --- encoding ------------------------------------------------------------------------------------------

    def _encoding(self) -> Encoded:
        """As the cache does it. Once before, since the first time libraries choose their kernels."""
        with self.reporter.during("Measuring: encoding a batch"):
            pairs = next(self.loop.batches).pairs
            framed, together = [self.framer(pair) for pair in pairs], len(pairs)
            encoders, targets_BHWC = FamilyEncoders(self.family), np.stack([one.target_HWC for one in framed])
            for once in range(2):
                # Words that no caption has, so that nothing of them was heard before.
                prompts = [f"{one.caption} {once} {place}" for place, one in enumerate(framed)]
                pictures_s, moments = self._took(lambda: encoders.moments(targets_BHWC))
                prompts_s, heard = self._took(lambda: [encoders.prompt(prompt) for prompt in prompts])  # noqa: B023
        latents = sum(len(pack(one)) for one in moments)
        conditions = sum(len(pack_picture(one.condition_HWC)) for one in framed)
        return Encoded(
            picture_s=pictures_s / together,
            picture_bytes=(latents + conditions) // together,
            prompt_s=prompts_s / together,
            prompt_bytes=len(pack(heard[0])),
        )

    def _took(self, act: Callable[[], Any]) -> tuple[float, Any]:
        finish(self.device)
        began = time.perf_counter()
        found = act()
        finish(self.device)
        return time.perf_counter() - began, found

    # --- the loader ----------------------------------------------------------------------------------------

    def _loaders(self, wanted: float) -> None:
        """The workers that are set, and more of them until they are enough.

        Args:
            wanted: images a second that a step takes.
        """
        self.tell("phase", part="fed")
        for workers in worker_counts(self.config.data.workers):
            rate = self._rate(workers)
            self.tell("found", part="fed", facts=asdict(Fed(workers, rate)))
            if rate >= wanted:
                return

    def _rate(self, workers: int) -> float:
        """Images a second."""
        self.state.images_seen += APART
        data = self.config.data.model_copy(update={"workers": workers})
        ready = replace(self.ready, config=self.config.model_copy(update={"data": data}))
        source = PatientSource(ready.source, self.reporter.say)
        pairs = pairs_of(ready.config, ready.source, ready.version)
        order = order_of(ready.config, ready.source, ready.base, pairs)
        batches = batches_of(ready, self.framer, order, source.is_stopped, self.family, self.state, pairs)
        with ExitStack() as closing, self.reporter.during(f"Measuring: the loader with data.workers {workers}"):
            closing.callback(batches.close)
            closing.callback(source.close)
            return _images_per_second(batches, self.config.optim.batch_size)


def worker_counts(workers: int, cores: int | None = None) -> list[int]:
    """Those that are set, then powers of two: up to twice the processors, since disks are waited for as well."""
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    more = [2**power for power in range(7) if workers < 2**power <= 2 * max(1, cores)]
    return [workers, *more]


def _images_per_second(batches: Iterator[Batch], batch_size: int) -> float:
    """Of batches after the first ones, which were begun before anybody looked; of all where they are too slow."""
    start = began = time.perf_counter()
    counted = 0
    for place in range(1 << 30):
        next(batches)
        now = time.perf_counter()
        counted += 1
        if place == AHEAD - 1 and now - start < SLOW_LOADER_S / 2:
            began, counted = now, 0
        elif (counted >= AHEAD and now - began > LOADER_S) or now - start > SLOW_LOADER_S:
            break
    return counted * batch_size / (now - began)


class _Waiting(Iterator[Batch]):
    """Batches, and how long they were waited for."""

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches, self._device, self.waited_s = batches, device, 0.0

    def __next__(self) -> Batch:
        finish(self._device)  # so that what the device still computes is not taken for waiting
        began = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - began
        return batch

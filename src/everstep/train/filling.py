"""Filling a cache ahead of a training: what is missing, what it takes, and making it, several pictures at once.

Uses the base's encoders. Whatever was made until a kill is there at the next start.
"""

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everstep.config.schema import Data
from everstep.contracts import During, PairSource, Report, Uint8Array
from everstep.data import Framed
from everstep.encoded.framer import CachedFramer, Job, Size, condition_key, latents_key, text_key
from everstep.encoded.records import pack, pack_picture
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.models.family import Family
from everstep.units import size
from everstep.versions import fsops

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
PIXELS_TOGETHER, MOST_TOGETHER = 2 * 512 * 512, 64  # encoded at once: on a CPU more are no faster
AHEAD = 2  # groups that are read while one is encoded
TRIED = 16  # conditions whose size tells that of all
ROOM_BESIDE = 1.02
ELSEWHERE = "--data.cache-folder FOLDER puts it elsewhere, --data.cache off does without."


class FillingStopped(EverstepError):
    """Somebody asked to stop while the cache was filled."""

    exit_code = ExitCode.STOPPED

    def __init__(self) -> None:
        super().__init__("Stopped while the cache was filled. What was cached stays; the same command goes on.")


class FamilyEncoders:
    """The base's own, for whoever fills the cache. Any threads may ask; they encode one after the other."""

    def __init__(self, family: Family, together: int = 1) -> None:
        """
        Args:
            together: pictures at once; fewer are filled up, so that every picture is computed in the same shape.
        """
        self._family, self._together, self._lock = family, together, threading.Lock()

    def moments(self, targets_BHWC: Uint8Array) -> list[dict[str, tuple[str, Any]]]:
        """As encoded.framer.Encoders has it."""
        count = len(targets_BHWC)
        filled = [*range(count), *[count - 1] * (self._together - count)]
        with self._lock:
            mean, deviation = self._family.moments(targets_BHWC[filled])
            parts = {"mean": _kept(mean)} if deviation is None else {"mean": _kept(mean), "deviation": _kept(deviation)}
        return [{name: (dtype, array[place]) for name, (dtype, array) in parts.items()} for place in range(count)]

    def prompt(self, prompt: str) -> dict[str, tuple[str, Any]]:
        """As encoded.framer.Encoders has it."""
        with self._lock:
            return {name: _kept(tensor) for name, tensor in self._family.encode_prompt(prompt).items()}


def _kept(tensor: Tensor) -> tuple[str, Any]:
    """A dtype's name and the array, of bfloat16 its bits."""
    here = tensor.detach().contiguous().cpu()
    bits = here.view(torch.uint16) if here.dtype == torch.bfloat16 else here
    return NAMES[here.dtype], bits.numpy()


# --- what there is to do --------------------------------------------------------------------------------------


def jobs_of(source: PairSource, wanted: Iterable[tuple[int, Size]], flip_probability: float) -> list[Job]:
    """All that a training may ask for.

    Args:
        wanted: pairs with the sizes that they are looked at in.
    """
    flips = [False, True] if flip_probability > 0 else [False]
    return [
        Job(pair, condition, is_flipped, size)
        for pair, size in wanted
        for condition in range(len(source.contents(pair).conditions))
        for is_flipped in flips
    ]


def prompts_of(source: PairSource, pairs: Sequence[int]) -> list[str]:
    """Each once, the empty one first."""
    return list(dict.fromkeys(["", *(caption for pair in pairs for caption in source.contents(pair).captions)]))


def keys_of(framer: CachedFramer, jobs: Sequence[Job]) -> tuple[list[bytes], list[bytes]]:
    told = [framer.source.contents(job.pair) for job in jobs]
    latents = list(map(latents_key, told, jobs))
    return latents, list(map(condition_key, told, jobs)) if framer.keeps_conditions else []


# --- filling ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """What is missing, and what it will take of the disk beside what is there."""

    jobs: list[Job]
    prompts: list[str]
    of: int  # pictures and prompts in all
    bytes: int

    def sentence(self, folder: Path) -> str:
        """Said before it begins."""
        return (
            f"Caching {len(self.jobs):,} pictures and {len(self.prompts):,} prompts of {self.of:,}: about "
            f"{size(self.bytes)} in {folder}, {size(fsops.free_bytes(folder))} free."
        )


def need_of(framer: CachedFramer, jobs: Sequence[Job]) -> Need:
    """What is missing. Encodes some pictures and a prompt to weigh them. Raises: UserError; OSError."""
    source, shelves = framer.source, framer.shelves
    prompts = prompts_of(source, range(len(source)))
    latents, conditions = keys_of(framer, jobs)
    places = sorted({*shelves.latents.missing(latents), *shelves.conditions.missing(conditions)})
    texts = [text_key(prompt) for prompt in prompts]
    unsaid = [prompts[place] for place in shelves.text.missing(texts)]
    missing = [jobs[place] for place in places]
    weight = 0
    if missing:
        step = max(1, len(missing) // TRIED)
        some = missing[::step][:TRIED]
        pictures = _weigh(framer, some)
        weight += pictures * len(missing) // len(some)
    if unsaid:
        weight += len(pack(framer._makers().prompt(unsaid[-1]))) * len(unsaid)
    return Need(missing, unsaid, len(jobs) + len(prompts), int(weight * ROOM_BESIDE))


def _weigh(framer: CachedFramer, jobs: Sequence[Job]) -> int:
    """Bytes that these would take. Nothing of it is kept: alone a picture is computed in another shape."""
    framed = [framer.framed(job) for job in jobs]
    latents = len(pack(framer._makers().moments(framed[0].target_HWC[None])[0]))
    outlines = [len(pack_picture(one.condition_HWC)) for one in framed] if framer.keeps_conditions else [0]
    return latents * len(jobs) + sum(outlines)


def fill(
    framer: CachedFramer,
    family: Family,
    jobs: Sequence[Job],
    data: Data,
    report: Report,
    during: During,
    is_stopped: Callable[[], bool],
) -> int:
    """Encode all that is missing, several at once. Returns how many pictures and prompts that were.

    Raises: UserError where there is no room; FillingStopped; OSError.
    """
    with framer.shelves.latents.alone(report):
        for shelf in framer.shelves:
            shelf.look_again()
        with during("Looking for what is cached"):
            need = need_of(framer, jobs)
        if need.jobs or need.prompts:
            folder = framer.shelves.latents.folder.parent
            _check_room(need, folder)
            report(need.sentence(folder))
            try:
                _fill_pictures(framer, family, need.jobs, data, during, is_stopped)
                _fill_prompts(framer, need.prompts, during, is_stopped)
            except BaseException:
                for shelf in framer.shelves:
                    with contextlib.suppress(OSError):
                        shelf.flush()
                raise
        return len(need.jobs) + len(need.prompts)


def _check_room(need: Need, folder: Path) -> None:
    free = fsops.free_bytes(folder)
    if need.bytes > free:
        raise UserError(
            f"The cache would take about {size(need.bytes)} more in {folder}, and {size(free)} are free there. Nothing "
            f"was started.\n{ELSEWHERE}"
        )


def _fill_pictures(
    framer: CachedFramer, family: Family, jobs: list[Job], data: Data, during: During, is_stopped: Callable[[], bool]
) -> None:
    together = max(1, min(MOST_TOGETHER, PIXELS_TOGETHER // framer.framing.resolution**2))
    one_by_one, framer.encoders = framer.encoders, FamilyEncoders(family, together)
    try:
        with during("Caching pictures", "pictures") as said:
            done = 0
            # Encoders on a CPU have its cores already; what one thread cannot read meanwhile is read between them.
            is_busy = family.arithmetic.device.type == "cpu"
            workers = 1 if is_busy else max(data.workers, os.cpu_count() or 1)
            for group, framed in _read_ahead(framer, jobs, together, workers):
                framer.keep(group, framed)
                done += len(group)
                said(done, len(jobs))
                if is_stopped():
                    raise FillingStopped
            framer.shelves.latents.flush()
            framer.shelves.conditions.flush()
    finally:
        framer.encoders = one_by_one


def _groups(jobs: Sequence[Job], together: int) -> Iterator[list[Job]]:
    """Of one size each."""
    for _, alike in itertools.groupby(sorted(jobs, key=lambda job: job.size or (0, 0)), key=lambda job: job.size):
        while group := list(itertools.islice(alike, together)):
            yield group


def _read_ahead(
    framer: CachedFramer, jobs: list[Job], together: int, workers: int
) -> Iterator[tuple[list[Job], list[Framed]]]:
    """Groups with their pictures, read by threads meanwhile."""
    ahead: deque[tuple[list[Job], list[Future[Framed]]]] = deque()
    pool = ThreadPoolExecutor(workers, "everstep-cache")
    groups = _groups(jobs, together)
    try:
        while True:
            for group in itertools.islice(groups, AHEAD + 1 - len(ahead)):
                ahead.append((group, [pool.submit(framer.framed, job) for job in group]))
            if not ahead:
                return
            group, pictures = ahead.popleft()
            # Whoever needs a picture that nobody has begun to read does it.
            both = zip(group, pictures, strict=True)
            yield group, [framer.framed(job) if picture.cancel() else picture.result() for job, picture in both]
    finally:
        pool.shutdown(cancel_futures=True)


def _fill_prompts(framer: CachedFramer, prompts: list[str], during: During, is_stopped: Callable[[], bool]) -> None:
    with during("Caching prompts", "prompts") as said:
        for done, prompt in enumerate(prompts, start=1):
            framer.text(prompt)
            said(done, len(prompts))
            if is_stopped():
                raise FillingStopped
        framer.shelves.text.flush()

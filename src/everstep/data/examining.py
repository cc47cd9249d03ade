"""What files of pairs are found to be: decoded on all cores, and what was found remembered as it comes.

Knows pictures. Does not know what pairs need.
"""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import xxhash

from everstep.data.images import BLACK, decode_content, what_else
from everstep.data.layouts.files import Files
from everstep.data.looks import look_of
from everstep.data.remembered import ImageFacts, Memory, is_fresh

RETRY_PAUSES_S = (0.1, 0.4)
FINAL_FAULTS = ("is missing", "is a folder, not a file")  # which no second look changes
TELL_PERIOD_S = 0.1
BATCH = 2000  # files asked of the memory at once
Progress = Callable[[int, int], None]  # files looked at, of all; no more than about ten times a second
Stamps = dict[str, bytes | None]


def recalled(files: Files, names: Iterable[str]) -> dict[str, ImageFacts]:
    """Facts of files that were looked at before, from memory; decoded again where it has lost them."""
    began_ns = time.time_ns()
    with Memory() as memory:
        return examine(files, {name: files.stamp(name) for name in names}, memory, began_ns)


class Pace:
    """Tells how far a look has come, now and then, and at its end."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._told_at = progress, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._told_at >= TELL_PERIOD_S or done == total:
            self._told_at = now
            self._progress(done, total)


def examine(
    files: Files, stamps: Stamps, memory: Memory, began_ns: int, pace: Progress | None = None
) -> dict[str, ImageFacts]:
    """Facts of all files, decoding those that are new or changed, on all cores.

    Crash: what was decoded until about a second before is remembered.
    """
    facts: dict[str, ImageFacts] = {}
    names, done = iter(files.in_order(stamps)), 0
    with _pool() as pool:
        while some := list(itertools.islice(names, BATCH)):
            places = {name: files.place(name) for name in some}
            known = memory.recall({places[name]: stamps[name] for name in some})
            new = [name for name in some if places[name] not in known]
            facts |= {name: known[places[name]] for name in some if places[name] in known}
            done += len(some) - len(new)
            for name, found in _in_order(pool, lambda name: _examine_one(files, name), new):
                facts[name] = found
                stamp = stamps[name]
                if stamp is not None and not is_fresh(stamp, began_ns):
                    memory.remember(places[name], stamp, found)
                done += 1
                if pace is not None:
                    pace(done, len(stamps))
            if pace is not None:
                pace(done, len(stamps))
    return facts


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """All cores; whoever interrupts waits for the pictures that are being decoded, not for those in line."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, look: Callable[[str], ImageFacts], paths: Iterable[str]
) -> Iterator[tuple[str, ImageFacts]]:
    """Each path with what was found, only so far ahead that memory holds a few of them."""
    ahead: deque[tuple[str, Future[ImageFacts]]] = deque()
    for path in paths:
        ahead.append((path, pool.submit(look, path)))
        if len(ahead) > 4 * (os.cpu_count() or 1):
            first, future = ahead.popleft()
            yield first, future.result()
    for path, future in ahead:
        yield path, future.result()


def _examine_one(files: Files, name: str) -> ImageFacts:
    """What fails is tried again: a disk may stutter, a file may just be written."""
    found = _looked_at(files, name)
    for pause_s in RETRY_PAUSES_S:
        if not found.fault or found.fault in FINAL_FAULTS:
            return found
        time.sleep(pause_s)
        before, found = found, _looked_at(files, name)
        if found.digest and found.digest == before.digest:  # the same content decodes no better the next time
            return found
    return found


def _looked_at(files: Files, name: str) -> ImageFacts:
    try:
        content = files.read(name)
    except FileNotFoundError:
        return ImageFacts("", 0, 0, 0.0, "is missing")
    except OSError as error:
        return ImageFacts("", 0, 0, 0.0, f"cannot be read ({error.strerror or error})")
    except ValueError as error:  # no plain file
        return ImageFacts("", 0, 0, 0.0, str(error))
    digest = xxhash.xxh3_128_hexdigest(content)
    try:
        image = decode_content(content, BLACK)
    except Exception as error:  # Pillow's decoders raise whatever their format's library does
        why = f"is no image that can be read ({' '.join(str(error).split()) or type(error).__name__})"
        return ImageFacts(digest, 0, 0, 0.0, what_else(content) or why)
    spread = float(np.asarray(image.reduce(max(1, min(image.size) // 64))).std())
    return ImageFacts(digest, image.width, image.height, spread, "", look_of(image))

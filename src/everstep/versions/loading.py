"""Tensors put right into memory that is there, and verified on the way: what a resume takes.

They come from a file of a version, or from the image of one in memory. Nothing as large as the state is allocated.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from everstep.contracts import Uint8Array
from everstep.errors import DamageFound
from everstep.versions.ahead import READERS, Uncached, new_buffer
from everstep.versions.digests import digest, digest_of
from everstep.versions.reach import is_away, reaching
from everstep.versions.tensorfile import Header, TensorPlace, header_of, read_header
from everstep.versions.verify import check_header, load_digests

AHEAD = READERS + 2  # pieces asked for beyond the one that is waited for
COPIED_BYTES = 2 << 20  # digested right after they were copied, while they are in the processor's cache
TargetFor = Callable[[str, TensorPlace], memoryview]


def load_into(folder: Path, path: str, files: Mapping[str, Any], target_for: TargetFor) -> Iterator[str]:
    """Fill the memory that target_for gives for each tensor; yields its name once it is there and verified.

    Args:
        target_for: writable bytes, as many as the tensor has; asked for some tensors ahead. May raise DamageFound if
            the tensor does not belong.

    Raises: DamageFound naming the tensor; what was filled before is then worth nothing, the file is untouched.
    """
    if path not in files:
        raise DamageFound(f"{folder.name} holds no {path}.")
    digests = load_digests(folder, files)[path]
    with _said_of(str(folder / path)), closing(Uncached(folder / path)) as file:
        header, raw = read_header(file, file.size_bytes)
        check_header(header, raw, files[path])
        with _landing(file, header, target_for) as landing:
            for name, place in header.tensors.items():
                _check(name, digest(landing.target(name, place.end)), digests)
                yield name


def load_from_image(image: memoryview, digests: Mapping[str, str], target_for: TargetFor) -> Iterator[str]:
    """The same from a file's bytes in memory; what lies behind them is left alone.

    Args:
        digests: of every tensor, as they were when the image was sealed.
    """
    import numpy as np  # not at the top: verbs that only look load no numbers

    with _said_of("The state in memory"):
        header, _ = header_of(image)
        data = np.frombuffer(image, np.uint8)[header.data_start :]
        for name, place in header.tensors.items():
            _check(name, digest_of(_copy(target_for(name, place), data[place.begin : place.end])), digests)
            yield name


@contextmanager
def _said_of(what: str) -> Iterator[None]:
    """Damage inside is said of this; so is an error of its disk, which is damage unless the disk is away."""
    try:
        yield
    except DamageFound as damage:
        raise DamageFound(f"{what} {damage}. Nothing was changed.") from None
    except OSError as error:
        if not is_away(error):
            raise DamageFound(f"{what} cannot be read ({error.strerror}). Nothing was changed.") from None
        with reaching(Path(what)):
            raise


def _copy(target: memoryview, source: Uint8Array) -> Iterator[memoryview]:
    """Yields what was put there, where it lies."""
    import numpy as np

    for begin in range(0, source.size, COPIED_BYTES):
        there = target[begin : begin + COPIED_BYTES]
        np.copyto(_array(there), source[begin : begin + COPIED_BYTES])
        yield there


def _check(name: str, found: str, digests: Mapping[str, str]) -> None:
    if found != digests.get(name):
        raise DamageFound(f"fails its digest in tensor {name}")


class Part(NamedTuple):
    """Where some of a piece belongs."""

    target: Uint8Array
    begin: int  # in the piece


class Landing:
    """A file's tensors on their way to where they belong: each reader reads a piece, and copies what is in it.

    So the disk is never idle while bytes are copied, and copying takes as many processors as there are readers.
    """

    def __init__(
        self, file: Uncached, header: Header, target_for: TargetFor, readers: ThreadPoolExecutor | None
    ) -> None:
        self._file, self._start, self._readers = file, header.data_start, readers
        self._tensors = iter(header.tensors.items())
        self._target_for = target_for
        self._targets: dict[str, memoryview] = {}  # not verified yet
        self._open = deque[tuple[int, int, Uint8Array]]()  # begin, end and memory of tensors that are not whole yet
        self._opened, self._arrived = 0, 0  # bytes of the data
        places = file.places(header.data_start)
        self._places, self._piece_bytes = iter(places), places.step
        self._coming = deque[tuple[int, Callable[[], None]]]()
        self._buffers = SimpleQueue[memoryview]()
        for _ in range(READERS):
            self._buffers.put(new_buffer(file.size_bytes))

    def target(self, name: str, end: int) -> memoryview:
        """The memory of a tensor, once all bytes to its end are there. Each tensor in its turn."""
        while name not in self._targets:
            self._open_next()
        while self._arrived < end:
            self._ask()
            arrives_at, wait = self._coming.popleft()
            wait()
            self._arrived = arrives_at
        return self._targets.pop(name)

    def _ask(self) -> None:
        while len(self._coming) <= AHEAD and (place := next(self._places, None)) is not None:
            begin = place - self._start  # in the data; below zero where the header ends within the first piece
            end = begin + self._piece_bytes
            land = partial(self._land, place, list(self._parts(begin, end)))
            wait = land if self._readers is None else self._readers.submit(land).result
            self._coming.append((end, wait))

    def _open_next(self) -> bool:
        """Ask for the memory of one more tensor, if there is one."""
        name, place = next(self._tensors, ("", None))
        if place is None:
            return False
        target = self._targets[name] = self._target_for(name, place)
        if place.end > place.begin:
            self._open.append((place.begin, place.end, _array(target)))
        self._opened = place.end
        return True

    def _parts(self, begin: int, end: int) -> Iterator[Part]:
        """All that lies between two places of the data."""
        while self._opened < end and self._open_next():
            pass
        while self._open and self._open[0][1] <= begin:
            self._open.popleft()
        for first, last, target in self._open:
            low, high = max(first, begin), min(last, end)
            if low < high:
                yield Part(target[low - first : high - first], low - begin)

    def _land(self, place: int, parts: list[Part]) -> None:
        """In a reader's thread. Neither reading nor copying holds the interpreter's lock."""
        import numpy as np

        buffer = self._buffers.get()
        try:
            piece = _array(self._file.read_piece(buffer, place))
            for target, begin in parts:
                np.copyto(target, piece[begin : begin + target.size])
        finally:
            self._buffers.put(buffer)


@contextmanager
def _landing(file: Uncached, header: Header, target_for: TargetFor) -> Iterator[Landing]:
    is_large = len(file.places(header.data_start)) > 1
    readers = ThreadPoolExecutor(READERS, "everstep-read") if is_large else None
    try:
        yield Landing(file, header, target_for, readers)
    finally:
        if readers is not None:
            readers.shutdown(cancel_futures=True)  # nobody writes into what is live once this is left


def _array(memory: memoryview) -> Uint8Array:
    import numpy as np

    return np.frombuffer(memory, np.uint8)

"""How far apart the weights of versions are: norms by block, straight from the files, one tensor at a time.

Verified on the way. Knows names and numbers; which names make a block, the caller says. Never imports torch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from everstep.errors import UserError
from everstep.versions.layout import TRAINING
from everstep.versions.reading import reading
from everstep.versions.tensorfile import LoadedTensor
from everstep.versions.verify import load_digests, stream_tensors
from everstep.versions.version import Version

CHUNK = 1 << 16  # numbers that are worked on at once: they stay in the processor's cache
NUMBERS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16}
Stream = Iterator[tuple[str, LoadedTensor]]
BlockOf = Callable[[str], str]
Numbers = npt.NDArray[np.generic]


@dataclass(slots=True)
class Block:
    """Sums over the tensors of one block that both versions have in the same shape."""

    tensors: int = 0
    equal: int = 0  # tensors that are equal bit for bit
    square_first: float = 0.0
    square_other: float = 0.0
    square_difference: float = 0.0

    @property
    def norm_first(self) -> float:
        return math.sqrt(self.square_first)

    @property
    def norm_other(self) -> float:
        return math.sqrt(self.square_other)

    @property
    def norm_difference(self) -> float:
        return math.sqrt(self.square_difference)

    @property
    def relative(self) -> float | None:
        """||a - b|| / ||a||; None where a is all zeros and b is not."""
        if self.square_difference == 0:
            return 0.0
        return self.norm_difference / self.norm_first if self.square_first else None


@dataclass(slots=True)
class Distance:
    """From the weights of one version to those of another, by block in the order of the file."""

    blocks: dict[str, Block] = field(default_factory=dict)
    only_first: list[str] = field(default_factory=list)
    only_other: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)  # in both, but not in the same shape

    @property
    def whole(self) -> Block:
        """All blocks together."""
        total = Block()
        for block in self.blocks.values():
            for name in Block.__slots__:
                setattr(total, name, getattr(total, name) + getattr(block, name))
        return total

    @property
    def is_identical(self) -> bool:
        """Whether both hold the same tensors, bit for bit."""
        whole = self.whole
        return whole.equal == whole.tensors and not (self.only_first or self.only_other or self.reshaped)


def distances(first: Version, others: Sequence[Version], block_of: BlockOf) -> list[Distance]:
    """From the first to each of the others. Every version is read once; the first is not read again for each.

    Raises: DamageFound naming the tensor that is not what was committed.
    """
    with ExitStack() as held:
        for version in (first, *others):
            held.enter_context(reading(version.path))
        return _distances(first, others, block_of)


def _distances(first: Version, others: Sequence[Version], block_of: BlockOf) -> list[Distance]:
    found = [Distance() for _ in others]
    theirs, digests = [_Reader(version) for version in others], _digests(first)
    for name, tensor in _weights(first):
        square = _dot(_numbers(tensor))
        for distance, reader in zip(found, theirs, strict=True):
            is_equal = reader.digests.get(name) == digests[name]
            _measure(distance, block_of(name), name, tensor, square, reader.take(name), is_equal)
    for distance, reader in zip(found, theirs, strict=True):
        distance.only_other = reader.rest()
    return found


def weight_files(version: Version) -> list[str]:
    """The tensor files that a network is made of: all but those that only a resume needs."""
    return [path for path, entry in version.files.items() if "tensors" in entry and not path.startswith(f"{TRAINING}/")]


def _weights(version: Version) -> Stream:
    for path in weight_files(version):
        yield from stream_tensors(version.path, path, version.files)


def _digests(version: Version) -> dict[str, str]:
    by_file = load_digests(version.path, version.files)
    return {name: digest for path in weight_files(version) for name, digest in by_file[path].items()}


class _Reader:
    """The tensors of a version by name; at once where they come in the order in which they are asked for."""

    def __init__(self, version: Version) -> None:
        self.digests = _digests(version)
        self._stream, self._passed = _weights(version), dict[str, LoadedTensor]()

    def take(self, name: str) -> LoadedTensor | None:
        """Each can be taken once. Raises: DamageFound."""
        if name not in self.digests:
            return None
        while name not in self._passed:
            passed, tensor = next(self._stream)
            self._passed[passed] = tensor
        return self._passed.pop(name)

    def rest(self) -> list[str]:
        """What nobody asked for, verified too."""
        left = list(self._passed)
        self._passed.clear()
        return [*left, *(name for name, _ in self._stream)]


def _measure(
    distance: Distance,
    block: str,
    name: str,
    ours: LoadedTensor,
    square: float,
    theirs: LoadedTensor | None,
    is_equal: bool,
) -> None:
    if theirs is None:
        distance.only_first.append(name)
        return
    if theirs.shape != ours.shape:
        distance.reshaped.append(name)
        return
    sums = distance.blocks.setdefault(block, Block())
    sums.tensors += 1
    sums.square_first += square
    if is_equal and ours.dtype == theirs.dtype:
        sums.equal += 1
        sums.square_other += square
        return
    numbers = _numbers(theirs)
    sums.square_other += _dot(numbers)
    sums.square_difference += _dot(_numbers(ours), numbers)


def _numbers(tensor: LoadedTensor) -> Numbers:
    """The tensor's numbers in one row; bfloat16 stays as its bits. Raises: UserError for a dtype without numbers."""
    if tensor.dtype == "BF16":
        return np.frombuffer(tensor.buffer, np.uint16)
    if tensor.dtype not in NUMBERS:
        raise UserError(f"Weights of dtype {tensor.dtype} cannot be measured; {', '.join(NUMBERS)} and BF16 can.")
    return np.frombuffer(tensor.buffer, NUMBERS[tensor.dtype])


def _dot(a: Numbers, b: Numbers | None = None) -> float:
    """Sum of squares of a, or of a - b; in chunks, so that float32 keeps its digits over millions of numbers."""
    total = 0.0
    for begin in range(0, a.size, CHUNK):
        part = _floats(a[begin : begin + CHUNK])
        if b is not None:
            part = part - _floats(b[begin : begin + CHUNK])
        total += float(np.dot(part, part))
    return total


def _floats(numbers: Numbers) -> npt.NDArray[np.floating]:
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    if numbers.dtype in (np.float32, np.float64):
        return numbers  # type: ignore[return-value]
    return numbers.astype(np.float32 if numbers.dtype == np.float16 else np.float64)

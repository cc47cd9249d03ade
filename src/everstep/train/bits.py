"""Live tensors against those of a version, bit for bit: which differ, where, and by how much.

Knows tensors and files. Knows nothing of steps, nor of why bits may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everstep.errors import UserError
from everstep.versions import LoadedTensor, Version, digest
from everstep.versions.torch import DTYPES, TorchTensor
from everstep.versions.verify import load_digests, stream_tensors

FEW_BITS = 3  # so many flipped bits are named one by one
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an item


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of one element. bit: 0 is the lowest; the highest is the sign."""

    bit: int
    element: int
    index: tuple[int, ...]
    stored: float
    again: float

    def __str__(self) -> str:
        index = f" ({', '.join(map(str, self.index))})" if self.index else ""
        return f"bit {self.bit} of element {self.element:,}{index}, {self.stored:.9g} stored, {self.again:.9g} again"


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """What differs in one tensor. flips: all flipped bits where they are few, else none."""

    tensor: str
    elements: int
    of_elements: int
    bits: int
    largest: float
    flips: tuple[Flip, ...]

    def __str__(self) -> str:
        if self.flips:
            return f"{self.tensor}: {'; '.join(map(str, self.flips))}"
        return (
            f"{self.tensor}: {self.bits:,} bits in {self.elements:,} of {self.of_elements:,} elements, "
            f"the largest difference {self.largest:.3g}"
        )


@dataclass(frozen=True, slots=True)
class FileCompared:
    """One tensor file of a version; the differing tensors in the order of the network."""

    file: str
    tensors: int
    differing: tuple[TensorDifference, ...]


def compare_bits(live: Mapping[str, Mapping[str, Tensor]], version: Version) -> list[FileCompared]:
    """Compare all tensors, by file and name, with what the version holds; of a slim one, with what is left.

    Raises: UserError if the version holds other tensors than these.
    """
    digests = load_digests(version.path, version.files)
    files = [file for file in live if (version.path / file).is_file()]
    return [_compare_file(version, file, live[file], digests[file]) for file in files]


def _compare_file(version: Version, file: str, live: Mapping[str, Tensor], digests: Mapping[str, str]) -> FileCompared:
    other = sorted(live.keys() ^ digests.keys())
    if other:
        raise UserError(
            f"{file} of {version.name} does not hold the tensors that this network has: {len(other)} are in one of the "
            f"two alone (first: {other[0]}). It cannot be compared."
        )
    differing = [name for name, tensor in live.items() if digest(TorchTensor(tensor).buffer()) != digests[name]]
    found = {}
    for name, stored in stream_tensors(version.path, file, version.files) if differing else ():
        if name in differing:
            found[name] = difference(name, _as_torch(stored), live[name].detach().cpu().contiguous())
    return FileCompared(file, len(live), tuple(found[name] for name in differing))


def difference(name: str, stored: Tensor, again: Tensor) -> TensorDifference:
    """What differs between two tensors of the same dtype and shape, both on the CPU and contiguous."""
    integer = INTEGERS[stored.element_size()]
    flipped = stored.reshape(-1).view(integer) ^ again.reshape(-1).view(integer)
    places = flipped.nonzero().reshape(-1)
    flags = _flags(flipped[places])
    gaps = (stored.reshape(-1)[places].double() - again.reshape(-1)[places].double()).abs()
    flips: list[Flip] = []
    if flags.sum() <= FEW_BITS:
        pairs = [(int(places[row]), int(bit)) for row, bit in zip(*flags.nonzero(), strict=True)]
        flips = [_flip(bit, element, stored, again) for element, bit in pairs]
    largest = float(gaps.max()) if len(places) else 0.0
    return TensorDifference(name, len(places), stored.numel(), int(flags.sum()), largest, tuple(flips))


def _flags(flipped: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """One row for each integer, one column for each of its bits, the lowest first."""
    octets = flipped.numpy().view(np.uint8).reshape(len(flipped), flipped.element_size())
    return np.unpackbits(octets, axis=1, bitorder="little")


def _flip(bit: int, element: int, stored: Tensor, again: Tensor) -> Flip:
    index = tuple(int(place) for place in np.unravel_index(element, tuple(stored.shape))) if stored.dim() else ()
    return Flip(bit, element, index, float(stored.reshape(-1)[element]), float(again.reshape(-1)[element]))


def _as_torch(stored: LoadedTensor) -> Tensor:
    return torch.frombuffer(stored.buffer, dtype=DTYPES[stored.dtype]).reshape(stored.shape)

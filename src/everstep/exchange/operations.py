"""What is done to tensors on their way into another layout, each with its way back.

Knows shapes, and arrays of any library through the little that numpy and torch have in common; imports neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Shape = tuple[int, ...]
Arrays = Sequence[Any]
Join = Callable[[list[Any], int], Any]  # torch.cat or numpy.concatenate


class Operation(Protocol):
    """Ours are the tensors in diffusers' names, theirs those in the other layout."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        """What shapes theirs have."""
        ...

    def forward(self, ours: Arrays, join: Join) -> Arrays: ...

    def back(self, theirs: Arrays, ours: Sequence[Shape], join: Join) -> Arrays: ...


@dataclass(frozen=True, slots=True)
class Same:
    """Another name alone."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(ours)

    def forward(self, ours: Arrays, join: Join) -> Arrays:
        return ours

    def back(self, theirs: Arrays, ours: Sequence[Shape], join: Join) -> Arrays:
        return theirs


@dataclass(frozen=True, slots=True)
class Fuse:
    """Several of ours lie one after the other in one of theirs, along the first axis: query, key and value."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((sum(shape[0] for shape in ours), *ours[0][1:]),)

    def forward(self, ours: Arrays, join: Join) -> Arrays:
        return [join(list(ours), 0)]

    def back(self, theirs: Arrays, ours: Sequence[Shape], join: Join) -> Arrays:
        parts, begin = [], 0
        for shape in ours:
            parts.append(theirs[0][begin : begin + shape[0]])
            begin += shape[0]
        return parts


@dataclass(frozen=True, slots=True)
class SwapHalves:
    """The halves along the first axis change places: scale before shift, or shift before scale."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(ours)

    def forward(self, ours: Arrays, join: Join) -> Arrays:
        half = ours[0].shape[0] // 2
        return [join([ours[0][half:], ours[0][:half]], 0)]

    def back(self, theirs: Arrays, ours: Sequence[Shape], join: Join) -> Arrays:
        return self.forward(theirs, join)


@dataclass(frozen=True, slots=True)
class AsConvolution:
    """Our matrix is their convolution of one pixel; what has one axis is a bias, and stays."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple((*shape, 1, 1) if len(shape) == 2 else shape for shape in ours)

    def forward(self, ours: Arrays, join: Join) -> Arrays:
        return [tensor.reshape(self.shapes([tuple(tensor.shape)])[0]) for tensor in ours]

    def back(self, theirs: Arrays, ours: Sequence[Shape], join: Join) -> Arrays:
        return [tensor.reshape(shape) for tensor, shape in zip(theirs, ours, strict=True)]


@dataclass(frozen=True, slots=True)
class Transpose:
    """Our matrix multiplies from the left, theirs from the right."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(shape[::-1] for shape in ours)

    def forward(self, ours: Arrays, join: Join) -> Arrays:
        return [tensor.T for tensor in ours]

    def back(self, theirs: Arrays, ours: Sequence[Shape], join: Join) -> Arrays:
        return [tensor.T for tensor in theirs]

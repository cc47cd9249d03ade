"""What a loop shows of itself so that it can be kept, and how that is laid out in a version's files."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everstep.contracts import TensorFile
from everstep.errors import NotFinite
from everstep.keeping.health import Piece
from everstep.keeping.revision import Revision
from everstep.versions.tensorfile import TensorImage
from everstep.versions.torch import TorchTensor, part_of

Tensors = Mapping[str, Mapping[str, Tensor]]


class Stateful(Protocol):
    """The live state of a training. `step` and `images_seen` are what has been done."""

    step: int
    images_seen: int

    @property
    def revision(self) -> Revision:
        """Moved by everything that changes the tensors."""
        ...

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]: ...

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        """Constant facts for the headers of tensor files, by path."""
        ...

    @property
    def exempt(self) -> Collection[str]:
        """Names of tensors that may hold what is no number: a mask of minus infinities, say."""
        ...

    def tensors(self) -> Tensors:
        """All live tensors, by file and name, as they are now; the same mapping again means the same tensors, in the
        same memory.
        """
        ...

    def small_files(self) -> dict[str, bytes]:
        """The small files that come from the state, by path."""
        ...


def tensor_files(state: Stateful) -> list[TensorFile]:
    """The version's tensors, read from this state only when they are written."""
    return [
        TensorFile(path, {name: TorchTensor(tensor) for name, tensor in named.items()}, state.metadata.get(path, {}))
        for path, named in state.tensors().items()
    ]


class Layout:
    """Where each tensor of a state lies in a version's files. Another shape of the state has another layout."""

    def __init__(self, state: Stateful) -> None:
        self.images = [TensorImage(file) for file in tensor_files(state)]
        self.size_bytes = sum(image.size_bytes for image in self.images)
        self._known = _described(state.tensors())
        self.is_shared_out = is_shared_out(state.tensors())

    def fits(self, tensors: Tensors) -> bool:
        """Whether files, names, shapes and dtypes are those that were laid out."""
        return _described(tensors) == self._known

    def in_order(self, tensors: Tensors) -> list[Tensor]:
        """The live tensors as they follow each other in the files."""
        return [tensors[image.path][name] for image in self.images for name in image.places]

    def share(self, rank: int, ranks: int) -> "Share":
        """What one of several processes copies. Where all hold the same: tensors that follow each other, about as many
        bytes as the others'. Where each holds rows of every tensor: those.
        """
        if self.is_shared_out:
            return Share(0, sum(len(image.places) for image in self.images), 0, 0)
        begins, ends = [0], list[int]()
        for number, end in enumerate(self._ends()):
            while len(begins) < ranks and end * ranks > self.size_bytes * len(begins):
                begins.append(number + 1)
                ends.append(end)
        count = sum(len(image.places) for image in self.images)
        begins += [count] * (ranks - len(begins) + 1)
        ends += [self.size_bytes] * (ranks - len(ends))
        first = 0 if rank == 0 else ends[rank - 1]
        return Share(begins[rank], begins[rank + 1], first, ends[rank])

    def _ends(self) -> Iterator[int]:
        """Of all tensors, in bytes of the slot's files up to there."""
        before = 0
        for image in self.images:
            yield from (before + len(image.header) + place.end for place in image.places.values())
            before += image.size_bytes


@dataclass(frozen=True, slots=True)
class Share:
    """What one process copies of a state: tensors by their numbers in the layout, and the bytes that are its alone."""

    first: int
    last: int
    begin: int
    end: int

    @property
    def is_first(self) -> bool:
        """Whether it begins where the slot begins: what it has copied can be written to the disk at once."""
        return self.begin == 0 < self.end

    def has(self, number: int) -> bool:
        return self.first <= number < self.last

    def pieces(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Of which every byte is its own."""
        return [piece for piece in pieces if self.begin <= piece.first and piece.last <= self.end]


def is_shared_out(tensors: Tensors) -> bool:
    """Whether this process holds rows of them only."""
    return any(part_of(tensor).is_rows for named in tensors.values() for tensor in named.values())


def _described(tensors: Tensors) -> dict[str, dict[str, tuple[torch.Size, torch.dtype]]]:
    return {
        path: {name: (tensor.shape, tensor.dtype) for name, tensor in named.items()} for path, named in tensors.items()
    }


def check_finite(state: Stateful) -> None:
    """Raises: NotFinite naming the first tensor that holds what is no number."""
    for path, named in state.tensors().items():
        for name, tensor in named.items():
            tensor = part_of(tensor).tensor
            is_watched = (tensor.is_floating_point() or tensor.is_complex()) and name not in state.exempt
            # float8 has no isfinite of its own.
            if is_watched and not bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all()):
                raise NotFinite(f"{name} in {path} is not finite after step {state.step:,}.")


def coming_bytes(state: Stateful) -> int:
    """Gradients that the next step makes in the memory that an arena would lie in, and that are not there yet."""
    groups = (group for optimizer in state.optimizers for group in optimizer.param_groups)
    parameters = (parameter for group in groups for parameter in group["params"])
    return sum(one.nbytes for one in parameters if one.grad is None and one.device.type == "cpu")

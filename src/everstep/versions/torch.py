"""A version's tensors as torch tensors, both ways: to the store what safetensors.torch is to safetensors."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everstep.errors import DamageFound
from everstep.versions.loading import TargetFor, load_from_image, load_into
from everstep.versions.tensorfile import TensorPlace
from everstep.versions.version import Version, read_tensors

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
PLAIN = (Tensor, nn.Parameter)  # whose memory is all of the tensor
Load = Callable[[TargetFor], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Part:
    """What this process holds of a tensor: all of it, or rows that lie together."""

    tensor: Tensor
    first_item: int = 0  # of the whole tensor's, in the order of its memory
    is_rows: bool = False


def part_of(tensor: Tensor) -> Part:
    """What is here of a tensor that may be shared out over processes by its rows, as `fully_shard` does."""
    mesh = getattr(tensor, "device_mesh", None)  # asked of a DTensor alone, whose module takes a second to load
    if mesh is None:
        return Part(tensor.detach())
    shared: Any = tensor.detach()
    first_row, rows = 0, tensor.shape[0]
    for dimension, placement in enumerate(shared.placements):
        if placement.is_shard(0):
            of_each = -(-rows // mesh.size(dimension))
            begin = min(rows, mesh.get_local_rank(dimension) * of_each)
            first_row, rows = first_row + begin, min(of_each, rows - begin)
        elif not placement.is_replicate():
            raise ValueError(f"a tensor that is shared out as {placement} cannot be kept")
    return Part(shared.to_local(), first_row * math.prod(tensor.shape[1:]), True)


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A live tensor as a source of bytes; nothing is copied where it is on the CPU and contiguous."""

    tensor: Tensor

    @property
    def dtype(self) -> str:
        return DTYPE_NAMES[self.tensor.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def buffer(self) -> memoryview:
        return _bytes_of(self.tensor.detach().cpu().contiguous())


def load_weights(network: nn.Module, version: Version, file: str) -> None:
    """Weights alone, to start a new run from or to draw with. Raises: DamageFound."""
    fill(network.state_dict(), version, file)


def fill(live: dict[str, Tensor], version: Version, file: str) -> None:
    """Read a version's tensors right into live ones, verified. Raises: DamageFound at the first that does not fit.

    After an error what is live is worth nothing; the version is untouched.
    """
    missing = _fill(live, lambda target_for: load_into(version.path, file, version.files, target_for))
    if missing:
        raise DamageFound(f"{file} of {version.name} lacks {len(missing)} tensors (first: {min(missing)}).")


def fill_from_image(live: dict[str, Tensor], image: memoryview, digests: Mapping[str, str]) -> None:
    """The same from a file's bytes in memory, every tensor verified. There a dtype that is another is damage, too.

    Args:
        digests: of every tensor, as they were when the image was sealed.
    """
    missing = _fill(live, lambda target_for: load_from_image(image, digests, target_for), is_exact=True)
    if missing:
        raise DamageFound(f"The state in memory lacks {len(missing)} tensors (first: {min(missing)}).")


def _fill(live: dict[str, Tensor], load: Load, is_exact: bool = False) -> set[str]:
    """Returns the names that were not there."""
    missing, staged = set(live), dict[str, Tensor]()

    def target_for(name: str, place: TensorPlace) -> memoryview:
        tensor, dtype = live.get(name), DTYPES[place.dtype]
        if tensor is None:
            raise DamageFound(f"holds {name}, which this network has not")
        if tuple(tensor.shape) != place.shape:
            raise DamageFound(f"holds {name} as {place.shape}, but {tuple(tensor.shape)} was expected")
        if is_exact and tensor.dtype != dtype:
            raise DamageFound(f"holds {name} as {place.dtype}, but {DTYPE_NAMES[tensor.dtype]} was expected")
        is_plain = (
            type(tensor) in PLAIN and tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype == dtype
        )
        if not is_plain:
            tensor = staged[name] = torch.empty(place.shape, dtype=dtype)
        return _bytes_of(tensor.detach())

    with torch.no_grad():
        for name in load(target_for):
            missing.discard(name)
            if name in staged:
                part, whole = part_of(live[name]), staged.pop(name)
                mine = whole.reshape(-1)[part.first_item : part.first_item + part.tensor.numel()]
                part.tensor.copy_(mine.view(part.tensor.shape) if part.is_rows else whole)
    return missing


def _bytes_of(contiguous: Tensor) -> memoryview:
    """The memory itself. Its dtype may be one that numpy has not."""
    flat: memoryview = contiguous.reshape(-1).view(torch.uint8).numpy().data
    return flat


def read_torch(version: Version, path: str) -> dict[str, Tensor]:
    """A tensor file of a version as tensors of their own, on the CPU, verified. Raises: DamageFound."""
    return {
        name: torch.frombuffer(loaded.buffer, dtype=DTYPES[loaded.dtype]).reshape(loaded.shape)
        if loaded.buffer.nbytes
        else torch.empty(loaded.shape, dtype=DTYPES[loaded.dtype])
        for name, loaded in read_tensors(version, path).items()
    }

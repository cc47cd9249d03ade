"""A version's tensors as torch tensors, both ways: to the store what safetensors.torch is to safetensors."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everstep.errors import DamageFound
from everstep.versions.loading import load_into
from everstep.versions.tensorfile import TensorPlace
from everstep.versions.version import Version

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


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
        flat = self.tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return flat.numpy().data


def load_weights(network: nn.Module, version: Version, file: str) -> None:
    """Weights alone, to start a new run from or to draw with. Raises: DamageFound."""
    fill(network.state_dict(), version, file)


def fill(live: dict[str, Tensor], version: Version, file: str) -> None:
    """Read a version's tensors right into live ones, verified. Raises: DamageFound at the first that does not fit.

    After an error what is live is worth nothing; the version is untouched.
    """
    missing, staged = set(live), dict[str, Tensor]()

    def target_for(name: str, place: TensorPlace) -> memoryview:
        tensor = live.get(name)
        if tensor is None:
            raise DamageFound(f"holds {name}, which this network has not")
        if tuple(tensor.shape) != place.shape:
            raise DamageFound(f"holds {name} as {place.shape}, but {tuple(tensor.shape)} was expected")
        is_plain = tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype == DTYPES[place.dtype]
        if not is_plain:
            tensor = staged[name] = torch.empty(place.shape, dtype=DTYPES[place.dtype])
        memory: memoryview = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
        return memory

    with torch.no_grad():
        for name in load_into(version.path, file, version.files, target_for):
            missing.discard(name)
            if name in staged:
                live[name].copy_(staged.pop(name))
    if missing:
        raise DamageFound(f"{file} of {version.name} lacks {len(missing)} tensors (first: {min(missing)}).")

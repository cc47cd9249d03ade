"""A version's tensors as torch tensors, both ways: between the store, which has no torch, and the networks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everstep.errors import DamageFound
from everstep.models.places import AVERAGED, WEIGHTS
from everstep.versions import LoadedTensor, Version, read_tensors

__all__ = ["AVERAGED", "WEIGHTS", "TorchTensor", "fill", "load_weights"]

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


def load_weights(controlnet: nn.Module, version: Version, file: str = WEIGHTS) -> None:
    """Weights alone, to start a new run from or to draw with. Raises: DamageFound."""
    fill(controlnet.state_dict(), read_tensors(version, file), file)


def fill(live: dict[str, Tensor], loaded: dict[str, LoadedTensor], file: str) -> None:
    """Copy loaded tensors into live ones. Raises: DamageFound at the first name or shape that differs."""
    if live.keys() != loaded.keys():
        odd = sorted(live.keys() ^ loaded.keys())
        raise DamageFound(f"{file}: {len(odd)} tensors do not match this network (first: {odd[0]}).")
    with torch.no_grad():
        for name, tensor in live.items():
            found = loaded[name]
            if tuple(tensor.shape) != tuple(found.shape):
                raise DamageFound(f"{file}: {name} is {found.shape}, but {tuple(tensor.shape)} was expected.")
            tensor.copy_(torch.frombuffer(found.buffer, dtype=DTYPES[found.dtype]).view(tensor.shape))

"""Where tensors live and in what precision they are computed: device, dtype, threads, determinism."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from everstep import heap
from everstep.config.schema import Compute
from everstep.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The device and the dtype of the forward pass; master weights are float32 whatever the dtype."""

    device: torch.device
    dtype: torch.dtype
    is_shared_out: bool = False  # the large networks, over ranks: none is ever whole on a device
    ranks: int = 1  # that share every batch

    @property
    def home(self) -> torch.device:
        """Where large networks are loaded to."""
        return torch.device("cpu") if self.is_shared_out else self.device

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Computes in the dtype what is kept in float32; nothing to do where the dtype is float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def needs_loss_scaling(self) -> bool:
        return self.dtype == torch.float16

    @property
    def precision(self) -> str:
        """The dtype's name in the settings, never auto."""
        return NAMES[self.dtype]

    @property
    def has_tf32(self) -> bool:
        """Whether products of float32 matrices are computed from numbers rounded to 10 bits of mantissa."""
        return self.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32


def carried(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A host's array on the device: to CUDA from pinned memory, so that nothing of a step waits until it is there."""
    here = torch.from_numpy(array)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


def arithmetic(settings: Compute, is_shared_out: bool = False, ranks: int = 1) -> Arithmetic:
    """Choose the device and set what is global in PyTorch (threads, determinism, TF32).

    Args:
        is_shared_out: the large networks, over ranks (`train/sharding.py`).
        ranks: how many there are.

    Raises: UserError if the device is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    device = _device(settings.device)
    if device.type == "cuda":
        # Streams, events and memory that name no device are then this one's: snapshots of another would be unfinished.
        torch.cuda.set_device(device)
        # Convolutions have it already. Runs that asked to go on exactly began without, and go on without.
        torch.backends.cuda.matmul.allow_tf32 = not settings.deterministic
    else:
        heap.keep_freed()
    return Arithmetic(device, DTYPES[_precision(settings.precision, device)], is_shared_out, ranks)


def _precision(name: str, device: torch.device) -> str:
    """What auto means here. On a CPU, bf16 is emulated more often than not, and slower."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"compute.device is {name!r}, but should be auto, cpu, cuda or cuda:N.") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"compute.device is {name}, but PyTorch sees {count} CUDA devices. Nothing was started.")
    # One without a number cannot be made the current one.
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device

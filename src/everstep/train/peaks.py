"""The most memory that a process has had since it was last asked: its own on a CPU, what PyTorch allocated on CUDA."""

import contextlib
from pathlib import Path

import torch

from everstep import heap

RESET = "5"  # what the kernel takes to forget the most so far: proc(5), clear_refs
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Peak:
    """Of this process on one device. Where the kernel forgets nothing, it is the most since the process began."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def forget(self) -> None:
        """What was before counts no more."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            heap.give_back()
            with contextlib.suppress(OSError):
                CLEAR.write_text(RESET)

    @property
    def bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        with contextlib.suppress(OSError):
            facts = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
            return int(facts["VmHWM"].split()[0]) << 10
        return 0


def room_bytes(device: torch.device) -> int | None:
    """What is free on a GPU; None on a CPU, where the machine says it."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

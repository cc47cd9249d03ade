"""What this machine lets a process have, asked before a run exists: open files, address space, the device.

Never imports torch: a process that will fork must not. Where PyTorch has to be asked, another process does.
"""

import re
import resource
import subprocess
import sys
from collections.abc import Callable

from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.places import here, spelled
from everstep.units import size

DEVICE = re.compile(r"cpu|(cuda)(?::(\d+))?")
OPEN_FILES = 32  # that a training needs, and some to spare
ADDRESSES_BYTES = 1_500_000_000  # that PyTorch's libraries take; with less they crash or hang
COUNT = "import torch; print(torch.cuda.device_count())"
PATIENCE_S = 120


def refuse_unfit(config: Config) -> None:
    """Raises: UserError if a training cannot live here, whatever its base and data are. Nothing was started then."""
    here()
    if config.keeper.ram_dir:
        spelled(config.keeper.ram_dir)
    _refuse_limit(resource.RLIMIT_NOFILE, OPEN_FILES, str, "open files", "ulimit -n 1024")
    _refuse_limit(resource.RLIMIT_AS, ADDRESSES_BYTES, size, "of address space", "ulimit -v unlimited")
    refuse_absent(config.compute.device)


def refuse_absent(device: str) -> None:
    """Raises: UserError if there is no such device."""
    if device == "auto" or (device == "mps" and sys.platform == "darwin"):
        return
    found = DEVICE.fullmatch(device)
    if found is None:
        raise UserError(
            f"compute.device is {device!r}, but should be auto, cpu, cuda or cuda:N; Everstep trains on no other kind. "
            "Nothing was started."
        )
    if found[1] and int(found[2] or 0) >= (count := _cuda_devices()):
        seen = "no CUDA device" if count == 0 else f"{count} CUDA device{'s' if count > 1 else ''}, the first is cuda:0"
        raise UserError(
            f"compute.device is {device}, but PyTorch sees {seen}. Nothing was started; --compute.device auto takes "
            "what is there."
        )


def _cuda_devices() -> int:
    """As PyTorch counts them. Raises: UserError if it cannot be asked."""
    words = [sys.executable, "-c", COUNT]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
        return int(asked.stdout.split()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        raise UserError(
            "PyTorch could not be asked which CUDA devices there are. Nothing was started.\n"
            f'What it says itself: {sys.executable} -c "{COUNT}"'
        ) from None


def _refuse_limit(kind: int, least: int, in_words: Callable[[int], str], what: str, way_out: str) -> None:
    """A limit that the user may lift is lifted; one that is too low refuses. Raises: UserError."""
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY or soft >= least:
        return
    if hard == resource.RLIM_INFINITY or hard >= least:
        resource.setrlimit(kind, (least if hard == resource.RLIM_INFINITY else hard, hard))
        return
    raise UserError(
        f"A process may have {in_words(hard)} {what} here, and a training needs {in_words(least)}. Nothing was "
        f"started; {way_out} allows more, where the machine does."
    )

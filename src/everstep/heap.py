"""Memory that was freed, of the C library: kept for the next step, and given back where somebody counts what is free.

glibc returns every large block to the system at once and gets it anew, page by page and zeroed. PyTorch keeps none of a
CPU's memory by itself, so a step of SD 1.5 at 256 px on two cores spent 40 % of its time there.
"""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
# By which somebody else decides what is kept: begins of variables, and what is in the one that holds all of glibc's.
TUNED, TUNABLES, TUNABLE = ("MALLOC_MMAP_", "MALLOC_TRIM_"), "GLIBC_TUNABLES", ("malloc.mmap_", "malloc.trim_")


def keep_freed() -> None:
    """From now on, until the process ends. Leaves alone what somebody has tuned."""
    tunables = os.environ.get(TUNABLES, "")
    is_tuned = any(name.startswith(TUNED) for name in os.environ) or any(name in tunables for name in TUNABLE)
    if not is_tuned:
        _call("mallopt", M_MMAP_MAX, 0)
        _call("mallopt", M_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """All that is kept now."""
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another library than glibc
        getattr(ctypes.CDLL(None), name)(*values)

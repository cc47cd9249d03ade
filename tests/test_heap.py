"""Freed memory is used again, and can be given back. In processes of their own: a process keeps it to its end."""

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's malloc")
MEASURE = """
import resource
import numpy as np
from everstep import heap

def pages_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [np.ones(48 << 20, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

heap.keep_freed()
pages_of_a_step()
again, kept = pages_of_a_step(), resident()
heap.give_back()
print(again, kept - resident())
"""
STEP_PAGES = 4 * (48 << 20) // os.sysconf("SC_PAGE_SIZE")


def measured(**tuned: str) -> tuple[int, int]:
    """Pages that a second step got anew, and that were given back afterwards."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env={**plain, **tuned}, capture_output=True, text=True, check=True
    )
    again, given = map(int, done.stdout.split())
    return again, given


def test_a_step_lies_where_the_last_one_lay_and_it_can_be_given_back() -> None:
    again, given = measured()
    assert again < STEP_PAGES // 10
    assert given > STEP_PAGES // 2


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_MMAP_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536")]
)
def test_whoever_tunes_it_is_left_alone(name: str, value: str) -> None:
    """As it is without us: all is got anew, in huge pages or in small ones, and nothing is kept."""
    again, given = measured(**{name: value})
    assert given < STEP_PAGES // 10
    assert again >= STEP_PAGES // 512


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")])
def test_what_is_tuned_for_other_reasons_changes_nothing(name: str, value: str) -> None:
    again, given = measured(**{name: value})
    assert again < STEP_PAGES // 512
    assert given > STEP_PAGES // 2

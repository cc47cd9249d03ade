"""How far a process stands behind others."""

import os
from pathlib import Path

import pytest

GROUP = Path("/proc/self/autogroup")
KNOWS_SESSIONS = GROUP.exists() and GROUP.read_text() != ""
knows_sessions = pytest.mark.skipif(not KNOWS_SESSIONS, reason="processors are not shared between sessions here")


def niceness_of_session(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().split()[-1])


def stands_behind(pid: int) -> int:
    """Its niceness, as it counts: where the kernel groups sessions, one of its own counts as its session does."""
    own = os.getpriority(os.PRIO_PROCESS, pid)
    if os.getsid(pid) == os.getsid(0) or not KNOWS_SESSIONS:
        return own
    return min(own, niceness_of_session(pid))

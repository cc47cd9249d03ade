"""Folders of other programs that are named as ours are: a log of Lightning's is called version_0 too."""

import contextlib
from pathlib import Path

OWN = ("log.jsonl", "README.txt", ".lock")
OF_LOGGERS = ("events.out.tfevents.*", "metrics.csv", "checkpoints")
OF_ACCELERATE = ("optimizer.bin", "random_states_*.pkl")
TAKEN_OVER = "everstep import takes over what was trained there"


def is_lightning_log(folder: Path) -> bool:
    """Whether a logger of Lightning's wrote into it, and nothing of ours is there."""
    return not _holds(folder, OWN) and _holds(folder, OF_LOGGERS)


def stranger(folder: Path) -> str:
    """Whose folder it is, as the end of a sentence; nothing where that cannot be told."""
    with contextlib.suppress(OSError):
        if is_lightning_log(folder):
            return f"; it is a log of Lightning's, and {TAKEN_OVER}"
        if any(is_lightning_log(log) for log in folder.glob("version_*")):
            return f"; it holds logs of Lightning's, and {TAKEN_OVER}"
        if _holds(folder, OF_ACCELERATE):
            return f"; it is a checkpoint of Accelerate's, and {TAKEN_OVER}"
        if any(_holds(one, OF_ACCELERATE) for one in folder.glob("checkpoint-*")):
            return f"; it holds checkpoints of Accelerate's, and {TAKEN_OVER}"
    return ""


def _holds(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)

"""What was measured of a training before it starts: plain numbers, as one process tells them to another.

Never imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Built:
    """Base, ControlNet and state, put together.

    Args:
        room_bytes: what was free on the GPU before; None on a CPU.
    """

    device: str
    precision: str
    seconds: float
    peak_bytes: int
    room_bytes: int | None


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps at the real settings.

    Args:
        first_s: of the first, which takes longest.
        each_s: of those after it, with their batches at hand: what the loader kept them waiting is left out.
        counted: how many those were; 0 where the first alone took too long.
    """

    first_s: float
    each_s: float
    counted: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation, as at a version.

    Args:
        gain_s: of control gain; None where none is asked for.
        pictures_s: of all that is drawn and scored; None where nothing was drawn.
        is_gain_whole: whether control gain was measured to its end, or only as far as its time could be told.
        failed: what could not be measured, with the reason.
    """

    gain_s: float | None
    pictures_s: float | None
    is_gain_whole: bool
    peak_bytes: int
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """One whole version, made and flushed to the disk that the run would be on.

    Args:
        copy_s: how long a copy of it into memory takes, which is what training waits for where there are snapshots.
    """

    version_bytes: int
    seconds: float
    copy_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the base makes of pictures and prompts before each step: what a cache would hold instead.

    Args:
        picture_bytes: of one picture's latents, as mean and deviation, and its condition.
    """

    picture_s: float
    picture_bytes: int
    prompt_s: float
    prompt_bytes: int


@dataclass(frozen=True, slots=True)
class Fed:
    """How fast so many workers prepare pictures, while nothing else is done."""

    workers: int
    images_per_second: float


PARTS = {
    "built": Built,
    "steps": Steps,
    "evaluated": Evaluated,
    "committed": Committed,
    "encoded": Encoded,
}


@dataclass(slots=True)
class Measured:
    """All of it, as far as it came.

    Args:
        left_out: what was not measured, and why.
        failed: how the measuring ended, where it did not come to its end; None otherwise.
        error: the same in the words of whatever failed.
        failed_in: what was being done then.
        is_out_of_memory: whether that was for want of memory.
    """

    built: Built | None = None
    steps: Steps | None = None
    evaluated: Evaluated | None = None
    committed: Committed | None = None
    encoded: Encoded | None = None
    fed: list[Fed] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: str | None = None
    error: str | None = None
    failed_in: str | None = None
    is_out_of_memory: bool = False

    def hear(self, part: str, facts: Mapping[str, Any]) -> None:
        """Take in what the process that measures found."""
        if part == "fed":
            self.fed.append(Fed(**facts))
        else:
            setattr(self, part, PARTS[part](**facts))

    @property
    def peaks_bytes(self) -> dict[str, int]:
        """The most memory that each had, in the order in which they were done."""
        parts = {"start": self.built, "step": self.steps, "evaluation": self.evaluated, "version": self.committed}
        return {name: part.peak_bytes for name, part in parts.items() if part is not None}

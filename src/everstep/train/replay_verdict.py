"""What a replay has found, and what that means, in a sentence or two. Knows nothing of how it was found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from everstep.contracts import Changes

if TYPE_CHECKING:
    from everstep.train.bits import FileCompared  # names PyTorch, which sentences do without


@dataclass(frozen=True, slots=True)
class StepDifference:
    """A step whose line says something else than what was measured again: name -> (stored, again)."""

    step: int
    values: Changes

    def __str__(self) -> str:
        return ", ".join(f"{name} {stored!r} stored, {again!r} again" for name, (stored, again) in self.values.items())


@dataclass(frozen=True, slots=True)
class Replayed:
    """All that was compared. begins: number of the version that was gone on from; None for the start made anew."""

    run: str
    version: int
    step: int
    begins: int | None
    first_step: int
    is_slim: bool
    files: tuple["FileCompared", ...]
    counters: Changes
    recorded: int
    last_recorded: int | None
    steps_differing: tuple[StepDifference, ...]
    differs: tuple[str, ...]

    @property
    def steps(self) -> int:
        return self.step - self.first_step

    @property
    def has_same_tensors(self) -> bool:
        return not any(file.differing for file in self.files)

    @property
    def is_same(self) -> bool:
        return self.has_same_tensors and not self.counters and not self.steps_differing

    # --- in words ------------------------------------------------------------------------------------------

    def verdict(self) -> str:
        """One or two sentences, and what may explain a difference."""
        if self.is_same:
            return f"{self._same()}{self._not_compared()}"
        explained = f" That may be why: different from then: {'; '.join(self.differs)}." if self.differs else ""
        return f"{self._different()} {self.first_difference()}{self._not_compared()}{explained}"

    def _made_by(self) -> str:
        if not self.steps:
            return "making the start anew gives"
        begins = "the start" if self.begins is None else f"version_{self.begins}"
        return f"training again from {begins} gives ({self.steps:,} steps)"

    def _same(self) -> str:
        lines = f", and so are loss, rate and examples of {self.recorded:,} steps" if self.recorded else ""
        what = f"all {self._tensors():,} tensors are the same{lines}"
        return f"version_{self.version} is, bit for bit, what {self._made_by()}: {what}."

    def _different(self) -> str:
        differing = [(file.file, tensor) for file in self.files for tensor in file.differing]
        what = f"all {self._tensors():,} tensors are the same"
        if differing:
            file, tensor = differing[0]
            what = f"{len(differing):,} of {self._tensors():,} tensors differ, first in {file}, {tensor}"
        return f"version_{self.version} is not what {self._made_by()}: {what}."

    def _tensors(self) -> int:
        return sum(file.tensors for file in self.files)

    def first_difference(self) -> str:
        """Where it is in time."""
        if self.steps_differing:
            first = self.steps_differing[0]
            return f"The first difference is the line of step {first.step:,} in records/metrics.jsonl: {first}."
        if self.has_same_tensors:
            name, (stored, again) = next(iter(self.counters.items()))
            return f"The first difference is in training/state.json: {name} {stored!r} stored, {again!r} again."
        if not self.steps:
            return "The first difference is there before the first step."
        if self.last_recorded is None:
            return "No line of these steps is there, so it cannot be told at which of them the first difference is."
        return (
            f"The losses of {self.recorded:,} steps are the same, so the first difference is after "
            f"step {self.last_recorded:,} had its loss."
        )

    def _not_compared(self) -> str:
        missing = self.steps - self.recorded
        lines = (
            f" {missing:,} of {self.steps:,} steps have no line of theirs in records/metrics.jsonl." if missing else ""
        )
        return f"{lines} It is slim: only its weights were there to be compared." if self.is_slim else lines

"""A measure of drawn pictures: one class for what compares them with their conditions, captions or targets.

Knows no single measure. Never imports torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from everstep.contracts import Uint8Array


@dataclass(frozen=True, slots=True)
class Drawn:
    """Drawn pictures and what each was drawn from, all in one order, [H,W,3] uint8 of one size."""

    pictures: Sequence[Uint8Array]
    conditions: Sequence[Uint8Array]
    captions: Sequence[str]
    pairs: Sequence[int]  # numbers in their source
    targets: Sequence[Uint8Array | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """A score of pictures, ready to be taken: its model is loaded."""

    name: str
    take: Callable[[Drawn], list[float]]

    def __call__(self, drawn: Drawn) -> list[float]:
        """One value for each picture, or one for all of them."""
        return self.take(drawn) if drawn.pictures else []

"""Work of an evaluation that several processes share out: each piece is done as one process alone would do it.

Never imports torch.
"""

from collections.abc import Sequence
from typing import Any, Protocol

ERRORS, PICTURES = "errors", "pictures"  # kinds of work: a batch of examples; pictures that are drawn together


class Rounds(Protocol):
    """Processes that hold the same network."""

    at_once: int  # pieces that are done in the time of one

    def __call__(self, kind: str, pieces: Sequence[Any]) -> list[Any]:
        """What came of each piece, in their order. Raises: what doing one of them raised."""
        ...

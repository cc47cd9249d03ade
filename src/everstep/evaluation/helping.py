"""Pieces of an evaluation, as any process does them that has the network in memory: the one that shares them out too.

Knows nothing of what is made of them.
"""

from collections.abc import Callable
from typing import Any

from everstep.config.schema import Config
from everstep.contracts import Counted
from everstep.data import Framer
from everstep.evaluation.examples import Examples
from everstep.evaluation.pictures.draw import paint_part, shown_pairs
from everstep.evaluation.rounds import PICTURES
from everstep.models.family import Family


class Helper:
    """Measures batches of examples and draws pictures; reads pairs once it is asked."""

    def __init__(self, family: Family, config: Config, framer: Framer, examples: Callable[[], Examples | None]) -> None:
        self._family, self._sampling, self._framer, self._examples = family, config.sampling, framer, examples

    def piece(self, controlnet: Any, kind: str, asked: Any, said: Counted) -> Any:
        """One piece of work.

        Args:
            said: told of denoising steps.

        Raises: whatever goes wrong.
        """
        if kind == PICTURES:
            numbers, place = asked

            def told(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
                said(step + 1, self._sampling.steps)
                return tensors

            shown = shown_pairs(self._framer, numbers)
            return paint_part(self._family, controlnet, shown, self._sampling, place, told)
        examples = self._examples()
        assert examples is not None, "whoever asks has some"
        return examples.part(controlnet, asked)

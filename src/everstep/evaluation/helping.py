"""A process that does pieces of an evaluation for another one, with the same network in memory.

Knows nothing of what is made of them.
"""

from functools import cached_property
from typing import Any

from everstep.config.schema import Config
from everstep.contracts import ExampleSettings
from everstep.data import Framer, Split
from everstep.evaluation.examples import Examples
from everstep.evaluation.pictures.draw import paint_part, shown_pairs
from everstep.evaluation.rounds import PICTURES
from everstep.evaluation.scorer import examples_of
from everstep.models.family import Family


class Helper:
    """Measures batches of examples and draws pictures; reads pairs once it is asked."""

    def __init__(self, family: Family, config: Config, framer: Framer, pairs: Split, settings: ExampleSettings) -> None:
        self._family, self._config, self._framer = family, config, framer
        self._pairs, self._settings = pairs, settings

    def piece(self, controlnet: Any, kind: str, asked: Any) -> Any:
        """One piece of work. Raises: whatever goes wrong."""
        if kind == PICTURES:
            numbers, place = asked
            return paint_part(
                self._family, controlnet, shown_pairs(self._framer, numbers), self._config.sampling, place
            )
        return self._examples.part(controlnet, asked)

    @cached_property
    def _examples(self) -> Examples:
        found = examples_of(self._family, self._config, self._framer, self._pairs, self._settings)
        assert found is not None, "the first one has some"
        return found

"""The pictures of one version after another: those of the contact sheet, and as many further ones as time allows.

Always the same held-out pairs in the same order with the same noise, so the first n of any two versions compare as
pairs. Knows nothing of measures, runs or files.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from everstep.config.schema import Config
from everstep.contracts import During, Float32Array
from everstep.data import Framer
from everstep.evaluation.allowance import Allowance
from everstep.evaluation.pictures.draw import Shown, Together, paint, shown_pairs
from everstep.evaluation.rounds import PICTURES, Rounds
from everstep.models.family import Family
from everstep.telling import untold


class Painter:
    """Draws held-out pairs with the networks already in memory."""

    def __init__(
        self,
        family: Family,
        config: Config,
        framer: Framer,
        numbers: Sequence[int],
        allowance: Allowance | None = None,
        during: During = untold,
        rounds: Rounds | None = None,
    ) -> None:
        """
        Args:
            rounds: of other processes that hold the network too, and draw beside this one.
            numbers: of the pairs that may be drawn, in order; the first sampling.pairs are the contact sheet's.
            allowance: of the time that drawing may take; left out, all are drawn. The contact sheet is in any case.
        """
        self._family, self._config, self._framer = family, config, framer
        self._allowance, self._during, self._rounds = allowance, during, rounds
        self.numbers, self.further = numbers[: config.sampling.pairs], numbers[config.sampling.pairs :]
        self.shown: list[Shown] = shown_pairs(framer, self.numbers)
        self._together = Together()
        self.sheet_together = self._together.size  # pictures of the newest contact sheet that were drawn at once
        self._picture_s = 0.0  # what the newest ones took each

    def paint_sheet(self, controlnet: Any) -> list[Float32Array]:
        """Those of the contact sheet. Raises: UserError if memory does not hold the drawing of one."""
        with self._during("Drawing the contact sheet", "denoising steps") as said, self._spending():
            painted = self._timed(controlnet, self.shown, said, 0, self.numbers)
        self.sheet_together = self._together.size
        return painted

    def paint_further(self, controlnet: Any, fewest: int) -> tuple[list[Shown], list[Float32Array]]:
        """Further ones, batch by batch, while there is time for another; and what they were drawn from.

        Args:
            fewest: with the contact sheet, below which they are of no use: then none are drawn, and the time is saved.
        """
        parts = self._affordable(fewest - len(self.numbers))
        shown: list[Shown] = []
        painted: list[Float32Array] = []
        if not parts:
            return shown, painted
        with self._during("Drawing pictures to be scored", "pictures") as said, self._spending():
            for part in parts:
                if painted and not self._is_enough_for(len(part)):
                    break  # slower than thought
                some = shown_pairs(self._framer, part)
                place = len(self.numbers) + len(shown)
                painted += self._timed(controlnet, some, lambda done, total: None, place, part)
                shown += some
                said(len(painted), sum(map(len, parts)))
        return shown, painted

    def _affordable(self, fewest: int) -> list[Sequence[int]]:
        """Further pairs by batches: whole ones, since bits depend on how many are drawn together, and on no clock."""
        size, parts, pictures = (
            self._together.size * (self._rounds.at_once if self._rounds else 1),
            list[Sequence[int]](),
            0,
        )
        for first in range(0, len(self.further), size):
            part = self.further[first : first + size]
            if not self._is_enough_for(pictures + len(part)):
                break
            parts.append(part)
            pictures += len(part)
        return parts if pictures >= fewest else []

    def _is_enough_for(self, pictures: int) -> bool:
        return self._allowance is None or self._allowance.left_s >= pictures * self._picture_s

    def _spending(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._allowance is None else self._allowance.spending()

    def _timed(
        self, controlnet: Any, shown: Sequence[Shown], said: Any, place: int, numbers: Sequence[int]
    ) -> list[Float32Array]:
        began, rounds, sampling = time.perf_counter(), self._rounds, self._config.sampling

        def in_rounds(parts: Sequence[range]) -> list[Float32Array]:
            assert rounds is not None
            drawn = rounds(PICTURES, [([numbers[at] for at in part], place + part.start) for part in parts])
            return [picture for part in drawn for picture in part]

        shared = None if rounds is None else in_rounds
        painted = paint(self._family, controlnet, shown, sampling, said, self._together, place, shared)
        self._picture_s = (time.perf_counter() - began) / max(1, len(shown))
        return painted

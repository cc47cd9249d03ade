"""The cache of a training: where it lies, what pairs are looked at through, and what a version says of it.

Uses the base's encoders. Knows nothing of the loop.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from everstep.config.policy import framing
from everstep.config.schema import Config, Data
from everstep.contracts import During, PairSource, Report
from everstep.data import Framer, Split
from everstep.data.sequence import Order
from everstep.encoded.framer import CachedFramer, Job, Size, open_shelves, text_key
from everstep.errors import DiskFull, NotCommitted, UserError
from everstep.evaluation.examples import seen_of
from everstep.models.conditions import open_maker
from everstep.models.family import Family
from everstep.places import NO_ROOM, cache_folder, spelled
from everstep.train.filling import ELSEWHERE, FamilyEncoders, fill, jobs_of, keys_of, prompts_of


def root_of(data: Data) -> Path:
    """Where the cache lies. Raises: UserError where there is no such place."""
    if data.cache_folder is not None:
        return spelled(data.cache_folder)
    home = cache_folder()
    if home is None:
        raise UserError("data.cache needs a folder, and this machine has no place for caches. Nothing was started.\n"
                        "--data.cache-folder FOLDER names one.")  # fmt: skip
    return home.absolute() / "everstep/encoded"


# --- opening -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cache:
    """What a training knows of its cache."""

    framer: CachedFramer
    made: int  # pictures and prompts that were missing when it was opened, and made ahead
    root: str | None  # digest of all that the training may ask for; None while something is missing

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        recipes = {shelf.recipe.kind: shelf.recipe.digest for shelf in self.framer.shelves}
        return {"recipes": recipes, "root": self.root}


def framer_of(
    config: Config,
    family: Family,
    source: PairSource,
    order: Order,
    pairs: Split,
    report: Report,
    during: During,
    is_stopped: Callable[[], bool] = lambda: False,
    *,
    may_fill: bool = True,
) -> tuple[Framer, Cache | None]:
    """What the training looks at pairs through: the cache, full where it is to be filled ahead, or the pairs alone.

    Args:
        may_fill: whether what is missing is made ahead where the settings say so; else as it is asked for.

    Raises: UserError, DiskFull where the cache cannot be kept.
    """
    how, is_ahead = framing(config.data), may_fill and config.data.cache == "ahead"
    maker = open_maker(config, family.arithmetic.device)
    if config.data.cache == "off":
        return Framer(source, how, maker), None
    folder = root_of(config.data)
    recipe = None if maker is None else maker.recipe
    try:
        with during("Opening the cache"):
            shelves = open_shelves(folder, how, recipe, family.encoders(), report)
            framer = CachedFramer(source, how, maker, shelves, FamilyEncoders(family))
            jobs = jobs_of(source, _looked_at(order, pairs), config.data.flip_probability)
        made = fill(framer, family, jobs, config.data, report, during, is_stopped) if is_ahead else 0
        cache = Cache(framer, made, _root(framer, jobs))
    except OSError as error:
        raise _no_place(folder, error) from None
    framer.refused = report
    if is_ahead:
        framer.encoders = None
        family.let_encoders_go(lambda prompt: _embedding(framer, family, prompt))
    return framer, cache


def _embedding(framer: CachedFramer, family: Family, prompt: str) -> dict[str, Tensor]:
    compute = family.arithmetic
    kept = framer.text(prompt)
    return {name: torch.from_numpy(array.copy()).to(compute.device, compute.dtype) for name, array in kept.items()}


def _looked_at(order: Order, pairs: Split) -> Iterable[tuple[int, Size]]:
    """All pairs with the sizes that they are looked at in: scores look at squares."""
    squares = (*pairs.held_out, *seen_of(pairs.held_out, pairs.training))
    return dict.fromkeys([*order.trained(), *((pair, None) for pair in squares)])


def _root(framer: CachedFramer, jobs: Sequence[Job]) -> str | None:
    latents, conditions = keys_of(framer, jobs)
    texts = [text_key(prompt) for prompt in prompts_of(framer.source, range(len(framer.source)))]
    of_shelves = zip(framer.shelves, (latents, conditions, texts), strict=True)
    roots = [shelf.root(keys) for shelf, keys in of_shelves]
    return None if None in roots else f"xxh3-128:{xxhash.xxh3_128_hexdigest(repr(roots).encode())}"


def _no_place(folder: Path, error: OSError) -> UserError | NotCommitted:
    if error.errno in NO_ROOM:
        return DiskFull(f"The disk of the cache is full: {folder}. What was cached so far stays.\n"
                        f"With more room the same command goes on. {ELSEWHERE}")  # fmt: skip
    return UserError(f"The cache in {folder} cannot be used: {error.strerror or error}. Nothing was started.\n"
                     f"{ELSEWHERE}")  # fmt: skip

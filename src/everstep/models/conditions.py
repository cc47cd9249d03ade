"""Pairs and their conditions as the settings have them: opened, framed, and with the maker where conditions are made.

Loads PyTorch only where a model finds the conditions.
"""

import threading
from typing import TYPE_CHECKING

import numpy as np

from everstep.config.policy import framing
from everstep.config.schema import Config, Data
from everstep.contracts import PairSource, Report, Uint8Array
from everstep.data import Framer, Source, source_of
from everstep.data.conditions import Draws, Make, Maker, as_rgb, plain
from everstep.data.examining import Progress
from everstep.data.functions import OwnFunction, load_function, try_function
from everstep.data.recipe import Recipe, read_recipe
from everstep.errors import UserError

if TYPE_CHECKING:
    from torch import device


def recipe_of(data: Data) -> Recipe | None:
    """How conditions are made; None where they are pictures. Raises: UserError with what does not fit."""
    recipe = read_recipe(data.condition, data.condition_model, data.condition_random)
    if recipe is not None and data.condition_resize == "nearest":
        raise UserError(
            f"data.condition_resize is nearest, but data.condition is {data.condition}: what is made "
            "is of the size that is trained on, and never resized. Nothing was started. Leave one of them out."
        )
    return recipe


def open_pairs(data: Data, report: Report | None = None, progress: Progress | None = None) -> Source:
    """The pairs of the settings, checked. Raises: UserError listing every pair that cannot be used."""
    return source_of(data, report, progress, recipe_of(data))


def open_framer(config: Config, source: PairSource, device: "device | None" = None) -> Framer:
    """Pairs as they are trained on, judged and drawn from; of settings with nothing left open.

    Args:
        device: of a model that finds conditions; left out, the training's.
    """
    return Framer(source, framing(config.data), open_maker(config, device))


def open_maker(config: Config, device: "device | None" = None) -> Maker | None:
    """What makes conditions, with its model loaded. Raises: UserError if that, or a function, cannot be used."""
    recipe = recipe_of(config.data)
    if recipe is None:
        return None
    make = _make(recipe, config, device)
    return Maker(recipe, config.optim.seed, make, make.takes_draws if isinstance(make, OwnFunction) else None)


def try_recipe(config: Config, source: PairSource) -> None:
    """Whether a function of the user's own makes a condition of the first pair. Raises: UserError."""
    recipe = recipe_of(config.data)
    if recipe is not None and recipe.kind == "function":
        as_it_is = Maker(recipe, 0, lambda picture_HWC, draws: picture_HWC)
        try_function(recipe, Framer(source, framing(config.data), as_it_is)(0).target_HWC)


def _make(recipe: Recipe, config: Config, device: "device | None") -> Make:
    if recipe.kind == "function":
        assert recipe.path is not None
        try:
            return load_function(recipe.path, recipe.function)
        except UserError as error:
            raise UserError(
                f"data.condition is {config.data.condition}, but it {error}. Nothing was started."
            ) from None
    return plain(recipe) if recipe.path is None else _by_model(recipe, config, device)


def _by_model(recipe: Recipe, config: Config, device: "device | None") -> Make:
    """Each picture alone, so that no other changes its bits; one at a time, whoever asks."""
    from everstep.models.arithmetic import arithmetic
    from everstep.models.extractors import open_extractor

    where = arithmetic(config.compute).device if device is None else device
    kind, path = recipe.kind, str(recipe.path)
    assert kind in ("depth", "lineart", "softedge")
    extract = open_extractor(kind, path, where, "data.condition_model")  # type: ignore[arg-type]
    lock = threading.Lock()

    def make(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
        with lock:
            found_HW = extract([picture_HWC])[0, 0].float().cpu().numpy()
        if not np.isfinite(found_HW).all():
            raise ValueError("the model gave what is no finite number")
        if kind == "depth":  # has no unit: from the farthest to the nearest of the picture
            found_HW = (found_HW - found_HW.min()) / max(float(found_HW.max() - found_HW.min()), 1e-12)
        return as_rgb(np.rint(found_HW.clip(0, 1) * np.float32(255)).astype(np.uint8))

    return make

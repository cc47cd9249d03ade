"""What can be trained beside a base: the kinds of network, and the names and shapes of each, told without torch."""

from typing import Any

from everstep.errors import UserError
from everstep.exchange.lllite import Place, lllite_shapes, places
from everstep.models.base import BaseFolder
from everstep.models.brought import LLLITE_CLASS
from everstep.models.parts import unet_shapes
from everstep.models.shapes import Shape, controlnet_shapes, hint_channels, smaller

LITE = "lllite"  # of the sizes that a family's row names
EMBEDDING, WIDTH = 32, 64  # of a new LLLite; its author's for edges


def new_shapes(base: BaseFolder, control: str = "full") -> dict[str, Shape] | None:
    """Every tensor of a network that is begun from a base, in the order of its state; None for unknown blocks.

    Raises: UserError if the base has no place for it.
    """
    unet = base.config("unet")
    if control == LITE:
        return lllite_shapes_of(base, EMBEDDING, WIDTH)
    return controlnet_shapes({**unet, **smaller(unet, control)}, hint_channels(base))


def lllite_shapes_of(base: BaseFolder, embedding: int, width: int) -> dict[str, Shape]:
    """Of an LLLite for a base. Raises: UserError if the base has no place for one."""
    return lllite_shapes(_unet_of(base), embedding, width, base.vae_factor())


def lllite_places(base: BaseFolder) -> list[Place]:
    """Where an LLLite stands in a base's UNet. Raises: UserError if it has no place for one."""
    return places(_unet_of(base), base.vae_factor())


def _unet_of(base: BaseFolder) -> dict[str, Shape]:
    plan = unet_shapes(base.config("unet"))
    if plan is None:
        raise UserError(f"{base.name}: its UNet has blocks for which no LLLite is known. Nothing was started.")
    return plan


def lllite_config(embedding: int, width: int) -> dict[str, Any]:
    """The config.json of an LLLite, in its author's words."""
    return {"_class_name": LLLITE_CLASS, "cond_emb_dim": embedding, "mlp_dim": width}

"""What each optimizer keeps, in the order in which a version has it: told from shapes alone, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from everstep.models.files import MOMENTS
from everstep.models.shapes import Shape

ADAMW, ADAMW8BIT, ADAFACTOR, PRODIGY = "adamw", "adamw8bit", "adafactor", "prodigy"
LIBRARIES = {ADAMW8BIT: "bitsandbytes", PRODIGY: "prodigyopt"}  # beside those that are always there
QUANTILES = ("qmap1", "qmap2")  # what the 256 numbers of 8 bits stand for: one table for all parameters
BLOCK = 256  # elements that share one scale in 8 bits
LEAST_OF_8_BITS = 4096  # elements; smaller tensors stay in 32 bits
ITEM_BYTES = {"F32": 4, "U8": 1}


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor that an optimizer keeps. dtype: as safetensors names it."""

    shape: Shape
    dtype: str = "F32"

    @property
    def size_bytes(self) -> int:
        """In memory and in a file."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def kept_of_parameter(optimizer: str, shape: Shape) -> dict[str, Kept]:
    """By the name that the optimizer's library gives it."""
    if optimizer == ADAMW8BIT:
        return _of_8_bits(shape)
    if optimizer == ADAFACTOR and len(shape) >= 2:
        return {"exp_avg_sq_row": Kept(shape[:-1]), "exp_avg_sq_col": Kept((*shape[:-2], shape[-1]))}
    if optimizer == ADAFACTOR:
        return {"exp_avg_sq": Kept(shape)}
    if optimizer == PRODIGY:
        flat = Kept((prod(shape),))
        return {"s": flat, "p0": flat, "exp_avg": Kept(shape), "exp_avg_sq": Kept(shape)}
    return {key: Kept(() if key == "step" else shape) for key in MOMENTS}


def _of_8_bits(shape: Shape) -> dict[str, Kept]:
    if prod(shape) < LEAST_OF_8_BITS:
        return {"state1": Kept(shape), "state2": Kept(shape)}
    states, scales = Kept(shape, "U8"), Kept((-(-prod(shape) // BLOCK),))
    return {"state1": states, "state2": states, "absmax1": scales, "absmax2": scales}


def kept_of_network(optimizer: str, shapes: Mapping[str, Shape]) -> dict[str, Kept]:
    """All of it, by the names that a version has: the parameter's, then the optimizer's."""
    kept = {
        f"{name}.{key}": one
        for name, shape in shapes.items()
        for key, one in kept_of_parameter(optimizer, shape).items()
    }
    if optimizer == ADAMW8BIT and any(prod(shape) >= LEAST_OF_8_BITS for shape in shapes.values()):
        kept |= {key: Kept((256,)) for key in QUANTILES}
    return kept

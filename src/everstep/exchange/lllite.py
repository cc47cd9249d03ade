"""ControlNet-LLLite for SDXL in its author's names: a small network before each attention's query, key and value.

Told from a UNet's plan, since every module stands before one of its matrices.
Source: kohya-ss/sd-scripts, networks/control_net_lllite.py.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from everstep.exchange.keys import Plan
from everstep.exchange.operations import Shape
from everstep.exchange.sd import UNET

BEGINNING = "lllite_unet_"
# Attention's output and what comes of the text are left alone, and so is the decoder.
PLACES = re.compile(r"(input_blocks|middle_block)\.(\d+)\..*\.(attn1\.to_[qkv]|attn2\.to_q)\.weight")
IMAGE_CHANNELS = 3


def is_lllite(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is one."""
    return any(name.startswith(BEGINNING) for name in names)


def sizes_of(shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Widths of a file's embedding of the condition, and of its layers."""
    width, joined = next(shape for name, shape in shapes.items() if name.endswith(".mid.0.weight"))
    return joined - width, width


def lllite_shapes(unet: Plan, embedding: int, width: int) -> dict[str, Shape]:
    """Every tensor of an LLLite for this UNet, with these widths."""
    found: dict[str, Shape] = {}
    for link in UNET.expand(unet).links:
        theirs = link.theirs.removeprefix(UNET.prefix)
        if (place := PLACES.fullmatch(theirs)) is None:
            continue
        module = BEGINNING + theirs.removesuffix(".weight").replace(".", "_")
        depth = 3 if place[1] == "middle_block" else 1 + min(2, int(place[2]) // 3)
        for name, shape in _module(depth, link.their_shape[1], embedding, width):
            found[f"{module}.{name}"] = shape
    return found


def _module(depth: int, features: int, embedding: int, width: int) -> Iterator[tuple[str, Shape]]:
    """The condition is made as small as what it meets: 8, 16 or 32 times, in steps that halve once or twice."""
    half = embedding // 2
    steps = {1: [(embedding, 2)], 2: [(embedding, 4)], 3: [(half, 4), (embedding, 2)]}[depth]
    before = IMAGE_CHANNELS
    for place, (after, side) in enumerate([(half, 4), *steps]):
        yield f"conditioning1.{2 * place}.weight", (after, before, side, side)
        yield f"conditioning1.{2 * place}.bias", (after,)
        before = after
    for name, joined, out in (("down", features, width), ("mid", width + embedding, width), ("up", width, features)):
        yield f"{name}.0.weight", (out, joined)
        yield f"{name}.0.bias", (out,)

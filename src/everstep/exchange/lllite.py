"""ControlNet-LLLite for SDXL in its author's names: a small network before each attention's query, key and value.

Told from a UNet's plan, since every module stands before one of its matrices. Our names are its author's.
Source: kohya-ss/sd-scripts, networks/control_net_lllite.py.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from everstep.errors import UserError
from everstep.exchange.keys import Layout, Plan, Rule
from everstep.exchange.operations import Shape
from everstep.exchange.sd import UNET

BEGINNING = "lllite_unet_"
LLLITE = Layout("LLLite", "lllite", BEGINNING, told_by=(), rules=(Rule(BEGINNING + "{rest}", "{rest}"),))
# Attention's output and what comes of the text are left alone, and so is the decoder.
PLACES = re.compile(r"(?:down_blocks\.(\d+)|mid_block)\..*\.(?:attn1\.to_[qkv]|attn2\.to_q)\.weight")
MODULE = re.compile(BEGINNING + r"(\w+?)_transformer_blocks_(\d+)_attn[12]_to_[qkv]\.down\.0\.weight")
IMAGE_CHANNELS = 3
# How the condition is made as small as what it meets: after four times, in steps of so many pixels.
STEPS = {8: (2,), 16: (4,), 32: (4, 2)}
# Of SDXL: where its attentions are, with their width and how many blocks each has.
OF_XL = {
    **dict.fromkeys(("input_blocks_4_1", "input_blocks_5_1"), (640, 2)),
    **dict.fromkeys(("input_blocks_7_1", "input_blocks_8_1", "middle_block_1"), (1280, 10)),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix of the UNet, and the module before it.

    Args:
        module: its name.
        matrix: the matrix, in diffusers' names.
        features: width of what comes in.
        shrinking: by how much the picture is larger there, per side.
    """

    module: str
    matrix: str
    features: int
    shrinking: int


def is_lllite(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is one."""
    return any(name.startswith(BEGINNING) for name in names)


def is_of_xl(plan: Plan) -> bool:
    """Whether it stands where SDXL's attentions are, of which programs know the names alone."""
    found: dict[str, tuple[int, int]] = {}
    for name, shape in plan.items():
        if (module := MODULE.fullmatch(name)) is not None:
            _, blocks = found.get(module[1], (0, 0))
            found[module[1]] = shape[1], max(blocks, int(module[2]) + 1)
    return found == OF_XL


def sizes_of(shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Widths of a file's embedding of the condition, and of its layers. Raises: UserError if nothing tells them."""
    middles = (shape for name, shape in shapes.items() if name.endswith(".mid.0.weight") and len(shape) == 2)
    width, joined = next(middles, (0, 0))
    if not 0 < width < joined:
        raise UserError("The layers of this LLLite are not those of one that stands before attentions.")
    return joined - width, width


def places(unet: Plan, factor: int = 8) -> list[Place]:
    """Where the modules of an LLLite stand in this UNet. factor: by how much the VAE makes pictures smaller, per side.

    Raises: UserError if no LLLite can be made for it.
    """
    blocks = {name.split(".")[1] for name in unet if name.startswith("down_blocks.")}
    found = []
    for link in UNET.expand(unet).links:
        if (place := PLACES.fullmatch(link.ours[0])) is None:
            continue
        module = BEGINNING + link.theirs.removeprefix(UNET.prefix).removesuffix(".weight").replace(".", "_")
        halvings = len(blocks) - 1 if place[1] is None else int(place[1])
        matrix = link.ours[0].removesuffix(".weight")
        found.append(Place(module, matrix, link.their_shape[1], factor * 2**halvings))
    if wrong := [place for place in found if place.shrinking not in STEPS]:
        raise UserError(
            f"An LLLite makes conditions {' or '.join(map(str, STEPS))} times smaller, but {wrong[0].matrix} of this "
            f"base sees the picture {wrong[0].shrinking} times smaller. Nothing was started."
        )
    return found


def lllite_shapes(unet: Plan, embedding: int, width: int, factor: int = 8) -> dict[str, Shape]:
    """Every tensor of an LLLite for this UNet, with these widths. Raises: UserError if none can be made."""
    return {
        f"{place.module}.{name}": shape
        for place in places(unet, factor)
        for name, shape in _module(STEPS[place.shrinking], place.features, embedding, width)
    }


def _module(steps: tuple[int, ...], features: int, embedding: int, width: int) -> Iterator[tuple[str, Shape]]:
    half, before = embedding // 2, IMAGE_CHANNELS
    for place, side in enumerate((4, *steps)):
        after = embedding if place == len(steps) else half
        yield f"conditioning1.{2 * place}.weight", (after, before, side, side)
        yield f"conditioning1.{2 * place}.bias", (after,)
        before = after
    for name, joined, out in (("down", features, width), ("mid", width + embedding, width), ("up", width, features)):
        yield f"{name}.0.weight", (out, joined)
        yield f"{name}.0.bias", (out,)

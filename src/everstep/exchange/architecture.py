"""What a ControlNet is built like, told from its names and shapes; and those that the world's programs know.

Most readers find a ControlNet's settings by its shapes, in a list of those that exist. What is not on the list they
leave out, or load with holes.
"""

import re
from dataclasses import dataclass

from everstep.exchange.keys import Plan
from everstep.exchange.lllite import is_lllite, is_of_xl

SD1, SD2, SDXL, SDXL_MID, SDXL_SMALL = "sd1", "sd2", "sdxl", "sdxl-mid", "sdxl-small"
SDXL_LLLITE = "sdxl-lllite"
TITLES = {
    SD1: "Stable Diffusion 1.x",
    SD2: "Stable Diffusion 2.x",
    SDXL: "SDXL",
    SDXL_MID: "SDXL mid",
    SDXL_SMALL: "SDXL small",
    SDXL_LLLITE: "SDXL, LLLite",
}
PAPER_HINT = (16, 16, 32, 32, 96, 96, 256)  # of the hint encoder's layers but the last
TO_KEY = ".transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Of a ControlNet.

    Args:
        depths: transformer blocks in each attention of each block; None where it has no attention.
        embedding: what is embedded beside the time, or None.
    """

    widths: tuple[int, ...]
    layers: int
    depths: tuple[int | None, ...]
    middle_depth: int | None
    text_width: int | None
    is_linear: bool
    embedding: int | None
    hint: tuple[int, ...] = PAPER_HINT
    image_channels: int = 3
    latent_channels: int = 4

    def in_words(self) -> str:
        """What tells it from others most."""
        text = "without text" if self.text_width is None else f"text of {self.text_width}"
        return f"blocks of {', '.join(map(str, self.widths))} channels, {text}"


_XL = {"widths": (320, 640, 1280), "layers": 2, "is_linear": True, "embedding": 2816}
KNOWN = {
    SD1: Architecture((320, 640, 1280, 1280), 2, (1, 1, 1, None), 1, 768, False, None),
    SD2: Architecture((320, 640, 1280, 1280), 2, (1, 1, 1, None), 1, 1024, True, None),
    SDXL: Architecture(depths=(None, 2, 10), middle_depth=10, text_width=2048, **_XL),  # type: ignore[arg-type]
    SDXL_MID: Architecture(depths=(None, None, 1), middle_depth=1, text_width=2048, **_XL),  # type: ignore[arg-type]
    SDXL_SMALL: Architecture(depths=(None,) * 3, middle_depth=0, text_width=None, **_XL),  # type: ignore[arg-type]
}


def kind_of(plan: Plan) -> str | None:
    """Which of the known ones it is."""
    if is_lllite(plan):
        return SDXL_LLLITE if is_of_xl(plan) else None
    found = architecture_of(plan)
    return next((kind for kind, known in KNOWN.items() if known == found), None)


def architecture_of(plan: Plan) -> Architecture:
    """Of a ControlNet's tensors in diffusers' names."""
    blocks = _numbers(plan, r"down_blocks\.(\d+)\.resnets")
    hint = _numbers(plan, r"controlnet_cond_embedding\.blocks\.(\d+)")
    texts = [shape[1] for name, shape in plan.items() if name.endswith(TO_KEY)]
    projections = [shape for name, shape in plan.items() if name.endswith(".proj_in.weight")]
    first = plan["controlnet_cond_embedding.conv_in.weight"]
    return Architecture(
        widths=tuple(plan[f"down_blocks.{block}.resnets.0.conv2.weight"][0] for block in range(blocks)),
        layers=_numbers(plan, r"down_blocks\.0\.resnets\.(\d+)"),
        depths=tuple(_depth(plan, f"down_blocks.{block}") for block in range(blocks)),
        middle_depth=_depth(plan, "mid_block"),
        text_width=texts[0] if texts else None,
        is_linear=bool(projections) and len(projections[0]) == 2,
        embedding=plan["add_embedding.linear_1.weight"][1] if "add_embedding.linear_1.weight" in plan else None,
        hint=(first[0], *(plan[f"controlnet_cond_embedding.blocks.{layer}.weight"][0] for layer in range(hint))),
        image_channels=first[1],
        latent_channels=plan["conv_in.weight"][1],
    )


def _depth(plan: Plan, block: str) -> int | None:
    if f"{block}.attentions.0.norm.weight" not in plan:
        return None
    return _numbers(plan, rf"{re.escape(block)}\.attentions\.0\.transformer_blocks\.(\d+)")


def _numbers(plan: Plan, pattern: str) -> int:
    """How many there are of what a pattern counts."""
    counted = re.compile(pattern)
    return 1 + max((int(found[1]) for name in plan if (found := counted.match(name)) is not None), default=-1)

"""A whole base in one file: which it is, told by names and shapes, and what it says of itself.

Never imports torch. Of its numbers it reads one bias of Stable Diffusion 2.x, which does not say what it predicts.
Source: what other programs take it for: ComfyUI, comfy/supported_models.py; diffusers, loaders/single_file_utils.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.errors import UserError
from everstep.exchange.keys import Bijection, Layout, detect
from everstep.exchange.sd import BASES
from everstep.models.brought import SUPPORTED
from everstep.models.families import distilled_name, family_of_unet
from everstep.models.foreign import SUFFIXES, Foreign, check_numbers, not_started, open_foreign
from everstep.models.numbers import Refused
from everstep.models.parts import network_shapes
from everstep.models.predicting import Prediction, prediction_of
from everstep.models.shapes import Shape
from everstep.models.weights import be, count, listed, unlike
from everstep.models.whole import WHOLES, Settings, Whole

UNET = "model.diffusion_model."
OF_A_BASE = (f"{UNET}input_blocks.", "cond_stage_model.", "conditioner.embedders.")
PARTS = {
    "unet": "the UNet",
    "vae": "the VAE",
    "text_encoder": "the text encoder",
    "text_encoder_2": "the second text encoder",
}
NEEDED = "A file with all of a base is needed, or a folder in diffusers layout."
LATENTS = 4
REFINER_TEXT = 1280
EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max")
TITLES = ("modelspec.title", "modelspec.architecture", "ss_sd_model_name")  # where files are named inside
# What such files hold beside the networks: averages, the schedule's numbers, marks, what text encoders do not need.
HARMLESS = re.compile(
    r"model_ema\..*|v_pred|ztsnr|global_step|denoiser\..*|.*position_ids"
    r"|betas|(\w+_)?alphas_cumprod\w*|posterior_\w+|logvar|lvlb_weights"
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.(\w+\.)?(logit_scale|text_projection)(\.weight)?"
)


@dataclass(frozen=True, slots=True)
class OneFile:
    """A file that is a whole base.

    Args:
        parts: which tensor is which, by the folder that a network has in diffusers layout.
        configs: by the same folders.
    """

    path: Path
    whole: Whole
    held: Foreign
    parts: Mapping[str, Bijection]
    configs: Mapping[str, Settings]
    prediction: Prediction
    notes: tuple[str, ...]  # what is worth saying of it

    @property
    def scheduler(self) -> dict[str, Any]:
        return {**self.whole.scheduler, **self.prediction.settings}


def open_one_file(path: Path, wholes: Sequence[Whole] = WHOLES) -> OneFile | None:
    """Look at a file; nothing is written. None where it has nothing of such a base.

    Raises: UserError naming what it is instead, or what of it is missing, too much or of another shape.
    """
    if path.suffix not in SUFFIXES:
        return None
    try:
        held = open_foreign(path)
        return _opened(held, wholes) if any(name.startswith(OF_A_BASE) for name in held.tensors) else None
    except Refused as refused:
        raise not_started(path, refused) from None


def _opened(held: Foreign, wholes: Sequence[Whole]) -> OneFile:
    """Raises: Refused; UserError."""
    path, shapes = held.path, held.shapes
    if other := _other(held):
        raise UserError(f"{path} is {other}. {SUPPORTED} Nothing was started.")
    layouts = _layouts(shapes)
    whole = _whole(path, shapes, wholes)
    _refuse_parts(path, whole, layouts)
    parts = {part: layouts[part].expand(plan_of(part, config)) for part, config in whole.parts.items()}
    for part, names in parts.items():
        if said := unlike(names.their_shapes(), _own(names, shapes)):
            raise UserError(f"{path}: {PARTS[part]} in it is not that of {whole.title}: {said}. Nothing was started.")
    used = [link.theirs for names in parts.values() for link in names.links]
    check_numbers({name: held.tensors[name] for name in used})
    prediction = prediction_of(held, whole, parts["unet"])
    notes = (*prediction.notes, *_left_out(held, [names.layout for names in parts.values()]))
    return OneFile(path, whole, held, parts, whole.made_for(prediction.side), prediction, notes)


def plan_of(part: str, config: Settings) -> dict[str, Shape]:
    """Names and shapes of a network."""
    found = network_shapes(part, config)
    assert found is not None, f"{part} of a known base"
    return found


# --- what it is --------------------------------------------------------------------------------------------


def _other(held: Foreign) -> str | None:
    """What it is, if it is none of ours."""
    names, shapes = held.tensors, held.shapes
    if any(".time_stack." in name for name in names):
        return "a video base, Stable Video Diffusion"
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    if len(first) == 4 and (family := family_of_unet({"in_channels": first[1]}, LATENTS)):
        return family
    if _text_widths(shapes) == {REFINER_TEXT}:
        return "a refiner of Stable Diffusion XL: its UNet hears the second text encoder alone"
    if any(name in names for name in EDM):
        return "a base that counts noise in another way (EDM), as CosXL and Playground 2.5 do"
    return _distilled(held)


def _distilled(held: Foreign) -> str | None:
    if f"{UNET}time_embed.cond_proj.weight" in held.tensors:
        return "a distilled base: its UNet is told the guidance (cond_proj), as in latent consistency models"
    titles = (held.metadata.get(key, "") for key in TITLES)
    if title := next((title for title in titles if distilled_name(title)), None):
        return f"a distilled base: it calls itself {title[:80]}"
    return distilled_name(held.path.stem)


def _text_widths(shapes: Mapping[str, Shape]) -> set[int]:
    """Of the text that the UNet hears."""
    return {
        shape[-1]
        for name, shape in shapes.items()
        if name.startswith(UNET) and name.endswith("attn2.to_k.weight") and shape
    }


def _whole(path: Path, shapes: Mapping[str, Shape], wholes: Sequence[Whole]) -> Whole:
    """Raises: UserError where there is no UNet, or one that hears something else."""
    widths = _text_widths(shapes)
    if not widths:
        told = "lacks the UNet, or has it in other names"
        raise UserError(f"{path} is no whole base: it {told}. Nothing was started.\n{NEEDED}")
    found = next((whole for whole in wholes if widths == {whole.text_width}), None)
    if found is None:
        known = ", ".join(f"{whole.text_width} ({whole.title})" for whole in wholes)
        hears = " and ".join(map(str, sorted(widths)))
        raise UserError(f"{path} is a base of another family: its UNet hears text of width {hears}; known are {known}. "
                        "Nothing was started.")  # fmt: skip
    if other := _other_unet(shapes, found.parts["unet"]):
        raise UserError(f"{path} is {other}. {SUPPORTED} Nothing was started.")
    return found


def _other_unet(shapes: Mapping[str, Shape], config: Settings) -> str | None:
    """What hears the same text, but is built otherwise."""
    if not any(name.startswith(f"{UNET}middle_block.") for name in shapes):
        return "a distilled base: its UNet has no middle block"
    if any(name.startswith(f"{UNET}label_emb.") for name in shapes) and config.get("addition_embed_type") is None:
        return "a base of another family: its UNet takes more than noise, time and text (label_emb), as unCLIP's do"
    return None


def _layouts(shapes: Mapping[str, Shape]) -> dict[str, Layout]:
    """By network. Where one lacks the tensors that tell its layout, what is missing is said by the nearest."""
    near = {layout.network: layout for layout in reversed(BASES) if layout.own(shapes)}
    return near | {layout.network: layout for layout in detect(BASES, shapes)}


def _refuse_parts(path: Path, whole: Whole, layouts: Mapping[str, Layout]) -> None:
    """Raises: UserError with the networks that are not in it."""
    absent = [PARTS[part] for part in whole.parts if part not in layouts]
    if not absent:
        return
    only = " alone, as other programs keep it in diffusion_models/" if len(absent) == len(whole.parts) - 1 else ""
    held = " and ".join(PARTS[part] for part in whole.parts if part in layouts)
    raise UserError(f"{path} is no whole base: of {whole.title} it holds {held}{only}; {' and '.join(absent)} "
                    f"{be(absent)} missing, or in other names. Nothing was started.\n{NEEDED}")  # fmt: skip


def _own(names: Bijection, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of a network. A matrix may be stored as a convolution of one pixel, or the other way round: it is the same."""
    wanted = names.their_shapes()
    own = names.layout.own(shapes)
    return {name: wanted[name] if _is_same(shape, wanted.get(name)) else shape for name, shape in own.items()}


def _is_same(shape: Shape, wanted: Shape | None) -> bool:
    if wanted is None or {len(shape), len(wanted)} != {2, 4}:
        return False
    flat, deep = sorted((shape, wanted), key=len)
    return (*flat, 1, 1) == deep


def _left_out(held: Foreign, layouts: Sequence[Layout]) -> tuple[str, ...]:
    """A note of what in it belongs to nothing that is known: a LoRA, or another network."""
    prefixes = tuple(layout.prefix for layout in layouts)
    left = [name for name in held.tensors if not name.startswith(prefixes) and not HARMLESS.fullmatch(name)]
    if not left:
        return ()
    return (f"{held.path}: {count(left, 'tensor')} in it {be(left)} of no part of a base and left out "
            f"({listed(left)}).",)  # fmt: skip

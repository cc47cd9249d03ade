"""Looks at a base before anything starts: every config and every header is read, and what does not fit is named.

Never imports torch, never reads weights. What only loading can tell, the family refuses while it loads.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from everstep.errors import UserError
from everstep.models.base import BaseFolder
from everstep.models.brought import SUPPORTED
from everstep.models.configs import Kl, Part, Scheduler, Text, Tiny, Unet, checked
from everstep.models.families import DISTILLED_SCHEDULERS, family_of_unet
from everstep.models.parts import modern_vae, plain_text, text_shapes, unet_shapes, vae_shapes
from everstep.models.registry import SDXL
from everstep.models.tokens import check_tokenizer
from everstep.models.weights import TEXT_ENCODERS, Shape, be, count, listed, shapes_of, unlike

VAES: dict[str, type[Part]] = {"AutoencoderKL": Kl, "AutoencoderTiny": Tiny}
FRAME_NUMBERS = 6  # what SDXL hears of sizes and crops: contracts.Batch.frames_B6
TEXT_MODELS = ("clip_text_model", "clip")
SCHEDULERS = {
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "UniPCMultistep", "DEISMultistep"),
        *("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
        *("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "SASolver"),
    )
}
PREDICTIONS = ("epsilon", "v_prediction")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


def survey(base: BaseFolder) -> BaseFolder:
    """The same base, with what is worth saying of it. Raises: UserError with the file, the key and the names."""
    unet = checked(base.config_path("unet"), Unet)
    _refuse_class(base, "unet", unet, ("UNet2DConditionModel",))
    vae_class = base.config("vae").get("_class_name")
    _refuse_class(base, "vae", base.config("vae"), tuple(VAES))
    vae = checked(base.config_path("vae"), VAES[str(vae_class)])
    _check_unet(base, unet, vae)
    texts = {part: text_config(base, part) for part in base.row.networks if part in TEXT_ENCODERS}
    _check_scheduler(base)
    _check_text(base, unet, texts)
    for tokenizer, text in zip(base.row.tokenizers, texts.values(), strict=True):
        check_tokenizer(base.path / tokenizer, int(text["vocab_size"]))
    _compare(base, "unet", unet_shapes(unet), lambda found: found)
    _compare(base, "vae", vae_shapes(vae), modern_vae)
    for part, text in texts.items():
        projects = part != "text_encoder"
        _compare(base, part, text_shapes(text, projects), lambda found, projects=projects: plain_text(found, projects))
    return replace(base, notes=(*base.notes, *_notes(base)))


def _refuse_class(base: BaseFolder, part: str, config: Mapping[str, Any], known: tuple[str, ...]) -> None:
    name = config.get("_class_name")
    if name not in known:
        told = f"is {name!r:.80}" if name else "names no class (_class_name)"
        raise UserError(
            f"{base.name}: {part}/config.json {told}, but {' or '.join(known)} is needed. {SUPPORTED} "
            "Nothing was started."
        )


def _check_unet(base: BaseFolder, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    latents = int(vae["latent_channels"])
    if other := family_of_unet(unet, latents, hears_sizes=base.row is SDXL):
        raise UserError(f"{base.name} is {other}. {SUPPORTED} Nothing was started.")
    for key in ("in_channels", "out_channels"):
        if unet[key] != latents:
            raise UserError(
                f"{base.name}: the VAE makes latents of {latents} channels (vae/config.json: latent_channels), but "
                f"unet/config.json has {key} {unet[key]}: they are of two bases. Nothing was started."
            )
    path, levels = base.config_path("unet"), len(unet["block_out_channels"])
    for key in ("down_block_types", "up_block_types"):
        if len(unet[key]) != levels:
            raise UserError(f"{path}: {key} has {len(unet[key])} entries, block_out_channels has {levels}. "
                            "Nothing was started.")  # fmt: skip
    groups = unet["norm_num_groups"]
    if groups and any(width % groups for width in unet["block_out_channels"]):
        raise UserError(f"{path}: norm_num_groups is {groups}, which does not divide all of block_out_channels "
                        f"{unet['block_out_channels']}. Nothing was started.")  # fmt: skip


def _check_text(base: BaseFolder, unet: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises: UserError where the UNet wants other text than the encoders give."""
    widths = [int(text["hidden_size"]) for text in texts.values()]
    if unet["cross_attention_dim"] != sum(widths):
        given = " and ".join(f"{part}/config.json gives {text['hidden_size']}" for part, text in texts.items())
        raise UserError(
            f"{base.name}: unet/config.json wants text of width {unet['cross_attention_dim']} (cross_attention_dim), "
            f"but {given} (hidden_size): they are of two bases. Nothing was started."
        )
    if base.row is not SDXL:
        return
    path, sides = base.config_path("unet"), unet["addition_time_embed_dim"]
    if unet.get("addition_embed_type") != "text_time" or sides is None:
        raise UserError(f"{path} names no addition_embed_type text_time with an addition_time_embed_dim, but "
                        "text_encoder_2/ is there: they are of two bases. Nothing was started.")  # fmt: skip
    width = FRAME_NUMBERS * sides + int(texts["text_encoder_2"]["projection_dim"])
    if unet["projection_class_embeddings_input_dim"] != width:
        raise UserError(
            f"{path}: projection_class_embeddings_input_dim is {unet['projection_class_embeddings_input_dim']}, but "
            f"the whole text (text_encoder_2/config.json: projection_dim) and six sizes (addition_time_embed_dim) make "
            f"{width}: they are of two bases. Nothing was started."
        )


def text_config(base: BaseFolder, part: str = "text_encoder") -> dict[str, Any]:
    """Of a text encoder, with what it leaves out. Raises: UserError."""
    path = base.config_path(part)
    kind = base.config(part).get("model_type")
    if kind not in TEXT_MODELS:
        told = f"is of the kind {kind!r:.60}" if kind else "names no kind (model_type)"
        raise UserError(f"{path} {told}, but a text encoder of CLIP is needed (clip_text_model). {SUPPORTED} "
                        "Nothing was started.")  # fmt: skip
    nested = base.config(part).get("text_config")
    if kind == "clip" and isinstance(nested, dict):
        return {**Text().model_dump(), **nested}
    return checked(path, Text)


def _check_scheduler(base: BaseFolder) -> None:
    path = base.config_path("scheduler")
    settings = checked(path, Scheduler)
    name = settings.get("_class_name")
    if name not in SCHEDULERS:
        told = f"is {name!r:.80}" if name else "names no scheduler (_class_name)"
        other = "it is of a base with flow matching. " if str(name).startswith("FlowMatch") else ""
        other = other or ("it is of a distilled base. " if name in DISTILLED_SCHEDULERS else "it is not known. ")
        raise UserError(f"{path} {told}: {other}{SUPPORTED} Nothing was started.")
    if settings["prediction_type"] not in PREDICTIONS:
        raise UserError(
            f"{path}: prediction_type is {settings['prediction_type']!r:.60}; {' and '.join(PREDICTIONS)} are known. "
            "Nothing was started."
        )
    if settings["trained_betas"] is None and settings["beta_schedule"] not in BETAS:
        raise UserError(f"{path}: beta_schedule is {settings['beta_schedule']!r:.60}; {', '.join(BETAS)} are known. "
                        "Nothing was started.")  # fmt: skip


def _compare(base: BaseFolder, part: str, expected: Mapping[str, Shape] | None, named: Any) -> None:
    found = shapes_of(base.weights(part))
    if found is None or expected is None:
        return
    if said := unlike(expected, named(found)):
        files = base.weights(part).tensor_files
        where = f"{part}/{files[0].name}" if len(files) == 1 else f"{part}/ ({count([f.name for f in files], 'shard')})"
        raise UserError(f"{base.name}: {where} is not what {part}/config.json describes: {said}. Nothing was started.")


def _notes(base: BaseFolder) -> tuple[str, ...]:
    halved = [part for part in base.row.networks if base.weights(part).variant]
    if not halved:
        return ()
    return (f"{base.name}: of {listed(halved)} only the .fp16. variant {be(halved)} there; it is used.",)

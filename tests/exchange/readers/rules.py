"""As what other programs take a file, by its names, shapes and file name: their rules in our words.

Sources, as of 2026-11: Comfy-Org/ComfyUI comfy/controlnet.py and comfy/model_detection.py;
lllyasviel/stable-diffusion-webui-forge modules_forge/supported_controlnet.py; Mikubill/sd-webui-controlnet
scripts/controlnet_model_guess.py; invoke-ai/InvokeAI invokeai/backend/model_manager/configs/controlnet.py;
huggingface/diffusers loaders/single_file_utils.py.
"""

import re
from collections.abc import Mapping
from pathlib import PurePath

Shapes = Mapping[str, tuple[int, ...]]
HINT_OF_DIFFUSERS = "controlnet_cond_embedding.conv_in.weight"
# What a layer of the original class is called, without its number: everything else is left out without an error.
LAYERS = re.compile(
    r"(time_embed\.[02]|label_emb\.0\.[02]|input_blocks\.0\.0|input_blocks\.\d+\.0\.(in_layers\.[02]|emb_layers\.1"
    r"|out_layers\.[03]|skip_connection|op)|(input_blocks\.\d+|middle_block)\.1\.(norm|proj_in|proj_out"
    r"|transformer_blocks\.\d+\.(norm[123]|attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2)))"
    r"|middle_block\.[02]\.(in_layers\.[02]|emb_layers\.1|out_layers\.[03])|middle_block_out\.0|zero_convs\.\d+\.0"
    r"|input_hint_block\.\d+)\.(weight|bias)"
)
SDXL_DEPTHS = {(0, 0, 2, 2, 10, 10): "sdxl", (0, 0, 0, 0, 1, 1): "sdxl-mid", (0,) * 6: "sdxl-small"}


def comfyui(shapes: Shapes, name: str) -> str:
    """Folder models/controlnet."""
    if "lora_controlnet" in shapes:
        return "Control-LoRA"
    found = None
    if HINT_OF_DIFFUSERS in shapes:
        found = _listed(shapes)
        if found is None:
            return "an error"
    elif "control_model.zero_convs.0.0.weight" in shapes:
        found = _by_input_blocks(shapes, "control_model.")
    elif "zero_convs.0.0.weight" in shapes:
        found = _by_input_blocks(shapes, "")
    elif _is_t2i(shapes):
        return "T2I-Adapter"
    if found is None:
        return "nothing"
    pooled = PurePath(name).stem.endswith(("_shuffle", "_shuffle_fp16"))
    return f"{found}, pooled" if pooled else found


def forge(shapes: Shapes, name: str) -> str:
    """The same ladder; LLLite has a patcher of its own."""
    found = comfyui(shapes, name)
    return "LLLite" if found == "nothing" and any("lllite" in key for key in shapes) else found


def _listed(shapes: Shapes) -> str | None:
    """Diffusers' names: what is in each place has to be one of those on a list."""
    depths: list[int] = []
    text = None
    for block in range(_count(shapes, "down_blocks.{}.")):
        attentions = _count(shapes, f"down_blocks.{block}.attentions.{{}}.")
        for place in range(attentions):
            inside = f"down_blocks.{block}.attentions.{place}.transformer_blocks."
            depths.append(_count(shapes, inside + "{}."))
            text = shapes[f"{inside}0.attn2.to_k.weight"][1] if depths[-1] else text
        depths += [0] * (0 if attentions else _count(shapes, f"down_blocks.{block}.resnets.{{}}."))
    width, latents = shapes["conv_in.weight"][:2]
    added = shapes.get("add_embedding.linear_1.weight", (0, None))[1]
    if (width, latents) != (320, 4):
        return None
    if added == 2816 and text in (2048, None):
        return SDXL_DEPTHS.get(tuple(depths))
    if added is None and depths == [1] * 6 + [0] * 2:
        return {768: "sd1", 1024: "sd2"}.get(text or 0)
    return None


def _by_input_blocks(shapes: Shapes, prefix: str) -> str | None:
    """The original names: whatever they describe is built, but what has no place in it is dropped."""
    plain = {key.removeprefix(prefix): shape for key, shape in shapes.items()}
    if any(LAYERS.fullmatch(key) is None for key in plain):
        return None
    depths, text = [], None
    for number in range(_count(plain, "input_blocks.{}.")):
        if f"input_blocks.{number}.0.in_layers.0.weight" in plain:
            inside = f"input_blocks.{number}.1.transformer_blocks."
            depths.append(_count(plain, inside + "{}."))
            text = plain[f"{inside}0.attn2.to_k.weight"][1] if depths[-1] else text
    if "label_emb.0.0.weight" in plain:
        return SDXL_DEPTHS.get(tuple(depths))
    hints = [f"input_hint_block.{place}.weight" in plain for place in range(0, 15, 2)]
    is_full = all(hints) and depths == [1] * 6 + [0] * 2
    return {768: "sd1", 1024: "sd2"}.get(text or 0) if is_full else None


def a1111(shapes: Shapes, name: str) -> str:
    """sd-webui-controlnet; what it renames from diffusers' names it knows by the same tests."""
    if "lora_controlnet" in shapes:
        return "Control-LoRA"
    plain = dict(shapes)
    if HINT_OF_DIFFUSERS in shapes:
        plain = {_renamed(key): shape for key, shape in shapes.items()}
    plain = {key.replace("control_model.", "").replace("adapter.", ""): shape for key, shape in plain.items()}
    if "input_hint_block.0.weight" in plain:
        if "instant_id" in name.lower():
            return "InstantID"
        if "label_emb.0.0.bias" in plain:
            last = "input_blocks.8.1.transformer_blocks.{}.norm3.weight"
            return "sdxl" if last.format(9) in plain else "sdxl-mid" if last.format(0) in plain else "sdxl-small"
        text = plain.get("input_blocks.5.1.transformer_blocks.0.attn2.to_k.weight")
        if text is None or plain["input_blocks.0.0.weight"][0] != 320:
            return "an error"
        pooled = ", pooled" if "shuffle" in PurePath(name).stem.lower() else ""
        return {768: "sd1", 1024: "sd2"}.get(text[1], "an error") + pooled
    if _is_t2i(plain):
        return "T2I-Adapter"
    return "LLLite" if any("lllite" in key for key in plain) else "nothing"


def _renamed(key: str) -> str:
    """Diffusers' names in the original ones, as far as the tests look at them."""
    key = key.replace("controlnet_cond_embedding.conv_in", "input_hint_block.0")
    key = key.replace("add_embedding.linear_1", "label_emb.0.0").replace("conv_in", "input_blocks.0.0")
    return re.sub(
        r"down_blocks\.(\d+)\.attentions\.(\d+)",
        lambda found: f"input_blocks.{3 * int(found[1]) + int(found[2]) + 1}.1",
        key,
    )


def _is_t2i(shapes: Shapes) -> bool:
    return any(key in shapes for key in ("body.0.in_conv.weight", "conv_in.weight", "adapter.body.0.in_conv.weight"))


def _count(shapes: Shapes, pattern: str) -> int:
    number = 0
    while any(key.startswith(pattern.format(number)) for key in shapes):
        number += 1
    return number


PREPROCESSORS = (
    *("canny", "mlsd", "depth", "bae", "normal", "sketch", "scribble", "lineart anime", "lineart_anime", "lineart"),
    *("soft", "softedge", "hed", "shuffle", "pose", "mediapipe", "pidi", "zoe", "color"),
)


def invokeai(shapes: Shapes) -> str:
    """A single file: by the last width of the first of four tensors that is there."""
    if not any(key.startswith(("controlnet", "control_model", "input_blocks")) for key in shapes):
        return "nothing"
    for key in (
        "control_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
        "controlnet_mid_block.bias",
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    ):
        width = shapes[key][-1] if key in shapes else None
        if family := {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl"}.get(width or 0):
            return family
    return "nothing"


def invokeai_folder(config: Mapping[str, object]) -> str:
    """A folder: by its config.json."""
    if config.get("_class_name") != "ControlNetModel":
        return "nothing"
    return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(config.get("cross_attention_dim"), "nothing")


def invokeai_preprocessor(name: str) -> str | None:
    return next((word for word in PREPROCESSORS if word in name.lower()), None)


def diffusers(shapes: Shapes) -> str:
    """from_single_file without a config of its own."""
    inpainting = shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 0))[1]
    if inpainting == 9:
        return "inpainting"
    if "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias" in shapes:
        return "xl_base"
    if "control_model.time_embed.0.weight" not in shapes and HINT_OF_DIFFUSERS not in shapes:
        return "v1"
    if "add_embedding.linear_1.weight" not in shapes:
        return "controlnet"
    if "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.weight" in shapes:
        return "controlnet_xl_large"
    return "controlnet_xl_mid" if "down_blocks.1.attentions.0.norm.weight" in shapes else "controlnet_xl_small"

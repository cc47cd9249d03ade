"""What lies in the place of a base, or of a ControlNet to start from, if it is neither: named, and what to do with it.

Never imports torch.
"""

from collections.abc import Iterable
from pathlib import Path

from everstep.errors import UserError
from everstep.models.foreign import SUFFIXES, not_started, open_foreign
from everstep.models.numbers import Refused
from everstep.models.registry import row_of
from everstep.models.weights import is_file, read_json

SUPPORTED = "So far ControlNets are trained for text-to-image bases of Stable Diffusion 1.x, 2.x and XL."
LLLITE_CLASS = "ControlNetLLLite"  # as config.json names it
CONTROLNETS = ("ControlNetModel", LLLITE_CLASS)


def _of_unets(*names: str) -> tuple[str, ...]:
    """Alone, or among the rest of a base."""
    return (*names, *(f"model.diffusion_model.{name}" for name in names))


# The beginnings of tensors' names that tell what one file holds; the first that is found decides.
FILES = (
    (("lora_", "lora.", ".lora_", "loha_", "hada_"), "a LoRA"),
    (("control_model.",), "a ControlNet as its authors store it"),
    (("lllite_",), "a ControlNet-LLLite"),
    (("controlnet_cond_embedding.", "controlnet_down_blocks."), "a ControlNet's weights"),
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("adapter.", "body.0.in_conv"), "a T2I-Adapter"),
    (("input_hint_block.", "zero_convs."), "a ControlNet as its authors store it"),
    (("motion_modules.", "down_blocks.0.motion_modules."), "AnimateDiff's layers for motion"),
    (_of_unets("distilled_guidance_layer."), "a Chroma"),
    (_of_unets("double_blocks."), "a Flux"),
    (_of_unets("joint_blocks."), "a Stable Diffusion 3"),
    (_of_unets("cap_embedder."), "a Lumina 2 or Z-Image"),
    (_of_unets("double_layers."), "an AuraFlow"),
    (_of_unets("patch_embedding.", "patchify_proj."), "a network for video"),
    (("clip_txt_mapper.", "down_blocks.0.0.channelwise."), "a Stable Cascade"),
    (("conditioner.embedders.1",), "a whole Stable Diffusion XL"),
    (("cond_stage_model.model.",), "a whole Stable Diffusion 2.x"),
    (("cond_stage_model.transformer.",), "a whole Stable Diffusion 1.x"),
    (("model.diffusion_model.input_blocks.",), "the UNet of a Stable Diffusion"),
    (("input_blocks.", "output_blocks."), "the UNet of a Stable Diffusion"),
    (("model.diffusion_model.",), "a base of another family"),
    (("down_blocks.", "up_blocks."), "a UNet's weights"),
    (("encoder.conv_in", "first_stage_model.", "decoder.conv_in"), "a VAE's weights"),
    (("text_model.", "embeddings.token_embedding", "transformer.resblocks."), "a text encoder's weights"),
)


def kind_of_names(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names is."""
    known = list(names)
    for beginnings, kind in FILES:
        if any(name.startswith(beginnings) or (kind == "a LoRA" and ".lora" in name) for name in known):
            return kind
    return None


def kind_of_file(path: Path) -> str | None:
    """In words; None where it cannot be told. Raises: UserError if it is not whole."""
    if path.suffix not in SUFFIXES:
        return None
    try:
        return kind_of_names(open_foreign(path).tensors)
    except Refused as refused:
        raise not_started(path, refused) from None


def refuse_file(path: Path, wanted: str) -> UserError:
    """One file that is not what is wanted."""
    kind = kind_of_file(path)
    told = f"one file with {kind}" if kind else "one file of weights" if path.suffix in SUFFIXES else "a file"
    said = f"{path} is {told}; {wanted}. Nothing was started."
    if kind and kind.startswith("a ControlNet") and wanted.startswith("a base"):
        said += "\nA ControlNet to start from goes to --from; --base is what it is trained against."
    return UserError(said)


def is_base(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in row_of(folder).components)


def is_controlnet(folder: Path) -> bool:
    return class_of(folder) in CONTROLNETS


def class_of(folder: Path) -> str | None:
    """What the config.json of a folder says that it is."""
    try:
        name = read_json(folder / "config.json").get("_class_name")
    except UserError:
        return None
    return name if isinstance(name, str) else None


def kind_of_folder(folder: Path) -> str | None:
    """What a folder is that is neither base nor ControlNet, in words; None where nothing of it is known."""
    if not any(folder.iterdir()):
        return "an empty folder"
    if is_file(folder / "hparams.yaml") and (folder / "records").is_dir():
        return "a run of Everstep"
    if is_file(folder / "manifest.json") and (folder / "controlnet").is_dir():
        return "a version of a run"
    if is_base(folder):
        return "a base"
    if is_file(folder / "adapter_config.json") or is_file(folder / "pytorch_lora_weights.safetensors"):
        return "a LoRA"
    if name := class_of(folder):
        return "a ControlNet" if name in CONTROLNETS else f"a single network, {name[:80]}"
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if found and not any((folder / part).is_dir() for part in row_of(folder).components):
        return f"a folder with {found[0].name}"
    return None


def elsewhere(folder: Path, is_wanted: object) -> Path | None:
    """The same thing one level up, or up to two levels down, as in the cache of the hub."""
    assert callable(is_wanted)
    if folder.parent != folder and is_wanted(folder.parent):
        return folder.parent
    below = list(_folders(folder))
    if (folder / "snapshots").is_dir():
        below = [*_folders(folder / "snapshots"), *below]
    deeper = [grandchild for child in below[:50] for grandchild in _folders(child)[:50]]
    return next((child for child in (*below, *deeper) if is_wanted(child)), None)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return []

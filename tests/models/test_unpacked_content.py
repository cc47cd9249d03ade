"""What is unpacked of one file with a whole base is what the file was made of, and what diffusers makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders import single_file_utils as diffusers_own
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from everstep.exchange import sd
from everstep.models.unpacked import unpacked
from one_file import LAYOUTS, SUFFIXES, changed, one_file, opened, plain, tensors_of, unpack, weights_of, write

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_tensor_is_the_one_that_the_file_was_made_of(folder: Path, tmp_path: Path, suffix: str) -> None:
    made = unpack(folder, one_file(folder, tmp_path / f"one{suffix}"))
    for part in LAYOUTS[folder.name]:
        found, there = weights_of(made / part), weights_of(folder / part)
        if part.startswith("text_encoder"):
            found, there = plain(found), plain(there)
        assert set(found) == set(there)
        assert all(torch.equal(found[name], there[name].half()) for name in there), part


def theirs(part: str, held: dict[str, torch.Tensor], made: Path) -> dict[str, torch.Tensor]:
    """What diffusers' own converters make of the file."""
    config = json.loads((made / part / "config.json").read_text())
    if part == "unet":
        return dict(diffusers_own.convert_ldm_unet_checkpoint(held, config))
    if part == "vae":
        return dict(diffusers_own.convert_ldm_vae_checkpoint(held, config))
    kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    prefix = "conditioner.embedders.1.model." if part == "text_encoder_2" else "cond_stage_model.model."
    if any(name.startswith(prefix) for name in held):
        network = kind(CLIPTextConfig(**config))
        return plain(diffusers_own.convert_open_clip_checkpoint(network, held, prefix))
    return plain(diffusers_own.convert_ldm_clip_checkpoint(held))


def test_every_tensor_is_what_diffusers_makes_of_the_file(folder: Path, tmp_path: Path) -> None:
    made = unpack(folder, one_file(folder, tmp_path / "one.safetensors", torch.float32))
    for part in LAYOUTS[folder.name]:
        found, wanted = weights_of(made / part), theirs(part, tensors_of(folder), made)
        found = plain(found) if part.startswith("text_encoder") else found
        assert set(found) == set(wanted), part
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part


def test_diffusers_loads_folder_and_file_as_the_same_pipeline(folder: Path, tmp_path: Path) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", torch.float32)
    pipeline: Any = StableDiffusionXLPipeline if folder.name == "sdxl" else StableDiffusionPipeline
    made = unpack(folder, path)
    ours = pipeline.from_pretrained(made, safety_checker=None, feature_extractor=None)
    single = pipeline.from_single_file(
        str(path), config=str(made), local_files_only=True, safety_checker=None, feature_extractor=None
    )
    assert type(ours) is pipeline
    for part in LAYOUTS[folder.name]:
        if part == "text_encoder_2":
            continue  # it tells the two apart by their widths, which are the same here; its converter is asked above
        wanted = getattr(single, part).state_dict()
        found = getattr(ours, part).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part
    assert single.scheduler.config.prediction_type == ours.scheduler.config.prediction_type


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_keep_their_kind(folder: Path, tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    made = unpack(folder, one_file(folder, tmp_path / f"one{suffix}", dtype))
    assert {tensor.dtype for part in LAYOUTS[folder.name] for tensor in weights_of(made / part).values()} == {dtype}


def test_tensors_that_lie_turned_in_a_checkpoint_are_turned_back(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.ckpt")
    name = "model.diffusion_model.time_embed.2.weight"
    held = tensors_of(sd15)
    turned = held[name].T.contiguous().T  # the same numbers, column by column
    write(path, {**held, name: turned})
    wanted = weights_of(sd15 / "unet")["time_embedding.linear_2.weight"]
    assert torch.equal(weights_of(unpack(sd15, path) / "unet")["time_embedding.linear_2.weight"], wanted)


OTHER_NAMES = {
    "old CLIP": ("sd15", {"text_encoder": sd.CLIP_OF_OLD}),
    "sgm": ("sd21", {"text_encoder": sd.OPEN_CLIP_OF_SGM}),
    "converted back": ("sdxl", {"text_encoder_2": sd.OPEN_CLIP_CONVERTED}),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_text_encoders_are_taken_in_every_naming(name: str, tmp_path: Path, bases: Callable[[str], Path]) -> None:
    kind, layouts = OTHER_NAMES[name]
    folder = bases(kind)
    path = one_file(folder, tmp_path / "one.safetensors")
    write(path, tensors_of(folder, **layouts))
    found = opened(folder, path)
    assert [names.layout for names in found.parts.values() if names.layout in layouts.values()]
    made = unpacked(found)
    for part in layouts:
        there = plain(weights_of(folder / part))
        assert all(torch.equal(tensor, there[key]) for key, tensor in plain(weights_of(made / part)).items())


def test_convolutions_of_one_pixel_are_matrices(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors", torch.float32)

    def flatten(held: dict[str, torch.Tensor]) -> None:
        for name in [name for name in held if ".attn_1." in name and held[name].dim() == 4]:
            held[name] = held[name].flatten(1)
        name = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
        held[name] = held[name].flatten(1)

    made = unpack(sd15, changed(path, flatten))
    for part in ("unet", "vae"):
        there = weights_of(sd15 / part)
        assert all(torch.equal(tensor, there[name]) for name, tensor in weights_of(made / part).items())


def test_captions_are_filled_up_as_each_encoder_was_trained(folder: Path, tmp_path: Path) -> None:
    made = unpack(folder, one_file(folder, tmp_path / "one.safetensors"))
    pads = [json.loads(path.read_text())["pad_token"] for path in sorted(made.glob("tokenizer*/tokenizer_config.json"))]
    assert pads == {"sd15": ["<|endoftext|>"], "sd21": ["!"], "sdxl": ["<|endoftext|>", "!"]}[folder.name]

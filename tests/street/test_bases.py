"""Bases and starts that people bring: each is trained on, or one sentence says why not and nothing is left behind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bringing import (
    POINTER,
    SECOND,
    TEXT,
    UNET,
    VAE,
    Spoil,
    a_run,
    as_bin,
    base,
    brought,
    config,
    controlnet,
    cut,
    drop,
    folder_with,
    moved_into,
    one_file,
    renamed,
    sharded,
    start,
    tensors,
    text,
    true_file,
    xl,
)

from street import Everstep, Row, Street, read_golden, walk

NET = "diffusion_pytorch_model.safetensors"
FAMILIES = [
    brought("family_sdxl", folder_with(index={"_class_name": "StableDiffusionXLPipeline"}, unet={})),
    base("family_sdxl_by_its_unet", config("unet/config.json", addition_embed_type="text_time")),
    brought("family_sdxl_turbo", lambda street: xl(street, "sdxl-turbo")),
    brought("sdxl_half", lambda street: xl(street, "xl", lambda folder: shutil.rmtree(folder / "tokenizer_2"))),
    brought("sdxl_inpainting", lambda street: xl(street, "xl", config("unet/config.json", in_channels=9))),
    brought("sdxl_other_sizes", lambda street: xl(street, "xl", config("unet/config.json", addition_time_embed_dim=8))),
    brought("sdxl_other_text", lambda street: xl(street, "xl", config("text_encoder_2/config.json", hidden_size=8))),
    brought(
        "sdxl_unprojected",
        lambda street: xl(street, "xl", tensors(SECOND, drop("text_projection.weight"))),
    ),
    brought("family_refiner", folder_with(unet={"addition_embed_type": "text_time"}, text_encoder_2={})),
    brought("family_flux", folder_with(transformer={"_class_name": "FluxTransformer2DModel"})),
    brought("family_sd3", folder_with(transformer={"_class_name": "SD3Transformer2DModel"}, text_encoder_3={})),
    brought("family_z_image", folder_with(index={"_class_name": "ZImagePipeline"}, transformer={})),
    brought("family_video", folder_with(unet={"_class_name": "UNet3DConditionModel"}, vae={})),
    brought("family_nobody_knows", folder_with(transformer={"_class_name": "MyOwnTransformer"})),
    base("family_inpainting", config("unet/config.json", in_channels=9)),
    base("family_depth", config("unet/config.json", in_channels=5)),
    base("family_edits", config("unet/config.json", in_channels=8)),
    base("family_lcm", config("unet/config.json", time_cond_proj_dim=256)),
    base("family_lcm_by_its_scheduler", config("scheduler/scheduler_config.json", _class_name="LCMScheduler")),
    base("family_turbo", config("unet/config.json", _name_or_path="stabilityai/sd-turbo")),
    base("family_without_a_middle", config("unet/config.json", mid_block_type=None)),
    base("family_of_another_text_encoder", config("text_encoder/config.json", model_type="t5")),
]
FITTING = [
    base("vae_of_16_channels", config("vae/config.json", latent_channels=16)),
    base("text_of_another_width", config("text_encoder/config.json", hidden_size=32)),
    base("scheduler_unknown", config("scheduler/scheduler_config.json", _class_name="MyScheduler")),
    base(
        "scheduler_of_flow_matching",
        config("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
    ),
    base("scheduler_predicts_samples", config("scheduler/scheduler_config.json", prediction_type="sample")),
    base("scheduler_is_missing", lambda folder: (folder / "scheduler/scheduler_config.json").unlink()),
    base("config_of_a_wrong_kind", config("unet/config.json", block_out_channels="320,640")),
    base("config_is_no_json", text("vae/config.json", "{'latent_channels': 4}")),
    base("config_is_empty", text("unet/config.json", "")),
    base("size_is_not_said", config("unet/config.json", sample_size=...)),
]
TOKENIZERS = [
    base(
        "tokenizer_without_its_config",
        lambda f: (f / "tokenizer/tokenizer_config.json").unlink(),
        code=0,
        shows="rror",
    ),
    base("tokenizer_is_empty", lambda f: [path.unlink() for path in (f / "tokenizer").iterdir()]),
    base("tokenizer_is_broken", cut("tokenizer/vocab.json")),
    base("tokenizer_merges_are_missing", lambda f: (f / "tokenizer/merges.txt").unlink()),
    base("tokenizer_merges_are_of_another", text("tokenizer/merges.txt", "#version: 0.2\nqx zz\n")),
    base("tokenizer_is_larger_than_the_encoder", config("tokenizer/vocab.json", **{"a-word-too-much": 49407})),
]
WHOLE = [
    base(
        "weights_only_fp16", renamed((UNET, "unet/diffusion_pytorch_model.fp16.safetensors")), code=0, shows="variant"
    ),
    base("weights_in_shards", sharded, code=0, shows="rror|damaged"),
    base("weights_a_shard_is_missing", lambda folder: sharded(folder, left_out=True)),
    base("weights_are_a_pointer", text(UNET, POINTER)),
    base("weights_are_cut", cut(VAE)),
    base("weights_are_empty", text(TEXT, "")),
    base("weights_are_still_coming", renamed((UNET, UNET + ".incomplete"))),
    base("weights_are_missing", lambda folder: (folder / TEXT).unlink()),
    base("weights_have_another_name", renamed((UNET, "unet/model.safetensors"))),
    base("weights_are_bin", as_bin, code=0, shows="rror"),
    base("weights_are_bin_and_lack_a_tensor", lambda folder: as_bin(folder, "conv_in.weight")),
    base("weights_are_bin_and_cut", as_bin, cut("unet/diffusion_pytorch_model.bin")),
    base("unet_lacks_a_tensor", tensors(UNET, drop("conv_in.weight"))),
    base("unet_lacks_many", tensors(UNET, lambda held: [held.pop(name) for name in list(held) if "mid_block" in name])),
    base("vae_lacks_a_tensor", tensors(VAE, drop("quant_conv.bias"))),
    base("text_lacks_a_tensor", tensors(TEXT, drop("final_layer_norm.weight"))),
    base(
        "unet_is_misshapen",
        tensors(UNET, lambda held: held.update({"conv_in.weight": np.zeros((8, 9, 3, 3), np.float32)})),
    ),
    base("unet_has_too_much", tensors(UNET, lambda held: held.update({"motion.weight": np.zeros(2, np.float32)}))),
]
PLACES = [
    brought("file_lora", one_file("lora.safetensors", "lora_unet_down.lora_down.weight")),
    brought("file_text", lambda street: street.right_pairs / "metadata.jsonl"),
    brought(
        "folder_is_empty",
        lambda street: shutil.copytree(street.right_base, street.folder / "e", ignore=lambda _, names: names),
    ),
    brought("folder_one_down", moved_into("inner")),
    brought("folder_one_up", lambda street: street.base() / "unet"),
    brought("folder_of_a_hub_cache", moved_into("snapshots", "0" * 40)),
    brought("folder_of_pairs", lambda street: street.right_pairs),
    brought("folder_of_a_controlnet", controlnet),
    brought("link_to_nowhere", lambda street: (street.folder / "l").symlink_to("gone") or street.folder / "l"),
    brought(
        "link_to_a_base",
        lambda street: (street.folder / "l").symlink_to(street.right_base) or street.folder / "l",
        code=0,
        shows="rror",
    ),
]
UNET_OF_FILES, VAE_OF_FILES, TEXT_OF_FILES = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
FIRST_OF_FILES = f"{UNET_OF_FILES}input_blocks.0.0.weight"
TO_KEY = f"{UNET_OF_FILES}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def checkpoint(content: Callable[[], Any], **how: Any) -> Callable[[Street], Path]:
    def make(street: Street) -> Path:
        import torch

        torch.save(content(), street.folder / "one.ckpt", **how)
        return street.folder / "one.ckpt"

    return make


class Runs:
    """Runs a command where it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def a_tensor() -> Any:
    import torch

    return torch.zeros(2)


SINGLE = [
    brought("single_inpainting", true_file("one.safetensors", **{FIRST_OF_FILES: (320, 9, 3, 3)})),
    brought("single_edits", true_file("one.safetensors", **{FIRST_OF_FILES: (320, 8, 3, 3)})),
    brought("single_depth", true_file("one.safetensors", **{FIRST_OF_FILES: (320, 5, 3, 3)})),
    brought("single_upscaler", true_file("one.safetensors", **{FIRST_OF_FILES: (320, 7, 3, 3)})),
    brought("single_refiner", one_file("one.safetensors", FIRST_OF_FILES, **{TO_KEY: (2, 1280)})),
    brought("single_edm", true_file("one.safetensors", edm_mean=(4,), edm_std=(4,))),
    brought("single_turbo", true_file("sd_xl_turbo_1.0_fp16.safetensors")),
    brought("single_lcm_by_its_title", true_file("one.safetensors", says={"modelspec.title": "DreamShaper LCM"})),
    brought("single_unclip", true_file("one.safetensors", **{f"{UNET_OF_FILES}label_emb.0.0.weight": (2, 2)})),
    brought("single_other_text", one_file("one.safetensors", FIRST_OF_FILES, **{TO_KEY: (2, 4096)})),
    brought("single_without_vae", true_file("one.safetensors", VAE_OF_FILES)),
    brought("single_unet_alone", true_file("one.safetensors", VAE_OF_FILES, TEXT_OF_FILES)),
    brought("single_without_unet", true_file("one.safetensors", UNET_OF_FILES)),
    brought("single_lacks_a_tensor", true_file("one.safetensors", f"{UNET_OF_FILES}out.0.bias")),
    brought("single_has_too_much", true_file("one.safetensors", **{f"{UNET_OF_FILES}motion.bias": (2,)})),
    brought("single_predicts_something", true_file("one.safetensors", says={"modelspec.prediction_type": "rf"})),
    brought("single_flux", one_file("one.safetensors", f"{UNET_OF_FILES}double_blocks.0.img_attn.proj.weight")),
    brought("single_bare_unet", one_file("one.safetensors", "input_blocks.0.0.weight")),
    brought("single_is_a_controlnet", one_file("one.safetensors", "control_model.input_blocks.0.0.weight")),
    brought("single_runs_code", checkpoint(lambda: {"state_dict": {FIRST_OF_FILES: Runs()}})),
    brought("single_of_an_old_kind", checkpoint(lambda: {"x": a_tensor()}, _use_new_zipfile_serialization=False)),
]
STARTS = [
    start("start_works", code=0, shows="rror"),
    start("start_of_other_blocks", layers_per_block=2),
    start("start_of_other_hint", conditioning_embedding_out_channels=(16, 32, 96)),
    start("start_of_other_conditions", conditioning_channels=4),
    start("start_lacks_a_tensor", tensors(NET, drop("controlnet_mid_block.weight"))),
    start("start_is_cut", cut(NET)),
    start("start_without_weights", lambda folder: (folder / NET).unlink()),
    brought("start_is_a_base", lambda street: street.right_base, option="--from"),
    brought("start_is_one_file", one_file("c.safetensors", "control_model.x"), option="--from"),
    brought("start_is_a_lora", one_file("lora.safetensors", "lora_unet_down.lora_down.weight"), option="--from"),
    brought(
        "start_is_one_down",
        lambda street: controlnet(street).rename(street.folder / "outer-net").parent,
        option="--from",
    ),
    brought("start_is_not_there", lambda street: street.folder / "nothing", option="--from"),
]
BESIDE_RUNS = [
    brought("folder_of_a_run", lambda street: a_run(street)),
    brought("start_is_a_run", lambda street: a_run(street), option="--from"),
]


def no_file(file: str, make: Callable[[Path], object]) -> Spoil:
    """Something else in a file's place."""

    def spoil(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return spoil


NO_FILES = [
    base("config_that_is_a_pipe", no_file("unet/config.json", os.mkfifo)),
    base("weights_that_are_a_pipe", no_file(UNET, os.mkfifo)),
    base("weights_that_are_a_folder", no_file(UNET, Path.mkdir)),
    base("merges_that_are_a_pipe", no_file("tokenizer/merges.txt", os.mkfifo)),
    base(
        "weights_in_eight_bits",
        tensors(UNET, lambda held: held.update({name: tensor.astype(np.int8) for name, tensor in held.items()})),
    ),
]
ROWS = [*NO_FILES, *BESIDE_RUNS, *FAMILIES, *FITTING, *TOKENIZERS, *WHOLE, *PLACES, *SINGLE, *STARTS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_brought_works_or_one_sentence_says_why(row: Row, street: Street, everstep: Everstep) -> None:
    walk(row, "bases", street, everstep)


def test_a_run_goes_on_when_stray_files_come_and_not_when_loaded_ones_change(
    street: Street, everstep: Everstep
) -> None:
    folder = street.base()
    assert everstep(*street.train(base=folder)).code == 0
    (folder / "unet/.DS_Store").write_bytes(b"x")
    (folder / "unet/diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"x")
    gone_on = everstep("resume", "a", "--set", "optim.max_steps=3")
    assert gone_on.code == 0, gone_on.out
    config("scheduler/scheduler_config.json", beta_end=0.013)(folder)
    refused = everstep("resume", "a", "--set", "optim.max_steps=4")
    assert refused.code == 2
    assert "scheduler/scheduler_config.json is other" in refused.out
    assert "unet" not in refused.out


def test_every_message_has_its_row() -> None:
    assert set(read_golden("bases")) == {row.name for row in ROWS}

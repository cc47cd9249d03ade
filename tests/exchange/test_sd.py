"""Stable Diffusion's tables: every tensor at true sizes, there and back; and what diffusers' converters make of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as diffusers_own
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from everstep.exchange import sd
from everstep.exchange.keys import Layout, detect
from exchange import plans

LAYOUTS = {"ldm": sd.CONTROLNET_LDM, "bare": sd.CONTROLNET_BARE, "diffusers": sd.CONTROLNET_DIFFUSERS}
SMALL: dict[str, Any] = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 16}
SMALL |= {"attention_head_dim": 2}
SMALL_XL: dict[str, Any] = {"transformer_layers_per_block": (1, 2, 3), "addition_embed_type": "text_time"}
SMALL_XL |= {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 16}
SMALL_XL |= {"attention_head_dim": 2, "use_linear_projection": True, "addition_time_embed_dim": 4}
SMALL_XL |= {"projection_class_embeddings_input_dim": 40, "down_block_types": plans.SDXL["down_block_types"]}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", plans.CONTROLNETS)
def test_every_tensor_of_a_true_controlnet_goes_there_and_back(kind: str, name: str) -> None:
    plan, layout = plans.controlnet(kind), LAYOUTS[name]
    assert len(plan) == plans.TENSORS[kind]
    found = layout.expand(plan)
    there = found.forward({key: torch.empty(shape, device="meta") for key, shape in plan.items()})
    assert {key: tuple(tensor.shape) for key, tensor in there.items()} == found.their_shapes()
    assert detect(sd.CONTROLNETS, found.their_shapes()) == [layout]
    assert {key: tuple(tensor.shape) for key, tensor in found.back(there).items()} == plan


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_tensor_of_a_true_base_goes_there_and_back(kind: str) -> None:
    parts = plans.base(kind)
    wanted = {
        "sd1": [sd.UNET, sd.VAE, sd.CLIP],
        "sd2": [sd.UNET, sd.VAE, sd.OPEN_CLIP],
        "sdxl": [sd.UNET, sd.VAE, sd.CLIP_OF_XL, sd.OPEN_CLIP_OF_XL],
    }[kind]
    whole: dict[str, Any] = {"alphas_cumprod": (1000,), "model_ema.decay": ()}
    for layout in wanted:
        whole |= layout.expand(parts[layout.network]).their_shapes()
    assert detect((*sd.CONTROLNETS, *sd.BASES), whole) == wanted
    for layout in wanted:
        empty = {name: torch.empty(shape, device="meta") for name, shape in layout.own(whole).items()}
        back = layout.expand(parts[layout.network]).back(empty, torch.cat)
        assert {name: tuple(tensor.shape) for name, tensor in back.items()} == parts[layout.network]


def filled(network: torch.nn.Module) -> dict[str, Tensor]:
    """Every number another, zero convolutions too, so that no two tensors are mixed up."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def written(layout: Layout, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plan = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = layout.expand(plan)
    there = found.forward(tensors, torch.cat)
    back = found.back(there, torch.cat)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert back.keys() == tensors.keys()
    return there


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name].reshape(wanted[name].shape), wanted[name])] == []


@pytest.mark.parametrize("is_linear", [False, True], ids=["sd1", "sd2"])
def test_diffusers_reads_a_single_file_as_the_same_network(is_linear: bool, tmp_path: Path) -> None:
    network = ControlNetModel(**SMALL, use_linear_projection=is_linear)
    tensors = filled(network)
    network.save_config(tmp_path / "config")
    save_file(written(sd.CONTROLNET_LDM, tensors), tmp_path / "one.safetensors")
    read = ControlNetModel.from_single_file(str(tmp_path / "one.safetensors"), config=str(tmp_path / "config"))
    assert_same(read.state_dict(), tensors)


def test_diffusers_converter_drops_what_only_sdxl_has() -> None:
    """Why SDXL is written in diffusers' names: its second embedding is lost on the other way."""
    network = ControlNetModel(**SMALL_XL)
    tensors = filled(network)
    config = json.loads(network.to_json_string())
    read = diffusers_own.convert_controlnet_checkpoint(written(sd.CONTROLNET_LDM, tensors), config)
    assert {name for name in tensors if name not in read} == {
        f"add_embedding.linear_{place}.{end}" for place in (1, 2) for end in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "settings", [{**SMALL, "up_block_types": plans.UP}, {**SMALL_XL, "up_block_types": plans.UP_OF_XL}]
)
def test_diffusers_reads_a_unet_as_the_same_network(settings: dict[str, Any]) -> None:
    network = UNet2DConditionModel(**settings)
    tensors, config = filled(network), json.loads(network.to_json_string())
    assert_same(diffusers_own.convert_ldm_unet_checkpoint(written(sd.UNET, tensors), config), tensors)


def test_diffusers_reads_a_vae_as_the_same_network() -> None:
    network = AutoencoderKL(**{**plans.VAE, "block_out_channels": (8, 8, 16, 16)}, norm_num_groups=4)
    tensors, config = filled(network), json.loads(network.to_json_string())
    assert_same(diffusers_own.convert_ldm_vae_checkpoint(written(sd.VAE, tensors), config), tensors)


def test_diffusers_reads_sdxls_second_text_encoder_as_the_same_network() -> None:
    settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = CLIPTextModelWithProjection(CLIPTextConfig(**settings, projection_dim=16, vocab_size=50))
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in filled(network).items()}
    there = written(sd.OPEN_CLIP_OF_XL, tensors)
    read = diffusers_own.convert_open_clip_checkpoint(network, dict(there), prefix="conditioner.embedders.1.model.")
    plain = {name.removeprefix("text_model."): t for name, t in read.items() if not name.endswith("position_ids")}
    assert_same(plain, tensors)

"""An exported file computes what the version computes, of SDXL's networks too; or it is said what does not."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

from everstep.delivery.reread import reread
from everstep.errors import DamageFound, UserError
from everstep.exchange.sd import CONTROLNET_DIFFUSERS

XL = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 40,
}


@pytest.fixture
def network() -> ControlNetModel:
    torch.manual_seed(0)
    made = ControlNetModel(**XL)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return made


def reread_as(network: ControlNetModel, path: Path, dtype: torch.dtype, **changed: torch.Tensor) -> float:
    tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    save_file({name: tensor.to(dtype) for name, tensor in {**tensors, **changed}.items()}, path)
    bijection = CONTROLNET_DIFFUSERS.expand({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return reread(path, bijection, tensors, json.loads(network.to_json_string()), dtype)


@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [(torch.float32, 0, 0), (torch.float16, 1e-5, 2e-3), (torch.bfloat16, 1e-4, 2e-2)],
)
def test_rounding_moves_what_sdxl_computes_by_little(
    network: ControlNetModel, tmp_path: Path, dtype: torch.dtype, least: float, most: float
) -> None:
    assert least <= reread_as(network, tmp_path / "x.safetensors", dtype) <= most


def test_a_tensor_that_is_another_is_named(network: ControlNetModel, tmp_path: Path) -> None:
    name = "down_blocks.1.attentions.0.proj_in.bias"
    with pytest.raises(DamageFound, match=f"{name} is not in the file as it is in the version"):
        reread_as(network, tmp_path / "x.safetensors", torch.float32, **{name: torch.ones(16)})


def test_a_tensor_too_many_is_named(network: ControlNetModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 too many \(mine\)"):
        reread_as(network, tmp_path / "x.safetensors", torch.float32, mine=torch.ones(1))


def test_weights_that_halves_cannot_hold_are_found_by_computing(network: ControlNetModel, tmp_path: Path) -> None:
    """Each is rounded as it should be, and what is left of it computes something else."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
                parameter.mul_(1e-6)
    with pytest.raises(DamageFound, match="what it computes differs by"):
        reread_as(network, tmp_path / "x.safetensors", torch.float16)
    assert reread_as(network, tmp_path / "x.safetensors", torch.bfloat16) < 2e-2

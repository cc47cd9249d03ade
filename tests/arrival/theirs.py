"""ControlNets as others store them, made of one that diffusers made."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from everstep.exchange.sd import CONTROLNET_BARE, CONTROLNET_LDM


def controlnet(base: Path) -> ControlNetModel:
    """One for a base, with numbers everywhere."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return network


def shapes(network: ControlNetModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def ldm(network: ControlNetModel) -> dict[str, torch.Tensor]:
    return CONTROLNET_LDM.expand(shapes(network)).forward(network.state_dict())


def bare(network: ControlNetModel) -> dict[str, torch.Tensor]:
    return CONTROLNET_BARE.expand(shapes(network)).forward(network.state_dict())


def whole(network: ControlNetModel) -> dict[str, Any]:
    """A ControlLDM: base, schedule and ControlNet in one."""
    return {
        "betas": torch.ones(10),
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": torch.ones(2),
        **ldm(network),
    }

"""What a ControlNet weighs is told from config.json alone; here it is compared with the networks themselves."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from bases import write_base
from everstep.models.base import locate
from everstep.models.shapes import controlnet_shapes, hint_channels, new_controlnet_shapes

# The published configs, by hand; memory for the networks is not taken (the meta device).
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "layers_per_block": 2,
}
SD21 = {
    **SD15,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
PAPER_HINT = (16, 32, 96, 256)


@pytest.mark.parametrize(("config", "parameters"), [(SD15, 361_279_120), (SD21, 364_228_240)], ids=["sd15", "sd21"])
def test_true_sizes_are_told_tensor_by_tensor(config: dict[str, object], parameters: int) -> None:
    found = controlnet_shapes(json.loads(json.dumps(config)), PAPER_HINT)
    assert found is not None
    assert (len(found), sum(map(math.prod, found.values()))) == (340, parameters)
    with torch.device("meta"):
        network = ControlNetModel.from_unet(UNet2DConditionModel(**config), load_weights_from_unet=False)
    assert list(found.items()) == [(name, tuple(t.shape)) for name, t in network.state_dict().items()]
    assert list(found) == [name for name, _ in network.named_parameters()]


@pytest.mark.parametrize("like", ["builtin", "sd15", "sd21"])
def test_a_new_controlnet_of_a_base_has_these_tensors_in_this_order(like: str, tmp_path: Path) -> None:
    base = locate("builtin:circles" if like == "builtin" else str(write_base(tmp_path / "base", like)))
    unet = UNet2DConditionModel.from_pretrained(base.path / "unet")
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_channels(base))
    found = new_controlnet_shapes(base)
    assert found is not None
    assert list(found.items()) == [(name, tuple(t.shape)) for name, t in network.state_dict().items()]


def test_a_controlnets_own_config_tells_the_same() -> None:
    with torch.device("meta"):
        network = ControlNetModel(block_out_channels=(32, 64, 64, 64), transformer_layers_per_block=2)
    config = json.loads(network.to_json_string())
    found = controlnet_shapes(config, config["conditioning_embedding_out_channels"])
    assert found == {name: tuple(t.shape) for name, t in network.state_dict().items()}


@pytest.mark.parametrize(
    "other",
    [
        {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")},
        {"addition_embed_type": "text_time"},
        {"class_embed_type": "timestep"},
        {"mid_block_type": None},
    ],
)
def test_networks_of_other_families_are_not_guessed_at(other: dict[str, object]) -> None:
    assert controlnet_shapes({**SD15, **other}, PAPER_HINT) is None

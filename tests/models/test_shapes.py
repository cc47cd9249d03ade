"""What a ControlNet weighs is told from config.json alone; here it is compared with the networks themselves."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from bases import write_base
from everstep.models.base import locate
from everstep.models.controls import new_shapes
from everstep.models.parts import modern_vae, plain_text, text_shapes, unet_shapes, vae_shapes
from everstep.models.shapes import controlnet_shapes, hint_channels

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
SDXL = {
    **SD15,
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# Smaller ControlNets of SDXL, as the authors of diffusers made them: fewer layers hear the text, or none does.
SDXL_MID = {
    **SDXL,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": 1,
}
SDXL_SMALL = {**SDXL, "down_block_types": ("DownBlock2D",) * 3, "transformer_layers_per_block": (0, 0, 0)}
SDXL_SHALLOW = {**SDXL, "transformer_layers_per_block": (0, 0, 1)}
SDXL_DEAF = {**SDXL, "down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
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


@pytest.mark.parametrize(
    ("config", "tensors"), [(SDXL, 844), (SDXL_MID, 212), (SDXL_SMALL, 140), (SDXL_SHALLOW, 224), (SDXL_DEAF, 124)]
)
def test_controlnets_of_sdxl_are_told_tensor_by_tensor(config: dict[str, object], tensors: int) -> None:
    with torch.device("meta"):
        network = ControlNetModel(**{key: value for key, value in config.items() if key != "sample_size"})
    found = controlnet_shapes(json.loads(network.to_json_string()), PAPER_HINT)
    assert found is not None
    assert len(found) == tensors
    assert list(found.items()) == [(name, tuple(t.shape)) for name, t in network.state_dict().items()]


@pytest.mark.parametrize("like", ["builtin", "sd15", "sd21"])
def test_a_new_controlnet_of_a_base_has_these_tensors_in_this_order(like: str, tmp_path: Path) -> None:
    base = locate("builtin:circles" if like == "builtin" else str(write_base(tmp_path / "base", like)))
    unet = UNet2DConditionModel.from_pretrained(base.path / "unet")
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_channels(base))
    found = new_shapes(base)
    assert found is not None
    assert list(found.items()) == [(name, tuple(t.shape)) for name, t in network.state_dict().items()]


def test_a_controlnets_own_config_tells_the_same() -> None:
    with torch.device("meta"):
        network = ControlNetModel(block_out_channels=(32, 64, 64, 64), transformer_layers_per_block=2)
    config = json.loads(network.to_json_string())
    found = controlnet_shapes(config, config["conditioning_embedding_out_channels"])
    assert found == {name: tuple(t.shape) for name, t in network.state_dict().items()}


@pytest.mark.parametrize("like", ["sd15", "sd21"])
def test_every_tensor_of_a_true_base_is_told(like: str) -> None:
    config = {**{"sd15": SD15, "sd21": SD21}[like], "down_block_types": SD15["down_block_types"]}
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    kl = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "_class_name": "AutoencoderKL"}
    kl |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        vae = AutoencoderKL(**{key: value for key, value in kl.items() if key != "_class_name"})
        encoder = CLIPTextModel(CLIPTextConfig(**text))
    for network, told in (
        (unet, unet_shapes({**config, "up_block_types": up})),
        (vae, vae_shapes(kl)),
        (encoder, text_shapes(text)),
    ):
        assert told == plain_text({name: tuple(t.shape) for name, t in network.state_dict().items()})


@pytest.mark.parametrize("changed", [{}, {"encoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 2)}])
def test_every_tensor_of_a_tiny_vae_is_told(changed: dict[str, object]) -> None:
    decoder = {"decoder_block_out_channels": (8, 8), "num_decoder_blocks": (2, 1)} if changed else {}
    with torch.device("meta"):
        network = AutoencoderTiny(**changed, **decoder)
    told = vae_shapes(json.loads(network.to_json_string()))
    assert told == {name: tuple(t.shape) for name, t in network.state_dict().items()}


def test_vaes_of_2022_are_read_by_their_old_names() -> None:
    old = {"encoder.mid_block.attentions.0.proj_attn.weight": (8, 8, 1, 1), "quant_conv.bias": (8,)}
    assert modern_vae(old) == {"encoder.mid_block.attentions.0.to_out.0.weight": (8, 8), "quant_conv.bias": (8,)}


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

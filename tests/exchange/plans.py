"""The networks of Stable Diffusion at their true sizes, as diffusers builds them, without their memory."""

from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from everstep.exchange.operations import Shape

ATTENTIVE, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
SD1: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (PLAIN, ATTENTIVE, ATTENTIVE),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_MID = {**SDXL, "down_block_types": (PLAIN, PLAIN, ATTENTIVE), "transformer_layers_per_block": (0, 0, 1)}
SDXL_SMALL = {**SDXL, "down_block_types": (PLAIN,) * 3, "transformer_layers_per_block": (0, 0, 0)}
SDXL_SHALLOW = {**SDXL, "transformer_layers_per_block": (0, 0, 1)}  # attentions without a single block inside
CONTROLNETS = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL, "sdxl-mid": SDXL_MID, "sdxl-small": SDXL_SMALL}
TENSORS = {"sd1": 340, "sd2": 340, "sdxl": 844, "sdxl-mid": 212, "sdxl-small": 140}

UP = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
UP_OF_XL = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_2 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
TEXT_XL = {**TEXT_2, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def on_meta(make: Any, *words: Any, **settings: Any) -> Any:
    with torch.device("meta"):
        return make(*words, **settings)


def shapes(network: Any) -> dict[str, Shape]:
    """As models.parts tells them: a text encoder's without the prefix."""
    return {name.removeprefix("text_model."): tuple(t.shape) for name, t in network.state_dict().items()}


def controlnet(kind: str) -> dict[str, Shape]:
    return shapes(on_meta(ControlNetModel, **CONTROLNETS[kind]))


def base(kind: str) -> dict[str, dict[str, Shape]]:
    """Of each network of a base."""
    is_xl = kind == "sdxl"
    unet = on_meta(UNet2DConditionModel, up_block_types=UP_OF_XL if is_xl else UP, **CONTROLNETS[kind])
    text = {"sd1": TEXT, "sd2": TEXT_2, "sdxl": TEXT}[kind]
    parts = {"unet": unet, "vae": on_meta(AutoencoderKL, **VAE)}
    parts["text_encoder"] = on_meta(CLIPTextModel, CLIPTextConfig(**text))
    if is_xl:
        config = CLIPTextConfig(**TEXT_XL, projection_dim=1280)
        parts["text_encoder_2"] = on_meta(CLIPTextModelWithProjection, config)
    return {name: shapes(network) for name, network in parts.items()}

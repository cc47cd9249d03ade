"""The bases that people keep as one file: what each part is built like, which such a file does not say.

As diffusers publishes them. Never imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Whole:
    """A base of one architecture: the config of each part, by its folder in diffusers layout.

    Args:
        text_width: of the text that its UNet hears, which tells it from others.
        pads: with which token each tokenizer fills up.
    """

    title: str
    text_width: int
    pipeline: Settings
    parts: Mapping[str, Settings]
    scheduler: Settings
    pads: Mapping[str, str]


_UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "layers_per_block": 2}
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
_CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,  # of old: the end is found as the greatest token
    "pad_token_id": 1,
}
_NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}

SD1 = Whole(
    title="Stable Diffusion 1.x",
    text_width=768,
    pipeline={"_class_name": "StableDiffusionPipeline"},
    parts={
        "unet": {
            **_UNET,
            "sample_size": 64,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder": _CLIP,
    },
    scheduler={"_class_name": "PNDMScheduler", "skip_prk_steps": True, **_NOISE},
    pads={"tokenizer": "<|endoftext|>"},
)
SDXL = Whole(
    title="Stable Diffusion XL",
    text_width=2048,
    pipeline={"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    parts={
        "unet": {
            **_UNET,
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": _CLIP,
        "text_encoder_2": {
            **_CLIP,
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
    },
    scheduler={"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **_NOISE},
    pads={"tokenizer": "<|endoftext|>", "tokenizer_2": "!"},
)
WHOLES = (SD1, SDXL)

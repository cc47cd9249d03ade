"""The bases that people keep as one file: what each part is built like, which such a file does not say.

As diffusers publishes them. Never imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Whole:
    """A base of one architecture: the config of each part, by its folder in diffusers layout.

    Args:
        text_width: of the text that its UNet hears, which tells it from others.
        pads: with which token each tokenizer fills up.
        sides: of the pictures that it was made for, in pixels, by what it predicts; a file says which, or nothing is
            known beyond the usual.
        usual: what it predicts where a file does not say; None where there are both.
    """

    title: str
    text_width: int
    pipeline: Settings
    parts: Mapping[str, Settings]
    scheduler: Settings
    pads: Mapping[str, str]
    sides: Mapping[str, int] = field(default_factory=dict)
    usual: str | None = "epsilon"

    @property
    def vae_factor(self) -> int:
        """By how much the VAE makes pictures smaller, per side."""
        return int(2 ** (len(self.parts["vae"]["block_out_channels"]) - 1))

    def made_for(self, side: int | None) -> dict[str, Settings]:
        """The configs, for pictures of so many pixels a side."""
        if side is None:
            return dict(self.parts)
        sizes = {"unet": side // self.vae_factor, "vae": side}
        return {part: {**config, "sample_size": sizes[part]} if part in sizes else config
                for part, config in self.parts.items()}  # fmt: skip


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
}
_DDIM = {"_class_name": "DDIMScheduler", **_NOISE}  # knows a last step of noise alone, as PNDM does not
_SD_UNET = {
    **_UNET,
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
_SD_VAE = {**_VAE, "sample_size": 512, "scaling_factor": 0.18215}

SD1 = Whole(
    title="Stable Diffusion 1.x",
    text_width=768,
    pipeline={"_class_name": "StableDiffusionPipeline"},
    parts={
        "unet": {**_SD_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
        "vae": _SD_VAE,
        "text_encoder": _CLIP,
    },
    scheduler=_DDIM,
    pads={"tokenizer": "<|endoftext|>"},
)
SD2 = Whole(
    title="Stable Diffusion 2.x",
    text_width=1024,
    pipeline={"_class_name": "StableDiffusionPipeline"},
    parts={
        "unet": {
            **_SD_UNET,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "vae": _SD_VAE,
        "text_encoder": {
            **_CLIP,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "projection_dim": 512,
        },
    },
    scheduler=_DDIM,
    pads={"tokenizer": "!"},
    sides={"epsilon": 512, "v_prediction": 768},
    usual=None,
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
WHOLES = (SD1, SD2, SDXL)

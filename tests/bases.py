"""Bases with random weights in the layouts of real families: every part real, as small as it can be."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import everstep
import everstep.models.libraries
from small_base.tokenizer import write_tokenizer

CAPTIONS = ("red circle with blue background", "a photo of a cat", "green lime teal navy white black")
# What tells SD 2.1's networks from SD 1.5's: linear projections, heads of a fixed width, and v-prediction.
SHAPES = {
    "sd15": {"unet": {"attention_head_dim": 2}, "prediction_type": "epsilon"},
    "sd21": {
        "unet": {"attention_head_dim": (2, 4), "use_linear_projection": True},
        "prediction_type": "v_prediction",
    },
}


# What SDXL has beside: a second text encoder, and a UNet that hears its whole text and six sizes.
XL = {
    "unet": {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
    },
    "prediction_type": "epsilon",
}


def write_base(folder: Path, like: str) -> Path:
    """Write a base of 16 px with a VAE of factor 2, and return its folder."""
    torch.manual_seed(0)
    shape = XL if like == "sdxl" else SHAPES[like]
    tokenizer = write_tokenizer(folder / "tokenizer", CAPTIONS)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if like == "sdxl":
        text.num_hidden_layers = 2  # what is heard is the layer before the last
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    usual = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
    }
    UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **usual | shape["unet"]
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=shape["prediction_type"],
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
    }
    if like == "sdxl":
        CLIPTextModelWithProjection(text).save_pretrained(folder / "text_encoder_2")
        write_tokenizer(folder / "tokenizer_2", CAPTIONS)
        second = {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
        index = {key: value for key, value in index.items() if key not in ("safety_checker",)} | second
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_xl_of_circles(folder: Path) -> Path:
    """The built-in base in the shape of SDXL: a denoiser that has learned, 64 px.

    Whatever the prompt, both text encoders together say what the built-in one says of none; the UNet hears that and
    nothing of sizes.
    """
    circles = Path(everstep.__file__).parent / "bases/circles"
    for part in ("vae", "scheduler", "tokenizer"):
        shutil.copytree(circles / part, folder / part)
    shutil.copytree(circles / "tokenizer", folder / "tokenizer_2")
    text = CLIPTextModel.from_pretrained(circles / "text_encoder", dtype=torch.float32)
    ids = CLIPTokenizer.from_pretrained(circles / "tokenizer")(
        "", padding="max_length", max_length=text.config.max_position_embeddings, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        of_nothing_LD = text(ids)[0][0]
        silent = {name: torch.zeros_like(tensor) for name, tensor in text.state_dict().items()}
        text.load_state_dict(silent)
        deaf = CLIPTextModelWithProjection(text.config)
        deaf.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in deaf.state_dict().items()})
        text.get_parameter(next(name for name in silent if name.endswith("position_embedding.weight"))).copy_(
            of_nothing_LD
        )
    text.save_pretrained(folder / "text_encoder")
    deaf.save_pretrained(folder / "text_encoder_2")
    unet = UNet2DConditionModel.from_pretrained(circles / "unet", dtype=torch.float32)
    width = unet.config.cross_attention_dim
    beside = {
        "cross_attention_dim": 2 * width,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + width,
    }
    made = UNet2DConditionModel.from_config({**unet.config, **beside})
    held = {name: torch.zeros_like(tensor) for name, tensor in made.state_dict().items()} | unet.state_dict()
    for name, tensor in made.state_dict().items():
        if held[name].shape != tensor.shape:  # what is heard of the text: of the second encoder nothing
            held[name] = torch.cat([held[name], torch.zeros_like(held[name])], dim=1)
    made.load_state_dict(held)
    made.save_pretrained(folder / "unet")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
        "force_zeros_for_empty_prompt": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder

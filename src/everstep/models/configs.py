"""What is read of a base's config files: the keys that matter here, each of its kind; what else is there is left alone.

Never imports torch.
"""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everstep.errors import UserError
from everstep.models.weights import read_json

Count = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
Depth = Annotated[int, Field(strict=True, ge=0, le=1 << 10)]
Counts = Annotated[list[Count], Field(min_length=1, max_length=16)]
Names = Annotated[list[str], Field(min_length=1, max_length=16)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


class Part(BaseModel):
    """One config file. Missing keys have the libraries' own defaults."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Unet(Part):
    in_channels: Count = 4
    out_channels: Count = 4
    sample_size: Count | Counts | None = None
    block_out_channels: Counts
    down_block_types: Names
    up_block_types: Names
    layers_per_block: Count | Counts = 2
    cross_attention_dim: Count | Counts = 1280
    attention_head_dim: Count | Counts = 8
    transformer_layers_per_block: Count | list[Count | Counts] = 1
    norm_num_groups: Count | None = 32
    use_linear_projection: Flag = False
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    addition_time_embed_dim: Count | None = None
    projection_class_embeddings_input_dim: Count | None = None


class Kl(Part):
    block_out_channels: Counts = [64]
    latent_channels: Count = 4
    layers_per_block: Count = 1
    in_channels: Count = 3
    out_channels: Count = 3
    scaling_factor: Number = 0.18215
    shift_factor: Number | None = None
    down_block_types: Names = ["DownEncoderBlock2D"]
    up_block_types: Names = ["UpDecoderBlock2D"]
    norm_num_groups: Count = 32


class Tiny(Part):
    encoder_block_out_channels: Counts = [64] * 4
    decoder_block_out_channels: Counts = [64] * 4
    num_encoder_blocks: Counts = [1, 3, 3, 3]
    num_decoder_blocks: Counts = [3, 3, 3, 1]
    latent_channels: Count = 4
    in_channels: Count = 3
    out_channels: Count = 3
    scaling_factor: Number = 1.0
    shift_factor: Number | None = 0.0


class Text(Part):
    vocab_size: Count = 49408
    hidden_size: Count = 512
    intermediate_size: Count = 2048
    num_hidden_layers: Annotated[int, Field(strict=True, ge=1, le=200)] = 12
    num_attention_heads: Count = 8
    max_position_embeddings: Count = 77
    projection_dim: Count = 512


class Scheduler(Part):
    num_train_timesteps: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1000
    prediction_type: str = "epsilon"
    beta_start: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.02
    beta_schedule: str = "linear"
    trained_betas: list[Annotated[float, Field(ge=0, le=1)]] | None = None


class ControlNet(Part):
    in_channels: Count = 4
    conditioning_channels: Count = 3
    block_out_channels: Counts = [320, 640, 1280, 1280]
    down_block_types: Names = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    layers_per_block: Count = 2
    cross_attention_dim: Count | Counts = 1280
    attention_head_dim: Count | Counts = 8
    transformer_layers_per_block: Count | list[Depth | Counts] = 1
    conditioning_embedding_out_channels: Counts = [16, 32, 96, 256]
    controlnet_conditioning_channel_order: str = "rgb"
    use_linear_projection: Flag = False


def checked(path: Path, kind: type[Part]) -> dict[str, Any]:
    """The file, with what it leaves out. Raises: UserError naming the first key that is not what it should be."""
    raw = read_json(path)
    try:
        parsed = kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise UserError(f"{path} has no {key}. Nothing was started.") from None
        value = _short(raw.get(key))
        words = (
            first["msg"]
            .replace("Input should", "should")
            .replace("be a valid int", "be an int")
            .replace("be a valid", "be a")
        )
        raise UserError(f"{path}: {key} is {value}; it {words}. Nothing was started.") from None
    return raw | parsed.model_dump()


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "a number of " + f"{int(value.bit_length() * math.log10(2)) + 1:,} digits"
    try:
        said = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return said if len(said) <= 60 else said[:57] + "..."

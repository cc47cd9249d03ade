"""Names and shapes of a ControlNet's tensors, told from a config.json alone: what a version will weigh, without torch.

Knows Stable Diffusion's blocks as diffusers builds them. Source: diffusers, models/controlnets/controlnet.py and
models/unets/unet_2d_blocks.py. Knows nothing of versions.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everstep.models.base import BaseFolder

HINT_CHANNELS = (16, 32, 96, 256)  # the paper's hint encoder; each entry after the first halves the picture
IMAGE_CHANNELS = 3
TIME_FACTOR = 4  # width of the time embedding over that of the first block
FEED_FORWARD_FACTOR = 4

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]

# What another family's UNet has otherwise; none of these is counted here.
EXPECTED = {
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "resnet_time_scale_shift": ("default",),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "encoder_hid_dim": (None,),
    "only_cross_attention": (False,),
}
# What a ControlNet may have beside: SDXL's second embedding, and the middle of those that were made smaller.
OF_CONTROLNETS = {
    "addition_embed_type": (None, "text_time"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
}
BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")


def hint_channels(base: "BaseFolder") -> tuple[int, ...]:
    """Widths of a new ControlNet's hint encoder: it halves the picture as often as the base's VAE does."""
    halvings = base.vae_factor().bit_length() - 1
    return (*HINT_CHANNELS, *[HINT_CHANNELS[-1]] * halvings)[: halvings + 1]


# Of SDXL: what diffusers published, and what the programs that draw know. Fewer layers hear the text, or none does.
SMALLER = {
    "mid": (("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"), 1),
    "small": (("DownBlock2D",) * 3, 0),
}


def smaller(config: Mapping[str, Any], size: str) -> dict[str, Any]:
    """What the config of a smaller ControlNet says otherwise than that of a full one."""
    if size == "full":
        return {}
    kinds, depth = SMALLER[size]
    blocks = len(config["down_block_types"])
    return {"down_block_types": kinds[-blocks:], "transformer_layers_per_block": (0,) * (blocks - 1) + (depth,)}


def controlnet_shapes(config: Mapping[str, Any], hint: Sequence[int]) -> dict[str, Shape] | None:
    """Every tensor of a ControlNet, in the order of its state; None for unknown blocks.

    Args:
        config: the config.json of it, or of the UNet that it is begun from.
        hint: widths of its hint encoder.
    """
    is_known = all(config.get(key, known[0]) in known for key, known in {**EXPECTED, **OF_CONTROLNETS}.items())
    if not is_known or not set(config["down_block_types"]) <= set(BLOCKS):
        return None
    if config.get("addition_embed_type") and type(config.get("projection_class_embeddings_input_dim")) is not int:
        return None
    return dict(_controlnet(config, hint))


def _controlnet(config: Mapping[str, Any], hint: Sequence[int]) -> Shapes:
    widths, layers = list(config["block_out_channels"]), int(config.get("layers_per_block", 2))
    first, last = widths[0], widths[-1]
    time = first * TIME_FACTOR
    yield from conv("conv_in", int(config.get("in_channels", 4)), first)
    yield from linear("time_embedding.linear_1", first, time)
    yield from linear("time_embedding.linear_2", time, time)
    if config.get("addition_embed_type"):
        yield from second_embedding(config, time)
    yield from _hint_encoder(int(config.get("conditioning_channels", IMAGE_CHANNELS)), hint, first)
    for number, kind in enumerate(config["down_block_types"]):
        yield from down_block(config, number, kind, widths, layers, time)
    for place, width in enumerate(_residual_widths(widths, layers)):
        yield from conv(f"controlnet_down_blocks.{place}", width, width, kernel=1)
    yield from conv("controlnet_mid_block", last, last, kernel=1)
    hears_text = config.get("mid_block_type") != "UNetMidBlock2D"
    if hears_text:
        yield from attention("mid_block.attentions.0", config, last, depths(config)[-1])
    for number in range(2 if hears_text else 1):
        yield from resnet(f"mid_block.resnets.{number}", last, last, time)


def _residual_widths(widths: Sequence[int], layers: int) -> list[int]:
    """One for the first convolution, each layer, and each step down: where the zero convolutions are."""
    found = [widths[0]]
    for number, width in enumerate(widths):
        found += [width] * (layers + (number < len(widths) - 1))
    return found


def second_embedding(config: Mapping[str, Any], time: int) -> Shapes:
    """SDXL's, of the whole text and of the sizes that the picture had."""
    yield from linear("add_embedding.linear_1", int(config["projection_class_embeddings_input_dim"]), time)
    yield from linear("add_embedding.linear_2", time, time)


def _hint_encoder(channels: int, hint: Sequence[int], out: int) -> Shapes:
    name = "controlnet_cond_embedding"
    yield from conv(f"{name}.conv_in", channels, hint[0])
    for number, (narrow, wide) in enumerate(pairwise(hint)):
        yield from conv(f"{name}.blocks.{2 * number}", narrow, narrow)
        yield from conv(f"{name}.blocks.{2 * number + 1}", narrow, wide)
    yield from conv(f"{name}.conv_out", hint[-1], out)


def down_block(
    config: Mapping[str, Any], number: int, kind: str, widths: Sequence[int], layers: int, time: int
) -> Shapes:
    """A block of the encoder."""
    name, width = f"down_blocks.{number}", widths[number]
    if kind == "CrossAttnDownBlock2D":
        for layer in range(layers):
            yield from attention(f"{name}.attentions.{layer}", config, width, depths(config)[number])
    for layer in range(layers):
        before = widths[max(0, number - 1)] if layer == 0 else width
        yield from resnet(f"{name}.resnets.{layer}", before, width, time)
    if number < len(widths) - 1:
        yield from conv(f"{name}.downsamplers.0.conv", width, width)


def depths(config: Mapping[str, Any]) -> list[int]:
    """Transformer blocks in each attention, for each block of the encoder."""
    depth = config.get("transformer_layers_per_block", 1)
    return [depth] * len(config["down_block_types"]) if isinstance(depth, int) else list(depth)


# --- layers ------------------------------------------------------------------------------------------------


def resnet(name: str, before: int, width: int, time: int | None = None) -> Shapes:
    """Without a time it is one of a VAE."""
    yield from norm(f"{name}.norm1", before)
    yield from conv(f"{name}.conv1", before, width)
    if time is not None:
        yield from linear(f"{name}.time_emb_proj", time, width)
    yield from norm(f"{name}.norm2", width)
    yield from conv(f"{name}.conv2", width, width)
    if before != width:
        yield from conv(f"{name}.conv_shortcut", before, width, kernel=1)


def attention(name: str, config: Mapping[str, Any], width: int, depth: int) -> Shapes:
    """Transformer blocks that hear the text."""
    is_linear, text = bool(config.get("use_linear_projection")), int(config["cross_attention_dim"])

    def projection(end: str) -> Shapes:
        return linear(f"{name}.{end}", width, width) if is_linear else conv(f"{name}.{end}", width, width, kernel=1)

    yield from norm(f"{name}.norm", width)
    yield from projection("proj_in")
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for place, context in ((1, width), (2, text)):
            yield from norm(f"{block}.norm{place}", width)
            yield f"{block}.attn{place}.to_q.weight", (width, width)
            yield f"{block}.attn{place}.to_k.weight", (width, context)
            yield f"{block}.attn{place}.to_v.weight", (width, context)
            yield from linear(f"{block}.attn{place}.to_out.0", width, width)
        yield from norm(f"{block}.norm3", width)
        yield from linear(f"{block}.ff.net.0.proj", width, 2 * FEED_FORWARD_FACTOR * width)  # a gate and a value
        yield from linear(f"{block}.ff.net.2", FEED_FORWARD_FACTOR * width, width)
    yield from projection("proj_out")


def conv(name: str, before: int, after: int, kernel: int = 3) -> Shapes:
    """A convolution."""
    yield f"{name}.weight", (after, before, kernel, kernel)
    yield f"{name}.bias", (after,)


def linear(name: str, before: int, after: int) -> Shapes:
    """A matrix and its bias."""
    yield f"{name}.weight", (after, before)
    yield f"{name}.bias", (after,)


def norm(name: str, width: int) -> Shapes:
    """Scale and bias of a normalisation."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)

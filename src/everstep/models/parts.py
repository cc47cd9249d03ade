"""Names and shapes of a base's own tensors, told from its configs: UNet, VAE and text encoder, without torch.

None is told of a network with blocks that are not known here; it is then compared while it is loaded.
Source: diffusers, models/unets/unet_2d_condition.py and models/autoencoders/vae.py; transformers, CLIPTextModel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from everstep.models.shapes import (
    BLOCKS,
    EXPECTED,
    TIME_FACTOR,
    Shape,
    Shapes,
    attention,
    conv,
    depths,
    down_block,
    linear,
    norm,
    resnet,
    second_embedding,
)
from everstep.models.weights import TEXT_ENCODERS

UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")
# What else would change a UNet's tensors.
PLAIN = {
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "time_cond_proj_dim": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "attention_type": "default",
    "dual_cross_attention": False,
    "reverse_transformer_layers_per_block": None,
    "cross_attention_norm": None,
    "num_attention_heads": None,
}


OF_UNETS = {"addition_embed_type": (None, "text_time")}


def network_shapes(component: str, config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Every tensor of a base's network, by the folder that it has; None where blocks are not known."""
    if component in TEXT_ENCODERS:
        return text_shapes(config, projects=component != TEXT_ENCODERS[0])
    return unet_shapes(config) if component == "unet" else vae_shapes(config)


def unet_shapes(config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Every tensor of a UNet2DConditionModel."""
    is_plain = all(config.get(key, usual) == usual for key, usual in PLAIN.items() if key != "num_attention_heads")
    is_known = all(config.get(key, known[0]) in known for key, known in {**EXPECTED, **OF_UNETS}.items())
    down, up = config["down_block_types"], config["up_block_types"]
    layers, text = config.get("layers_per_block", 2), config.get("cross_attention_dim")
    if not (is_plain and is_known and set(down) <= set(BLOCKS) and set(up) <= set(UP_BLOCKS)):
        return None
    if type(layers) is not int or type(text) is not int or not config.get("norm_num_groups", 32):
        return None
    depth = config.get("transformer_layers_per_block", 1)
    if not isinstance(depth, int) and not all(isinstance(of_block, int) for of_block in depth):
        return None
    if config.get("addition_embed_type") and type(config.get("projection_class_embeddings_input_dim")) is not int:
        return None
    return dict(_unet(config, list(config["block_out_channels"]), layers))


def _unet(config: Mapping[str, Any], widths: Sequence[int], layers: int) -> Shapes:
    first, last = widths[0], widths[-1]
    time = first * TIME_FACTOR
    yield from conv("conv_in", int(config.get("in_channels", 4)), first)
    yield from linear("time_embedding.linear_1", first, time)
    yield from linear("time_embedding.linear_2", time, time)
    if config.get("addition_embed_type"):
        yield from second_embedding(config, time)
    for number, kind in enumerate(config["down_block_types"]):
        yield from down_block(config, number, kind, widths, layers, time)
    yield from attention("mid_block.attentions.0", config, last, depths(config)[-1])
    for number in range(2):
        yield from resnet(f"mid_block.resnets.{number}", last, last, time)
    for number, kind in enumerate(config["up_block_types"]):
        yield from _up_block(config, number, kind, widths[::-1], layers + 1, time)
    yield from norm("conv_norm_out", first)
    yield from conv("conv_out", first, int(config.get("out_channels", 4)))


def _up_block(
    config: Mapping[str, Any], number: int, kind: str, widths: Sequence[int], layers: int, time: int
) -> Shapes:
    """Widths from the middle outwards. Each layer takes what the encoder kept at its place."""
    name, width = f"up_blocks.{number}", widths[number]
    kept = widths[min(number + 1, len(widths) - 1)]
    for layer in range(layers):
        before = widths[max(0, number - 1)] if layer == 0 else width
        skip = kept if layer == layers - 1 else width
        yield from resnet(f"{name}.resnets.{layer}", before + skip, width, time)
        if kind == "CrossAttnUpBlock2D":
            yield from attention(f"{name}.attentions.{layer}", config, width, depths(config)[-1 - number])
    if number < len(widths) - 1:
        yield from conv(f"{name}.upsamplers.0.conv", width, width)


# --- VAE ---------------------------------------------------------------------------------------------------


def vae_shapes(config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Every tensor of an AutoencoderKL or AutoencoderTiny."""
    if config.get("_class_name") == "AutoencoderTiny":
        return _tiny_shapes(config)
    blocks = set(config.get("down_block_types", ["DownEncoderBlock2D"]))
    blocks |= set(config.get("up_block_types", ["UpDecoderBlock2D"]))
    if config.get("_class_name") != "AutoencoderKL" or not blocks <= {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        return None
    return dict(_vae(config, list(config.get("block_out_channels", [64])), int(config.get("layers_per_block", 1))))


def _vae(config: Mapping[str, Any], widths: Sequence[int], layers: int) -> Shapes:
    latent, has_attention = int(config.get("latent_channels", 4)), bool(config.get("mid_block_add_attention", True))
    yield from conv("encoder.conv_in", int(config.get("in_channels", 3)), widths[0])
    for number, width in enumerate(widths):
        name, before = f"encoder.down_blocks.{number}", widths[max(0, number - 1)]
        for layer in range(layers):
            yield from resnet(f"{name}.resnets.{layer}", width if layer else before, width)
        if number < len(widths) - 1:
            yield from conv(f"{name}.downsamplers.0.conv", width, width)
    yield from _vae_end("encoder", widths[-1], widths[-1], 2 * latent, has_attention)
    yield from conv("decoder.conv_in", latent, widths[-1])
    for number, width in enumerate(widths[::-1]):
        name, before = f"decoder.up_blocks.{number}", widths[::-1][max(0, number - 1)]
        for layer in range(layers + 1):
            yield from resnet(f"{name}.resnets.{layer}", width if layer else before, width)
        if number < len(widths) - 1:
            yield from conv(f"{name}.upsamplers.0.conv", width, width)
    yield from _vae_end("decoder", widths[-1], widths[0], int(config.get("out_channels", 3)), has_attention)
    if config.get("use_quant_conv", True):
        yield from conv("quant_conv", 2 * latent, 2 * latent, kernel=1)
    if config.get("use_post_quant_conv", True):
        yield from conv("post_quant_conv", latent, latent, kernel=1)


def _vae_end(side: str, middle: int, width: int, out: int, has_attention: bool) -> Shapes:
    if has_attention:
        name = f"{side}.mid_block.attentions.0"
        yield from norm(f"{name}.group_norm", middle)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from linear(f"{name}.{part}", middle, middle)
    for number in range(2):
        yield from resnet(f"{side}.mid_block.resnets.{number}", middle, middle)
    yield from norm(f"{side}.conv_norm_out", width)
    yield from conv(f"{side}.conv_out", width, out)


def _tiny_shapes(config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """None where blocks and widths are not one for one."""
    encoder, decoder = config["encoder_block_out_channels"], config["decoder_block_out_channels"]
    encoded, decoded = config["num_encoder_blocks"], config["num_decoder_blocks"]
    if (len(encoder), len(decoder)) != (len(encoded), len(decoded)):
        return None
    latent = int(config["latent_channels"])
    inside = _tiny_encoder(int(config["in_channels"]), encoder, encoded, latent)
    outside = _tiny_decoder(latent, decoder, decoded, int(config["out_channels"]))
    return dict([*inside, *outside])


def _tiny_encoder(before: int, widths: Sequence[int], blocks: Sequence[int], out: int) -> Shapes:
    place = 0
    for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        convolution = conv(f"encoder.layers.{place}", width if number else before, width)
        yield from convolution if number == 0 else list(convolution)[:1]  # those that halve have no bias
        for block in range(place + 1, place + 1 + count):
            yield from _tiny_block(f"encoder.layers.{block}", width)
        place += 1 + count
    yield from conv(f"encoder.layers.{place}", widths[-1], out)


def _tiny_decoder(before: int, widths: Sequence[int], blocks: Sequence[int], out: int) -> Shapes:
    yield from conv("decoder.layers.0", before, widths[0])
    place = 2  # after an activation
    for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        is_last = number == len(widths) - 1
        for block in range(place, place + count):
            yield from _tiny_block(f"decoder.layers.{block}", width)
        place += count + (not is_last)  # what doubles the picture has no tensors
        yield from list(conv(f"decoder.layers.{place}", width, out if is_last else width))[: 1 + is_last]
        place += 1


def _tiny_block(name: str, width: int) -> Shapes:
    for place in (0, 2, 4):
        yield from conv(f"{name}.conv.{place}", width, width)


OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern_vae(found: Mapping[str, Shape]) -> dict[str, Shape]:
    """VAEs of 2022 name their attention otherwise; diffusers reads both."""
    named = {}
    for name, shape in found.items():
        *before, part, end = ["", *name.split(".")] if name.count(".") else ["", "", name]
        if "attentions" in before and part in OLD_NAMES:
            name = ".".join([*before[1:], OLD_NAMES[part], end])
            shape = shape[:2] if end == "weight" else shape
        named[name] = shape
    return named


# --- text encoder ------------------------------------------------------------------------------------------

# What whole CLIP models hold beside the text encoder, and tables of numbers that older ones stored.
PROJECTION = "text_projection.weight"
BESIDE_TEXT = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale", "embeddings.position_ids")


def text_shapes(config: Mapping[str, Any], projects: bool = False) -> dict[str, Shape]:
    """Every tensor of a CLIPTextModel, or of a CLIPTextModelWithProjection, without the prefix text_model."""
    projection = (int(config.get("projection_dim", 512)), int(config.get("hidden_size", 512)))
    return dict(_text(config)) | ({PROJECTION: projection} if projects else {})


def _text(config: Mapping[str, Any]) -> Shapes:
    width, wide = int(config.get("hidden_size", 512)), int(config.get("intermediate_size", 2048))
    yield "embeddings.token_embedding.weight", (int(config.get("vocab_size", 49408)), width)
    yield "embeddings.position_embedding.weight", (int(config.get("max_position_embeddings", 77)), width)
    for number in range(int(config.get("num_hidden_layers", 12))):
        name = f"encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{name}.self_attn.{part}", width, width)
        yield from norm(f"{name}.layer_norm1", width)
        yield from linear(f"{name}.mlp.fc1", width, wide)
        yield from linear(f"{name}.mlp.fc2", wide, width)
        yield from norm(f"{name}.layer_norm2", width)
    yield from norm("final_layer_norm", width)


def plain_text(found: Mapping[str, Shape], projects: bool = False) -> dict[str, Shape]:
    """Without the prefix, and without what is not of the text encoder."""
    named = {name.removeprefix("text_model."): shape for name, shape in found.items()}
    return {
        name: shape
        for name, shape in named.items()
        if not name.startswith(BESIDE_TEXT) or (projects and name == PROJECTION)
    }

"""A ControlNet's config.json as diffusers wants it, told from the shapes of its tensors.

Source: diffusers, models/controlnets/controlnet.py. What shapes do not tell is told by what the network is known as, or
by a base's own config.
"""

from collections.abc import Mapping
from typing import Any

from everstep.exchange.architecture import Architecture, architecture_of
from everstep.exchange.keys import Plan
from everstep.models.numbers import Refused
from everstep.models.shapes import controlnet_shapes, hint_channels
from everstep.models.weights import unlike

HEAD_CHANNELS = 64  # of all networks that came after Stable Diffusion 1.x
FIRST_HEADS = 8  # of every attention in that one
POOLED_AND_SIZES = 2816  # the pooled text, and six numbers as 256 each
SIZE_CHANNELS = 256
GROUPS = 32
# What shapes do not show; a base that it is for has the same.
UNTOLD: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type_num_heads": 64,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": GROUPS,
    "num_attention_heads": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
}
OF_ITSELF = {  # never a base's
    "class_embed_type": None,
    "controlnet_conditioning_channel_order": "rgb",
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "global_pool_conditions": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
}


def described(plan: Plan, told: Mapping[str, Any] | None) -> dict[str, Any]:
    """The config.json of tensors in our names.

    Args:
        told: the config of the base that it is for, or its own; what shapes show is not taken from there.

    Raises: Refused for what is no ControlNet of Stable Diffusion, or lacks tensors.
    """
    try:
        found = architecture_of(plan)
    except (KeyError, IndexError) as error:
        raise Refused(f"is not whole: it lacks {str(error.args[0])[:120]}") from None
    if not found.widths or min(found.widths) < 1:
        raise Refused("has no blocks")
    config = {
        "_class_name": "ControlNetModel",
        **OF_ITSELF,
        **{key: (told or {}).get(key, value) for key, value in UNTOLD.items()},
        "block_out_channels": list(found.widths),
        "conditioning_channels": found.image_channels,
        "conditioning_embedding_out_channels": _hint(found),
        "cross_attention_dim": found.text_width or (2048 if found.embedding else 768),
        "down_block_types": ["DownBlock2D" if d is None else "CrossAttnDownBlock2D" for d in found.depths],
        "in_channels": found.latent_channels,
        "layers_per_block": found.layers,
        "mid_block_type": "UNetMidBlock2D" if found.middle_depth is None else "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": _depths(found),
        "use_linear_projection": found.is_linear,
        **_embedding(found),
    }
    config["attention_head_dim"] = _heads(found, told)
    if found.widths[0] % config["norm_num_groups"] or any(w % config["norm_num_groups"] for w in found.widths):
        raise Refused(f"has blocks of {', '.join(map(str, found.widths))} channels, which no known network has",
                      "--base names the base that it is for, which tells the rest.")  # fmt: skip
    return config


def of_base(base: Any) -> dict[str, Any]:
    """Of a ControlNet that would be begun from a base: what a partial one is filled up to."""
    unet = base.config("unet")
    keys = ("block_out_channels", "down_block_types", "in_channels", "layers_per_block", "cross_attention_dim",
            "attention_head_dim", "transformer_layers_per_block", "use_linear_projection", "addition_embed_type",
            "addition_time_embed_dim", "projection_class_embeddings_input_dim", "mid_block_type")  # fmt: skip
    return {
        "_class_name": "ControlNetModel",
        **OF_ITSELF,
        **{key: unet.get(key, value) for key, value in UNTOLD.items()},
        **{key: unet[key] for key in keys if key in unet},
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": list(hint_channels(base)),
    }


def shapes_of_config(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that a config asks for, in the order of the network's parameters. Raises: Refused."""
    shapes = controlnet_shapes(config, config["conditioning_embedding_out_channels"])
    if shapes is None:
        raise Refused("has blocks that are not known here")
    return shapes


def other_than(config: Mapping[str, Any], plan: Plan) -> str | None:
    """What of the tensors is missing, too much or of another shape, in words."""
    return unlike(shapes_of_config(config), plan)


def _hint(found: Architecture) -> list[int]:
    """Its layers come in pairs, one that keeps the width and one that widens; the config has each width once."""
    return [found.hint[0], *found.hint[2::2]]


def _depths(found: Architecture) -> int | list[int]:
    depths = [1 if depth is None else depth for depth in found.depths]
    middle = found.middle_depth
    if middle is not None and found.depths[-1] is None:
        depths[-1] = middle  # the last block has none, and the middle goes by its number
    return depths[0] if len(set(depths)) == 1 else depths


def _heads(found: Architecture, told: Mapping[str, Any] | None) -> Any:
    """How many heads each block's attention has; the key's name is an old mistake of the library's."""
    if told is not None and "attention_head_dim" in told:
        return told["attention_head_dim"]
    if not found.is_linear:
        return FIRST_HEADS
    if any(width % HEAD_CHANNELS for width in found.widths):
        raise Refused("does not show how many heads its attention has",
                      "--base names the base that it is for, which tells it.")  # fmt: skip
    return [width // HEAD_CHANNELS for width in found.widths]


def _embedding(found: Architecture) -> dict[str, Any]:
    if found.embedding is None:
        return {
            "addition_embed_type": None,
            "addition_time_embed_dim": None,
            "projection_class_embeddings_input_dim": None,
        }
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_CHANNELS,
        "projection_class_embeddings_input_dim": found.embedding,
    }

"""What a ControlNet and its base hold between forward and backward, in bytes, told from configs alone, without torch.

Autograd keeps the inputs of what it will differentiate. Of the base that is its decoder alone: its encoder and middle
have run before the ControlNet is heard. Where weights are frozen, a matrix keeps no input, but a convolution does.
Source: diffusers, models/unets/unet_2d_blocks.py, models/attention.py; PyTorch, tools/autograd/derivatives.yaml.
Legend: a place is one pixel of latents, of all pictures of a batch, at the scale of a block.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile, pairwise
from typing import Any

from everstep.exchange.lllite import Place
from everstep.models.shapes import FEED_FORWARD_FACTOR, IMAGE_CHANNELS, TIME_FACTOR, Shape, depths

WIDE_BYTES = 4  # of float32
LARGEST_SHRINKING = 32  # of an LLLite's condition, in three steps instead of two
# They multiply what nothing before them is trained to make.
HEARD_AS_GIVEN = ("attn2.to_k", "attn2.to_v", "time_embedding.linear_1", "add_embedding.linear_1")


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward and backward of one batch through one network.

    Args:
        places: of the latents of the whole batch.
        item_bytes: of the numbers that are computed with.
        text_length: tokens that are heard.
        is_trained: whether its weights get gradients; they are float32 then.
        has_wide_norms: whether normalisations are computed in float32 among what is narrower: autocast does on CUDA.
        is_recomputed: whether blocks keep their inputs alone, and compute the rest again.
    """

    batch: int
    places: int
    item_bytes: int
    text_length: int
    is_trained: bool
    has_wide_norms: bool = False
    is_recomputed: bool = False

    @property
    def statistic_bytes(self) -> int:
        """Of a mean or deviation that a normalisation keeps; mixed with float32 weights they are float32."""
        return WIDE_BYTES if self.is_trained or self.has_wide_norms else self.item_bytes

    def halved(self, times: int) -> "Pass":
        """At the scale of a block that is so many steps down."""
        return replace(self, places=self.places >> 2 * times)


@dataclass(frozen=True, slots=True)
class Held:
    """What one layer keeps from its forward to its backward, in the order of the forward.

    Args:
        again_bytes: what its backward computes anew and holds meanwhile.
        widest_bytes: the largest that goes in or comes out: gradients of that size exist beside, for a moment.
    """

    name: str
    kept_bytes: int
    again_bytes: int = 0
    widest_bytes: int = 0


# --- networks ----------------------------------------------------------------------------------------------


def controlnet_holds(config: Mapping[str, Any], hint: Sequence[int], of: Pass) -> Iterator[Held]:
    """Everything of a ControlNet; its names are those of `shapes.controlnet_shapes`, cut short."""
    widths, layers = list(config["block_out_channels"]), int(config.get("layers_per_block", 2))
    yield from _embeddings(config, widths[0], of)
    yield Held("conv_in", of.places * int(config.get("in_channels", 4)) * of.item_bytes)
    yield _hint_encoder(hint, of, of.places << 2 * (len(hint) - 1))
    yield from _encoder(config, of)
    yield from _middle(config, of.halved(len(widths) - 1))
    # Their inputs are what the next layers normalise, and kept for those, unless these keep a copy in float32.
    ends = _residuals(widths, layers, of) if of.has_wide_norms else 0
    last = widths[-1] * of.halved(len(widths) - 1).places
    yield Held("controlnet_", (ends + last) * of.item_bytes)


def _encoder(config: Mapping[str, Any], of: Pass) -> Iterator[Held]:
    """The blocks that go down, after the first convolution."""
    widths, layers = list(config["block_out_channels"]), int(config.get("layers_per_block", 2))
    for number, kind in enumerate(config["down_block_types"]):
        here, name = of.halved(number), f"down_blocks.{number}"
        for layer in range(layers):
            before = widths[max(0, number - 1)] if layer == 0 else widths[number]
            yield _resnet(f"{name}.resnets.{layer}", before, widths[number], config, here)
            if kind == "CrossAttnDownBlock2D":
                yield from _attention(f"{name}.attentions.{layer}", config, number, depths(config)[number], here)
        if number < len(widths) - 1:
            yield _convolution(f"{name}.downsamplers.0", widths[number], here.places, of)


def _residuals(widths: Sequence[int], layers: int, of: Pass) -> int:
    """Numbers in what the blocks hand to the other half."""
    inside = sum(layers * width * of.halved(number).places for number, width in enumerate(widths))
    between = sum(width * of.halved(number + 1).places for number, width in enumerate(widths[:-1]))
    return widths[0] * of.places + inside + between


def lllite_holds(
    config: Mapping[str, Any], places: Sequence[Place], embedding: int, width: int, of: Pass, pixels: int
) -> Iterator[Held]:
    """Everything of an LLLite, and what the frozen UNet holds from the first of its modules to the middle.

    Args:
        config: the UNet's.
        of: with frozen weights.
        pixels: of the condition pictures of a batch.
    """
    frozen = [*_encoder(config, of), *_middle(config, of.halved(len(config["block_out_channels"]) - 1))]
    frozen = list(dropwhile(lambda held: ".transformer_blocks." not in held.name, frozen))
    again: dict[str, int] = {}
    modules, seen = [Held("conditions", IMAGE_CHANNELS * pixels * of.item_bytes)], set[str]()
    for place in places:
        attention, here = place.matrix.rpartition(".")[0], pixels // place.shrinking**2
        # What is joined, and what the activations before and after it make; query, key and value have the same inputs.
        inside = (embedding + 3 * width + place.features * (attention not in seen)) * here * of.item_bytes
        seen.add(attention)
        modules.append(Held(f"{place.module}.conditioning1", _embedding_bytes(place, embedding, pixels, of)))
        modules.append(_maybe_again(place.module, inside, 0, place.features, replace(of, places=here)))
        if of.is_recomputed:  # within the block that is computed anew
            block = attention.rpartition(".")[0]
            again[block] = again.get(block, 0) + inside
    yield from modules
    yield from (replace(held, again_bytes=held.again_bytes + again.get(held.name, 0)) for held in frozen)


def _embedding_bytes(place: Place, embedding: int, pixels: int, of: Pass) -> int:
    """Of the convolutions through which a module makes the condition small: between them, and of the last."""
    halfway = pixels // 16 + (pixels // 256 if place.shrinking == LARGEST_SHRINKING else 0)
    return embedding * (halfway // 2 + pixels // place.shrinking**2) * of.item_bytes


def decoder_holds(config: Mapping[str, Any], of: Pass) -> Iterator[Held]:
    """The half of a frozen UNet that hears the ControlNet."""
    widths, layers = list(config["block_out_channels"])[::-1], int(config.get("layers_per_block", 2)) + 1
    for number, kind in enumerate(config["up_block_types"]):
        here, name, width = of.halved(len(widths) - 1 - number), f"up_blocks.{number}", widths[number]
        for layer in range(layers):
            before = widths[max(0, number - 1)] if layer == 0 else width
            skip = widths[min(number + 1, len(widths) - 1)] if layer == layers - 1 else width
            yield _resnet(f"{name}.resnets.{layer}", before + skip, width, config, here)
            if kind == "CrossAttnUpBlock2D":
                place = len(widths) - 1 - number
                yield from _attention(f"{name}.attentions.{layer}", config, place, depths(config)[place], here)
        if number < len(widths) - 1:
            yield _convolution(f"{name}.upsamplers.0", width, 4 * here.places, of)
    end = 3 * widths[-1] * of.places * of.item_bytes
    yield Held("conv_norm_out", end + _group_statistics(config, of), widest_bytes=end // 3)
    yield Held("loss", of.places * int(config.get("out_channels", 4)) * WIDE_BYTES)


def is_cast(name: str, shape: Shape) -> bool:
    """Whether a trained tensor takes part in a product, and its backward needs it in the numbers of that product."""
    return len(shape) > 1 and not name.removesuffix(".weight").endswith(HEARD_AS_GIVEN)


# --- layers ------------------------------------------------------------------------------------------------


def _embeddings(config: Mapping[str, Any], first: int, of: Pass) -> Iterator[Held]:
    """Into each matrix and activation, with the sum that every resnet activates; and the text, where it is heard."""
    time = first * TIME_FACTOR
    each = of.batch * of.item_bytes
    hears = of.is_recomputed or any(depths(config))  # blocks that compute again, even if none but the base's does
    text = of.text_length * int(config["cross_attention_dim"]) if hears else 0
    # The sum itself is kept by blocks that compute again.
    yield Held("time_embedding", each * (first + (4 if of.is_recomputed else 3) * time + text))
    if config.get("addition_embed_type"):
        yield Held("add_embedding", each * (int(config["projection_class_embeddings_input_dim"]) + 2 * time))


def _hint_encoder(hint: Sequence[int], of: Pass, places: int) -> Held:
    """Each convolution but the first comes after an activation, and both keep what goes in."""
    kept = IMAGE_CHANNELS * places
    for narrow, wide in pairwise(hint):
        kept += 4 * narrow * places
        places //= 4
        kept += 2 * wide * places if wide is hint[-1] else 0
    return Held("controlnet_cond_embedding", kept * of.item_bytes)


def _middle(config: Mapping[str, Any], of: Pass) -> Iterator[Held]:
    """The first resnet is never computed again."""
    width, place = config["block_out_channels"][-1], len(config["block_out_channels"]) - 1
    yield _resnet("mid_block.resnets.0", width, width, config, replace(of, is_recomputed=False))
    if config.get("mid_block_type") != "UNetMidBlock2D":
        yield from _attention("mid_block.attentions.0", config, place, depths(config)[-1], of)
        yield _resnet("mid_block.resnets.1", width, width, config, of)


def _resnet(name: str, before: int, width: int, config: Mapping[str, Any], of: Pass) -> Held:
    """Twice a normalisation, an activation and a convolution, each of which keeps what goes in."""
    narrow, wide = of.item_bytes, WIDE_BYTES if of.has_wide_norms else of.item_bytes
    kept = (before + width) * of.places * (2 * wide + narrow) + 2 * _group_statistics(config, of)
    if of.has_wide_norms and before != width:
        kept += before * of.places * narrow  # the shortcut's own
    if of.is_trained:
        kept += of.batch * config["block_out_channels"][0] * TIME_FACTOR * narrow
    return _maybe_again(name, kept, before * of.places * narrow, max(before, width), of)


def _attention(name: str, config: Mapping[str, Any], place: int, depth: int, of: Pass) -> Iterator[Held]:
    """A normalisation, a projection, blocks that hear the text, and a projection back."""
    width, narrow = config["block_out_channels"][place], of.item_bytes
    wide = WIDE_BYTES if of.has_wide_norms else narrow
    keeps_input = of.is_trained or not config.get("use_linear_projection")
    begin = width * of.places * (wide + narrow * keeps_input) + _group_statistics(config, of)
    yield Held(name, begin)
    for number in range(depth):
        kept = _transformer(config, place, width, of)
        block = f"{name}.transformer_blocks.{number}"
        yield _maybe_again(block, kept, width * of.places * narrow, 2 * FEED_FORWARD_FACTOR * width, of)
    yield Held(f"{name}.proj_out", width * of.places * narrow * keeps_input)


def _transformer(config: Mapping[str, Any], place: int, width: int, of: Pass) -> int:
    """Hears itself, then the text, then its matrices with a gate. Attention is never written out as a table."""
    narrow, wide = of.item_bytes, WIDE_BYTES if of.has_wide_norms else of.item_bytes
    normalised = 3 * (width * wide + 2 * of.statistic_bytes)
    heard = 2 * (2 * width * narrow + _heads(config, place) * WIDE_BYTES)  # query, answer, and their scale
    heard += 2 * width * narrow  # keys and values of itself
    gated = 3 * FEED_FORWARD_FACTOR * width * narrow
    trained = 0
    if of.is_trained:
        copies = 3 if of.has_wide_norms else 1  # each of query, key and value casts its own
        trained = (copies + 1 + 1 + FEED_FORWARD_FACTOR) * width * narrow
    text = 2 * of.batch * of.text_length * width * narrow
    return of.places * (normalised + heard + gated + trained) + text


def _convolution(name: str, width: int, places: int, of: Pass) -> Held:
    kept = width * places * of.item_bytes
    return Held(name, kept, widest_bytes=kept)


def _maybe_again(name: str, kept: int, input_bytes: int, widest: int, of: Pass) -> Held:
    widest_bytes = widest * of.places * of.item_bytes
    if of.is_recomputed:
        return Held(name, input_bytes, again_bytes=kept, widest_bytes=widest_bytes)
    return Held(name, kept, widest_bytes=widest_bytes)


def _group_statistics(config: Mapping[str, Any], of: Pass) -> int:
    return 2 * of.batch * int(config.get("norm_num_groups") or 32) * of.statistic_bytes


def _heads(config: Mapping[str, Any], place: int) -> int:
    """What diffusers' configs call the width of a head is their number."""
    found = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    return int(found if isinstance(found, int) else found[place])

"""Whether an exported file is the version's ControlNet: read back tensor by tensor, and computed with.

Legend: B batch, C latent channels, H and W height and width, L and D length and width of a text.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from safetensors import safe_open
from torch import Tensor, nn

import everstep.models.libraries  # noqa: F401  (quietens the others)
from everstep.errors import DamageFound
from everstep.exchange.keys import Bijection
from everstep.exchange.lllite import is_lllite
from everstep.models.lllite import ControlNetLLLite

# How far what a network computes may move when its weights are rounded, over its own size. At the size of SD 1.5 it is
# 0.06 % in fp16 and 0.5 % in bf16; with zero convolutions of 1e-7, which fp16 cannot hold, 17 %.
TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 8e-2}
SIDE = 8  # of the latents that are computed with: the smallest that four blocks can halve
TEXT_TOKENS = 4
LLLITE_SIDE = 64  # of the picture: no LLLite makes it smaller by more than 32


def reread(
    path: Path, bijection: Bijection, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype
) -> float:
    """Returns by how much what it computes differs from what the version's own weights compute, over its size.

    Args:
        tensors: the version's own, as they were trained.

    Raises: DamageFound saying what is not as it should be.
    """
    with safe_open(path, framework="pt") as file:
        found = bijection.back({name: file.get_tensor(name) for name in file.keys()}, torch.cat)  # noqa: SIM118
    is_rounded = False
    for name, tensor in tensors.items():
        if found[name].dtype != dtype or not torch.equal(found[name], tensor.to(dtype)):
            raise DamageFound(f"{name} is not in the file as it is in the version")
        is_rounded = is_rounded or not torch.equal(found[name].float(), tensor.float())
    if not is_rounded:  # kernels may sum the same numbers in another order; nothing of that is the file's
        return 0.0
    difference = _difference(config, tensors, found)
    if not difference <= TOLERANCES[dtype]:
        raise DamageFound(f"what it computes differs by {difference:.2%} from what the version computes")
    return difference


def _difference(config: Mapping[str, Any], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The network has no numbers of its own: beside what was read, those of one in float32 are in memory."""
    network, answers = _answering(config, ours)
    computed = []
    for tensors in (ours, theirs):
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        with torch.no_grad():
            computed.append(torch.cat([answer.flatten() for answer in answers()]))
    size = float(computed[0].norm())
    apart = float((computed[0] - computed[1]).norm())
    return apart / size if size else (math.inf if apart else 0.0)


def _answering(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, Callable[[], list[Tensor]]]:
    """A network for such tensors, and what it computes of something that is the same each time."""
    if is_lllite(tensors):
        with torch.device("meta"):
            lite = ControlNetLLLite({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return lite, partial(_of_lllite, lite)
    with torch.device("meta"):
        network = ControlNetModel.from_config(dict(config)).eval()
    return network, partial(_of_controlnet, network, _inputs(network))


def _of_controlnet(network: ControlNetModel, inputs: Mapping[str, Any]) -> list[Tensor]:
    down, middle = network(**inputs, return_dict=False)
    return [*down, middle]


def _of_lllite(network: ControlNetLLLite) -> list[Tensor]:
    """What each module adds to something, which is the same each time."""
    generator = torch.Generator().manual_seed(0)
    embedded = network.embed(torch.rand(1, 3, LLLITE_SIDE, LLLITE_SIDE, generator=generator))
    return [
        module(torch.randn(1, embedded[name].shape[1], module.features, generator=generator), embedded[name])
        for name, module in network.modules_by_name.items()
    ]


def _inputs(network: ControlNetModel) -> dict[str, Any]:
    """Something of every input, the same each time.

    Shapes: sample_BCHW, condition_B3HW in [0,1], encoder_hidden_states_BLD
    """
    config = network.config
    generator = torch.Generator().manual_seed(0)
    side = max(SIDE, 2 ** (len(config.block_out_channels) - 1))
    pixels = side * 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    given: dict[str, Any] = {
        "sample": torch.randn(1, config.in_channels, side, side, generator=generator),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, config.cross_attention_dim, generator=generator),
        "controlnet_cond": torch.rand(1, config.conditioning_channels, pixels, pixels, generator=generator),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]])
        text = torch.randn(1, pooled, generator=generator)
        given["added_cond_kwargs"] = {"text_embeds": text, "time_ids": sizes}
    return given

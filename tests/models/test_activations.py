"""What is told of a forward and backward without torch is what autograd keeps, byte for byte."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from everstep.config.schema import Compute
from everstep.exchange.lllite import lllite_shapes, places
from everstep.launch.step_memory import layers_of
from everstep.models.activations import Pass, controlnet_holds, decoder_holds, lllite_holds
from everstep.models.arithmetic import arithmetic
from everstep.models.lllite import ControlNetLLLite, Insertions
from everstep.models.shapes import controlnet_shapes, smaller

BATCH, SIDE, TEXT, HINT = 2, 16, 7, (16, 32, 96)
COMMON = {"sample_size": 8, "block_out_channels": (32, 64, 64), "norm_num_groups": 4, "cross_attention_dim": 24}
FIRST = {
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
XL = {
    "attention_head_dim": (2, 4, 8),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 3),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 16,
}
NETWORKS = [(FIRST, "full"), (XL, "full"), (XL, "mid"), (XL, "small")]


def networks(like: dict[str, Any], size: str, dtype: torch.dtype) -> tuple[UNet2DConditionModel, ControlNetModel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = UNet2DConditionModel(**COMMON, **like)
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT)
        controlnet = ControlNetModel.from_config({**controlnet.config, **smaller(controlnet.config, size)})
        return unet.to(dtype).requires_grad_(False).eval(), controlnet.train()


class Counted:
    """Bytes that autograd keeps, each once, without weights that are there anyway."""

    def __init__(self, *networks: nn.Module) -> None:
        self._weights = {one.untyped_storage().data_ptr() for network in networks for one in network.parameters()}
        self._kept: dict[int, Tensor] = {}
        self._is_heard = True

    def pack(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if self._is_heard and place not in self._weights:
            self._kept[place] = tensor
        return tensor

    def leave_out(self, network: nn.Module) -> None:
        """What checkpoints of blocks without any slope pack is let go of when these return."""
        network.register_forward_pre_hook(lambda *_: setattr(self, "_is_heard", False))
        network.register_forward_hook(lambda *_: setattr(self, "_is_heard", True))

    @property
    def kept_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


def kept_by_autograd(unet: UNet2DConditionModel, controlnet: ControlNetModel, dtype: torch.dtype) -> int:
    counted = Counted(unet, controlnet)
    for block in (*unet.down_blocks, unet.mid_block):
        counted.leave_out(block)
    noisy, text = torch.randn(BATCH, 4, SIDE, SIDE, dtype=dtype), torch.randn(BATCH, TEXT, 24, dtype=dtype)
    beside = {"text_embeds": torch.randn(BATCH, 16, dtype=dtype), "time_ids": torch.randn(BATCH, 6, dtype=dtype)}
    given = (noisy, torch.tensor([3, 5]), text)
    heard: dict[str, Any] = {"return_dict": False, "added_cond_kwargs": beside}
    with torch.autograd.graph.saved_tensors_hooks(counted.pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            picture = torch.rand(BATCH, 3, 4 * SIDE, 4 * SIDE)
            down, middle = controlnet(*given, controlnet_cond=picture, **heard)
        residuals = {
            "down_block_additional_residuals": [one.to(dtype) for one in down],
            "mid_block_additional_residual": middle.to(dtype),
        }
        predicted = unet(*given, **residuals, **heard)[0]
        (predicted.float() - torch.zeros(predicted.shape)).square().mean()
    return counted.kept_bytes


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("like", "size"), NETWORKS)
def test_what_autograd_keeps_is_told_to_the_byte(
    like: dict[str, Any], size: str, dtype: torch.dtype, is_recomputed: bool
) -> None:
    unet, controlnet = networks(like, size, dtype)
    if is_recomputed:
        unet.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    found = kept_by_autograd(unet, controlnet, dtype)
    trained = pass_of(dtype, True, is_recomputed)
    holds = list(controlnet_holds(controlnet.config, HINT, trained))
    shapes = controlnet_shapes(controlnet.config, HINT)
    assert shapes is not None
    kept = sum(layer.kept_bytes for layer in layers_of(holds, shapes, trained))
    kept += sum(held.kept_bytes for held in decoder_holds(unet.config, pass_of(dtype, False, is_recomputed)))
    assert kept == found


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_autograd_keeps_of_an_lllite_and_its_unet_is_told(dtype: torch.dtype, is_recomputed: bool) -> None:
    unet, _ = networks(XL, "full", dtype)
    stands = places({name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}, factor=4)
    shapes = lllite_shapes({name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}, 8, 16, factor=4)
    network = ControlNetLLLite(shapes)
    settings = Compute(device="cpu", precision="fp32" if dtype == torch.float32 else "bf16")
    insertions = Insertions(unet, stands, arithmetic(settings))
    if is_recomputed:
        unet.enable_gradient_checkpointing()
    counted = Counted(unet, network)
    if is_recomputed:
        counted.leave_out(unet.down_blocks[0])
    text, picture = torch.randn(BATCH, TEXT, 24, dtype=dtype), torch.rand(BATCH, 3, 4 * SIDE, 4 * SIDE)
    beside = {"text_embeds": torch.randn(BATCH, 16, dtype=dtype), "time_ids": torch.randn(BATCH, 6, dtype=dtype)}
    with torch.autograd.graph.saved_tensors_hooks(counted.pack, lambda tensor: tensor):
        insertions.set(network, picture)
        noisy = torch.randn(BATCH, 4, SIDE, SIDE, dtype=dtype)
        heard: dict[str, Any] = {"return_dict": False, "added_cond_kwargs": beside}
        predicted = unet(noisy, torch.tensor([3, 5]), text, **heard)[0]
        (predicted.float() - torch.zeros(predicted.shape)).square().mean()
    frozen = pass_of(dtype, False, is_recomputed)
    holds = list(lllite_holds(unet.config, stands, 8, 16, frozen, BATCH * (4 * SIDE) ** 2))
    kept = sum(layer.kept_bytes for layer in layers_of(holds, shapes, frozen))
    kept += sum(held.kept_bytes for held in decoder_holds(unet.config, frozen))
    embedded = dtype.itemsize * sum(one.numel() for one in network.embed(picture).values())  # held by the insertions
    assert kept == pytest.approx(counted.kept_bytes + embedded, rel=0.02)


def pass_of(dtype: torch.dtype, is_trained: bool, is_recomputed: bool = False, **other: Any) -> Pass:
    settings = {"batch": BATCH, "places": BATCH * SIDE**2, "item_bytes": dtype.itemsize, "text_length": TEXT}
    return Pass(**{**settings, **other}, is_trained=is_trained, is_recomputed=is_recomputed)


def total(holds: Callable[[Pass], Any], of: Pass) -> int:
    return sum(held.kept_bytes for held in holds(of))


def test_normalisations_in_float32_keep_more_and_no_more_than_if_all_were_float32() -> None:
    """As it is on CUDA: each of what they take and give is kept in float32, and what products take beside it."""

    def holds(of: Pass) -> Any:
        return controlnet_holds({**COMMON, **XL}, HINT, of)

    narrow = total(holds, pass_of(torch.bfloat16, True))
    among = total(holds, pass_of(torch.bfloat16, True, has_wide_norms=True))
    assert 1.2 * narrow < among < total(holds, pass_of(torch.float32, True))


@pytest.mark.parametrize("name", ["batch", "places", "text_length"])
def test_more_of_anything_keeps_more(name: str) -> None:
    few = pass_of(torch.float32, True)
    many = pass_of(torch.float32, True, **{name: 2 * getattr(few, name)})
    for of_both in (
        lambda of: controlnet_holds({**COMMON, **FIRST}, HINT, of),
        lambda of: decoder_holds({**COMMON, **FIRST}, of),
    ):
        assert total(of_both, few) < total(of_both, many)

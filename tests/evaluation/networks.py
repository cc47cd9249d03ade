"""Small real networks as users bring them: exported programs with a known result, and transformers' own models."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from small_base.tokenizer import write_tokenizer


class Mapped(nn.Module):
    """A network of one function, with a weight and a buffer as real ones have."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.function(pixels) * self.scale + self.offset


def brightness(pixels: Tensor) -> Tensor:
    return pixels.mean(dim=1, keepdim=True)


def same(pixels: Tensor) -> Tensor:
    """Logits of three classes: the brightest of red, green and blue wins."""
    return pixels * 2


def export(
    path: Path, function: Callable[[Tensor], Tensor], batch: int | None = None, side_px: int | None = None
) -> Path:
    """Batch and side are free where they are not given."""
    free = {}
    if batch is None:
        free[0] = Dim.AUTO
    if side_px is None:
        free |= {2: Dim.AUTO, 3: Dim.AUTO}
    example = torch.rand(batch or 2, 3, side_px or 32, side_px or 48)
    torch.export.save(torch.export.export(Mapped(function).eval(), (example,), dynamic_shapes=(free or None,)), path)
    return path


def write_dpt(folder: Path) -> Path:
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
        initializer_range=0.3,
    )
    DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_segformer(folder: Path) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=5,
        depths=[1] * 4,
        hidden_sizes=[8] * 4,
        decoder_hidden_size=8,
        num_attention_heads=[1] * 4,
        initializer_range=0.3,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP whose texts have at most 16 tokens."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder, ("red circle with blue background",))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, **size, **ends}
    vision = {"image_size": 32, "patch_size": 8, **size}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    sides = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=sides).save_pretrained(folder)
    return folder

"""A small ControlNet-LLLite, by itself, and pictures that it learns from."""

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from everstep.config.schema import Compute
from everstep.data import open_source
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.lllite import ControlNetLLLite
from everstep.models.sdxl import StableDiffusionXL


def family(base: Path, **compute: object) -> StableDiffusionXL:
    settings = Compute(device="cpu", **compute)
    return StableDiffusionXL(locate(str(base)), arithmetic(settings), settings)


def grown(network: ControlNetLLLite) -> ControlNetLLLite:
    """As if it had learned something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in network.modules_by_name.values():
            for parameter in module.up.parameters():
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return network


def reference(weights: dict[str, Tensor], module: str, inputs: Tensor, condition: Tensor) -> Tensor:
    """What a module adds, by its author's description: from a file's tensors alone."""
    own = {name.removeprefix(f"{module}."): tensor for name, tensor in weights.items() if name.startswith(f"{module}.")}
    embedded = condition * 2 - 1
    places = sorted(name.split(".")[1] for name in own if name.startswith("conditioning1.") and name.endswith("weight"))
    for number, place in enumerate(places):
        weight, bias = own[f"conditioning1.{place}.weight"], own[f"conditioning1.{place}.bias"]
        embedded = functional.conv2d(functional.relu(embedded) if number else embedded, weight, bias, weight.shape[-1])
    flat = embedded.reshape(*embedded.shape[:2], -1).permute(0, 2, 1).repeat(len(inputs) // len(embedded), 1, 1)
    narrow = functional.relu(functional.linear(inputs, own["down.0.weight"], own["down.0.bias"]))
    joined = functional.linear(torch.cat([flat, narrow], dim=2), own["mid.0.weight"], own["mid.0.bias"])
    return functional.linear(functional.relu(joined), own["up.0.weight"], own["up.0.bias"])


def write_tiles(folder: Path, pairs: int) -> Path:
    """The built-in circles, whose condition is the picture itself in 8 by 8 squares of one colour."""
    source = open_source("builtin:circles", 64)
    folder.mkdir()
    with (folder / "metadata.jsonl").open("w") as lines:
        for number in range(pairs):
            pair = source.load(number)
            pair.target.save(folder / f"{number}.png")
            tiles = pair.target.resize((8, 8), Image.Resampling.BOX).resize((64, 64), Image.Resampling.NEAREST)
            tiles.save(folder / f"{number}_tiles.png")
            row = {"image": f"{number}.png", "conditioning_image": f"{number}_tiles.png", "text": pair.caption}
            lines.write(json.dumps(row) + "\n")
    return folder

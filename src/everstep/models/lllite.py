"""ControlNet-LLLite: small networks that change what the attentions of a frozen UNet are given.

Legend: B batch, 3 RGB, H and W height and width in pixels, L places of an attention, D their width, E the embedding's.
Source: kohya-ss/sd-scripts, networks/control_net_lllite.py.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from everstep.exchange.keys import Plan
from everstep.exchange.lllite import Place, sizes_of
from everstep.models.arithmetic import Arithmetic
from everstep.models.controls import lllite_config


class ControlNetLLLite(nn.Module):
    """A module for each matrix that it stands before, under its author's names."""

    def __init__(self, shapes: Plan) -> None:
        """One that adds nothing yet, float32. shapes: of every tensor of it, in order."""
        super().__init__()
        self.config = lllite_config(*sizes_of(shapes))
        for module, names in groupby(shapes, lambda name: name.partition(".")[0]):
            self.add_module(module, Module({name.partition(".")[2]: shapes[name] for name in names}))

    @property
    def modules_by_name(self) -> dict[str, "Module"]:
        """In the order of the UNet."""
        return {name: module for name, module in self.named_children() if isinstance(module, Module)}

    def embed(self, conditions_B3HW: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Shapes: [B,3,H,W] in [0,1] -> [B,L,E] for each module.

        Args:
            dtype: that is computed in. Each of 136 modules would keep a picture of its own in it.
        """
        given_B3HW = (conditions_B3HW * 2 - 1).to(dtype)
        return {name: module.embed(given_B3HW) for name, module in self.modules_by_name.items()}

    def adds_nothing(self) -> bool:
        """Whether the last layers are still zero."""
        ends = (module.up for module in self.modules_by_name.values())
        return not any(bool(parameter.any()) for end in ends for parameter in end.parameters())

    def to_json_string(self) -> str:
        """Its config.json."""
        return json.dumps(self.config, indent=2, sort_keys=True) + "\n"


class Module(nn.Module):
    """Stands before one matrix: makes the inputs narrow, joins them with the condition, and adds what comes of both."""

    def __init__(self, shapes: Plan) -> None:
        """shapes: of its tensors, by their names in it."""
        super().__init__()
        layers = [shape for name, shape in shapes.items() if name.startswith("conditioning1.") and len(shape) > 1]
        convolutions = [nn.Conv2d(before, after, side, stride=side) for after, before, side, _ in layers]
        self.conditioning1 = nn.Sequential(convolutions[0])
        for convolution in convolutions[1:]:
            self.conditioning1.extend([nn.ReLU(), convolution])
        self.down = nn.Sequential(_linear(shapes["down.0.weight"]), nn.ReLU())
        self.mid = nn.Sequential(_linear(shapes["mid.0.weight"]), nn.ReLU())
        self.up = nn.Sequential(_linear(shapes["up.0.weight"]))
        self.features = shapes["up.0.weight"][0]
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def embed(self, given_B3HW: Tensor) -> Tensor:
        """The condition is embedded once, whatever the time. Shapes: [B,3,H,W] in [-1,1] -> [B,L,E]."""
        embedded: Tensor = self.conditioning1(given_B3HW)
        return embedded.flatten(2).transpose(1, 2)

    def forward(self, inputs_BLD: Tensor, embedded_BLE: Tensor) -> Tensor:
        """What is added to the inputs, [B,L,D]."""
        added: Tensor = self.up(self.mid(torch.cat([embedded_BLE, self.down(inputs_BLD)], dim=2)))
        return added


def _linear(shape: tuple[int, ...]) -> nn.Linear:
    after, before = shape
    return nn.Linear(before, after)


class Insertions:
    """The places in a UNet where an LLLite adds to what comes in.

    The hooks stay, and what they add is left in force after the UNet has answered: where gradients are checkpointed,
    its layers are computed once more during the backward pass, and have to be given the same.
    """

    def __init__(self, unet: nn.Module, places: list[Place], arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self._network: ControlNetLLLite | None = None
        self._embedded: Mapping[str, Tensor] = {}
        self._scale = 1.0
        for place in places:
            unet.get_submodule(place.matrix).register_forward_pre_hook(partial(self._add, place.module))

    def set(self, network: ControlNetLLLite, conditions_B3HW: Tensor, scale: float = 1.0) -> None:
        """What the UNet hears from now on. Shapes: [B,3,H,W] in [0,1]."""
        with self._arithmetic.autocast():
            self._embedded = network.embed(conditions_B3HW, self._arithmetic.dtype)
        self._network, self._scale = network, scale

    def clear(self) -> None:
        """The UNet is alone from now on."""
        self._network, self._embedded = None, {}

    @contextmanager
    def during(self, network: ControlNetLLLite, conditions_B3HW: Tensor, scale: float) -> Iterator[None]:
        """For a drawing, after which nothing is computed once more."""
        self.set(network, conditions_B3HW, scale)
        try:
            yield
        finally:
            self.clear()

    def _add(self, name: str, matrix: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._network is None:
            return None
        [inputs_BLD], embedded_BLE = inputs, self._embedded[name]
        # With guidance the UNet answers twice for each condition: all without the prompt, then all with it.
        embedded_BLE = embedded_BLE.repeat(len(inputs_BLD) // len(embedded_BLE), 1, 1)
        with self._arithmetic.autocast():
            added_BLD = self._network.get_submodule(name)(inputs_BLD, embedded_BLE)
        return (inputs_BLD + self._scale * added_BLD.to(inputs_BLD.dtype),)


@dataclass(frozen=True, slots=True)
class LLLitePipeline:
    """The pipeline of the base alone, given a condition as those of ControlNets are."""

    pipeline: StableDiffusionXLPipeline
    insertions: Insertions
    network: ControlNetLLLite

    def __call__(self, *, image: Tensor, controlnet_conditioning_scale: float = 1.0, **asked: Any) -> Any:
        """Shapes: image [B,3,H,W] in [0,1]; pictures become as large as it is."""
        height, width = image.shape[-2:]
        with self.insertions.during(self.network, image, controlnet_conditioning_scale):
            return self.pipeline(height=height, width=width, **asked)

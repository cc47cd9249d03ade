"""The averaged copy of the weights: what samples are drawn with, kept beside the weights that are trained."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from everstep.versions.torch import part_of


class Ema:
    """Exponential moving average of a network's parameters, float32, on their device."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        self._parameters = dict(network.named_parameters())
        # Of a network that is shared out, this process's rows: what gathers them reads that memory and no other.
        self.is_rows = any(part_of(parameter).is_rows for parameter in self._parameters.values())

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """Move towards the weights after `steps_done` steps; early steps count for more, so that zero fades."""
        decay = min(self.decay, (1 + steps_done) / (10 + steps_done))
        averaged = [part_of(tensor).tensor for tensor in self.shadow.values()]
        live = [part_of(parameter).tensor for parameter in self._parameters.values()]
        torch._foreach_lerp_(averaged, live, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the network computes with the averaged weights; nothing is copied but rows of what is shared out."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            if self.is_rows:
                live, averaged = part_of(parameter).tensor, part_of(self.shadow[name]).tensor
                before = live.clone()
                live.copy_(averaged)
                averaged.copy_(before)
            else:
                self.shadow[name], parameter.data = parameter.data, self.shadow[name]

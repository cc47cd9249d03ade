"""The averaged copy of the weights: what samples are drawn with, kept beside the weights that are trained."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a network's parameters, float32, on their device."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        self._parameters = dict(network.named_parameters())

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """Move towards the weights after `steps_done` steps; early steps count for more, so that zero fades."""
        decay = min(self.decay, (1 + steps_done) / (10 + steps_done))
        live = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.shadow.values()), live, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the network computes with the averaged weights; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            live: Tensor = parameter.data
            parameter.data = self.shadow[name]
            self.shadow[name] = live

"""How the losses of a batch become the gradients of a step: of one process, or of several that share the batch.

Knows nothing of optimizers, nor of when a step is made.
"""

import contextlib
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from everstep.config.schema import Optim
from everstep.contracts import Batch
from everstep.keeping.team import Team, lost
from everstep.models import objective
from everstep.models.family import Family


class Alone:
    """One process, with all of each batch."""

    is_whole = True  # whether the state of this process is all of it

    def __init__(self, family: Family, network: nn.Module, optim: Optim) -> None:
        self._family, self._gamma, self._passes = family, optim.min_snr_gamma, optim.accumulation_steps
        self._forward = family.compiled(network)

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, is_last: bool) -> Tensor:
        """Add to the gradients what a batch says; returns its loss, on the device.

        Args:
            is_last: of the passes of a step; the gradients are whole then.
        """
        loss = objective.loss(self._family, self._forward, batch, self._gamma)
        scaler.scale(loss / self._passes).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def mean(self, losses: list[Tensor]) -> Tensor:
        """Of the passes of a step."""
        return torch.stack(losses).mean()

    def clipped(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """Scale the gradients down to this norm; returns what it was."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


class Shared(Alone):
    """Several processes, each with every so manieth example of a batch; gradients and losses are the whole batch's."""

    def __init__(self, family: Family, network: nn.Module, optim: Optim, team: Team) -> None:
        """Raises: RankLost."""
        super().__init__(family, network, optim)
        self._network: Any = network
        self._team, self._batch_size = team, optim.batch_size
        self._is_sharded = is_sharded(network)
        self.is_whole = not self._is_sharded
        self._losses: Any = _Losses(family, self._forward, optim.min_snr_gamma)
        if not self._is_sharded:
            # Of parameters that might be unused DDP keeps the buckets as they were laid out at first. Else they are
            # laid out anew after the first step of each process, sums are formed in another order from there on, and a
            # training that was resumed would differ in the last bits from one that was not.
            # Of convolutions that are one pixel wide: strides of one element say nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            with lost():
                self._losses = DistributedDataParallel(
                    self._losses, find_unused_parameters=True, gradient_as_bucket_view=True
                )

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, is_last: bool) -> Tensor:
        """As of one process. Raises: RankLost."""
        with self._syncing(is_last), lost():
            loss: Tensor = self._losses(batch)
            # Gradients are averaged over processes; of an odd batch some have one example more.
            share = len(batch.pairs) * self._team.size / self._batch_size
            loss = loss if share == 1 else loss * share
            scaler.scale(loss / self._passes).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _syncing(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are exchanged once in a step."""
        if self._is_sharded:
            self._network.set_requires_gradient_sync(is_last)
        syncing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        return syncing if is_last or self._is_sharded else self._losses.no_sync()

    def mean(self, losses: list[Tensor]) -> Tensor:
        """As of one process. Raises: RankLost."""
        mean = super().mean(losses)
        with lost():
            distributed.all_reduce(mean)
        return mean / self._team.size

    def clipped(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """As of one process. Raises: RankLost."""
        with lost():
            norm = super().clipped(parameters, max_norm)
            return norm.full_tensor() if isinstance(norm, DTensor) else norm


def gradients_of(optim: Optim, family: Family, network: nn.Module, team: Team | None) -> Alone:
    """Raises: RankLost."""
    return Alone(family, network, optim) if team is None else Shared(family, network, optim, team)


class _Losses(nn.Module):
    """The loss as a module, which is what exchanges gradients: whatever a family makes of its network."""

    def __init__(self, family: Family, forward: Any, min_snr_gamma: float | None) -> None:
        super().__init__()
        self.network = forward
        self._family, self._gamma = family, min_snr_gamma

    def forward(self, batch: Batch) -> Tensor:
        return objective.loss(self._family, self.network, batch, self._gamma)


def is_sharded(network: nn.Module) -> bool:
    """Whether each process holds rows of its parameters only."""
    return isinstance(network, torch.distributed.fsdp.FSDPModule)

"""One optimizer step: the arithmetic that a training and its replay have in common.

Knows nothing of versions, records or when to stop.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from everstep.config.schema import Optim
from everstep.contracts import Batch
from everstep.train.gradients import Alone
from everstep.train.metrics import Measured
from everstep.train.rates import learning_rate, set_learning_rate
from everstep.train.state import TrainState


def take_step(optim: Optim, gradients: Alone, state: TrainState, batches: Iterator[Batch]) -> Measured:
    """Change the state by one step; returns what was measured of it, the loss still on the device."""
    rate = learning_rate(state.step, optim)
    set_learning_rate(state.optimizer, rate)
    first_example, loss = _accumulate(optim, gradients, state, batches)
    norm, scales = None, _loss_scale(state)
    if optim.max_grad_norm is not None:
        state.scaler.unscale_(state.optimizer)
        norm = gradients.clipped(state.controlnet.parameters(), optim.max_grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    scales += _loss_scale(state)
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.images_seen += optim.images_per_step
    state.average()
    return Measured(
        state.step, state.images_seen, first_example, rate, loss, norm, torch.stack(scales) if scales else None
    )


def _loss_scale(state: TrainState) -> list[Tensor]:
    """What the loss is scaled by, where it is: a copy on the device, since get_scale() would wait for it."""
    scale = state.scaler._get_scale_async() if state.scaler.is_enabled() else None
    return [] if scale is None else [scale.reshape(()).clone()]


def _accumulate(optim: Optim, gradients: Alone, state: TrainState, batches: Iterator[Batch]) -> tuple[int, Tensor]:
    """Forward and backward of all passes of a step; returns its first example, and their mean loss on the device."""
    losses: list[Tensor] = []
    first_examples: list[int] = []
    for number in range(optim.accumulation_steps):
        batch = next(batches)
        first_examples.append(batch.first_example)
        losses.append(gradients.backward(batch, state.scaler, number == optim.accumulation_steps - 1))
    return first_examples[0], gradients.mean(losses)

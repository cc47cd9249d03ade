"""The optimizer and its learning rate, both without hidden state: the rate is a function of the step alone."""

import math

import torch
from torch import nn

from everstep.config.schema import Optim

POLYNOMIAL_POWER = 2.0


def make_optimizer(network: nn.Module, settings: Optim) -> torch.optim.AdamW:
    """Fused AdamW whose moments exist, as zeros, before the first step: every version has the same layout."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


def learning_rate(step: int, settings: Optim) -> float:
    """Rate of the optimizer step that follows `step` finished ones: linear warm-up, then the schedule to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    left_steps = max(1, settings.max_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / left_steps)
    return settings.learning_rate * _decay(progress, settings.schedule)


def _decay(progress: float, schedule: str) -> float:
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "polynomial":
        return float((1 - progress) ** POLYNOMIAL_POWER)
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters the rate of the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = rate

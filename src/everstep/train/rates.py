"""The learning rate, without hidden state: it is a function of the step alone."""

import math

import torch

from everstep.config.schema import Optim

POLYNOMIAL_POWER = 2.0


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

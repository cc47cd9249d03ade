"""The loss and the errors, written once for every family.

Legend: B batch, C channels, H height, W width of latents.
"""

from typing import Any

from torch import Tensor

from everstep.contracts import Batch
from everstep.models.arithmetic import carried
from everstep.models.family import Family, Task, joined


def loss(family: Family, controlnet: Any, batch: Batch, min_snr_gamma: float | None = None) -> Tensor:
    """Mean denoising loss of a batch, a float32 scalar with gradients to the ControlNet alone.

    Source: Zhang et al. 2023, eq. 5.
    """
    task = task_of(family, batch)
    errors_B = errors(family, controlnet, task, family.conditions(batch.conditions_BHWC))
    if min_snr_gamma is not None:
        errors_B = errors_B * family.schedule.min_snr_weights(task.told_B, min_snr_gamma)
    return errors_B.mean()


def task_of(family: Family, batch: Batch) -> Task:
    """What a batch asks of the networks, whatever its conditions."""
    device = family.arithmetic.device
    noise_BCHW = carried(batch.noise_BCHW, device)
    told_B = family.schedule.told(batch.times_B)
    drawn = batch.posterior_noise_BCHW
    posterior_BCHW = None if drawn is None else carried(drawn, device)
    latents_BCHW = family.latents(*_moments(family, batch), posterior_BCHW)
    return Task(
        noisy_BCHW=family.schedule.noisy(latents_BCHW, noise_BCHW, told_B).to(family.arithmetic.dtype),
        told_B=told_B,
        heard=family.heard(batch),
        wanted_BCHW=family.schedule.wanted(latents_BCHW, noise_BCHW, told_B),
    )


def _moments(family: Family, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Of what was encoded before, or of pictures."""
    if batch.moments is None:
        assert batch.targets_BHWC is not None, "pictures, or what was made of them"
        return family.moments(batch.targets_BHWC)
    deviations = [kept.deviation_CHW for kept in batch.moments if kept.deviation_CHW is not None]
    mean_BCHW = joined([kept.mean_CHW for kept in batch.moments], family.arithmetic)
    return mean_BCHW, joined(deviations, family.arithmetic) if deviations else None


def errors(family: Family, controlnet: Any, task: Task, conditions: Tensor) -> Tensor:
    """Mean squared error of each prediction under these conditions, [B] float32."""
    prediction_BCHW = family.predict(controlnet, task, conditions)
    return (prediction_BCHW.float() - task.wanted_BCHW.float()).square().mean(dim=(1, 2, 3))


def error_maps(family: Family, controlnet: Any | None, task: Task, conditions: Tensor | None) -> Tensor:
    """Squared error of each prediction place by place, [B,H,W] float32; of the base alone where both are None."""
    prediction_BCHW = family.predict(controlnet, task, conditions)
    return (prediction_BCHW.float() - task.wanted_BCHW.float()).square().mean(dim=1)

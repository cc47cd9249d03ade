"""The equations, against the library that everyone samples with, and against themselves."""

import pytest
import torch
from diffusers import DDPMScheduler

from everstep.models import objective

SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
ALPHAS_T = SCHEDULER.alphas_cumprod


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    return x, e, torch.tensor([0, 1, 250, 500, 900, 999])


def test_noising_and_velocity_are_those_of_diffusers() -> None:
    x, e, t = draws()
    torch.testing.assert_close(objective.add_noise(x, e, ALPHAS_T, t), SCHEDULER.add_noise(x, e, t))
    torch.testing.assert_close(objective.velocity(x, e, ALPHAS_T, t), SCHEDULER.get_velocity(x, e, t))


def test_noise_and_velocity_give_the_latents_back() -> None:
    x, e, t = draws()
    noisy, v = objective.add_noise(x, e, ALPHAS_T, t), objective.velocity(x, e, ALPHAS_T, t)
    alpha = ALPHAS_T[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_makes_the_loss_on_the_latents_weigh_at_most_gamma(prediction_type: str) -> None:
    """Weight times the factor between this loss and that on x_0 is min(SNR, gamma) in both cases."""
    alphas = ALPHAS_T[torch.tensor([0, 100, 500, 999])]
    snr = alphas / (1 - alphas)
    per_x0 = snr if prediction_type == "epsilon" else snr + 1
    weights = objective.min_snr_weights(alphas, 5.0, prediction_type)
    torch.testing.assert_close(weights * per_x0, snr.clamp(max=5.0))


def test_min_snr_is_finite_where_nothing_is_left_of_the_picture() -> None:
    assert objective.min_snr_weights(torch.tensor([0.0]), 5.0, "epsilon").tolist() == [1.0]
    assert objective.min_snr_weights(torch.tensor([0.0]), 5.0, "v_prediction").tolist() == [0.0]

"""The equations, against the library that everyone samples with, and against themselves."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from everstep.models.schedule import Ddpm, Flow, Schedule

SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
CPU = torch.device("cpu")
NOISE, VELOCITY = (Ddpm(SCHEDULER.alphas_cumprod, kind) for kind in ("epsilon", "v_prediction"))
FLOW = Flow(CPU, shift=3.0)
TIMES = np.array([0.0005, 0.0015, 0.25, 0.5, 0.9, 0.9995])


def draws(schedule: Schedule) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    return x, e, schedule.told(TIMES)


def test_noising_and_velocity_are_those_of_diffusers() -> None:
    x, e, t = draws(VELOCITY)
    assert t.tolist() == [0, 1, 250, 500, 900, 999]
    torch.testing.assert_close(VELOCITY.noisy(x, e, t), SCHEDULER.add_noise(x, e, t))
    torch.testing.assert_close(VELOCITY.wanted(x, e, t), SCHEDULER.get_velocity(x, e, t))
    assert NOISE.wanted(x, e, t) is e


def test_flow_is_that_of_diffusers() -> None:
    """The network hears the same number, and the picture is as noisy."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    places = torch.tensor([0, 99, 499, 899, 999])
    times = 1 - places.numpy() / 1000  # theirs begin with noise
    told = FLOW.told(times)
    torch.testing.assert_close(told, theirs.timesteps[places])
    x, e = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FLOW.noisy(x, e, told), theirs.scale_noise(x, theirs.timesteps[places], e))


@pytest.mark.parametrize("schedule", [VELOCITY, FLOW], ids=["velocity", "flow"])
def test_what_is_shown_and_what_is_wanted_give_the_latents_back(schedule: Schedule) -> None:
    x, e, t = draws(schedule)
    noisy, v = schedule.noisy(x, e, t), schedule.wanted(x, e, t)
    if isinstance(schedule, Flow):
        found = noisy - (t / 1000).view(-1, 1, 1, 1) * v
    else:
        alpha = SCHEDULER.alphas_cumprod[t].view(-1, 1, 1, 1)
        found = alpha.sqrt() * noisy - (1 - alpha).sqrt() * v
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", [NOISE, VELOCITY, FLOW], ids=["noise", "velocity", "flow"])
def test_min_snr_makes_the_errors_of_the_picture_count_at_most_gamma(schedule: Schedule) -> None:
    """Weight times the factor between these errors and those of x_0 is min(SNR, gamma)."""
    told = schedule.told(TIMES)
    if isinstance(schedule, Flow):
        sigmas = told / 1000
        snr = ((1 - sigmas) / sigmas).square()
        per_x0 = 1 / sigmas.square()
    else:
        snr = SCHEDULER.alphas_cumprod[told] / (1 - SCHEDULER.alphas_cumprod[told])
        per_x0 = snr if schedule.prediction_type == "epsilon" else snr + 1
    torch.testing.assert_close(schedule.min_snr_weights(told, 5.0) * per_x0, snr.clamp(max=5.0))


@pytest.mark.parametrize("schedule", [NOISE, FLOW, Flow(CPU, 1.0, -0.5, 1.2)], ids=["noise", "flow", "logit normal"])
def test_log_snrs_are_those_of_the_pictures_shown(schedule: Schedule) -> None:
    """Of two pictures that differ, by how much what is shown differs, over the noise in it."""
    told = schedule.told((np.arange(1000) + 0.5) / 1000)
    nothing, one = torch.zeros(1000, 1, 1, 1), torch.ones(1000, 1, 1, 1)
    picture, noise = (schedule.noisy(*both, told).double().flatten() for both in ((one, nothing), (nothing, one)))
    np.testing.assert_allclose(schedule.log_snr(), (2 * (picture / noise).log()).numpy(), rtol=2e-3, atol=2e-3)


def test_min_snr_is_finite_where_nothing_is_left_of_the_picture() -> None:
    terminal = torch.tensor([0.5, 0.0])
    last = torch.tensor([1])
    assert Ddpm(terminal, "epsilon").min_snr_weights(last, 5.0).tolist() == [1.0]
    assert Ddpm(terminal, "v_prediction").min_snr_weights(last, 5.0).tolist() == [0.0]
    assert FLOW.min_snr_weights(torch.tensor([1000.0]), 5.0).tolist() == [0.0]
    assert Ddpm(terminal, "epsilon").log_snr()[1] == -np.inf


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_steps_stay_within_the_schedule(count: int) -> None:
    schedule = Ddpm(torch.linspace(0.9, 0.1, count), "epsilon")
    assert schedule.told(np.array([0.0, 0.5, 0.999999, 1.0])).tolist() == [0, count // 2, count - 1, count - 1]


def test_logit_normal_times_fall_as_the_paper_draws_them() -> None:
    told = Flow(CPU, 1.0, -0.5, 1.2).told((np.arange(1000) + 0.5) / 1000).numpy() / 1000
    drawn = 1 / (1 + np.exp(-np.random.default_rng(0).normal(-0.5, 1.2, 100_000)))
    np.testing.assert_allclose(np.quantile(told, [0.1, 0.5, 0.9]), np.quantile(drawn, [0.1, 0.5, 0.9]), rtol=0.02)

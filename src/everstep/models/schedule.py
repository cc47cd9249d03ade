"""From picture to noise: what a network is shown at a time, what it is to answer, and how much noise that is.

Every family has one of these. Time runs from 0, the picture, to 1, noise alone, and is the same number for all of them.
Knows nothing of networks. Legend: B batch, C channels, H height, W width of latents; T times that are told apart.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from everstep.models.arithmetic import carried

Floats = npt.NDArray[np.float64]


class Schedule(Protocol):
    """One way to noise, and what is predicted under it."""

    @property
    def prediction_type(self) -> str:
        """What the network answers with, in the words of diffusers: epsilon, v_prediction, flow."""
        ...

    def log_snr(self) -> Floats:
        """At time (t + 1/2) / T for each t, [T], natural logarithm; -inf where nothing of the picture is left."""
        ...

    def told(self, times_B: Floats) -> Tensor:
        """What the network is told of these times, on the device, in its own units."""
        ...

    def noisy(self, latents_BCHW: Tensor, noise_BCHW: Tensor, told_B: Tensor) -> Tensor:
        """What the network is shown, float32."""
        ...

    def wanted(self, latents_BCHW: Tensor, noise_BCHW: Tensor, told_B: Tensor) -> Tensor:
        """What it is to answer, float32."""
        ...

    def min_snr_weights(self, told_B: Tensor, gamma: float) -> Tensor:
        """What its squared errors count, so that those of the picture count min(SNR, gamma), [B] float32.

        Source: Hang et al. 2023, section 3.4.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ddpm:
    """T steps of time; the network is told the step's number, and predicts noise or velocity.

    Shapes: alphas_cumprod_T float32 on the device. Source: Ho et al. 2020; velocity: Salimans and Ho 2022, appendix D.
    """

    alphas_cumprod_T: Tensor
    prediction_type: str

    def log_snr(self) -> Floats:
        alphas_T = self.alphas_cumprod_T.double().cpu().numpy()
        with np.errstate(divide="ignore"):
            found: Floats = np.log(alphas_T) - np.log1p(-alphas_T)
        return found

    def told(self, times_B: Floats) -> Tensor:
        """Shapes: 0..1 -> int64, 0 .. T - 1."""
        last = len(self.alphas_cumprod_T) - 1
        steps_B = np.minimum((times_B * (last + 1)).astype(np.int64), last)
        return carried(steps_B, self.alphas_cumprod_T.device)

    def noisy(self, latents_BCHW: Tensor, noise_BCHW: Tensor, told_B: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e. Source: Ho et al. 2020, eq. 4."""
        alpha_B111 = self._alphas(told_B)
        return alpha_B111.sqrt() * latents_BCHW + (1 - alpha_B111).sqrt() * noise_BCHW

    def wanted(self, latents_BCHW: Tensor, noise_BCHW: Tensor, told_B: Tensor) -> Tensor:
        """e, or v_t = sqrt(a_t) e - sqrt(1 - a_t) x_0."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        alpha_B111 = self._alphas(told_B)
        return alpha_B111.sqrt() * noise_BCHW - (1 - alpha_B111).sqrt() * latents_BCHW

    def min_snr_weights(self, told_B: Tensor, gamma: float) -> Tensor:
        """Over SNR for noise, over SNR + 1 for velocity; 1 for noise where SNR is 0, its limit."""
        alphas_B = self.alphas_cumprod_T[told_B]
        snr_B = alphas_B / (1 - alphas_B)
        clipped_B = snr_B.clamp(max=gamma)
        if self.prediction_type == "v_prediction":
            return clipped_B / (snr_B + 1)
        return torch.where(snr_B > 0, clipped_B / snr_B.clamp(min=1e-12), torch.ones_like(snr_B))

    def _alphas(self, told_B: Tensor) -> Tensor:
        """Shaped to multiply pictures: [B,1,1,1]."""
        return self.alphas_cumprod_T[told_B].view(-1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Flow:
    """A straight way from picture to noise; the network is told how far it is, times 1000, and predicts its direction.

    Times fall where the normal distribution of mean `mean` and deviation `deviation` leads the sigmoid, or evenly where
    the deviation is None; then `shift` moves them towards noise.
    Source: Esser et al. 2024, eq. 19 (logit-normal) and 23 (shift).
    """

    device: torch.device
    shift: float = 1.0
    mean: float = 0.0
    deviation: float | None = None
    steps: int = 1000

    prediction_type = "flow"

    def log_snr(self) -> Floats:
        sigmas_T = self._sigmas((np.arange(self.steps) + 0.5) / self.steps)
        found: Floats = 2 * (np.log1p(-sigmas_T) - np.log(sigmas_T))
        return found

    def told(self, times_B: Floats) -> Tensor:
        """Shapes: 0..1 -> float32, 0..steps."""
        return carried((self._sigmas(times_B) * self.steps).astype(np.float32), self.device)

    def noisy(self, latents_BCHW: Tensor, noise_BCHW: Tensor, told_B: Tensor) -> Tensor:
        """x_t = (1 - s) x_0 + s e."""
        sigma_B111 = (told_B / self.steps).view(-1, 1, 1, 1)
        return (1 - sigma_B111) * latents_BCHW + sigma_B111 * noise_BCHW

    def wanted(self, latents_BCHW: Tensor, noise_BCHW: Tensor, told_B: Tensor) -> Tensor:
        """v = e - x_0."""
        return noise_BCHW - latents_BCHW

    def min_snr_weights(self, told_B: Tensor, gamma: float) -> Tensor:
        """The picture's error is s squared times the direction's; SNR is ((1 - s) / s) squared."""
        sigma_B = told_B / self.steps
        return torch.minimum((1 - sigma_B).square(), gamma * sigma_B.square())

    def _sigmas(self, times_B: Floats) -> Floats:
        sigmas_B = times_B
        if self.deviation is not None:
            normal_B = torch.special.ndtri(torch.from_numpy(np.asarray(times_B, dtype=np.float64))).numpy()
            sigmas_B = 1 / (1 + np.exp(-(self.mean + self.deviation * normal_B)))
        shifted: Floats = self.shift * sigmas_B / (1 + (self.shift - 1) * sigmas_B)
        return shifted

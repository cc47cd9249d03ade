"""The arithmetic of denoising diffusion: one function for each equation.

Knows nothing of networks. Legend: B batch, C channels, H height, W width of latents; T training timesteps.
"""

import torch
from torch import Tensor


def gather(values_T: Tensor, timesteps_B: Tensor) -> Tensor:
    """values_T[timesteps_B], shaped to multiply pictures: [B,1,1,1]."""
    return values_T[timesteps_B].view(-1, 1, 1, 1)


def add_noise(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_T: Tensor, timesteps_B: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, in float32. Source: Ho et al. 2020, eq. 4."""
    alpha_B111 = gather(alphas_cumprod_T, timesteps_B)
    return alpha_B111.sqrt() * latents_BCHW + (1 - alpha_B111).sqrt() * noise_BCHW


def velocity(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_T: Tensor, timesteps_B: Tensor) -> Tensor:
    """v_t = sqrt(a_t) e - sqrt(1 - a_t) x_0. Source: Salimans and Ho 2022, appendix D."""
    alpha_B111 = gather(alphas_cumprod_T, timesteps_B)
    return alpha_B111.sqrt() * noise_BCHW - (1 - alpha_B111).sqrt() * latents_BCHW


def min_snr_weights(alphas_cumprod_B: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """min(SNR, gamma) in the units of the prediction: over SNR for epsilon, over SNR + 1 for v.

    SNR is 0 at a zero-terminal-SNR schedule's last step; its epsilon weight is then 1, its limit.
    Source: Hang et al. 2023, section 3.4.
    """
    snr_B = alphas_cumprod_B / (1 - alphas_cumprod_B)
    clipped_B = snr_B.clamp(max=gamma)
    if prediction_type == "v_prediction":
        return clipped_B / (snr_B + 1)
    return torch.where(snr_B > 0, clipped_B / snr_B.clamp(min=1e-12), torch.ones_like(snr_B))


def squared_error(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean squared error of each example, [B], in float32."""
    return (prediction_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3))


def squared_error_maps(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Squared error of each place, mean over channels, [B,H,W], in float32."""
    return (prediction_BCHW.float() - target_BCHW.float()).square().mean(dim=1)

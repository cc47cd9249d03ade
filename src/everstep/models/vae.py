"""Pixels to latents and back, with the VAE that comes with a base.

Legend: B batch, 3 RGB, C latent channels, H and W height and width (of latents, or of pixels for _B3HW).
"""

import contextlib

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from everstep.contracts import Float32Array, Uint8Array
from everstep.errors import UserError
from everstep.models.arithmetic import Arithmetic
from everstep.models.base import BaseFolder
from everstep.models.family import pixels
from everstep.models.reading import frozen

KNOWN = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class Vae:
    """Frozen, in the compute dtype, or in float32 where float16 cannot hold what it computes."""

    def __init__(
        self, base: BaseFolder, arithmetic: Arithmetic, *, channels_last: bool = False, is_wide: bool = False
    ) -> None:
        """
        Args:
            is_wide: whether its activations pass what float16 can hold; bfloat16 has the range of float32.

        Raises: UserError if it is of another kind or cannot be read.
        """
        name = base.config("vae").get("_class_name")
        if name not in KNOWN:
            raise UserError(f"{base.name}: its VAE is {name}; {' and '.join(KNOWN)} are known.")
        self._arithmetic = arithmetic
        self.dtype = torch.float32 if is_wide and arithmetic.dtype == torch.float16 else arithmetic.dtype
        self.network = frozen(KNOWN[name], base, "vae", self.dtype, arithmetic.device)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)

    @property
    def has_posterior(self) -> bool:
        """Whether latents are drawn from a distribution, or, with a tiny VAE, computed."""
        return not isinstance(self.network, AutoencoderTiny)

    @torch.no_grad()
    def moments(self, images_BHWC: Uint8Array) -> tuple[Tensor, Tensor | None]:
        """Shapes: uint8 [B,H,W,3] 0..255 -> mean and deviation [B,C,h,w] in its own dtype; see Family.moments."""
        pixels_B3HW = (pixels(images_BHWC, self._arithmetic) * 2 - 1).to(self.dtype)
        encoded = self.network.encode(pixels_B3HW)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean, encoded.latent_dist.std
        return encoded.latents, None

    def latents(self, mean_BCHW: Tensor, deviation_BCHW: Tensor | None, noise_BCHW: Tensor | None) -> Tensor:
        """Shapes: [B,C,h,w] each -> latents float32 [B,C,h,w], scaled to about unit variance."""
        latents_BCHW = mean_BCHW.float()
        if deviation_BCHW is not None:
            assert noise_BCHW is not None, "this VAE draws its latents"
            latents_BCHW = latents_BCHW + deviation_BCHW.float() * noise_BCHW
        shift = getattr(self.network.config, "shift_factor", None) or 0.0
        scaled_BCHW: Tensor = (latents_BCHW - shift) * self.network.config.scaling_factor
        return scaled_BCHW

    def let_encoder_go(self) -> None:
        """Free what only encoding needs."""
        for part in ("encoder", "quant_conv"):
            if hasattr(self.network, part):
                delattr(self.network, part)

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> list[Float32Array]:
        """Shapes: scaled latents -> pictures [H,W,3] float32 0..1, as the pipelines of diffusers end."""
        config = self.network.config
        if self.dtype != self._arithmetic.dtype:
            latents_BCHW = latents_BCHW.to(self.dtype)
        unscaled_BCHW = latents_BCHW / config.scaling_factor
        with self._own_dtype():
            decoded_B3HW = self.network.decode(unscaled_BCHW, return_dict=False)[0]
        pictures_B3HW = (decoded_B3HW * 0.5 + 0.5).clamp(0, 1)
        return list(np.asarray(pictures_B3HW.cpu().permute(0, 2, 3, 1).float().numpy()))

    def _own_dtype(self) -> contextlib.AbstractContextManager[object]:
        """Autocast would take float32 weights for 16 bits again."""
        if self.dtype == self._arithmetic.dtype:
            return contextlib.nullcontext()
        return torch.autocast(self._arithmetic.device.type, enabled=False)

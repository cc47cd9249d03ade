"""The VAE: trained on reconstruction, then its decoder once more."""

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from small_base.captioned import Captioned
from small_base.recipe import Clock, Recipe, warm_cosine


def make_vae() -> AutoencoderTiny:
    """Factor 4, 4 channels: cheap enough to encode within every training step on a CPU."""
    return AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
    )


def train_vae(data: Captioned, recipe: Recipe) -> AutoencoderTiny:
    """Reconstruction, with a little noise on the latents so that what a UNet gets nearly right looks right."""
    torch.manual_seed(0)
    vae = make_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, recipe.vae_steps))
    clock = Clock("vae", recipe.vae_steps)
    for step in range(1, recipe.vae_steps + 1):
        numbers = torch.randint(data.count, (recipe.vae_batch,)).tolist()
        pixels = data.pixels(numbers)
        latents = vae.encode(pixels).latents
        drawn = vae.decode(latents + 0.05 * torch.randn_like(latents)).sample
        error = (drawn - pixels).abs().mean() + (drawn - pixels).square().mean()
        (error + 1e-3 * latents.square().mean()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.tell(step, error=error.item())
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(vae: AutoencoderTiny, data: Captioned) -> Tensor:
    """All latents, scaled to unit variance; the scale goes into the VAE's config."""
    parts = [vae.encode(data.pixels(range(i, min(i + 64, data.count)))).latents for i in range(0, data.count, 64)]
    latents = torch.cat(parts)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    scaled: Tensor = latents * vae.config.scaling_factor
    return scaled


def polish_decoder(vae: AutoencoderTiny, data: Captioned, recipe: Recipe) -> AutoencoderTiny:
    """Train the decoder on, alone: the latents that the UNet learned stay what they are."""
    torch.manual_seed(2)
    for parameter in vae.decoder.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=2e-3, fused=True)
    clock = Clock("decoder", recipe.decoder_steps)
    for step in range(1, recipe.decoder_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * warm_cosine(step, recipe.decoder_steps)
        pixels = data.pixels(torch.randint(data.count, (recipe.vae_batch,)).tolist())
        with torch.no_grad():
            latents = vae.encode(pixels).latents
        drawn = vae.decode(latents + 0.03 * torch.randn_like(latents)).sample
        error = (drawn - pixels).abs().mean() + (drawn - pixels).square().mean()
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tell(step, error=error.item())
    return vae.requires_grad_(False)

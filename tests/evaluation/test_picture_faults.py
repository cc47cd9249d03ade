"""Pictures that decoders really give when numbers overflow are told from pictures that are merely dark or plain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor

from everstep.data.layouts import circles
from everstep.evaluation.pictures.faults import picture_fault
from everstep.models.base import locate


@torch.no_grad()
def decoded(vae, latents: torch.Tensor) -> np.ndarray:
    """As a pipeline does it with output_type="np"."""
    pixels = vae.decode(latents.to(vae.dtype)).sample
    return VaeImageProcessor().postprocess(pixels, output_type="np")[0]


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_latents_that_are_not_numbers_show_in_the_picture(latents):
    vae = AutoencoderTiny.from_pretrained(locate("builtin:circles").path / "vae")
    fault = picture_fault(decoded(vae, latents * float("nan")), "fp32")
    assert fault.startswith("no value is a finite number, it would be saved as black: fp32 does not overflow here")
    assert "everstep sample RUN@0" in fault
    assert picture_fault(decoded(vae, latents), "fp32") is None


def test_a_vae_that_overflows_in_fp16_is_named_and_bf16_is_not_blamed(tiny_base: Path, latents):
    vae = AutoencoderKL.from_pretrained(tiny_base / "vae")
    large = latents * 1e5  # above the largest fp16, 65,504
    fault = picture_fault(decoded(vae.half(), large), "fp16")
    assert "finite number" in fault
    assert fault.endswith("--set compute.precision=bf16 (or fp32) avoids it")
    assert "finite number" not in (picture_fault(decoded(vae.bfloat16(), large), "bf16") or "")


def test_some_values_that_are_not_numbers_are_counted():
    picture = np.full((10, 10, 3), 0.5, np.float32)
    picture[0, 0] = np.nan
    picture[0, 1, 0] = np.inf
    assert picture_fault(picture, "fp16").startswith("1.33% of its values are no finite numbers: fp16 overflows")
    large = np.random.default_rng(0).random((512, 512, 3), np.float32)
    large[7, 7, 0] = np.nan
    assert picture_fault(large, "bf16").startswith("0.01% of its values")


def test_minus_infinity_becomes_black_on_the_way_and_is_found_as_black():
    pixels = VaeImageProcessor().postprocess(torch.full((1, 3, 8, 8), -torch.inf), output_type="np")[0]
    assert picture_fault(pixels, "fp16").startswith("all black: fp16 overflows")
    assert picture_fault(pixels + np.float32(0.003), "fp32").startswith("all black: fp32 does not overflow here")


def test_one_flat_colour_is_named():
    picture = np.broadcast_to(np.array([1.0, 0.5, 0.0], np.float32), (16, 16, 3)).copy()
    assert picture_fault(picture, "bf16").startswith("one flat colour (255, 128, 0): bf16 does not overflow here")
    picture[3, 3, 2] = 0.01
    assert picture_fault(picture, "bf16") is None


def test_dark_and_plain_pictures_are_no_faults():
    dark = np.zeros((16, 16, 3), np.float32)
    dark[5, 5] = 0.1
    assert picture_fault(dark, "fp16") is None
    drawn = np.asarray(circles.target(circles.circle(1), 64), np.float32) / 255
    assert picture_fault(drawn, "fp16") is None

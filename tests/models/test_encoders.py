"""What is encoded apart is what a training would have encoded; without encoders the same pictures are drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bases import write_base
from everstep.config.schema import Compute
from everstep.encoded.records import pack, unpack
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.family import Family
from everstep.models.registry import open_family
from everstep.train.filling import FamilyEncoders


def opened(folder: Path, precision: str = "fp32") -> Family:
    settings = Compute(device="cpu", precision=precision)
    return open_family(locate(str(folder)), arithmetic(settings), settings)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / request.param, like=request.param)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_moments_come_back_to_the_bit_whatever_is_encoded_beside(base: Path, precision: str) -> None:
    family = opened(base, precision)
    mean, deviation = family.moments(pictures(4))
    assert deviation is not None
    alone = [FamilyEncoders(family, together=4).moments(pictures(4)[[place]])[0] for place in range(4)]
    kept = [unpack(pack(record)) for record in alone]
    for place, found in enumerate(kept):
        np.testing.assert_array_equal(found["mean"], mean[place].float().numpy())
        np.testing.assert_array_equal(found["deviation"], deviation[place].float().numpy())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prompts_come_back_to_the_bit(base: Path, precision: str) -> None:
    family = opened(base, precision)
    for prompt in ("red circle", ""):
        heard = family.encode_prompt(prompt)
        kept = unpack(pack(FamilyEncoders(family).prompt(prompt)))
        assert set(kept) == set(heard)
        for name, tensor in heard.items():
            again = torch.from_numpy(kept[name].copy()).to(tensor.dtype)
            assert torch.equal(again, tensor)


def drawn(family: Family, captions: list[str]) -> list[torch.Tensor]:
    controlnet = family.new_controlnet(0)
    pipeline = family.pipeline(controlnet, "unipc")
    with torch.no_grad():
        latents = pipeline(
            **family.spoken(captions),
            image=family.conditions(pictures(len(captions))),
            num_inference_steps=2,
            generator=[torch.Generator().manual_seed(number) for number in range(len(captions))],
            guidance_scale=5.0,
            output_type="latent",
        ).images
    return list(latents)


def test_pictures_are_drawn_without_encoders(base: Path) -> None:
    captions = ["red circle", ""]
    family = opened(base)
    before = drawn(family, captions)
    kept = {prompt: family.encode_prompt(prompt) for prompt in captions}
    networks = count(family)
    family.let_encoders_go(kept.__getitem__)
    assert count(family) < networks
    after = drawn(family, captions)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert len(family.decode(torch.stack(after))) == 2
    with pytest.raises(KeyError):
        family.spoken(["another"])


def count(family: Family) -> int:
    """Numbers that it holds, in all of its networks."""
    import gc

    gc.collect()
    found = [
        family.vae.network,
        family.unet,
        *(getattr(family, name, None) for name in ("text_encoder", "text_encoder_2")),
    ]
    return sum(parameter.numel() for network in found if network is not None for parameter in network.parameters())


def test_what_decides_encoding_is_what_is_read_for_it(base: Path, tmp_path: Path) -> None:
    import shutil

    family = opened(base)
    told = family.encoders()
    assert {name.partition("/")[0] for name in told["latents"]["files"]} == {"vae"}
    assert {name.partition("_")[0] for name in told["text"]["files"]} >= {"text", "tokenizer"} - {"tokenizer"}
    assert not any(name.startswith(("unet", "vae", "scheduler")) for name in told["text"]["files"])
    other = shutil.copytree(base, tmp_path / "other")
    (other / "scheduler/scheduler_config.json").write_text(
        (other / "scheduler/scheduler_config.json").read_text().replace("{", '{"x": 1,', 1)
    )
    assert opened(other).encoders() == told
    assert opened(base, "bf16").encoders() != told

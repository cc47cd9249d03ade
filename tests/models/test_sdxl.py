"""Stable Diffusion XL: what its UNet hears is what the pipeline that everyone draws with gives it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, UniPCMultistepScheduler
from PIL import Image

from bases import write_base, write_xl_of_circles
from everstep.config.schema import Compute
from everstep.contracts import Batch, ExampleSettings, Framing
from everstep.data import BatchStream, Framer, frame, open_source, split
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.controls import new_shapes
from everstep.models.hub import loaded_files
from everstep.models.objective import error_maps, task_of
from everstep.models.objective import loss as loss_of
from everstep.models.sdxl import StableDiffusionXL
from everstep.versions import Run, verify
from law import UNSEEN
from program import Ended

Everstep = Callable[..., Ended]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / "sdxl", like="sdxl")


def family(base: Path, **compute: object) -> StableDiffusionXL:
    settings = Compute(device="cpu", **compute)
    return StableDiffusionXL(locate(str(base)), arithmetic(settings), settings)


def batch(folder: Path, **settings: object) -> Batch:
    source = open_source(str(folder), 16)
    told = ExampleSettings(seed=0, latent_shape=(4, 8, 8), prompt_dropout=0.0, **settings)
    return next(BatchStream(Framer(source, Framing(16)), split(source, 1).training, 0, 3, told, workers=0))


def pipeline_of(base: Path, controlnet: ControlNetModel) -> StableDiffusionXLControlNetPipeline:
    made = StableDiffusionXLControlNetPipeline.from_pretrained(base, controlnet=controlnet)
    made.set_progress_bar_config(disable=True)
    return made


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


# --- what is heard -----------------------------------------------------------------------------------------


def test_a_prompt_is_heard_as_the_pipeline_gives_it(base: Path) -> None:
    xl = family(base)
    pipeline = pipeline_of(base, xl.new_controlnet(0))
    heard = xl.prompts(["red circle", ""])
    text, nothing, pooled, pooled_nothing = pipeline.encode_prompt("red circle", do_classifier_free_guidance=True)
    torch.testing.assert_close(heard["text"][0], text[0], rtol=0, atol=0)
    torch.testing.assert_close(heard["pooled"][0], pooled[0], rtol=0, atol=0)
    assert not bool(nothing.any())
    assert not bool(pooled_nothing.any())
    assert torch.equal(heard["text"][1], nothing[0])
    assert torch.equal(heard["pooled"][1], pooled_nothing[0])


def test_an_empty_prompt_is_encoded_where_the_base_says_so(base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "base")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    assert bool(family(other).prompts([""])["text"].any())


def test_sizes_and_crops_are_heard(base: Path, pairs_folder: Path) -> None:
    xl, made = family(base), batch(pairs_folder)
    assert made.frames_B6.tolist() == [[20, 20, 0, 0, 16, 16]] * 3
    whole = task_of(xl, made)
    other = task_of(xl, replace(made, frames_B6=made.frames_B6 * 3))
    assert not torch.equal(xl.predict(None, whole, None), xl.predict(None, other, None))


@pytest.mark.parametrize(
    ("size", "crop_at", "is_flipped", "found"),
    [
        ((100, 100), (0.5, 0.5), False, (100, 100, 0, 0, 50, 50)),
        ((300, 100), (0.5, 0.5), False, (100, 300, 0, 50, 50, 50)),
        ((300, 100), (0.0, 0.9), False, (100, 300, 0, 0, 50, 50)),
        ((300, 100), (0.0, 0.9), True, (100, 300, 0, 100, 50, 50)),
        ((100, 180), (0.3, 1.0), True, (180, 100, 40, 0, 50, 50)),
    ],
)
def test_frames_say_where_the_square_was(
    size: tuple[int, int], crop_at: tuple[float, float], is_flipped: bool, found: tuple[int, ...]
) -> None:
    assert frame(size, 50, crop_at, is_flipped) == found


# --- ControlNets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["full", "mid", "small"])
def test_a_new_controlnet_adds_nothing_and_learns(base: Path, pairs_folder: Path, size: str) -> None:
    xl, made = family(base), batch(pairs_folder)
    controlnet = xl.new_controlnet(0, size=size)
    shapes = {name: tuple(tensor.shape) for name, tensor in controlnet.state_dict().items()}
    assert list(shapes.items()) == list((new_shapes(locate(str(base)), size) or {}).items())
    assert xl.adds_nothing(controlnet)
    task = task_of(xl, made)
    alone = error_maps(xl, None, task, None)
    torch.testing.assert_close(error_maps(xl, controlnet, task, xl.conditions(made.conditions_BHWC)), alone)
    loss_of(xl, controlnet, made, min_snr_gamma=5.0).backward()
    assert bool(controlnet.controlnet_mid_block.weight.grad.any())
    for part in (xl.unet, xl.vae.network, xl.text_encoder, xl.text_encoder_2):
        assert all(parameter.grad is None for parameter in part.parameters())


@pytest.mark.parametrize("size", ["mid", "small"])
def test_what_a_smaller_one_has_in_common_with_the_base_is_the_bases(base: Path, size: str) -> None:
    xl = family(base)
    whole, smaller = xl.new_controlnet(0).state_dict(), xl.new_controlnet(0, size=size).state_dict()
    of_base = [name for name in smaller if not name.startswith("controlnet_")]
    assert len(smaller) < len(whole)
    assert all(torch.equal(smaller[name], whole[name]) for name in of_base)


def test_a_vae_that_float16_cannot_hold_is_run_in_float32(base: Path, tmp_path: Path) -> None:
    """Its activations are made to pass 65,504, as those of SDXL's own VAE do."""
    wide = shutil.copytree(base, tmp_path / "base")
    made = family(wide).vae.network
    with torch.no_grad():
        made.encoder.conv_in.weight.mul_(1e5)
        made.decoder.conv_in.weight.mul_(1e5)
    made.save_pretrained(wide / "vae")
    halved = family(wide, precision="fp16")
    assert (halved.unet.dtype, halved.vae.dtype) == (torch.float16, torch.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    latents = halved.latents(*halved.moments(pixels), torch.zeros(1, 4, 8, 8))
    with halved.arithmetic.autocast():
        assert np.isfinite(halved.decode(latents.half())[0]).all()
    assert bool(latents.isfinite().all())
    config = json.loads((wide / "vae/config.json").read_text())
    (wide / "vae/config.json").write_text(json.dumps(config | {"force_upcast": False}))
    assert family(wide, precision="fp16").vae.dtype == torch.float16


# --- as a user -----------------------------------------------------------------------------------------------


def test_a_stopped_training_goes_on_to_the_same_bits(
    base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    words = ("--base", base, "--data", pairs_folder, "--optim.learning-rate", 1e-2, *UNSEEN)
    words += ("--data.crop", "random", "--data.flip-probability", 0.5, "--versions.every", 3)
    assert everstep("train", "--run", "a", *words, "--optim.max-steps", 6).code == 0
    assert everstep("train", "--run", "b", *words, "--optim.max-steps", 3).code == 0
    ended = everstep("resume", "b", "--set", "optim.max_steps=6")
    assert ended.code == 0, ended.out
    straight, resumed = (Run.open(workplace / "runs" / name).find("latest") for name in "ab")
    assert (straight.step, resumed.step) == (6, 6)
    assert straight.manifest["base"]["family"] == "sdxl"
    assert verify(resumed) == []
    assert (straight.path / "digests.json").read_text() == (resumed.path / "digests.json").read_text()


def test_the_picture_of_sample_is_that_of_the_pipeline_anyone_builds(
    base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    words = ("--optim.max-steps", 5, "--optim.learning-rate", 1e-2, *UNSEEN)
    assert everstep("train", "--run", "a", "--base", base, "--data", pairs_folder, *words).code == 0
    outline, prompt = pairs_folder / "4_outline.png", "red circle with blue background"
    ended = everstep("sample", "a@1", "--condition", outline, "--prompt", prompt, "--seed", 5, "--out", "ours.png")
    assert ended.code == 0, ended.out
    pipeline = pipeline_of(base, ControlNetModel.from_pretrained("runs/a/version_1/controlnet"))
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    theirs = pipeline(
        prompt,
        image=Image.fromarray(picture(outline)).resize((16, 16), Image.Resampling.BILINEAR),
        num_inference_steps=20,
        guidance_scale=5.0,
        controlnet_conditioning_scale=1.0,
        generator=torch.Generator().manual_seed(5),
        height=16,
        width=16,
    ).images[0]
    np.testing.assert_array_equal(picture(Path("ours.png")), np.asarray(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("control", ["full", "small"])
def test_a_controlnet_for_sdxl_is_called_obeyed(everstep: Everstep, workplace: Path, control: str) -> None:
    """The quickstart's recipe, on a base that draws; a few minutes each."""
    made = write_xl_of_circles(workplace / "xl")
    words = ("--base", made, "--optim.control", control, "--sampling.pairs", 0, "--versions.every", 200)
    ended = everstep("train", "circles", "--run", "a", *words)
    assert ended.code == 0, ended.out
    assert re.search(r": obeyed (by|since) step \d+ .* and draws better than the base", ended.out), ended.out


def test_a_smaller_controlnet_is_trained_started_from_and_exported(
    base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    words = ("--base", base, "--data", pairs_folder, "--optim.max-steps", 2, *UNSEEN)
    assert everstep("train", "--run", "a", *words, "--optim.control", "small").code == 0
    assert everstep("train", "--run", "b", *words, "--from", "a@1").code == 0
    both = [Run.open(workplace / "runs" / name).find("latest").path / "controlnet/config.json" for name in "ab"]
    assert len({tuple(json.loads(path.read_text())["down_block_types"]) for path in both}) == 1
    ended = everstep("export", "a@1", "--for", "diffusers", "--out", "out")
    assert ended.code == 0, ended.out
    ControlNetModel.from_pretrained("out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--optim.control", "small", "--from", "a@1"), "--from brings a ControlNet of its own"),
        (("--optim.control", "tiny"), "full"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path, words: tuple[str, ...], said: str
) -> None:
    Run.create(workplace / "runs/a", "a: 1\n")
    ended = everstep("train", "--run", "b", "--base", base, "--data", pairs_folder, *words)
    assert ended.code == 2, ended.out
    assert said in ended.out
    assert not (workplace / "runs/b").exists()


def test_of_a_repository_both_text_encoders_are_downloaded() -> None:
    parts = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    }
    listed = [f"{part}/{stem}{end}" for part, stem in parts.items() for end in (".safetensors", ".fp16.safetensors")]
    listed += [f"{part}/config.json" for part in parts] + ["model_index.json", "sd_xl_base_1.0.safetensors"]
    listed += [f"tokenizer{n}/{name}" for n in ("", "_2") for name in ("merges.txt", "vocab.json")]
    listed += ["vae_1_0/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
    unwanted = {name for name in listed if ".fp16." in name} | {"sd_xl_base_1.0.safetensors"}
    unwanted |= {"vae_1_0/diffusion_pytorch_model.safetensors"}
    assert set(loaded_files(listed)) == set(listed) - unwanted

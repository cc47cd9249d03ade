"""The family does what its options say, on bases in the shapes of SD 1.5 and SD 2.1."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bases import write_base
from everstep.config.schema import Compute
from everstep.contracts import Batch, ExampleSettings, Framing
from everstep.data import BatchStream, Framer, open_source, split
from everstep.errors import UserError
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.objective import loss as loss_of
from everstep.models.reading import stored
from everstep.models.sd import StableDiffusion
from everstep.versions import Run, verify
from law import UNSEEN
from program import Ended


def family(base: Path, **compute: object) -> StableDiffusion:
    settings = Compute(device="cpu", **compute)
    return StableDiffusion(locate(str(base)), arithmetic(settings), settings)


def batch(folder: Path, size: int = 3) -> Batch:
    source = open_source(str(folder), 16)
    settings = ExampleSettings(seed=0, latent_shape=(4, 8, 8))
    return next(BatchStream(Framer(source, Framing(16)), split(source, 1).training, 0, size, settings, workers=0))


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.fixture(scope="module", params=["sd15", "sd21"])
def shaped_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / request.param, like=request.param)


def test_a_base_of_this_shape_trains_and_only_the_controlnet_learns(
    shaped_base: Path, pairs_folder: Path, everstep: Callable[..., Ended], workplace: Path
) -> None:
    ended = everstep("train", "--run", "a", "--base", shaped_base, "--data", pairs_folder, "--optim.max-steps", 3)
    assert ended.code == 0, ended.out
    run = Run.open(workplace / "runs/a")
    expected = "v_prediction" if shaped_base.name == "sd21" else "epsilon"
    assert run.find("latest").manifest["base"]["prediction_type"] == expected
    assert [version.step for version in run.versions()] == [0, 3]
    digests = [(version.path / "digests.json").read_text() for version in run.versions()]
    assert digests[0] != digests[1]
    assert all(verify(version) == [] for version in run.versions())
    assert picture(workplace / "runs/a/records/samples/version_1.png").shape[1] > 100


def test_gradients_reach_the_controlnet_and_no_part_of_the_base(tiny_base: Path, pairs_folder: Path) -> None:
    sd = family(tiny_base)
    controlnet = sd.new_controlnet(0)
    loss_of(sd, controlnet, batch(pairs_folder)).backward()
    assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in controlnet.parameters()) >= 4
    for part in (sd.unet, sd.vae.network, sd.text_encoder):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())


def test_a_new_controlnet_changes_nothing_yet(tiny_base: Path, pairs_folder: Path) -> None:
    sd = family(tiny_base)
    made = batch(pairs_folder)
    conditions = sd.conditions(made.conditions_BHWC)
    down, middle = sd.new_controlnet(0)(
        torch.from_numpy(made.noise_BCHW), torch.zeros(3), sd.prompts(["x"] * 3)["text"], conditions, return_dict=False
    )
    assert all(not bool(residual.any()) for residual in (*down, middle))
    assert 0 <= float(conditions.min()) <= float(conditions.max()) <= 1


def test_a_controlnet_begins_with_the_bases_own_numbers_whatever_the_precision(tiny_base: Path) -> None:
    exact, halved = (family(tiny_base, precision=precision).new_controlnet(0) for precision in ("fp32", "bf16"))
    ours = dict(halved.named_parameters())
    assert all(torch.equal(values, ours[name]) for name, values in exact.named_parameters())


def test_of_a_rounded_base_nothing_is_read_twice_but_what_the_controlnet_begins_with(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole UNet in float32 beside the base would be the most that a training of a large one ever takes."""
    halved = family(tiny_base, precision="bf16")
    read: list[str] = []

    def told(*given: object) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in stored(*given):
            read.append(name)
            yield name, tensor

    monkeypatch.setattr("everstep.models.unet.stored", told)
    begun = halved.new_controlnet(0).state_dict()
    assert sorted(read) == sorted(name for name in begun if not name.startswith("controlnet_"))


def test_a_rounded_base_in_pytorchs_own_files_is_begun_from_alike(tiny_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = next((base / "unet").glob("*.safetensors"))
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    ours, theirs = (family(one, precision="bf16").new_controlnet(0).state_dict() for one in (base, tiny_base))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_no_tensor_is_left_at_whatever_memory_held(part: str, tiny_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = next((base / part).glob("*.safetensors"))
    held = load_file(path)
    gone = sorted(held)[-1]
    save_file({name: tensor for name, tensor in held.items() if name != gone}, path, {"format": "pt"})
    with pytest.raises(UserError, match=rf"{part} could not be loaded: 1 tensor missing \(.*{re.escape(gone)}\)"):
        family(base)


def test_the_same_seed_makes_the_same_controlnet(tiny_base: Path) -> None:
    sd = family(tiny_base)
    one, same, other = (sd.new_controlnet(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_hint_encoder_that_starts_at_random_draws_as_the_base_and_hears_of_the_condition_at_once(
    tiny_base: Path, pairs_folder: Path
) -> None:
    """All residuals are zero, and yet what the zero convolutions learn first depends on the condition."""
    sd = family(tiny_base)
    made = batch(pairs_folder)
    dark = replace(made, conditions_BHWC=np.zeros_like(made.conditions_BHWC))
    heard = {}
    for start in ("zero", "random"):
        controlnet = sd.new_controlnet(0, start)
        losses, gradients = [], []
        for some in (made, dark):
            loss = loss_of(sd, controlnet, some)
            losses.append(float(loss.detach()))
            gradients.append(torch.autograd.grad(loss, controlnet.controlnet_mid_block.weight)[0])
        assert losses[0] == losses[1]
        heard[start] = not torch.equal(*gradients)
    assert heard == {"zero": False, "random": True}


def test_how_the_hint_encoder_starts_changes_its_last_layer_alone(tiny_base: Path) -> None:
    sd = family(tiny_base)
    zero, random = (sd.new_controlnet(1, start).state_dict() for start in ("zero", "random"))
    differing = {name for name in zero if not torch.equal(zero[name], random[name])}
    assert differing == {f"controlnet_cond_embedding.conv_out.{kind}" for kind in ("weight", "bias")}
    assert torch.equal(random["controlnet_cond_embedding.conv_out.weight"], again(sd))


def again(sd: StableDiffusion) -> torch.Tensor:
    """The last layer of another ControlNet of the same seed."""
    weight: torch.Tensor = sd.new_controlnet(1, "random").state_dict()["controlnet_cond_embedding.conv_out.weight"]
    return weight


def saved_for_backward(sd: StableDiffusion, controlnet: torch.nn.Module, made: Batch) -> tuple[float, int]:
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = loss_of(sd, controlnet, made)
    loss.backward()
    return float(loss.detach()), kept


def test_gradient_checkpointing_keeps_less_and_computes_the_same(tiny_base: Path, pairs_folder: Path) -> None:
    made = batch(pairs_folder)
    plain, sparing = family(tiny_base), family(tiny_base, gradient_checkpointing=True)
    one, other = plain.new_controlnet(0), sparing.new_controlnet(0)
    (loss, kept), (same_loss, kept_less) = (
        saved_for_backward(plain, one, made),
        saved_for_backward(sparing, other, made),
    )
    assert same_loss == loss
    assert kept_less < kept / 2
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_nearly_the_same_with_float32_master_weights(
    tiny_base: Path, pairs_folder: Path, precision: str
) -> None:
    made = batch(pairs_folder)
    exact, halved = family(tiny_base), family(tiny_base, precision=precision)
    controlnet = halved.new_controlnet(0)
    assert {p.dtype for p in controlnet.parameters()} == {torch.float32}
    assert {p.dtype for p in halved.unet.parameters()} == {halved.arithmetic.dtype}
    loss = loss_of(halved, controlnet, made)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(exact, exact.new_controlnet(0), made), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_a_run_in_half_precision_trains_stops_and_goes_on(
    tiny_base: Path, pairs_folder: Path, everstep: Callable[..., Ended], precision: str
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--compute.precision", precision)
    assert everstep(*words, "--optim.max-steps", 2).code == 0
    ended = everstep("resume", "a", "--set", "optim.max_steps=4")
    assert ended.code == 0, ended.out
    assert ("loss scaler" in ended.out) == (precision == "fp16")


def test_channels_last_is_kept_in_memory_and_not_in_files(
    tiny_base: Path, pairs_folder: Path, everstep: Callable[..., Ended], workplace: Path
) -> None:
    sd = family(tiny_base, channels_last=True)
    weight = sd.new_controlnet(0).conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    words = ("--base", tiny_base, "--data", pairs_folder, "--optim.max-steps", 1, *UNSEEN)
    assert everstep("train", "--run", "a", *words).code == 0
    assert everstep("train", "--run", "b", *words, "--compute.channels-last").code == 0
    first = [(workplace / "runs" / name / "version_0/digests.json").read_text() for name in ("a", "b")]
    assert first[0] == first[1]


def test_compile_compiles_both_networks(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(type(network).__name__) or network)
    sd = family(tiny_base, compile=True)
    sd.compiled(sd.new_controlnet(0))
    assert compiled == ["UNet2DConditionModel", "ControlNetModel"]


def test_prompts_are_encoded_alone_and_remembered(tiny_base: Path) -> None:
    sd = family(tiny_base)
    together = sd.prompts(["red circle", "", "red circle"])["text"]
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    fresh = family(tiny_base).prompts(["red circle"])["text"]
    assert torch.equal(fresh[0], together[0])


def test_the_picture_of_sample_is_that_of_the_pipeline_anyone_builds(
    shaped_base: Path, pairs_folder: Path, everstep: Callable[..., Ended], workplace: Path
) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler

    words = ("--optim.max-steps", 5, "--optim.learning-rate", 1e-2, *UNSEEN)
    assert everstep("train", "--run", "a", "--base", shaped_base, "--data", pairs_folder, *words).code == 0
    outline, prompt = pairs_folder / "4_outline.png", "red circle with blue background"
    ended = everstep("sample", "a@1", "--condition", outline, "--prompt", prompt, "--seed", 5, "--out", "ours.png")
    assert ended.code == 0, ended.out

    controlnet = ControlNetModel.from_pretrained("runs/a/version_1/controlnet")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        shaped_base, controlnet=controlnet, safety_checker=None, feature_extractor=None
    )
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt,
        Image.fromarray(picture(outline)).resize((16, 16), Image.Resampling.BILINEAR),
        num_inference_steps=20,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(5),
        height=16,
        width=16,
    ).images[0]
    np.testing.assert_array_equal(picture(Path("ours.png")), np.asarray(theirs))
    plain = np.asarray(theirs).astype(int)
    assert plain.std() > 1


def test_a_controlnet_for_another_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    sd = family(tiny_base)
    sd.new_controlnet(0).save_pretrained(tmp_path / "net")
    config = (tmp_path / "net/config.json").read_text()
    (tmp_path / "net/config.json").write_text(config.replace('"cross_attention_dim": 16', '"cross_attention_dim": 32'))
    with pytest.raises(UserError):
        sd.load_controlnet(str(tmp_path / "net"))
    with pytest.raises(UserError, match="holds no weights"):
        sd.load_controlnet(str(tmp_path))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"compute\.device is 'tpu'|should be auto"):
        arithmetic(Compute(device="nonsense"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="PyTorch sees 0 CUDA devices"):
            arithmetic(Compute(device="cuda:3"))

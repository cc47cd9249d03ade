"""ControlNet-LLLite: it adds what its author's programs add, and is trained, kept and handed on as others are."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UniPCMultistepScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from bases import write_base, write_xl_of_circles
from everstep.contracts import Batch, ExampleSettings, Framing
from everstep.data import BatchStream, Framer, open_source, split
from everstep.delivery.export import export
from everstep.delivery.reread import reread
from everstep.errors import DamageFound
from everstep.exchange.lllite import LLLITE, lllite_shapes
from everstep.exchange.readers import Form
from everstep.models.base import locate
from everstep.models.controls import lllite_places, new_shapes
from everstep.models.files import WEIGHTS
from everstep.models.lllite import ControlNetLLLite
from everstep.models.objective import error_maps, task_of
from everstep.models.objective import loss as loss_of
from everstep.models.parts import unet_shapes
from everstep.models.whole import SDXL
from everstep.versions import Run, verify
from law import UNSEEN
from lllite import family, grown, reference, write_tiles
from program import Ended

Everstep = Callable[..., Ended]
QUICK = ("--optim.control", "lllite", "--optim.learning-rate", 1e-2, "--optim.batch-size", 2, *UNSEEN)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xl_of_circles(tmp_path_factory.mktemp("bases") / "xl")


@pytest.fixture(scope="module")
def batch() -> Batch:
    source = open_source("builtin:circles", 64)
    told = ExampleSettings(seed=0, latent_shape=(4, 16, 16), prompt_dropout=0.0)
    return next(BatchStream(Framer(source, Framing(64)), split(source, 1).training, 0, 2, told, workers=0))


# --- the network -------------------------------------------------------------------------------------------


def test_a_new_one_adds_nothing_and_learns(base: Path, batch: Batch) -> None:
    xl = family(base)
    network = xl.new_controlnet(0, size="lllite")
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert list(shapes.items()) == list((new_shapes(locate(str(base)), "lllite") or {}).items())
    assert [name for name, _ in network.named_parameters()] == list(shapes)
    assert xl.adds_nothing(network)
    task = task_of(xl, batch)
    alone = error_maps(xl, None, task, None)
    assert torch.equal(error_maps(xl, network, task, xl.conditions(batch.conditions_BHWC)), alone)
    loss_of(xl, network, batch).backward()
    assert all(bool(module.up[0].weight.grad.any()) for module in network.modules_by_name.values())
    for part in (xl.unet, xl.vae.network, xl.text_encoder, xl.text_encoder_2):
        assert all(parameter.grad is None for parameter in part.parameters())


def test_seeds_decide_what_it_begins_as(base: Path) -> None:
    xl = family(base)
    first, again, other = (xl.new_controlnet(seed, size="lllite").state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_what_is_added_is_what_its_author_adds(base: Path, batch: Batch) -> None:
    """The matrices of another UNet are given their inputs as the author's programs do, from the tensors of a file."""
    ours, theirs = family(base), family(base)
    network = grown(ours.new_controlnet(0, size="lllite"))
    weights, conditions = network.state_dict(), ours.conditions(batch.conditions_BHWC)
    task = task_of(ours, batch)
    found = ours.predict(network, task, conditions)
    for place in lllite_places(ours.base):
        matrix = theirs.unet.get_submodule(place.matrix)

        def instead(inputs: Tensor, plain: Callable[..., Tensor] = matrix.forward, at: str = place.module) -> Tensor:
            return plain(inputs + reference(weights, at, inputs, conditions))

        matrix.forward = instead
    with torch.no_grad():
        wanted = theirs.predict(None, task, None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(found, ours.predict(None, task, None), atol=1e-2)


def test_after_it_the_base_is_alone_again(base: Path, batch: Batch) -> None:
    xl = family(base)
    task = task_of(xl, batch)
    before = xl.predict(None, task, None)
    network = grown(xl.new_controlnet(0, size="lllite"))
    assert not torch.equal(xl.predict(network, task, xl.conditions(batch.conditions_BHWC)), before)
    assert torch.equal(xl.predict(None, task, None), before)
    whole = xl.new_controlnet(0)
    xl.predict(network, task, xl.conditions(batch.conditions_BHWC))
    torch.testing.assert_close(xl.predict(whole, task, xl.conditions(batch.conditions_BHWC)), before)


def test_what_is_computed_once_more_for_gradients_is_the_same(base: Path, batch: Batch) -> None:
    found = []
    for is_checkpointed in (False, True):
        xl = family(base, gradient_checkpointing=is_checkpointed)
        xl.unet.train()  # the library checkpoints in training alone
        network = grown(xl.new_controlnet(0, size="lllite"))
        loss_of(xl, network, batch).backward()
        found.append({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_it_computes_in_the_bases_arithmetic_and_keeps_float32(base: Path, batch: Batch) -> None:
    xl = family(base, precision="bf16")
    network = grown(xl.new_controlnet(0, size="lllite"))
    prediction = xl.predict(network, task_of(xl, batch), xl.conditions(batch.conditions_BHWC))
    assert prediction.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at what it is given
def test_compiled_with_its_unet_it_computes_the_same(base: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiled(network, backend="aot_eager", fullgraph=True))
    found = []
    for is_compiled in (False, True):
        xl = family(base, compile=is_compiled)
        network = grown(xl.new_controlnet(0, size="lllite"))
        loss_of(xl, xl.compiled(network), batch).backward()
        slopes = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        alone = xl.predict(None, task_of(xl, batch), None).detach()
        found.append((slopes, alone))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-6)


# --- as a user -----------------------------------------------------------------------------------------------


def test_a_stopped_training_goes_on_to_the_same_bits(base: Path, everstep: Everstep, workplace: Path) -> None:
    words = ("circles", "--base", base, *QUICK, "--versions.every", 2, "--optim.schedule", "constant")
    assert everstep("train", *words, "--run", "b", "--optim.max-steps", 2).code == 0
    assert everstep("train", *words, "--run", "a", "--optim.max-steps", 4).code == 0
    ended = everstep("resume", "b", "--set", "optim.max_steps=4")
    assert ended.code == 0, ended.out
    straight, resumed = (Run.open(workplace / "runs" / name).find("latest") for name in "ab")
    assert (straight.step, resumed.step) == (4, 4)
    assert verify(resumed) == []
    assert (straight.path / "digests.json").read_text() == (resumed.path / "digests.json").read_text()
    assert straight.manifest["inputs"]["condition_range"] == [-1.0, 1.0]
    assert json.loads((straight.path / "controlnet/config.json").read_text()) == {
        "_class_name": "ControlNetLLLite",
        "cond_emb_dim": 32,
        "mlp_dim": 64,
    }


def test_a_plan_is_right_to_the_byte(base: Path, everstep: Everstep, workplace: Path) -> None:
    words = ("circles", "--base", base, *QUICK, "--optim.max-steps", 1)
    planned = json.loads(everstep("plan", *words, "--quick", "--json").out)["file_bytes"]
    assert everstep("train", *words, "--run", "a").code == 0
    made = Run.open(workplace / "runs/a").find("latest").files
    tensors = [path for path in made if path.endswith(".safetensors")]
    assert len(tensors) == 3
    assert {path: planned[path] for path in tensors} == {path: made[path]["size"] for path in tensors}


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder runs with a, two steps far, whose modules have learned something."""
    from program import Program

    folder = tmp_path_factory.mktemp("trained")
    program = Program(("train", "circles", "--run", "a", "--base", base, *QUICK, "--optim.max-steps", 2), folder)
    assert program.wait(120) == 0, program.output
    return folder / "runs"


def test_the_picture_of_sample_is_that_of_the_bases_pipeline_with_what_is_added(
    base: Path, trained: Path, everstep: Everstep, workplace: Path
) -> None:
    version = Run.open(trained / "a").find("latest")
    Image.fromarray(np.full((64, 64, 3), 40, np.uint8)).save("grey.png")
    words = ("--condition", "grey.png", "--prompt", "red circle", "--seed", 5, "--out", "ours.png")
    ended = everstep("sample", f"{trained}/a@latest", *words)
    assert ended.code == 0, ended.out
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    weights, condition = load_file(version.path / "training/ema.safetensors"), torch.full((1, 3, 64, 64), 40 / 255)
    for place in lllite_places(locate(str(base))):
        matrix = pipeline.unet.get_submodule(place.matrix)

        def instead(inputs: Tensor, plain: Callable[..., Tensor] = matrix.forward, at: str = place.module) -> Tensor:
            return plain(inputs + reference(weights, at, inputs, condition))

        matrix.forward = instead
    guidance = version.manifest["config"]["sampling"]["guidance_scale"]
    asked = {"num_inference_steps": version.manifest["config"]["sampling"]["steps"], "guidance_scale": guidance}
    generator = torch.Generator().manual_seed(5)
    [theirs] = pipeline("red circle", height=64, width=64, generator=generator, **asked).images
    with Image.open("ours.png") as opened:
        ours = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1


def test_its_file_is_read_back_and_trained_from(base: Path, trained: Path, everstep: Everstep, workplace: Path) -> None:
    version = Run.open(trained / "a").find("latest")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(version.path / WEIGHTS).items()}
    done = export(version, shapes, Form(LLLITE, is_folder=False), Path("x.safetensors"), averaged=False)
    assert (done.is_averaged, done.adds_nothing, 0 < done.difference < 1e-2) == (False, False, True)
    own = load_file(version.path / WEIGHTS)
    handed_on = load_file("x.safetensors")
    assert set(handed_on) == set(own)
    assert all(torch.equal(handed_on[name], own[name].half()) for name in own)

    ended = everstep("import", "x.safetensors", "--base", base, "--out", "mine")
    assert ended.code == 0, ended.out
    taken = load_file("mine/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(taken[name], own[name].half().float()) for name in own)
    for source in ("x.safetensors", "mine"):
        run = f"from-{source[0]}"
        words = ("circles", "--base", base, *QUICK[2:], "--optim.max-steps", 1, "--optim.hint-start", "zero")
        ended = everstep("train", *words, "--run", run, "--from", source)
        assert ended.code == 0, ended.out
        first = load_file(workplace / f"runs/{run}/version_0" / WEIGHTS)
        assert all(torch.equal(first[name], taken[name]) for name in own)


def test_one_of_true_shapes_is_taken_over_without_a_base(everstep: Everstep, workplace: Path) -> None:
    shapes = lllite_shapes(unet_shapes(SDXL.parts["unet"]) or {}, 16, 8)
    save_file({name: torch.full(shape, 0.5, dtype=torch.bfloat16) for name, shape in shapes.items()}, "x.safetensors")
    ended = everstep("import", "x.safetensors", "--out", "mine")
    assert ended.code == 0, ended.out
    assert "a ControlNet for SDXL, LLLite, 1,600 tensors" in ended.out
    found = load_file("mine/diffusion_pytorch_model.safetensors")
    network = ControlNetLLLite({name: tuple(tensor.shape) for name, tensor in found.items()})
    assert network.config == json.loads(Path("mine/config.json").read_text())
    ended = everstep("import", "x.safetensors", "--out", "part", "--partial")
    assert ended.code == 2, ended.out
    assert "taken whole or not at all" in ended.out


@pytest.mark.parametrize("reader", ["diffusers", "invokeai", "comfyui"])
def test_readers_that_would_not_know_it_are_refused(
    trained: Path, everstep: Everstep, workplace: Path, reader: str
) -> None:
    said = {
        "diffusers": "diffusers cannot draw with an LLLite",
        "invokeai": "InvokeAI cannot draw with an LLLite",
        "comfyui": "ComfyUI knows an LLLite by where it stands in SDXL. This one stands elsewhere",
    }
    ended = everstep("export", f"{trained}/a@latest", "--for", reader)
    assert ended.code == 2, ended.out
    assert said[reader] in ended.out
    assert list(workplace.glob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ("sd15", "ControlNets for Stable Diffusion 1.x and 2.x are full"),
        ("sdxl", "of this base sees the picture 4 times smaller"),
    ],
)
def test_bases_without_a_place_for_one_are_refused(
    everstep: Everstep, workplace: Path, pairs_folder: Path, like: str, said: str
) -> None:
    made = write_base(workplace / "base", like=like)
    ended = everstep("train", "--run", "a", "--base", made, "--data", pairs_folder, "--optim.control", "lllite")
    assert ended.code == 2, ended.out
    assert said in ended.out
    assert not (workplace / "runs").exists()


def damaged(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    name = next(name for name in tensors if name.endswith("mid.0.weight"))
    if how == "lacking":
        return {other: tensor for other, tensor in tensors.items() if other != name}
    if how == "of another base":
        return {other.replace("input_blocks_3_1", "input_blocks_4_1"): tensor for other, tensor in tensors.items()}
    return {other: tensor[..., None, None] if other.endswith("mid.0.weight") else tensor
            for other, tensor in tensors.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lacking", "1 tensor missing"),
        ("of another base", "that the config knows nothing of"),
        ("of convolutions", "not those of one that stands before attentions"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_words(
    base: Path, trained: Path, everstep: Everstep, workplace: Path, how: str, said: str
) -> None:
    own = load_file(Run.open(trained / "a").find("latest").path / WEIGHTS)
    save_file(damaged(own, how), "x.safetensors")
    for words in (("import", "x.safetensors", "--base", base, "--out", "mine"),
                  ("train", "circles", "--run", "b", "--base", base, "--from", "x.safetensors")):  # fmt: skip
        ended = everstep(*words)
        assert ended.code == 2, ended.out
        assert said in ended.out
        assert not Path("mine").exists()
        assert not Path("runs").exists()


def test_an_lllite_is_not_begun_with_a_base_of_another_family(
    trained: Path, everstep: Everstep, workplace: Path, pairs_folder: Path
) -> None:
    ended = everstep("train", "--run", "b", "--data", pairs_folder, "--data.resolution", 64, "--from", f"{trained}/a@1")
    assert ended.code == 2, ended.out
    assert "is an LLLite, which are for SDXL" in ended.out


def test_one_that_was_written_otherwise_is_found_by_computing(base: Path, tmp_path: Path) -> None:
    network = grown(family(base).new_controlnet(0, size="lllite"))
    tensors = {name: tensor.detach() * 1e-7 for name, tensor in network.state_dict().items()}
    bijection = LLLITE.expand({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(DamageFound, match="what it computes differs by"):
        reread(tmp_path / "x.safetensors", bijection, tensors, network.config, torch.float16)


@pytest.mark.slow
def test_an_lllite_hears_its_condition(base: Path, everstep: Everstep, workplace: Path) -> None:
    """Of colours in their places. Outlines ask more than the few attentions of this base give."""
    tiles = write_tiles(workplace / "tiles", 2000)
    words = ("--base", base, "--data", tiles, "--optim.control", "lllite", "--sampling.pairs", 0)
    words += ("--optim.learning-rate", 4e-3, "--optim.timestep-shift", 1.5, "--optim.max-steps", 1200)
    assert everstep("train", "circles", "--run", "a", *words).code == 0
    ended = everstep("score", "a@latest")
    found = re.search(r"control gain (\d\.\d+) \((\d\.\d+) to", ended.out)
    assert found is not None, ended.out
    assert float(found[1]) > 0.1
    assert float(found[2]) > 0

"""everstep export: from a trained version to a file that others load, on a small network with the layers of SD 1.x."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from bases import write_base
from disks import small_disk
from everstep.delivery import export as delivery
from everstep.errors import DamageFound
from everstep.exchange import architecture
from everstep.exchange.sd import CONTROLNET_LDM
from everstep.versions import Run
from program import Ended, Program

Everstep = Callable[..., Ended]
WEIGHTS, AVERAGED = "controlnet/diffusion_pytorch_model.safetensors", "training/ema.safetensors"
SINGLE = "a_canny_sd1_v1.safetensors"


@pytest.fixture(scope="session")
def _trained(pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks of two layers and a VAE of factor 8: all of SD 1.x but its widths."""
    folder = tmp_path_factory.mktemp("trained")
    base = write_base(folder / "base", like="sd15")
    blocks = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
    widths = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4}
    UNet2DConditionModel(
        sample_size=8, cross_attention_dim=16, attention_head_dim=2, **widths,
        down_block_types=(*blocks[0], "DownBlock2D"), up_block_types=("UpBlock2D", *blocks[1]),
    ).save_pretrained(base / "unet")  # fmt: skip
    ends = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(sample_size=64, **widths, **ends).save_pretrained(base / "vae")
    words = ("--base", base, "--data", pairs_folder, "--optim.batch-size", 2, "--versions.every", 2)
    more = ("--sampling.pairs", 0, "--optim.max-steps", 2, "--optim.ema-decay", 0.9, "--optim.learning-rate", 1e-3)
    program = Program(("train", "--run", "a", *words, *more, "--scoring.adherence", "canny"), folder)
    assert program.wait(120) == 0, program.output
    return folder / "runs"


@pytest.fixture
def trained(_trained: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/ with a, whose network the readers know for Stable Diffusion 1.x in these tests."""
    runs = shutil.copytree(_trained, workplace / "runs")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(runs / "a/version_1" / WEIGHTS).items()}
    monkeypatch.setitem(architecture.KNOWN, "sd1", architecture.architecture_of(shapes))
    return runs


def computed(network: ControlNetModel) -> list[Tensor]:
    torch.manual_seed(1)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 16), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        down, middle = network.eval().float()(*inputs, return_dict=False)
    return [*down, middle]


def own(runs: Path, file: str = WEIGHTS) -> ControlNetModel:
    """The version's, in half precision as it is exported."""
    network = ControlNetModel.from_pretrained(runs / "a/version_1/controlnet")
    network.load_state_dict(load_file(runs / "a/version_1" / file))
    return network.half()


# --- what is written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["comfyui", "forge", "a1111", "invokeai"])
def test_a_single_file_is_loaded_by_diffusers_as_the_versions_network(
    everstep: Everstep, trained: Path, reader: str
) -> None:
    ended = everstep("export", "a@1", "--for", reader)
    assert ended.code == 0, ended.out
    config = str(trained / "a/version_1/controlnet")
    read = ControlNetModel.from_single_file(SINGLE, config=config)
    assert all(torch.equal(x, y) for x, y in zip(computed(read), computed(own(trained, AVERAGED)), strict=True))
    assert all(name.startswith("control_model.") for name in load_file(SINGLE))
    assert sorted(os.listdir()) == [SINGLE, "runs"]


def test_a_folder_is_loaded_by_diffusers_as_it_stands(everstep: Everstep, trained: Path) -> None:
    ended = everstep("export", "a@1", "--for", "diffusers", "--no-averaged", "--dtype", "fp32", "--out", "there")
    assert ended.code == 0, ended.out
    assert sorted(os.listdir("there")) == ["config.json", "diffusion_pytorch_model.safetensors"]
    wanted = load_file(trained / "a/version_1" / WEIGHTS)
    read = ControlNetModel.from_pretrained("there")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in read.state_dict().items())
    assert "what it computes differs by 0.00%" in ended.out


def test_what_was_done_is_said_with_sizes_and_where_it_goes(everstep: Everstep, trained: Path) -> None:
    said = everstep("export", "a@1", "--for", "comfyui").out
    version = Run.open(trained / "a").find("1")
    parameters = sum(tensor.numel() for tensor in load_file(version.path / WEIGHTS).values())
    assert f"version_1 is written to {SINGLE}: {parameters:,} numbers of 2 bytes, " in said
    assert "of training state are left out." in said
    assert "Read back: every tensor is the version's, averaged, in fp16; what it computes differs by 0." in said
    assert "ComfyUI: ComfyUI/models/controlnet/; the nodes Load ControlNet Model and Apply ControlNet." in said
    facts = json.loads(everstep("export", "a@1", "--for", "comfyui", "--force", "--json").out)
    assert facts["size_bytes"] == Path(SINGLE).stat().st_size
    assert (facts["family"], facts["condition"], facts["is_averaged"], facts["parameters"]) == (
        "sd1",
        "canny",
        True,
        parameters,
    )


def test_the_file_says_what_it_is(everstep: Everstep, trained: Path) -> None:
    words = ("--condition", "pose", "--licence", "CC BY 4.0", "--dtype", "bf16")
    assert everstep("export", "a@1", "--for", "invokeai", *words).code == 0
    with safe_open("a_pose_sd1_v1.safetensors", framework="pt") as file:
        said = file.metadata()
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    version = Run.open(trained / "a").find("1")
    base = said.pop("everstep.base")
    assert "/" not in base  # where it is on this machine is nobody's business
    assert said.pop("everstep.program").startswith("everstep ")
    assert said == {
        "format": "pt",
        "everstep.family": "sd1",
        "everstep.base_digest": version.manifest["base"]["digest"],
        "everstep.prediction_type": "epsilon",
        "everstep.run": "a",
        "everstep.version": "1",
        "everstep.step": "2",
        "everstep.images_seen": "4",
        "everstep.weights": "averaged",
        "everstep.condition": "pose",
        "everstep.condition_range": "[0.0, 1.0]",
        "everstep.licence": "CC BY 4.0",
        "everstep.layout": CONTROLNET_LDM.name,
    }


def test_a_version_that_adds_nothing_says_so(everstep: Everstep, trained: Path) -> None:
    said = everstep("export", "a@0", "--for", "comfyui")
    assert said.code == 0
    assert "It adds nothing yet: its last layers are all zero" in said.out


def test_force_replaces_a_file_and_a_folder(everstep: Everstep, trained: Path) -> None:
    for reader, out in (("comfyui", "x.safetensors"), ("diffusers", "x")):
        for version in (0, 1):
            assert everstep("export", f"a@{version}", "--for", reader, "--out", out, "--force").code == 0
    weights = load_file("x/diffusion_pytorch_model.safetensors")
    assert weights["controlnet_mid_block.weight"].any()
    assert load_file("x.safetensors")["control_model.middle_block_out.0.weight"].any()
    assert sorted(os.listdir()) == ["runs", "x", "x.safetensors"]


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--for", "photoshop"), 'Invalid value "photoshop" for --for.'),
        (("--for", "comfyui", "--out", "there.safetensors"), "--force replaces it, --out names another."),
        (("--for", "comfyui", "--out", "folder", "--force"), "is a folder; a name of a file in it is wanted."),
        (("--for", "comfyui", "--out", "x.ckpt"), "give it one that ends in .safetensors."),
        (("--for", "comfyui", "--out", "no/x.safetensors"), "there is no folder no."),
        (
            ("--for", "comfyui", "--out", "my_shuffle.safetensors"),
            "uses a ControlNet with shuffle in its name otherwise",
        ),
        (("--for", "comfyui", "--condition", "shuffle"), "uses a ControlNet with shuffle in its name otherwise"),
        (("--for", "comfyui", "--condition", "../../etc"), "one word in small letters"),
        (("--for", "diffusers", "--out", "folder", "--force"), "holds more than a ControlNet (thesis.txt)."),
        (("--for", "diffusers", "--out", "there.safetensors", "--force"), "is there already."),
        (
            ("--for", "invokeai", "--out", "depth_x.safetensors"),
            "would make depth conditions for it, by its name, not canny",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    everstep: Everstep, trained: Path, words: tuple[str, ...], sentence: str
) -> None:
    Path("there.safetensors").write_text("years of work")
    Path("folder").mkdir()
    Path("folder/thesis.txt").write_text("years of work")
    ended = everstep("export", "a@1", *words)
    assert (ended.code, sentence in ended.out) == (2, True), ended.out
    assert sorted(os.listdir()) == ["folder", "runs", "there.safetensors"]
    assert Path("there.safetensors").read_text() == "years of work"
    assert os.listdir("folder") == ["thesis.txt"]


def test_a_network_that_a_reader_does_not_know_is_refused(
    everstep: Everstep, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(trained.parent)
    ended = everstep("export", "a@1", "--for", "comfyui")
    assert ended.code == 2
    assert "ComfyUI knows a ControlNet by its shapes: Stable Diffusion 1.x, " in ended.out
    assert os.listdir() == ["runs"]


def test_a_damaged_version_is_refused_with_the_tensors_name(everstep: Everstep, trained: Path) -> None:
    weights = trained / "a/version_1" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ended = everstep("export", "a@1", "--for", "comfyui")
    assert ended.code == 1
    assert "version_1 is damaged: " in ended.out
    weights.write_bytes(b"\xff" * 100)  # not even a header
    assert "version_1 is damaged: " in everstep("export", "a@1", "--for", "comfyui").out
    assert os.listdir() == ["runs"]


def test_a_run_of_another_loop_holds_no_controlnet(everstep: Everstep, run: Run, workplace: Path) -> None:
    ended = everstep("export", "r@2", "--for", "diffusers")
    assert (ended.code, "version_2 holds no ControlNet" in ended.out) == (2, True), ended.out


def test_numbers_too_large_for_halves_are_not_made_infinite(
    everstep: Everstep, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*words: Any) -> dict[str, Tensor]:
        return {name: tensor * 1e9 for name, tensor in original(*words).items()}

    original = delivery.read_torch
    monkeypatch.setattr(delivery, "read_torch", read)
    ended = everstep("export", "a@1", "--for", "comfyui")
    assert (ended.code, "have numbers that fp16 cannot hold" in ended.out) == (2, True), ended.out
    assert os.listdir() == ["runs"]


# --- what fails on the way ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("reader", "name"), [("comfyui", SINGLE), ("diffusers", SINGLE.removesuffix(".safetensors"))])
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "replaced"])
def test_what_fails_its_check_is_not_there(
    everstep: Everstep, trained: Path, monkeypatch: pytest.MonkeyPatch, reader: str, name: str, is_there: bool
) -> None:
    """A single number of a single tensor is another in the file."""
    if is_there:
        assert everstep("export", "a@0", "--for", reader, "--out", name).code == 0
    before = {path: path.read_bytes() for path in Path(".").rglob(f"{name}*/*") if path.is_file()}

    def flipped(path: Path, *words: Any) -> None:
        original(path, *words)
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)

    original = delivery._write
    monkeypatch.setattr(delivery, "_write", flipped)
    ended = everstep("export", "a@1", "--for", reader, "--out", name, "--force")
    assert ended.code == 1
    assert f"{name} was not written as it should be: " in ended.out
    assert sorted(os.listdir()) == sorted(["runs", *([name] if is_there else [])])
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_network_that_computes_something_else_is_not_there(
    everstep: Everstep, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor is as it was meant to be, but it was meant wrongly: what the two compute differs."""
    monkeypatch.setattr("everstep.delivery.reread.TOLERANCES", {torch.float16: 1e-9})
    ended = everstep("export", "a@1", "--for", "comfyui")
    assert ended.code == 1
    assert "what it computes differs by " in ended.out
    assert os.listdir() == ["runs"]


def test_a_full_disk_leaves_nothing(everstep: Everstep, trained: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        for reader in ("comfyui", "diffusers"):
            ended = everstep("export", "a@1", "--for", reader, "--out", disk / "x.safetensors")
            assert ended.code == 4, ended.out
            assert os.listdir(disk) == []


def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(
    everstep: Everstep, trained: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=64k,ro") as disk:
        ended = everstep("export", "a@1", "--for", "comfyui", "--out", disk / "x.safetensors")
    assert ended.code in (2, 4), ended.out
    assert "cannot be written to" in ended.out or "read-only" in ended.out.lower()


def test_a_version_that_was_read_whole_is_exported_only_then(
    everstep: Everstep, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What flips between the two readings is found by the second."""

    def torn(*words: Any) -> dict[str, Tensor]:
        raise DamageFound("version_1: fails its digest")

    monkeypatch.setattr(delivery, "read_torch", torn)
    assert everstep("export", "a@1", "--for", "comfyui").code == 1
    assert os.listdir() == ["runs"]

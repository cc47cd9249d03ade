"""A whole base in one file is a base: unpacked once, tensor by tensor what it was made of."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import write_base
from everstep.errors import UserError
from everstep.exchange import sd
from everstep.models import base as base_module
from everstep.models import unpacked as module
from everstep.models.parts import plain_text
from everstep.models.unpacked import unpacked
from everstep.models.whole import SD1, SDXL, WHOLES, Whole
from everstep.versions import Run
from program import Program

LAYOUTS = {
    "sd15": {"unet": sd.UNET, "vae": sd.VAE, "text_encoder": sd.CLIP},
    "sdxl": {
        "unet": sd.UNET,
        "vae": sd.VAE,
        "text_encoder": sd.CLIP_OF_XL,
        "text_encoder_2": sd.OPEN_CLIP_OF_XL,
    },
}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base in diffusers layout, of which one file is made."""
    return write_base(tmp_path_factory.mktemp("bases") / request.param, like=request.param)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept = plain_text({name: tuple(tensor.shape) for name, tensor in tensors.items()}, projects=True)
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()
            if name.removeprefix("text_model.") in kept}  # fmt: skip


def one_file(folder: Path, path: Path, dtype: torch.dtype = torch.float16, **beside: torch.Tensor) -> Path:
    """As authors store it, with things in it that are no part of it; and its tokenizer beside it."""
    held: dict[str, torch.Tensor] = {"alphas_cumprod": torch.zeros(1000), **beside}
    for part, layout in LAYOUTS[folder.name].items():
        tensors = weights_of(folder / part)
        ours = plain(tensors) if part.startswith("text_encoder") else tensors
        bijection = layout.expand({name: tuple(tensor.shape) for name, tensor in ours.items()})
        theirs = bijection.forward(ours, torch.cat)
        held |= {name: tensor.to(dtype).contiguous().clone() for name, tensor in theirs.items()}
    held["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    if folder.name == "sdxl":
        held.pop("cond_stage_model.transformer.text_model.embeddings.position_ids")
        held["conditioner.embedders.1.model.logit_scale"] = torch.tensor(1.0)
    save_file(held, path)
    shutil.copytree(folder / "tokenizer", path.parent / "tokenizer", dirs_exist_ok=True)
    return path


def small(folder: Path) -> tuple[Whole]:
    """What is known of this small base, as it is known of the true ones."""
    parts = {part: json.loads((folder / part / "config.json").read_text()) for part in LAYOUTS[folder.name]}
    like = SDXL if folder.name == "sdxl" else SD1
    return (replace(like, text_width=parts["unet"]["cross_attention_dim"], parts=parts),)


def test_every_tensor_is_the_one_that_the_file_was_made_of(folder: Path, tmp_path: Path) -> None:
    made = unpacked(one_file(folder, tmp_path / "one.safetensors"), wholes=small(folder))
    assert made is not None
    for part in LAYOUTS[folder.name]:
        found, there = weights_of(made / part), weights_of(folder / part)
        if part.startswith("text_encoder"):
            found, there = plain(found), plain(there)
        assert set(found) == set(there)
        assert all(torch.equal(found[name], there[name].half()) for name in there), part


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_keep_their_kind(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    made = unpacked(one_file(folder, tmp_path / "one.safetensors", dtype), wholes=small(folder))
    assert made is not None
    assert {tensor.dtype for part in LAYOUTS[folder.name] for tensor in weights_of(made / part).values()} == {dtype}


def test_it_is_unpacked_once_for_each_content(folder: Path, tmp_path: Path) -> None:
    path = one_file(folder, tmp_path / "one.safetensors")
    made = unpacked(path, wholes=small(folder))
    assert made is not None
    (made / "mark").touch()
    shutil.copy(path, tmp_path / "moved.safetensors")
    (tmp_path / "moved.safetensors").rename(path)
    assert unpacked(path, wholes=small(folder)) == made
    assert (made / "mark").exists()
    other = unpacked(one_file(folder, path, torch.bfloat16), wholes=small(folder))
    assert other not in (None, made)


def test_velocity_and_a_last_step_of_noise_alone_are_told_by_empty_tensors(folder: Path, tmp_path: Path) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", v_pred=torch.tensor([]), ztsnr=torch.tensor([]))
    made = unpacked(path, wholes=small(folder))
    assert made is not None
    settings = json.loads((made / "scheduler/scheduler_config.json").read_text())
    assert (settings["prediction_type"], settings["rescale_betas_zero_snr"]) == ("v_prediction", True)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_what_is_not_all_of_a_base_leaves_nothing(folder: Path, tmp_path: Path, change: str) -> None:
    path = one_file(folder, tmp_path / "one.safetensors")
    held = load_file(path)
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    if change == "missing":
        held.pop(name)
    elif change == "surplus":
        held["model.diffusion_model.more.weight"] = torch.zeros(2)
    else:
        held[name] = torch.zeros(3)
    save_file(held, path)
    before = sorted(bases_there())
    with pytest.raises(UserError, match=r"one\.safetensors: .*(middle_block|more\.weight)"):
        unpacked(path, wholes=small(folder))
    assert sorted(bases_there()) == before


def bases_there() -> list[str]:
    from everstep.places import cache_folder

    cache = cache_folder()
    assert cache is not None
    return [path.name for path in (cache / "everstep/bases").glob("*")]


def test_a_file_without_a_tokenizer_says_what_will_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    path = one_file(folder, tmp_path / "untold.safetensors")
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"has no tokenizer in it.*\n.*vocab\.json and merges\.txt will do"):
        unpacked(path, wholes=small(folder))


def test_other_files_are_no_bases(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, tmp_path / "unet.safetensors")
    assert unpacked(tmp_path / "unet.safetensors") is None
    (tmp_path / "notes.txt").write_text("mine")
    assert unpacked(tmp_path / "notes.txt") is None


@pytest.mark.parametrize("whole", WHOLES, ids=lambda whole: whole.title)
def test_what_is_known_of_true_bases_describes_them(whole: Whole) -> None:
    """Configs of every part, as the library builds them: as many numbers as the bases have."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def count(network: Any) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    parts = whole.parts
    with torch.device("meta"):
        found = {
            "unet": count(UNet2DConditionModel.from_config(dict(parts["unet"]))),
            "vae": count(AutoencoderKL.from_config(dict(parts["vae"]))),
            "text_encoder": count(CLIPTextModel(CLIPTextConfig(**parts["text_encoder"]))),
        }
        if "text_encoder_2" in parts:
            found["text_encoder_2"] = count(CLIPTextModelWithProjection(CLIPTextConfig(**parts["text_encoder_2"])))
    true = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    if whole is SDXL:
        true |= {"unet": 2_567_463_684, "text_encoder_2": 694_659_840}
    assert found == true


class Knows:
    """A program to which this small base is one of those that are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        base_module.unpacked = lambda path, during: unpacked(path, during, small(self.folder))


def test_a_file_is_trained_on_and_gone_on_with(
    folder: Path, pairs_folder: Path, tmp_path: Path, start: Callable[..., Program], workplace: Path
) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", torch.float32)
    words = ("--base", path, "--data", pairs_folder, "--sampling.pairs", 0, "--data.resolution", 16)
    program = start("train", "--run", "a", *words, "--optim.max-steps", 2, prepare=Knows(folder))
    assert program.wait() == 0, program.output
    assert "is one file; what is in it is used as it lies in" in program.output
    program = start("resume", "a", "--set", "optim.max_steps=3", prepare=Knows(folder))
    assert program.wait() == 0, program.output
    version = Run.open(workplace / "runs/a").find("latest")
    assert (version.step, version.manifest["base"]["family"]) == (3, "sdxl" if folder.name == "sdxl" else "sd")
    assert version.manifest["base"]["name"] == str(path)


def test_counters_of_other_trainers_are_no_weights(folder: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.5 as it was published with its averaged weights holds one."""
    counter = {"model_ema.num_updates": torch.zeros((), dtype=torch.int32)}
    assert unpacked(one_file(folder, tmp_path / "one.safetensors", **counter), wholes=small(folder)) is not None


def test_without_a_tokenizer_nothing_is_unpacked_in_vain(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    path = one_file(folder, tmp_path / "untold.safetensors", more=torch.zeros(1))
    shutil.rmtree(tmp_path / "tokenizer")
    monkeypatch.setattr(module, "_write_part", lambda *words: pytest.fail("gigabytes were written"))
    with pytest.raises(UserError, match="has no tokenizer in it"):
        unpacked(path, wholes=small(folder))


def test_a_folder_that_lost_a_file_is_made_again(folder: Path, tmp_path: Path) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", more=torch.zeros(2))
    made = unpacked(path, wholes=small(folder))
    assert made is not None
    (made / "vae/config.json").unlink()  # whoever tidies caches takes what is old
    assert unpacked(path, wholes=small(folder)) == made
    assert (made / "vae/config.json").is_file()


def test_what_a_kill_left_goes_with_the_next(folder: Path, tmp_path: Path) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", more=torch.zeros(3))
    made = unpacked(path, wholes=small(folder))
    assert made is not None
    left = made.parent / ".new-of-one-that-was-killed"
    left.mkdir()
    shutil.rmtree(made)
    assert unpacked(path, wholes=small(folder)) == made
    assert not left.exists()


def test_a_known_file_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", more=torch.zeros(4))
    monkeypatch.setattr(module, "is_fresh", lambda stamp, now: False)
    made = unpacked(path, wholes=small(folder))
    monkeypatch.setattr(module, "_digest", lambda path, said: pytest.fail("read again"))
    assert unpacked(path, wholes=small(folder)) == made

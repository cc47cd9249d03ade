"""A whole base in one file is a base: unpacked once, tensor by tensor what it was made of, whole or not at all."""

import contextlib
import json
import os
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders import single_file_utils as diffusers_own
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bases import write_base
from everstep.contracts import Counted
from everstep.errors import UserError
from everstep.exchange import sd
from everstep.models import base as base_module
from everstep.models import folder_files
from everstep.models import unpacked as module
from everstep.models.one_file import open_one_file
from everstep.models.unpacked import unpacked
from everstep.places import cache_folder
from everstep.versions import Run, fsops
from law import UNSEEN
from one_file import LAYOUTS, changed, one_file, opened, plain, small, tensors_of, unpack, weights_of, write
from program import Program

KINDS = tuple(LAYOUTS)
SUFFIXES = (".safetensors", ".ckpt")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_base(tmp_path_factory.mktemp("bases") / kind, like=kind)
        return made[kind]

    return make


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, bases: Callable[[str], Path]) -> Path:
    """A small base in diffusers layout, of which one file is made."""
    return bases(request.param)


@pytest.fixture
def sd15(bases: Callable[[str], Path]) -> Path:
    """The same of one kind, for what does not depend on it."""
    return bases("sd15")


def left_there() -> list[str]:
    """Folders in the cache, those half made too."""
    cache = cache_folder()
    assert cache is not None
    return sorted(path.name for path in (cache / "everstep/bases").glob("*") if path.is_dir())


# --- what is in it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_tensor_is_the_one_that_the_file_was_made_of(folder: Path, tmp_path: Path, suffix: str) -> None:
    made = unpack(folder, one_file(folder, tmp_path / f"one{suffix}"))
    for part in LAYOUTS[folder.name]:
        found, there = weights_of(made / part), weights_of(folder / part)
        if part.startswith("text_encoder"):
            found, there = plain(found), plain(there)
        assert set(found) == set(there)
        assert all(torch.equal(found[name], there[name].half()) for name in there), part


def theirs(part: str, held: dict[str, torch.Tensor], made: Path) -> dict[str, torch.Tensor]:
    """What diffusers' own converters make of the file."""
    config = json.loads((made / part / "config.json").read_text())
    if part == "unet":
        return dict(diffusers_own.convert_ldm_unet_checkpoint(held, config))
    if part == "vae":
        return dict(diffusers_own.convert_ldm_vae_checkpoint(held, config))
    kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    prefix = "conditioner.embedders.1.model." if part == "text_encoder_2" else "cond_stage_model.model."
    if any(name.startswith(prefix) for name in held):
        network = kind(CLIPTextConfig(**config))
        return plain(diffusers_own.convert_open_clip_checkpoint(network, held, prefix))
    return plain(diffusers_own.convert_ldm_clip_checkpoint(held))


def test_every_tensor_is_what_diffusers_makes_of_the_file(folder: Path, tmp_path: Path) -> None:
    made = unpack(folder, one_file(folder, tmp_path / "one.safetensors", torch.float32))
    for part in LAYOUTS[folder.name]:
        found, wanted = weights_of(made / part), theirs(part, tensors_of(folder), made)
        found = plain(found) if part.startswith("text_encoder") else found
        assert set(found) == set(wanted), part
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part


def test_diffusers_loads_folder_and_file_as_the_same_pipeline(folder: Path, tmp_path: Path) -> None:
    path = one_file(folder, tmp_path / "one.safetensors", torch.float32)
    pipeline: Any = StableDiffusionXLPipeline if folder.name == "sdxl" else StableDiffusionPipeline
    made = unpack(folder, path)
    ours = pipeline.from_pretrained(made, safety_checker=None, feature_extractor=None)
    single = pipeline.from_single_file(
        str(path), config=str(made), local_files_only=True, safety_checker=None, feature_extractor=None
    )
    assert type(ours) is pipeline
    for part in LAYOUTS[folder.name]:
        if part == "text_encoder_2":
            continue  # it tells the two apart by their widths, which are the same here; its converter is asked above
        wanted = getattr(single, part).state_dict()
        found = getattr(ours, part).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part
    assert single.scheduler.config.prediction_type == ours.scheduler.config.prediction_type


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_keep_their_kind(folder: Path, tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    made = unpack(folder, one_file(folder, tmp_path / f"one{suffix}", dtype))
    assert {tensor.dtype for part in LAYOUTS[folder.name] for tensor in weights_of(made / part).values()} == {dtype}


def test_tensors_that_lie_turned_in_a_checkpoint_are_turned_back(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.ckpt")
    name = "model.diffusion_model.time_embed.2.weight"
    held = tensors_of(sd15)
    turned = held[name].T.contiguous().T  # the same numbers, column by column
    write(path, {**held, name: turned})
    wanted = weights_of(sd15 / "unet")["time_embedding.linear_2.weight"]
    assert torch.equal(weights_of(unpack(sd15, path) / "unet")["time_embedding.linear_2.weight"], wanted)


OTHER_NAMES = {
    "old CLIP": ("sd15", {"text_encoder": sd.CLIP_OF_OLD}),
    "sgm": ("sd21", {"text_encoder": sd.OPEN_CLIP_OF_SGM}),
    "converted back": ("sdxl", {"text_encoder_2": sd.OPEN_CLIP_CONVERTED}),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_text_encoders_are_taken_in_every_naming(name: str, tmp_path: Path, bases: Callable[[str], Path]) -> None:
    kind, layouts = OTHER_NAMES[name]
    folder = bases(kind)
    path = one_file(folder, tmp_path / "one.safetensors")
    write(path, tensors_of(folder, **layouts))
    found = opened(folder, path)
    assert [names.layout for names in found.parts.values() if names.layout in layouts.values()]
    made = unpacked(found)
    for part in layouts:
        there = plain(weights_of(folder / part))
        assert all(torch.equal(tensor, there[key]) for key, tensor in plain(weights_of(made / part)).items())


def test_convolutions_of_one_pixel_are_matrices(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors", torch.float32)

    def flatten(held: dict[str, torch.Tensor]) -> None:
        for name in [name for name in held if ".attn_1." in name and held[name].dim() == 4]:
            held[name] = held[name].flatten(1)
        name = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
        held[name] = held[name].flatten(1)

    made = unpack(sd15, changed(path, flatten))
    for part in ("unet", "vae"):
        there = weights_of(sd15 / part)
        assert all(torch.equal(tensor, there[name]) for name, tensor in weights_of(made / part).items())


def test_captions_are_filled_up_as_each_encoder_was_trained(folder: Path, tmp_path: Path) -> None:
    made = unpack(folder, one_file(folder, tmp_path / "one.safetensors"))
    pads = [json.loads(path.read_text())["pad_token"] for path in sorted(made.glob("tokenizer*/tokenizer_config.json"))]
    assert pads == {"sd15": ["<|endoftext|>"], "sd21": ["!"], "sdxl": ["<|endoftext|>", "!"]}[folder.name]


# --- once, and whole ---------------------------------------------------------------------------------------


def test_it_is_unpacked_once_for_each_content(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    made = unpack(sd15, path)
    (made / "mark").touch()
    shutil.copy(path, tmp_path / "moved.safetensors")
    (tmp_path / "moved.safetensors").rename(path)
    assert unpack(sd15, path) == made
    assert (made / "mark").exists()
    assert unpack(sd15, one_file(sd15, path, torch.bfloat16)) != made


def test_what_it_says_of_itself_is_a_part_of_its_content(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    made = unpack(sd15, path)
    path.with_suffix(".yaml").write_text("model: {params: {parameterization: v}}")
    other = unpack(sd15, path)
    assert other != made
    assert json.loads((other / "scheduler/scheduler_config.json").read_text())["prediction_type"] == "v_prediction"


def test_another_vocabulary_is_another_base(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    made = unpack(sd15, path)
    with (tmp_path / "tokenizer/merges.txt").open("a") as file:
        file.write("\n")
    assert unpack(sd15, path) != made


def test_a_known_file_is_not_read_again(sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    monkeypatch.setattr(module, "is_fresh", lambda stamp, now: False)
    made = unpack(sd15, path)
    monkeypatch.setattr(module, "_digest", lambda *words: pytest.fail("read again"))
    monkeypatch.setattr(module, "small_files", lambda *words: pytest.fail("asked for its vocabulary again"))
    assert unpack(sd15, path) == made


def test_a_folder_that_lost_a_file_is_made_again(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    made = unpack(sd15, path)
    (made / "vae/config.json").unlink()  # whoever tidies caches takes what is old
    assert unpack(sd15, path) == made
    assert (made / "vae/config.json").is_file()


def test_too_little_room_is_said_before_anything_is_written(
    sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(sd15, one_file(sd15, tmp_path / "one.safetensors"))
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 1000)
    monkeypatch.setattr(fsops, "write_file", lambda *words: pytest.fail("something was written"))
    with pytest.raises(UserError, match=r"that takes 16\.9 MB, and 1\.0 kB are free there.*\nXDG_CACHE_HOME names"):
        unpacked(found)
    assert left_there() == []


@pytest.mark.parametrize(
    ("step", "number"), [("write_file", 3), ("write_file", 10), ("write_file", 13), ("flush_folder", 1), ("rename", 1)]
)
@pytest.mark.fault("the disk fills up while a base in one file is unpacked")
def test_a_full_disk_leaves_nothing(
    step: str, number: int, sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, real, calls = opened(sd15, one_file(sd15, tmp_path / "one.safetensors")), getattr(fsops, step), []

    def fail(*words: Any) -> Any:
        calls.append(words)
        if len(calls) < number:
            return real(*words)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fsops, step, fail)
    with pytest.raises(UserError, match=r"could not be unpacked into .*No space left.*\n.*XDG_CACHE_HOME"):
        unpacked(found)
    assert len(calls) == number
    monkeypatch.setattr(fsops, step, real)
    assert left_there() == []
    assert unpacked(found).is_dir()


@pytest.mark.fault("what was unpacked is another when it is read back")
def test_what_is_another_when_it_is_read_back_is_not_taken(
    sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, real = opened(sd15, one_file(sd15, tmp_path / "one.safetensors")), fsops.write_file

    def flip(path: Path, *words: Any) -> None:
        real(path, *words)
        if path.parent.name == "vae" and path.suffix == ".safetensors":
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last[0] ^ 1]))

    monkeypatch.setattr(fsops, "write_file", flip)
    with pytest.raises(UserError, match=r"vae/.*\.safetensors is another when it is read back"):
        unpacked(found)
    assert left_there() == []


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    found, real = opened(sd15, path), module.write_networks

    def write_over(*words: Any) -> dict[str, int]:
        changed(path, lambda held: held["first_stage_model.quant_conv.bias"].add_(1))
        return real(*words)

    monkeypatch.setattr(module, "write_networks", write_over)
    with pytest.raises(UserError, match="changed while it was read"):
        unpacked(found)
    assert left_there() == []


def test_a_file_that_becomes_shorter_is_a_sentence(sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    found, real = opened(sd15, path), module.write_networks

    def cut(*words: Any) -> dict[str, int]:
        os.truncate(path, 20_000)
        return real(*words)

    monkeypatch.setattr(module, "write_networks", cut)
    with pytest.raises(UserError, match=r"one\.safetensors ends too early"):
        unpacked(found)
    assert left_there() == []


class Killed:
    """A program that is killed as soon as it has written its n-th file of tensors."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.left = folder, number

    def __call__(self) -> None:
        Knows(self.folder)()
        real = folder_files._write_network

        def kill(*words: Any) -> int:
            written = real(*words)
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return written

        folder_files._write_network = kill


class Knows:
    """A program to which this small base is one of those that are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        base_module.open_one_file = lambda path: open_one_file(path, small(self.folder))


@pytest.mark.fault("a program is killed while it unpacks a base in one file")
@pytest.mark.parametrize("number", [1, 3])
def test_what_a_kill_left_goes_with_the_next(
    number: int, sd15: Path, pairs_folder: Path, tmp_path: Path, start: Callable[..., Program]
) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    words = ("plan", "--quick", "--base", path, "--data", pairs_folder, "--data.resolution", 16)
    killed = start(*words, prepare=Killed(sd15, number))
    assert killed.wait(60) == -signal.SIGKILL, killed.output
    assert [name[:5] for name in left_there()] == [".new-"]
    made = unpack(sd15, path)
    assert left_there() == [made.name]
    assert all(torch.equal(t, weights_of(sd15 / "vae")[n].half()) for n, t in weights_of(made / "vae").items())


def test_two_starts_at_once_unpack_it_once(
    start: Callable[..., Program], sd15: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    words = ("plan", "--quick", "--base", path, "--data", pairs_folder, "--data.resolution", 16)
    both = [start(*words, prepare=Knows(sd15)) for _ in range(2)]
    assert [program.wait(60) for program in both] == [0, 0], [program.output for program in both]
    assert left_there() == [unpack(sd15, path).name]


def test_whoever_comes_second_waits(sd15: Path, tmp_path: Path) -> None:
    found = opened(sd15, one_file(sd15, tmp_path / "one.safetensors"))
    cache = cache_folder()
    assert cache is not None
    second = threading.Thread(target=lambda: unpacked(found), daemon=True)
    with module._alone(cache / "everstep/bases"):
        second.start()
        second.join(1.0)
        assert (second.is_alive(), left_there()) == (True, [])
    second.join(30)
    assert left_there() == [unpacked(found).name]


def test_how_much_is_done_is_told(folder: Path, tmp_path: Path) -> None:
    told = dict[str, list[tuple[int, int]]]()

    @contextlib.contextmanager
    def during(what: str, unit: str = "", count: Callable[[int], str] = str) -> Iterator[Counted]:
        told[what] = []
        yield lambda done, total: told[what].append((done, total))

    unpacked(opened(folder, one_file(folder, tmp_path / "one.safetensors")), during)
    assert list(told) == ["Reading one.safetensors", "Unpacking one.safetensors"]
    for said in told.values():
        assert said == sorted(said)
        assert said[-1][0] == said[-1][1] > 10_000


# --- the vocabulary ----------------------------------------------------------------------------------------


def test_without_a_tokenizer_it_says_what_will_do_before_it_reads(
    sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    found = opened(sd15, one_file(sd15, tmp_path / "untold.safetensors"))
    shutil.rmtree(tmp_path / "tokenizer")
    monkeypatch.setattr(module, "_digest", lambda *words: pytest.fail("gigabytes were read"))
    with pytest.raises(UserError, match=r"has no tokenizer in it.*\n.*vocab\.json and merges\.txt will do"):
        unpacked(found)
    assert left_there() == []


def test_a_vocabulary_that_does_not_fit_is_named_and_nothing_is_left(
    sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(sd15, one_file(sd15, tmp_path / "one.safetensors"))
    (tmp_path / "tokenizer/merges.txt").write_text("#version: 0.2\nqx zz\n")
    monkeypatch.setattr(module, "write_networks", lambda *words: pytest.fail("gigabytes were written"))
    with pytest.raises(UserError, match="two tokenizers, or damaged") as raised:
        unpacked(found)
    assert str(tmp_path / "tokenizer/merges.txt") in str(raised.value)
    assert left_there() == []


# --- used --------------------------------------------------------------------------------------------------


def test_a_file_is_trained_on_and_gone_on_with(
    folder: Path, pairs_folder: Path, tmp_path: Path, start: Callable[..., Program], workplace: Path
) -> None:
    path = one_file(folder, tmp_path / f"one{SUFFIXES[folder.name == 'sd15']}", torch.float32)
    words = ("--base", path, "--data", pairs_folder, "--data.resolution", 16, *UNSEEN)
    program = start("train", "--run", "a", *words, "--optim.max-steps", 2, prepare=Knows(folder))
    assert program.wait() == 0, program.output
    assert "is one file; what is in it is used as it lies in" in program.output
    assert ("does not say what it predicts" in program.output) == (folder.name == "sd21")
    program = start("resume", "a", "--set", "optim.max_steps=3", prepare=Knows(folder))
    assert program.wait() == 0, program.output
    version = Run.open(workplace / "runs/a").find("latest")
    assert (version.step, version.manifest["base"]["family"]) == (3, "sdxl" if folder.name == "sdxl" else "sd")
    assert version.manifest["base"]["name"] == str(path)


def test_a_header_of_holes_is_a_sentence(sd15: Path, tmp_path: Path) -> None:
    path = one_file(sd15, tmp_path / "one.safetensors")
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    name = "model.diffusion_model.input_blocks.0.0.weight"
    shape = header[name]["shape"]
    header[name]["shape"] = [-shape[0], -shape[1], *shape[2:]]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(UserError, match="has a tensor of a shape that is none"):
        opened(sd15, path)

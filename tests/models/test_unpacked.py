"""A whole base in one file is a base: unpacked once, whole or not at all."""

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

from everstep.contracts import Counted
from everstep.errors import UserError
from everstep.models import base as base_module
from everstep.models import folder_files
from everstep.models import unpacked as module
from everstep.models.one_file import open_one_file
from everstep.models.unpacked import unpacked
from everstep.places import cache_folder
from everstep.versions import Run, fsops
from law import UNSEEN
from one_file import SUFFIXES, changed, one_file, opened, small, unpack, weights_of
from program import Program

pytestmark = pytest.mark.usefixtures("own_cache")


def left_there() -> list[str]:
    """Folders in the cache, those half made too."""
    cache = cache_folder()
    assert cache is not None
    return sorted(path.name for path in (cache / "everstep/bases").glob("*") if path.is_dir())


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

"""Files of others: what is in them is read as torch reads it, and a hostile one is a sentence."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from everstep.models.foreign import open_foreign
from everstep.models.numbers import Refused

Make = Callable[[Path], Path]


class Hyper:
    """A class of a training's own, as Lightning stores it among its settings."""

    def __init__(self) -> None:
        self.rate = 1e-5


class Bomb:
    """Runs a command where it is loaded."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.asked = (what, arguments)

    def __reduce__(self) -> Any:
        return self.asked


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    whole = torch.randn(6, 8)
    return {
        "a.weight": torch.randn(3, 2, 1, 1),
        "a.half": torch.randn(5).half(),
        "a.bf16": torch.randn(7, 2).bfloat16(),
        "a.turned": whole.T,
        "a.part": whole[2:4, 1:5],
        "a.one": torch.tensor(3.0),
        "a.none": torch.zeros(0, 4),
    }


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def saved(content: Any, name: str = "a.pth") -> Make:
    def make(folder: Path) -> Path:
        torch.save(content, folder / name)
        return folder / name

    return make


def safe(table: Any, data: bytes = b"", length: int | None = None) -> Make:
    def make(folder: Path) -> Path:
        text = table if isinstance(table, bytes) else json.dumps(table).encode()
        path = folder / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return path

    return make


def tensor(begin: int, end: int, shape: list[Any]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def cut(make: Make, bytes_left: int) -> Make:
    def spoiled(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[:bytes_left])
        return path

    return spoiled


def packed(folder: Path) -> Path:
    """Ten megabytes of zeros in a few thousand bytes."""
    source, path = io.BytesIO(), folder / "a.ckpt"
    torch.save({"a": torch.zeros(10 << 18)}, source)
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in plain.namelist():
            small.writestr(entry, plain.read(entry))
    return path


def shared(folder: Path) -> Path:
    """A hundred thousand tensors that are all the same numbers."""
    numbers = torch.zeros(1000)
    torch.save({f"a.{place}": numbers.view(1000) for place in range(1000)}, folder / "a.pth")
    return folder / "a.pth"


def table(pickled: bytes, **entries: bytes) -> Make:
    return lambda folder: zipped(folder / "a.pth", **{"a/data.pkl": pickled, "a/version": b"3\n", **entries})


def folder_of_it(folder: Path) -> Path:
    (folder / "a.pth").mkdir()
    return folder / "a.pth"


def written(content: bytes, name: str = "a.pth") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.pth")
    return folder / "a.pth"


HUGE_MEMO = b"\x80\x02}r\xff\xff\xff\x7f."  # a dictionary remembered as the 2,147,483,647th
HUGE_BYTES = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 45) + b"x."
NESTED = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."  # a key of a million tuples, one in the other
HOSTILE: dict[str, tuple[Make, str]] = {
    "empty": (written(b""), "is empty"),
    "empty_safetensors": (written(b"", "a.safetensors"), "is empty"),
    "folder": (folder_of_it, "is a folder"),
    "pipe": (pipe, "is a pipe"),
    "missing": (lambda folder: folder / "a.pth", "is not there"),
    "pointer": (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "git-lfs pointer"),
    "page": (written(b"<!doctype html>", "a.ckpt"), "no file of PyTorch"),
    "truncated_zip": (cut(saved(weights()), 900), "damaged"),
    "truncated_safetensors": (cut(safe({"a": tensor(0, 8, [2])}, b"12345678"), 70), "describes"),
    "shorter_than_a_length": (written(b"1234", "a.safetensors"), "cut short"),
    "header_over_the_end": (safe(b"{}", length=1 << 50), "header longer than the file"),
    "huge_header": (safe(b"{" + b" " * (17 << 20) + b"}"), "are the most that is read"),
    "deep_header": (safe(b"[" * 300_000), "nested too deeply"),
    "no_json": (safe(b"{no"), "cannot be read"),
    "overlapping": (safe({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, b"x" * 12), "cannot be read"),
    "outside": (safe({"a": tensor(0, 800, [200])}, b"x" * 8), "describes"),
    "negative_shape": (safe({"a": tensor(0, 16, [-2, -2])}, b"x" * 16), "shape that is none"),
    "fractions": (safe({"a": tensor(0, 8, [2.0])}, b"x" * 8), "shape that is none"),
    "twice": (safe(b'{"a":' + json.dumps(tensor(0, 8, [2])).encode() + b',"a":'
                   + json.dumps(tensor(0, 8, [2])).encode() + b"}", b"x" * 8), "names a twice"),
    "path_in_a_name": (safe({"../../a": tensor(0, 8, [2])}, b"x" * 8), "as if it were a path"),
    "path_in_a_pickled_name": (saved({"/etc/a": torch.ones(2)}), "as if it were a path"),
    "entry_that_leads_out": (lambda f: zipped(f / "a.pth", **{"../data.pkl": b"\x80\x02}."}), "leads out of it"),
    "command": (saved({"a": torch.ones(1), "b": Bomb(os.system, "touch ran")}), "asks for posix.system"),
    "command_beside": (saved({"state_dict": {"a": torch.ones(1)}, "b": Bomb(eval, "1")}), "eval, which is no weight"),
    "whole_network": (saved(torch.nn.Linear(2, 2)), "an object of torch.nn.modules.linear.Linear"),
    "object_among_weights": (saved({"a": torch.ones(1), "b": Hyper()}), ".Hyper among its weights"),
    "packed": (packed, "PyTorch packs nothing"),
    "one_over_the_other": (shared, "one over the other"),
    "without_end": (saved({"a": torch.ones(1).expand(1 << 30)}), "outside of its storage"),
    "memo": (table(HUGE_MEMO), "outside of itself"),
    "long_bytes": (table(HUGE_BYTES), "cannot be read"),
    "nested_key": (table(NESTED), "more tensors than any training stores"),
    "no_table": (lambda folder: zipped(folder / "a.pth", x=b"1"), "no data.pkl"),
    "other_byteorder": (table(b"\x80\x02}.", **{"a/byteorder": b"big"}), "wrong way round"),
    "list": (saved([torch.ones(1)]), "holds list"),
    "no_tensors": (saved({"state_dict": {}}), "holds no tensors"),
    "old_layout": (lambda folder: (torch.save(weights(), folder / "a.pt", _use_new_zipfile_serialization=False),
                                   folder / "a.pt")[1], "before 1.6"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_sentence_and_takes_no_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = HOSTILE[name]
    path = make(tmp_path)
    before = sorted(entry.name for entry in tmp_path.iterdir())
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as refused:
            open_foreign(path)
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said in refused.value.fault
    assert most_bytes < 64 << 20
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before, "nothing was written or run"


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.ckpt", "a.bin"])
def test_numbers_are_those_that_torch_reads(name: str, tmp_path: Path) -> None:
    stored = weights()
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in stored.items()}, tmp_path / name)
    else:
        torch.save(stored, tmp_path / name)
    found = open_foreign(tmp_path / name)
    assert found.shapes == {key: tuple(value.shape) for key, value in stored.items()}
    with (tmp_path / name).open("rb") as file:
        for key, value in stored.items():
            np.testing.assert_array_equal(found.tensors[key].read(file), value.float().numpy())


def test_a_whole_checkpoint_is_read_with_objects_of_unknown_classes_beside(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimizer.step()
    stored = {
        "state_dict": network.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "global_step": 41,
        "hyper_parameters": {"it": Hyper(), "numbers": np.ones(3), "path": Path("x"), "set": {1}},
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(1.0)}},
    }
    torch.save(stored, tmp_path / "a.ckpt")
    found = open_foreign(tmp_path / "a.ckpt")
    assert found.shapes == {"weight": (3, 2), "bias": (3,)}
    assert found.beside["global_step"] == 41
    moments = found.beside["optimizer_states"][0]["state"][0]
    with (tmp_path / "a.ckpt").open("rb") as file:
        np.testing.assert_array_equal(moments["exp_avg"].read(file), optimizer.state[network.weight]["exp_avg"].numpy())

"""train --from a file of another program: as from a folder, and the setting is what the user wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from arrival.theirs import controlnet, ldm
from everstep.config.load import read_hparams
from everstep.versions import Run
from law import SETTINGS
from program import Ended

Everstep = Callable[..., Ended]


def words(base: Path, pairs: Path, start: object, *more: object) -> tuple[object, ...]:
    return ("train", "--run", "a", "--base", base, "--data", pairs, *SETTINGS, "--from", start, *more)


def test_a_training_begins_with_a_file(
    tiny_base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    network = controlnet(tiny_base)
    torch.save({"state_dict": ldm(network), "global_step": 7}, workplace / "theirs.ckpt")
    line = words(tiny_base, pairs_folder, "theirs.ckpt")
    ended = everstep(*line)
    assert ended.code == 0, ended.out
    assert "a ControlNet for a base of its own shape" in ended.out
    run = Run.open(workplace / "runs/a")
    first = load_file(run.version(0).path / "controlnet/diffusion_pytorch_model.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(first[name], tensor), name
    assert read_hparams(run.layout.hparams).optim.start_from == str(workplace / "theirs.ckpt")
    told = json.loads((run.version(0).path / "manifest.json").read_text())["started_from"]
    assert told["source"] == "theirs.ckpt"
    assert len(told["files"][0]["sha256"]) == 64
    # The same line goes on, whether the file is there or not.
    (workplace / "theirs.ckpt").unlink()
    again = everstep(*line)
    assert again.code == 0, again.out
    assert "already complete" in again.out


def test_a_file_that_cannot_be_taken_starts_nothing(
    tiny_base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    state = ldm(controlnet(tiny_base))
    del state["control_model.zero_convs.0.0.weight"]
    torch.save(state, workplace / "theirs.pth")
    ended = everstep(*words(tiny_base, pairs_folder, "theirs.pth"))
    assert ended.code == 2, ended.out
    assert "1 tensor missing" in ended.out
    assert "Nothing was started." in ended.out
    assert not (workplace / "runs").exists()

"""Training again finds what no checksum can, says where it is, and leaves the run as it was."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everstep.models.files import AVERAGED, OPTIMIZER, STATE, WEIGHTS
from everstep.versions import Run
from forging import flip, seal, tree, write_small
from law import SETTINGS
from program import AfterStep, Ended, Program

Everstep = Callable[..., Ended]
FIRST = "controlnet_cond_embedding.blocks.0.weight"


@pytest.mark.parametrize("number", range(5))
def test_every_version_is_the_same_again_and_the_run_is_left_alone(
    everstep: Everstep, copied: Run, number: int
) -> None:
    before = tree(copied.path)
    ended = everstep("replay", f"a@{number}")
    assert ended.code == 0, ended.out
    assert f"version_{number} is, bit for bit, what" in ended.out
    assert ("loss, rate and examples of 10 steps" in ended.out) == (number > 0)
    assert "slim" not in ended.out
    assert "no line" not in ended.out
    assert tree(copied.path) == before


@pytest.mark.parametrize(("file", "tensor"), [(WEIGHTS, FIRST), (OPTIMIZER, f"{FIRST}.exp_avg_sq"), (AVERAGED, FIRST)])
@pytest.mark.parametrize("number", [0, 3])
def test_a_bit_that_flipped_before_it_was_digested_is_found(
    everstep: Everstep, copied: Run, file: str, tensor: str, number: int
) -> None:
    flip(copied.version(number), file, tensor, element=17, bit=3)
    assert everstep("verify", f"a@{number}").code == 0
    ended = everstep("replay", f"a@{number}")
    assert ended.code == 1, ended.out
    assert f"version_{number} is not what" in ended.out
    assert f"1 of 600 tensors differ, first in {file}, {tensor}: bit 3 of element 17 (0, 1, 2, 2), " in ended.out
    assert ("so the first difference is after step 30 had its loss" in ended.out) == (number == 3)
    assert ("The first difference is there before the first step" in ended.out) == (number == 0)
    assert ("everstep resume" in ended.out) == (number == 3)


LAST = "controlnet_mid_block.weight"  # what is added to the base: a loss shows it at once


def flip_live(loop: Any) -> None:
    import torch

    loop.state.controlnet.state_dict()[LAST].reshape(-1).view(torch.int32)[17] ^= 1 << 22


def die(loop: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_bit_that_flips_in_the_live_weights_is_found_at_its_step(
    everstep: Everstep, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS, "--keep.everything")
    program = start(*words, prepare=AfterStep(22, flip_live))
    assert program.wait() == 0, program.output
    assert everstep("verify", "a").code == 0
    assert everstep("replay", "a@2").code == 0
    ended = everstep("replay", "a@3")  # from step 20 to 30
    assert ended.code == 1, ended.out
    assert "The first difference is the line of step 23 in records/metrics.jsonl: loss " in ended.out
    assert f"To go on from before it: everstep resume {workplace}/runs/a@2" in ended.out
    assert everstep("replay", "a@4").code == 0  # true to what it went on from


@pytest.mark.parametrize("name", ["loss", "learning_rate", "first_example", "images_seen", "grad_norm"])
def test_a_changed_line_is_found(everstep: Everstep, copied: Run, name: str) -> None:
    path = copied.layout.records / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for step in (33, 36):
        lines[step - 1][name] *= 1 + 2**-30 if isinstance(lines[step - 1][name], float) else 2
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = everstep("replay", "a@4", "--json")
    assert ended.code == 1, ended.out
    found = json.loads(ended.out[ended.out.index("{\n") :])
    assert [(step["step"], list(step["values"])) for step in found["steps_differing"]] == [(33, [name]), (36, [name])]
    assert "all 600 tensors are the same. The first difference is the line of step 33" in found["verdict"]
    assert everstep("replay", "a@3").code == 0


def test_a_changed_counter_is_found(everstep: Everstep, copied: Run) -> None:
    version = copied.version(2)
    state = json.loads((version.path / STATE).read_text())
    write_small(version, STATE, json.dumps({**state, "images_seen": 81}).encode())
    ended = everstep("replay", "a@2")
    assert ended.code == 1, ended.out
    assert "training/state.json: images_seen 81 stored, 80 again" in ended.out


def test_what_is_different_from_then_is_told_and_may_explain(everstep: Everstep, copied: Run) -> None:
    seal(copied.version(2), lambda facts: facts["libraries"].update(torch="0.1"))
    ended = everstep("replay", "a@2")
    assert ended.code == 0, ended.out
    assert "different from then: torch 0.1 then, " in ended.out
    assert "That may be why" not in ended.out
    flip(copied.version(2), WEIGHTS, FIRST, 17, 3)
    ended = everstep("replay", "a@2")
    assert ended.code == 1, ended.out
    assert "That may be why: different from then: torch 0.1 then, " in ended.out


def test_threads_are_those_of_then(everstep: Everstep, copied: Run) -> None:
    import torch

    try:
        torch.set_num_threads(2)
        assert everstep("replay", "a@1").code == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


def test_a_run_that_trains_is_replayed_beside(
    everstep: Everstep, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--sampling.pairs", 0)
    program = start(*words, "--optim.max-steps", 100_000, "--versions.every", 3, "--keep.everything")
    program.wait_for(lambda: (workplace / "runs/a/version_2").exists())
    ended = everstep("replay", "a@1")
    assert program.process.is_alive()
    assert ended.code == 0, ended.out
    assert everstep("stop", "a").code == 0
    assert program.wait() == 3
    ended = everstep("replay", "a@latest")
    assert ended.code == 0, ended.out


def test_a_rescued_version_under_fp16_is_the_same_again(
    everstep: Everstep, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    words = (
        "train",
        "--run",
        "a",
        "--base",
        tiny_base,
        "--data",
        pairs_folder,
        *SETTINGS,
        "--compute.precision",
        "fp16",
    )
    program = start(*words, "--keeper.snapshots", 1, prepare=AfterStep(14, die))
    assert program.wait() == 3, program.output
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").reason == "rescue"
    assert json.loads((run.find("latest").path / STATE).read_text())["loss_scaler"]
    ended = everstep("replay", "a@latest")
    assert ended.code == 0, ended.out
    assert "no line" not in ended.out

"""Whole trainings of others: the newest checkpoint, its weights, AdamW's moments by their names, and its steps."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file

from arrival.theirs import controlnet, ldm
from everstep.versions import Run
from law import SETTINGS
from program import Ended

Everstep = Callable[..., Ended]


def stepped(parameters: list[torch.nn.Parameter], steps: int) -> torch.optim.AdamW:
    """An optimizer that has done some steps; each parameter gets other moments."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return optimizer


def accelerate(folder: Path, network: ControlNetModel, steps: int) -> torch.optim.AdamW:
    """checkpoint-N as diffusers' train_controlnet leaves it."""
    optimizer = stepped(list(network.parameters()), steps)
    network.save_pretrained(folder / "controlnet")
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    torch.save({"last_epoch": steps}, folder / "scheduler.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"step": steps}))
    return optimizer


def lightning(file: Path, network: ControlNetModel, steps: int) -> dict[str, dict[str, torch.Tensor]]:
    """version_x/checkpoints/*.ckpt, with a part of the base trained along. Returns the moments by our names."""
    theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in reversed(ldm(network).items())}
    more = torch.nn.Parameter(torch.ones(3))
    optimizer = stepped([*theirs.values(), more], steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {"model.diffusion_model.out.2.bias": more.detach(), **{n: p.detach() for n, p in theirs.items()}}
    torch.save(
        {
            "epoch": 1,
            "global_step": steps,
            "pytorch-lightning_version": "1.5.0",
            "state_dict": state,
            "loops": {"fit_loop": {}},
            "callbacks": {"ModelCheckpoint": {"dirpath": Path("x")}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
        },
        file,
    )
    by_name = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    assert len(by_name) == len(theirs)
    ours = {tensor.data_ptr(): name for name, tensor in network.state_dict().items()}
    pointers = {there: ours[tensor.data_ptr()] for there, tensor in ldm(network).items()}
    for there, parameter in theirs.items():
        network.state_dict()[pointers[there]].copy_(parameter.detach())
    return {pointers[there]: optimizer.state[parameter] for there, parameter in theirs.items()}


def assert_same_moments(path: Path, moments: dict[str, Any]) -> None:
    found = load_file(path)
    assert len(found) == 3 * len(moments)
    for name, state in moments.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(found[f"{name}.{key}"], torch.as_tensor(state[key])), f"{name}.{key}"


@pytest.mark.parametrize("place", ["", "checkpoint-3"])
def test_the_newest_of_accelerates_checkpoints(
    place: str, tiny_base: Path, everstep: Everstep, workplace: Path
) -> None:
    network = controlnet(tiny_base)
    accelerate(workplace / "out/checkpoint-2", network, 2)
    optimizer = accelerate(workplace / "out/checkpoint-3", network, 3)
    (workplace / "out/checkpoint-100").mkdir()  # began to be written, and was not
    ended = everstep("import", workplace / "out" / place, "--out", "mine", "--base", tiny_base)
    assert ended.code == 0, ended.out
    assert "It was trained for 3 steps before." in ended.out
    for left in ("random states", "the schedule of the learning rate", "the position in the data"):
        assert left in ended.out
    moments = {name: optimizer.state[parameter] for name, parameter in network.named_parameters()}
    assert_same_moments(workplace / "mine/training/optimizer.safetensors", moments)
    found = load_file(workplace / "mine/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], parameter) for name, parameter in network.named_parameters())


def test_the_newest_of_lightnings_checkpoints(tiny_base: Path, everstep: Everstep, workplace: Path) -> None:
    network = controlnet(tiny_base)
    moments = lightning(workplace / "lightning_logs/version_1/checkpoints/a.ckpt", network, 3)
    lightning(workplace / "lightning_logs/version_2/checkpoints/b.ckpt", controlnet(tiny_base), 2)
    ended = everstep("import", workplace, "--out", "mine", "--base", tiny_base)
    assert ended.code == 0, ended.out
    assert "It was trained for 3 steps before." in ended.out
    assert_same_moments(workplace / "mine/training/optimizer.safetensors", moments)
    receipt = json.loads((workplace / "mine/receipt.json").read_text())
    assert {"callbacks", "random states", "1 tensor of model"} <= set(receipt["not_taken"])


def of_eight_bits(state: dict[str, Any]) -> None:
    for entry in state["state"].values():
        entry["state1"] = entry.pop("exp_avg").to(torch.uint8)


def of_others(state: dict[str, Any]) -> None:
    state["state"][0]["exp_avg"] = torch.ones(1)


def of_fewer(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"] = state["param_groups"][0]["params"][:-1]


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "eight_bits": (of_eight_bits, "has no exp_avg in 16 or 32 bits"),
    "others": (of_others, "has another shape"),
    "fewer": (of_fewer, "they are of"),
    "before_a_step": (lambda state: state["state"].clear(), "before its first step"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_moments_that_do_not_fit_are_left_and_weights_are_taken(
    name: str, tiny_base: Path, everstep: Everstep, workplace: Path
) -> None:
    spoil, said = SPOILT[name]
    network = controlnet(tiny_base)
    state = accelerate(workplace / "checkpoint-1", network, 1).state_dict()
    spoil(state)
    torch.save(state, workplace / "checkpoint-1/optimizer.bin")
    ended = everstep("import", "checkpoint-1", "--out", "mine", "--base", tiny_base)
    assert ended.code == 0, ended.out
    assert "AdamW's moments are not taken" in ended.out
    assert said in ended.out
    assert not (workplace / "mine/training").exists()


def test_a_training_of_ours_goes_on_from_theirs(
    tiny_base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    network = controlnet(tiny_base)
    optimizer = accelerate(workplace / "out/checkpoint-3", network, 3)
    ended = everstep(
        "train",
        "--run",
        "a",
        "--base",
        tiny_base,
        "--data",
        pairs_folder,
        *SETTINGS,
        "--from",
        "out",
        "--keep.everything",
    )
    assert ended.code == 0, ended.out
    assert "It was trained for 3 steps before." in ended.out
    first = Run.open(workplace / "runs/a").version(0)
    assert first.step == 0
    moments = {name: optimizer.state[parameter] for name, parameter in network.named_parameters()}
    assert_same_moments(first.path / "training/optimizer.safetensors", moments)
    told = json.loads((first.path / "manifest.json").read_text())["started_from"]
    assert told["steps_before"] == 3
    assert "are taken over" in told["moments"]

"""Every layout that is brought becomes the same ControlNet, told from its shapes alone; what is not whole is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from arrival.theirs import bare, controlnet, ldm, whole
from everstep.arrival.described import described, other_than
from everstep.arrival.names import layout_of, our_names
from everstep.exchange.sd import CONTROLNETS
from exchange import plans
from program import Ended

Everstep = Callable[..., Ended]


@pytest.mark.parametrize("kind", plans.CONTROLNETS)
@pytest.mark.parametrize("layout", CONTROLNETS, ids=lambda layout: layout.name[:12])
def test_a_network_of_true_size_is_told_from_shapes_alone(kind: str, layout: Any) -> None:
    plan = plans.controlnet(kind)
    theirs = layout.expand(plan).their_shapes()
    assert layout_of(theirs) is layout
    ours = our_names(layout, layout.own(theirs))
    assert {name: theirs[there] for name, there in ours.items()} == plan
    config = described(plan, None)
    assert other_than(config, plan) is None
    network = plans.on_meta(ControlNetModel.from_config, config)
    assert plans.shapes(network) == plan
    # And what shapes do not show is what such a network has.
    for key, value in plans.CONTROLNETS[kind].items():
        if key not in ("transformer_layers_per_block", "cross_attention_dim", "attention_head_dim"):
            assert config[key] == (list(value) if isinstance(value, tuple) else value), key
    heads = plans.CONTROLNETS[kind]["attention_head_dim"]
    assert config["attention_head_dim"] == (list(heads) if isinstance(heads, tuple) else heads)
    if kind == "sdxl":
        assert config["transformer_layers_per_block"] == [1, 2, 10]
        assert config["addition_time_embed_dim"] == 256


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def stored(folder: Path, how: str, network: ControlNetModel) -> Path:
    """The network in a file or folder."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if how == "folder":
        network.save_pretrained(folder / "net")
        return folder / "net"
    if how == "shards":
        network.save_pretrained(folder / "net", max_shard_size="40KB")
        assert len(list((folder / "net").glob("*.safetensors"))) > 1
        return folder / "net"
    content: dict[str, Any] = {
        "whole.ckpt": {"state_dict": whole(network), "global_step": 3},
        "ldm.pth": ldm(network),
        "bare.safetensors": bare(network),
        "bare.pt": bare(network),
        "diffusers.safetensors": state,
        "diffusers.bin": state,
        "parallel.bin": {f"module.{name}": tensor for name, tensor in state.items()},
    }[how]
    (save_file if how.endswith(".safetensors") else torch.save)(content, folder / how)
    return folder / how


@pytest.mark.parametrize(
    "how",
    ["whole.ckpt", "ldm.pth", "bare.safetensors", "bare.pt", "diffusers.safetensors", "diffusers.bin", "parallel.bin",
     "folder", "shards"],
)  # fmt: skip
def test_every_layout_becomes_the_same_folder(how: str, tiny_base: Path, everstep: Everstep, workplace: Path) -> None:
    network = controlnet(tiny_base)
    ended = everstep("import", stored(workplace, how, network), "--out", "mine", "--base", tiny_base)
    assert ended.code == 0, ended.out
    assert sorted(entry.name for entry in (workplace / "mine").iterdir()) == [
        "config.json", "diffusion_pytorch_model.safetensors", "receipt.json"
    ]  # fmt: skip
    found = ControlNetModel.from_pretrained(workplace / "mine", low_cpu_mem_usage=False)
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    for key in ("attention_head_dim", "norm_num_groups", "cross_attention_dim", "down_block_types"):
        assert plain(found.config[key]) == plain(network.config[key]), key
    receipt = json.loads((workplace / "mine/receipt.json").read_text())
    assert receipt["tensors"] == len(network.state_dict())
    assert receipt["dtypes"] == {"F32": len(network.state_dict())}
    if how == "whole.ckpt":
        assert receipt["other_tensors"] == {"betas": 1, "model": 1, "first_stage_model": 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halved_numbers_become_whole(dtype: torch.dtype, tiny_base: Path, everstep: Everstep, workplace: Path) -> None:
    network = controlnet(tiny_base)
    save_file({name: tensor.to(dtype) for name, tensor in ldm(network).items()}, workplace / "a.safetensors")
    assert everstep("import", "a.safetensors", "--out", "mine", "--base", tiny_base).code == 0
    found = load_file(workplace / "mine/diffusion_pytorch_model.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(found[name], tensor.to(dtype).float()), name


def spoilt(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], Path]:
    def make(folder: Path, base: Path) -> Path:
        state = ldm(controlnet(base))
        change(state)
        torch.save(state, folder / "a.pth")
        return folder / "a.pth"

    return make


def of_names(*names: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, base: Path) -> Path:
        torch.save({name: torch.ones(2, 2) for name in names}, folder / "a.pth")
        return folder / "a.pth"

    return make


ZERO = "control_model.zero_convs.0.0.weight"
WRONG = {
    "missing": (spoilt(lambda state: state.pop(ZERO)), "1 tensor missing (controlnet_down_blocks.0.weight)"),
    "surplus": (spoilt(lambda state: state.update({"control_model.more": torch.ones(1)})), "control_model.more"),
    "misshapen": (spoilt(lambda state: state.update({ZERO: torch.ones(3)})), "of another shape"),
    "double": (spoilt(lambda state: state.update({k[14:]: v for k, v in state.items()})), "twice"),
    "not_finite": (spoilt(lambda state: state[ZERO].fill_(float("nan"))), "no finite number"),
    "packed": (spoilt(lambda state: state.update({ZERO: state[ZERO].to(torch.int8)})), "made smaller for drawing"),
    "lllite": (of_names("lllite_unet_input_blocks_4_1.down.0.weight"), "is a ControlNet-LLLite"),
    "control_lora": (of_names("lora_controlnet", "input_blocks.0.0.weight"), "is a Control-LoRA"),
    "union": (of_names("task_embedding", "controlnet_cond_embedding.conv_in.weight"), "Union"),
    "lora": (of_names("lora_unet_down.lora_down.weight"), "is a LoRA, not a ControlNet"),
    "something": (of_names("x"), "holds no ControlNet"),
    "not_there": (lambda folder, base: folder / "nowhere.pth", "is not there"),
    "folder": (lambda folder, base: base, "is a base, not a ControlNet"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_taken_is_named_and_nothing_is_written(
    name: str, tiny_base: Path, everstep: Everstep, workplace: Path
) -> None:
    make, said = WRONG[name]
    path = make(workplace, tiny_base)
    before = sorted(entry.name for entry in workplace.iterdir())
    ended = everstep("import", path, "--out", "mine", "--base", tiny_base)
    assert ended.code == 2, ended.out
    assert said in ended.out
    assert "Nothing was written." in ended.out
    assert sorted(entry.name for entry in workplace.iterdir()) == before


def test_a_part_begins_as_the_base_does(tiny_base: Path, everstep: Everstep, workplace: Path) -> None:
    network = controlnet(tiny_base)
    state = ldm(network)
    del state[ZERO], state["control_model.input_blocks.0.0.weight"]
    state["control_model.more"] = torch.ones(1)
    torch.save(state, workplace / "a.pth")
    refused = everstep("import", "a.pth", "--out", "mine", "--partial")
    assert refused.code == 2
    assert "--base names the one" in refused.out
    ended = everstep("import", "a.pth", "--out", "mine", "--partial", "--base", tiny_base)
    assert ended.code == 0, ended.out
    receipt = json.loads((workplace / "mine/receipt.json").read_text())
    assert receipt["begins_as_the_base"] == ["conv_in.weight", "controlnet_down_blocks.0.weight"]
    assert receipt["surplus"] == ["control_model.more"]
    found = load_file(workplace / "mine/diffusion_pytorch_model.safetensors")
    base = load_file(tiny_base / "unet/diffusion_pytorch_model.safetensors")
    assert not found["controlnet_down_blocks.0.weight"].any()
    assert torch.equal(found["conv_in.weight"], base["conv_in.weight"])
    assert torch.equal(found["controlnet_mid_block.weight"], network.controlnet_mid_block.weight)


def test_what_is_there_is_replaced_only_by_force(tiny_base: Path, everstep: Everstep, workplace: Path) -> None:
    torch.save(ldm(controlnet(tiny_base)), workplace / "a.pth")
    words = ("import", "a.pth", "--out", "mine", "--base", tiny_base)
    assert everstep(*words).code == 0
    refused = everstep(*words)
    assert refused.code == 2
    assert "--force replaces it" in refused.out
    assert everstep(*words, "--force").code == 0
    (workplace / "mine/other").touch()
    assert "holds more than a ControlNet (other)" in everstep(*words, "--force").out
    assert [entry.name for entry in workplace.iterdir() if entry.name.startswith(".")] == []

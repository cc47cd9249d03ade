"""Every optimizer and schedule: k steps, then fresh objects: equal to straight bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parted import K, N, Optimizer, advance, assert_same, commit, network_of, parts_of
from torch import nn

from everstep.errors import UserError

Make = Callable[[nn.Module], Optimizer]


class EightBit(Optimizer):
    """Adam with moments of eight bits in blocks, quantisation maps, and dicts and lists in its state."""

    def __init__(self, params: object, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.grad is None:
                continue
            state, grad = self.state[parameter], parameter.grad.float()
            if not state:
                qmap = torch.linspace(-1, 1, 256)
                zeros = torch.full(parameter.shape, 128, dtype=torch.uint8)
                state |= {"step": 0, "kind": "blockwise", "shape": tuple(parameter.shape), "history": []}
                state["first"] = {"codes": zeros, "qmap": qmap, "absmax": [torch.ones(()), torch.zeros(2)]}
            state["step"] += 1
            first = state["first"]
            moment = first["qmap"][first["codes"].long()] * first["absmax"][0]
            moment.mul_(0.9).add_(grad, alpha=0.1)
            first["absmax"][0] = moment.abs().max().clamp_min(1e-12)
            first["codes"] = torch.bucketize(moment / first["absmax"][0], first["qmap"]).clamp_max(255).to(torch.uint8)
            state["history"] = [*state["history"][-1:], float(moment.sum())]
            parameter.sub_(moment.to(parameter.dtype), alpha=self.param_groups[0]["lr"])


class Precise(Optimizer):
    """Momentum of 32 bits over weights of whatever kind."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            state = self.state[parameter]
            if not state:
                state["master"], state["moment"] = parameter.float(), torch.zeros(parameter.shape)
            state["moment"].lerp_(parameter.grad.float(), 0.1)
            state["master"].sub_(state["moment"], alpha=0.01)
            parameter.copy_(state["master"])


def grouped(network: nn.Module) -> Optimizer:
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "lr": 0.003, "betas": (0.8, 0.9)}]
    return torch.optim.AdamW(groups, lr=0.01)


def muon(network: nn.Module) -> Optimizer:
    return torch.optim.Muon([parameter for parameter in network.parameters() if parameter.ndim == 2], lr=0.01)


def plain(kind: str, **settings: object) -> Make:
    return lambda network: getattr(torch.optim, kind)(network.parameters(), **settings)


MAKERS: dict[str, Make] = {
    "SGD": plain("SGD", lr=0.01),
    "SGD with momentum": plain("SGD", lr=0.01, momentum=0.9, nesterov=True),
    "Adagrad": plain("Adagrad"),
    "Adadelta": plain("Adadelta"),
    "Adamax": plain("Adamax"),
    "ASGD": plain("ASGD"),
    "Rprop": plain("Rprop"),
    "RMSprop": plain("RMSprop", momentum=0.9, centered=True),
    "Adam": plain("Adam", amsgrad=True),
    "AdamW fused": plain("AdamW", fused=True),
    "AdamW foreach": plain("AdamW", foreach=True),
    "AdamW for-loop": plain("AdamW", foreach=False),
    "AdamW with a rate that is a tensor": lambda network: torch.optim.AdamW(network.parameters(), torch.tensor(0.01)),
    "NAdam": plain("NAdam"),
    "RAdam": plain("RAdam"),
    "Adafactor": plain("Adafactor"),
    "LBFGS": plain("LBFGS", max_iter=2),
    "eight bits": lambda network: EightBit(network.parameters()),
    "several groups": grouped,
    **({"Muon": muon} if hasattr(torch.optim, "Muon") else {}),
}


def assert_law(folder: Path, make: Make, dtype: torch.dtype = torch.float32) -> None:
    straight = network_of(dtype)
    stepping = make(straight)
    kept = network_of(dtype)
    before = make(kept)
    for step in range(N):
        advance(straight, stepping, step)
    for step in range(K):
        advance(kept, before, step)
    version = commit(folder, parts_of(kept, before, K))

    fresh = network_of(dtype)
    after = make(fresh)
    parts = parts_of(fresh, after)
    parts.restore(version)
    assert parts.step == K
    assert_same(before.state_dict(), after.state_dict())
    for step in range(K, N):
        advance(fresh, after, step)
    assert_same(dict(straight.state_dict()), dict(fresh.state_dict()))
    assert_same(stepping.state_dict(), after.state_dict())


@pytest.mark.parametrize("name", MAKERS)
def test_every_optimizer_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    assert_law(tmp_path, MAKERS[name])


@pytest.mark.parametrize("name", ["AdamW fused", "AdamW foreach", "Adafactor", "eight bits"])
def test_weights_of_sixteen_bits_go_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    assert_law(tmp_path, MAKERS[name], torch.bfloat16)


def test_moments_of_more_bits_than_the_weights_keep_them(tmp_path: Path) -> None:
    assert_law(tmp_path, lambda network: Precise(network.parameters()), torch.bfloat16)


def test_a_group_that_came_on_the_way_is_kept(tmp_path: Path) -> None:
    def begin(is_grown: bool) -> tuple[nn.Sequential, Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 5))
        optimizer = torch.optim.Adam(network.parameters())
        return grow(network, optimizer) if is_grown else (network, optimizer)

    def grow(network: nn.Sequential, optimizer: Optimizer) -> tuple[nn.Sequential, Optimizer]:
        network.append(nn.Linear(5, 3))
        optimizer.add_param_group({"params": network[-1].parameters(), "lr": 0.02})
        return network, optimizer

    straight = begin(is_grown=False)
    for step in range(N):
        advance(*straight, step)
        if step == 1:
            grow(*straight)
        if step == K - 1:
            version = commit(tmp_path, parts_of(*straight, K))
    fresh = begin(is_grown=True)
    parts_of(*fresh).restore(version)
    for step in range(K, N):
        advance(*fresh, step)
    assert_same(straight[0].state_dict(), fresh[0].state_dict())
    assert_same(straight[1].state_dict(), fresh[1].state_dict())
    with pytest.raises(UserError, match="version_0 is whole, but does not fit this loop"):
        parts_of(*begin(is_grown=False)).restore(version)


SCHEDULES: dict[str, Callable[[Optimizer], object]] = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N),
    "several steps": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 5, 7]),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, N + 1),
    "function": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "one after the other": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.LinearLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [3],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_on(tmp_path: Path, name: str) -> None:
    def begin() -> tuple[nn.Module, Optimizer, object]:
        network = network_of()
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        return network, optimizer, SCHEDULES[name](optimizer)

    def train(kept: tuple[nn.Module, Optimizer, object], steps: range) -> list[float]:
        rates = []
        for step in steps:
            advance(*kept[:2], step)
            kept[2].step()  # type: ignore[attr-defined]
            rates.append(kept[1].param_groups[0]["lr"])
        return rates

    straight, kept, fresh = begin(), begin(), begin()
    rates = train(straight, range(N))
    train(kept, range(K))
    version = commit(tmp_path, parts_of(*kept[:2], K, schedule=kept[2]))
    parts_of(*fresh[:2], schedule=fresh[2]).restore(version)
    assert train(fresh, range(K, N)) == rates[K:]
    assert_same(straight[0].state_dict(), fresh[0].state_dict())

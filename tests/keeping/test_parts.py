"""Every optimizer, and state of any kind: k steps, then fresh objects: equal to straight bit for bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everstep.contracts import Draft
from everstep.errors import DamageFound, UserError
from everstep.keeping.parts import STATE, TENSORS, Parts
from everstep.keeping.stateful import Layout, check_finite, tensor_files
from everstep.versions import Run, Version
from everstep.versions.torch import DTYPES

K, N = 4, 9
Optimizer = torch.optim.Optimizer
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


def network_of(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 33), nn.Tanh(), nn.Linear(33, 2)).to(dtype)


def advance(network: nn.Module, optimizer: Optimizer, step: int) -> None:
    dtype = next(network.parameters()).dtype
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(step)).to(dtype)

    def closure() -> Tensor:
        loss: Tensor = network(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def commit(folder: Path, parts: Parts) -> Version:
    path = folder / "runs" / "r"
    run = Run.open(path) if Run.exists(path) else Run.create(path, "{}\n")
    draft = Draft(parts.step, 0, "interval", None, tensor_files(parts), parts.small_files(), {})
    return run.commit(draft)


def parts_of(network: nn.Module, optimizer: Optimizer, step: int = 0, **others: object) -> Parts:
    return Parts({"weights": network}, {"optimizer": optimizer, **others}, {}, step)  # type: ignore[dict-item]


def assert_same(mine: object, other: object) -> None:
    """Values and dtypes, all the way down."""
    assert type(mine) is type(other)
    if isinstance(mine, Tensor):
        assert isinstance(other, Tensor)
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        assert torch.equal(mine, other)
    elif isinstance(mine, dict):
        assert isinstance(other, dict)
        assert list(mine) == list(other)
        for key in mine:
            assert_same(mine[key], other[key])
    elif isinstance(mine, list | tuple):
        assert isinstance(other, list | tuple)
        assert len(mine) == len(other)
        for pair in zip(mine, other, strict=True):
            assert_same(*pair)
    else:
        assert mine == other


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


# --- modules ---------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Tied weights, a frozen one, a mask of minus infinities, counters, and facts that are no tensors."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.norm = nn.Linear(5, 5), nn.Linear(5, 5), nn.BatchNorm1d(5)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
        self.register_buffer("nothing", torch.empty(0, 4))
        self.calls = 0

    def forward(self, inputs_BC: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.norm(self.second(self.first(inputs_BC))) * self.frozen.sum()
        return found

    def get_extra_state(self) -> object:
        return {"calls": self.calls, "when": (1, None), "name": b"odd"}

    def set_extra_state(self, state: object) -> None:
        assert isinstance(state, dict)
        assert (state["when"], state["name"]) == ((1, None), b"odd")
        self.calls = state["calls"]


def odd(seed: int) -> tuple[Odd, Optimizer]:
    network = Odd(seed)
    return network, torch.optim.Adam(network.parameters())


def test_tied_frozen_and_masked_weights_buffers_and_extra_state_are_kept(tmp_path: Path) -> None:
    straight, kept, fresh = odd(0), odd(0), odd(1)
    for step in range(N):
        advance(*straight, step)
    for step in range(K):
        advance(*kept, step)
    parts = parts_of(*kept, K)
    check_finite(parts)  # a mask is meant
    version = commit(tmp_path, parts)
    parts_of(*fresh).restore(version)
    assert fresh[0].second.weight is fresh[0].first.weight
    for step in range(K, N):
        advance(*fresh, step)
    assert_same(dict(straight[0].state_dict()), dict(fresh[0].state_dict()))
    assert fresh[0].calls == N


def test_what_is_bound_anew_is_what_is_committed(tmp_path: Path) -> None:
    network = network_of()
    parts = parts_of(network, torch.optim.SGD(network.parameters(), 0.1))
    parts.tensors()
    parameter = next(network.parameters())
    parameter.data = torch.full_like(parameter, 7.0)
    version = commit(tmp_path, parts)
    fresh = network_of()
    parts_of(fresh, torch.optim.SGD(fresh.parameters(), 0.1)).restore(version)
    assert next(fresh.parameters()).eq(7.0).all()


def test_a_state_dict_that_is_a_copy_is_put_back_all_the_same(tmp_path: Path) -> None:
    def copied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = nn.Linear(3, 3)

        def copy(module: nn.Module, state: dict[str, Tensor], *_: object) -> None:
            state |= {key: value.clone() for key, value in state.items()}

        network.register_state_dict_post_hook(copy)
        return network

    network, fresh = copied(0), copied(1)
    version = commit(tmp_path, Parts({"weights": network}, {}, {}))
    Parts({"weights": fresh}, {}, {}).restore(version)
    assert torch.equal(network.weight, fresh.weight)  # type: ignore[arg-type]


# --- tensors of one's own, and states of any kind ----------------------------------------------------------------


def example(dtype: torch.dtype, count: int) -> Tensor:
    """Bytes of every kind that are numbers in every dtype."""
    return (
        (torch.arange(count * dtype.itemsize) % 60).to(torch.uint8).view(dtype)
        if dtype != torch.bool
        else (torch.arange(count) % 3 == 0)
    )


def bytes_of(tensor: Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_tensors_of_every_dtype_and_of_no_elements_are_kept(tmp_path: Path, name: str) -> None:
    dtype = DTYPES[name]
    mine = {
        "some": example(dtype, 6).reshape(2, 3),
        "none": torch.empty(0, 3, dtype=dtype),
        "one": example(dtype, 1)[0],
    }
    fresh = {key: torch.zeros(tensor.shape, dtype=dtype) for key, tensor in mine.items()}
    version = commit(tmp_path, Parts({}, {}, mine))
    Parts({}, {}, fresh).restore(version)
    assert {key: bytes_of(tensor) for key, tensor in fresh.items()} == {
        key: bytes_of(tensor) for key, tensor in mine.items()
    }


class Anything:
    """Whatever has a state dict."""

    def __init__(self, state: dict[object, object]) -> None:
        self.state = state

    def state_dict(self) -> dict[object, object]:
        return self.state

    def load_state_dict(self, state: dict[object, object]) -> None:
        self.state = state


def test_states_of_any_kind_come_back_as_they_were(tmp_path: Path) -> None:
    state: dict[object, object] = {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1), 1: "number", "1": "word"},
        (1, "two"): [None, True, 1.5, float("inf"), (), (1, [2, (3,)])],
        "__tensor__": "a word that is ours",
        "bytes": b"\0\xff",
        "empty": {},
        "large": 2**130,
    }
    fresh = Anything({})
    Parts({}, {"it": fresh}, {}).restore(commit(tmp_path, Parts({}, {"it": Anything(state)}, {})))
    assert_same(fresh.state, state)


def test_arrays_of_numpy_are_kept(tmp_path: Path) -> None:
    state: dict[object, object] = {"order": np.arange(5), "one": np.float32(0.1), "truth": np.bool_(True)}
    fresh = Anything({})
    Parts({}, {"it": fresh}, {}).restore(commit(tmp_path, Parts({}, {"it": Anything(state)}, {})))
    assert isinstance(fresh.state["order"], np.ndarray)
    assert np.array_equal(fresh.state["order"], np.arange(5))
    assert (fresh.state["one"], fresh.state["truth"]) == (float(np.float32(0.1)), True)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"a": {"b": object()}}, "it.a.b is a object, which can be kept neither as a tensor nor as JSON."),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "it.a is a complex128 tensor, which no version can hold."),
        ({"a": torch.zeros(2, 2).to_sparse()}, "it.a is a sparse_coo tensor, which no version can hold."),
        ({"a": torch.zeros(2, device="meta")}, "it.a is a float32 tensor without memory, which no version can hold."),
    ],
)
def test_what_cannot_be_kept_is_named(state: dict[object, object], why: str) -> None:
    with pytest.raises(UserError) as refused:
        Layout(Parts({}, {"it": Anything(state)}, {}))
    assert str(refused.value) == why


# --- versions of other parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (
            Parts({"other": nn.Linear(2, 2)}, {}, {}),
            "was made by a loop with other modules: weights there, other here.",
        ),
        (
            Parts({"weights": nn.Linear(2, 2)}, {"it": Anything({})}, {}),
            "was made by a loop with other optimizers and others: none there, it here.",
        ),
        (
            Parts({"weights": nn.Linear(2, 2)}, {}, {"mean": torch.zeros(1)}),
            "was made by a loop with other tensors: none there, mean here.",
        ),
        (Parts({"weights": nn.Linear(3, 2)}, {}, {}), "is whole, but does not fit this loop: "),
        (Parts({"weights": nn.Linear(2, 2, bias=False)}, {}, {}), "is whole, but does not fit this loop: "),
    ],
)
def test_a_version_of_other_parts_is_no_damage(tmp_path: Path, parts: Parts, why: str) -> None:
    version = commit(tmp_path, Parts({"weights": nn.Linear(2, 2)}, {}, {}))
    with pytest.raises(UserError) as refused:
        parts.restore(version)
    assert str(refused.value).startswith(f"version_0 {why}")


@pytest.mark.fault("a tensor of a loop of somebody's own with a flipped bit")
def test_a_version_that_is_damaged_says_so(tmp_path: Path) -> None:
    version = commit(tmp_path, Parts({"weights": nn.Linear(2, 2)}, {}, {}))
    path = version.path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(DamageFound, match="fails its digest in tensor"):
        Parts({"weights": nn.Linear(2, 2)}, {}, {}).restore(version)


def test_the_best_loss_so_far_may_be_infinite_at_the_start_but_no_moment(tmp_path: Path) -> None:
    network = network_of()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    parts = Parts({"weights": network}, {"optimizer": optimizer}, {"best": torch.tensor(float("inf"))})
    check_finite(parts)
    advance(network, optimizer, 0)
    next(iter(optimizer.state.values()))["momentum_buffer"].fill_(float("nan"))
    with pytest.raises(Exception, match=f"momentum_buffer in {TENSORS} is not finite"):
        check_finite(parts)


def test_the_small_state_says_where_it_is() -> None:
    assert b'"step": 5' in Parts({}, {}, {}, step=5).small_files()[STATE]

"""Modules, tensors and states of any kind come back as they were, or are refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from parted import K, N, Optimizer, advance, assert_same, commit, network_of, parts_of
from torch import Tensor, nn

from everstep.errors import DamageFound, UserError
from everstep.keeping.parts import STATE, TENSORS, Parts
from everstep.keeping.stateful import Layout, check_finite
from everstep.versions.torch import DTYPES

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

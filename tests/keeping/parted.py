"""Small networks and what keeps them: advanced by steps, committed, and compared all the way down."""

from pathlib import Path

import torch
from torch import Tensor, nn

from everstep.contracts import Draft
from everstep.keeping.parts import Parts
from everstep.keeping.stateful import tensor_files
from everstep.versions import Run, Version

Optimizer = torch.optim.Optimizer
K, N = 4, 9  # steps before a version is made, and in all


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

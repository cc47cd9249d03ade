"""The device is chosen once, for everything that names none."""

import pytest
import torch

from everstep.config.schema import Compute
from everstep.models.arithmetic import arithmetic


def test_what_names_no_device_uses_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and events of snapshots name none; on another GPU than the state's they would order nothing."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    arithmetic(Compute(device="cpu"))
    assert chosen == []
    arithmetic(Compute(device="cuda:1"))
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_first_gpu_is_made_the_current_one_by_its_number(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[int] = []
    # As PyTorch reads it, which refuses a device without a number.
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    assert arithmetic(Compute(device=device, precision="fp32")).device == torch.device("cuda:0")
    assert chosen == [0]


@pytest.mark.parametrize(
    ("asked", "has_cuda", "has_bf16", "used"),
    [
        ("auto", True, True, "bf16"),
        ("auto", True, False, "fp32"),
        ("auto", False, True, "fp32"),
        ("fp16", True, True, "fp16"),
        ("fp32", True, True, "fp32"),
    ],
)
def test_auto_is_bf16_where_the_gpu_computes_it_itself(
    monkeypatch: pytest.MonkeyPatch, asked: str, has_cuda: bool, has_bf16: bool, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(has_cuda))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert arithmetic(Compute.model_validate({"precision": asked})).precision == used


@pytest.mark.parametrize("deterministic", [False, True])
def test_tf32_is_on_where_it_exists_but_not_where_runs_go_on_exactly(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        assert arithmetic(Compute(device="cuda:0", deterministic=deterministic)).has_tf32 is not deterministic
        assert not arithmetic(Compute(device="cpu")).has_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before

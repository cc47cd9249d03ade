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

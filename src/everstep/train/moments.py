"""Moments that were brought with the weights to start from, put into the optimizer before its first step."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from everstep.errors import DamageFound, UserError
from everstep.models.files import OPTIMIZER
from everstep.models.optimizers import ADAMW
from everstep.versions.tensorfile import read_file


def take_moments(optimizer: torch.optim.Optimizer, network: nn.Module, folder: Path) -> bool:
    """Whether there were any; all of them are taken, or none. Raises: UserError if they are not this network's."""
    path = folder / OPTIMIZER
    if not path.is_file():
        return False
    parameters = dict(network.named_parameters())
    live = {f"{name}.{key}": tensor for name, p in parameters.items() for key, tensor in optimizer.state[p].items()}
    try:
        header, _, tensors = read_file(path)
        shapes = {name: place.shape for name, place in header.tensors.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in live.items()}:
            raise DamageFound("holds moments of another network")
        for name, buffer in tensors:
            live[name].copy_(torch.frombuffer(buffer, dtype=torch.float32).reshape(shapes[name]))
    except (DamageFound, OSError) as error:
        raise UserError(
            f"{path} cannot be used: {error}. Nothing was trained.\nWithout it, the moments begin anew: rm {path}"
        ) from None
    return True


def as_taken(receipt: dict[str, Any], optimizer: str) -> dict[str, Any]:
    """What is said of weights that were brought, for a training with this optimizer: only AdamW has AdamW's moments."""
    if optimizer == ADAMW or not receipt["moments"]:
        return receipt
    left = f"AdamW's moments are left, since optim.optimizer is {optimizer}; its own state begins anew."
    return {**receipt, "moments": left}

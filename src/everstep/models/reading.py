"""Networks of diffusers and transformers read from a folder: every tensor, or the sentence that names those missing."""

import contextlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

import everstep.models.libraries  # noqa: F401  (quietens the others)
from everstep.errors import EverstepError, UserError
from everstep.models.base import BaseFolder
from everstep.models.weights import Weights, count, listed, reason


def frozen(network: Any, base: BaseFolder, component: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A network of a base, that nothing trains. Raises: UserError."""
    return part(network, base, component, dtype).to(device).requires_grad_(False).eval()


def part(network: Any, base: BaseFolder, component: str, dtype: torch.dtype) -> Any:
    """A network of a base, in memory. Raises: UserError."""
    return load(network, base.path / component, dtype, base.weights(component), f"{base.name}: {component}")


def stored(network: Any, base: BaseFolder, component: str, names: Container[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Some tensors of a network of a base as its files hold them, one in memory at a time. Raises: UserError."""
    weights = base.weights(component)
    if not weights.is_safetensors:
        yield from part(network, base, component, torch.float32).state_dict().items()
        return
    with refused(f"{base.name}: {component}"):
        for path in weights.tensor_files:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    if name in names:
                        yield name, file.get_tensor(name)


def load(network: Any, folder: Path, dtype: torch.dtype, weights: Weights, what: str) -> Any:
    """Raises: UserError in whose words a tensor would be left at whatever memory held, or does not fit."""
    how: dict[str, Any] = {} if issubclass(network, PreTrainedModel) else {"low_cpu_mem_usage": False}
    with refused(what):
        loaded, told = network.from_pretrained(
            folder,
            dtype=dtype,
            variant=weights.variant,
            use_safetensors=weights.is_safetensors,
            output_loading_info=True,
            local_files_only=True,
            **how,
        )
    missing, misshapen = sorted(told["missing_keys"]), sorted(str(key) for key, *_ in told["mismatched_keys"])
    for names, fault in ((missing, "missing"), (misshapen, "of another shape")):
        if names:
            raise UserError(f"{what} could not be loaded: {count(names, 'tensor')} {fault} ({listed(names)}).")
    return loaded


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """The libraries raise whatever they like over files that they cannot read."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, EverstepError):
        raise
    except Exception as error:
        raise UserError(f"{what} could not be loaded: {reason(error)}") from None

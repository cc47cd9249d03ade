"""The optimizers, each by its own library; all that decides their next step is there before the first, and can be kept.

A version holds their tensors in a file, and their numbers (counters, Prodigy's distance) among the small facts.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everstep.config.schema import Optim
from everstep.errors import UserError
from everstep.models.optimizers import ADAFACTOR, ADAMW, ADAMW8BIT, LIBRARIES, PRODIGY, QUANTILES, kept_of_parameter

DTYPES = {"F32": torch.float32, "U8": torch.uint8}
# Of a parameter group of Prodigy's, what changes from step to step and decides the next one.
GROUP_NUMBERS = ("d", "d_max", "d_numerator", "k")


def make_optimizer(network: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """Its state exists, as before a first step, so that every version has the same layout. Raises: UserError."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        optimizer = MAKERS[settings.optimizer](parameters, settings)
    except (ImportError, OSError) as error:
        raise UserError(
            f"optim.optimizer is {settings.optimizer}, but {LIBRARIES.get(settings.optimizer, 'its library')} cannot "
            f"be loaded ({error}). Nothing was trained. pip install 'everstep[optimizers]'"
        ) from None
    for parameter in parameters:
        _prepare(settings.optimizer, optimizer, parameter)
    return optimizer


def _prepare(kind: str, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    """The state of one parameter before the first step."""
    state = optimizer.state[parameter]
    for key, kept in kept_of_parameter(kind, tuple(parameter.shape)).items():
        # In the parameter's own order of memory, where it has its shape: what is kept is worked on together with it.
        is_alike, dtype = kept.shape == tuple(parameter.shape), DTYPES[kept.dtype]
        state[key] = (
            torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
            if is_alike
            else torch.zeros(kept.shape, dtype=dtype, device=parameter.device)
        )
    if kind == PRODIGY:
        state["p0"].copy_(parameter.detach().flatten())
    if kind == ADAMW8BIT and "absmax1" in state:
        state.update(zip(QUANTILES, _quantiles(optimizer, parameter.device), strict=True))
    if kind != ADAMW:
        state["step"] = 0


# --- by their own libraries --------------------------------------------------------------------------------


def _adamw(parameters: Sequence[nn.Parameter], settings: Optim) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **_as_adam(settings))


def _adamw8bit(parameters: Sequence[nn.Parameter], settings: Optim) -> torch.optim.Optimizer:
    import bitsandbytes

    class AdamW8bit(bitsandbytes.optim.AdamW8bit):  # type: ignore[misc]
        """Never compiled: compiled code may differ between a process's first steps and later ones."""

        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    for parameter in parameters:
        # It wants this order, and would move the weights to other memory in the first step.
        parameter.data = parameter.data.contiguous()
    made: torch.optim.Optimizer = AdamW8bit(parameters, **_as_adam(settings))
    return made


def _adafactor(parameters: Sequence[nn.Parameter], settings: Optim) -> torch.optim.Optimizer:
    """Transformers', whose rate can be the one that was given: PyTorch's multiplies it by the size of the weights."""
    from transformers.optimization import Adafactor

    made: torch.optim.Optimizer = Adafactor(
        parameters,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )
    return made


def _prodigy(parameters: Sequence[nn.Parameter], settings: Optim) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # it prints that decay is decoupled
        made: torch.optim.Optimizer = Prodigy(
            parameters, use_bias_correction=True, safeguard_warmup=True, **_as_adam(settings)
        )
    return made


MAKERS = {ADAMW: _adamw, ADAMW8BIT: _adamw8bit, ADAFACTOR: _adafactor, PRODIGY: _prodigy}


def _as_adam(settings: Optim) -> dict[str, Any]:
    return {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }


def _quantiles(optimizer: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two tables that all parameters share."""
    for name, table in optimizer.name2qmap.items():
        optimizer.name2qmap[name] = table.to(device)
    return optimizer.name2qmap["dynamic"], optimizer.name2qmap["udynamic"]


# --- what a version holds of them --------------------------------------------------------------------------


def kept_tensors(kind: str, optimizer: torch.optim.Optimizer, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Live, with the names of `models.optimizers.kept_of_network`, in that order."""
    tables: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        state = optimizer.state[parameter]
        for key in kept_of_parameter(kind, tuple(parameter.shape)):
            yield f"{name}.{key}", state[key]
        tables |= {key: state[key] for key in QUANTILES if key in state}
    yield from tables.items()


def kept_numbers(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What it holds beside tensors that decides its next step; empty where that is nothing."""
    found = dict[str, Any]()
    steps = [state.get("step") for state in _states(optimizer)]
    if any(isinstance(step, int) for step in steps):
        found["steps"] = steps
    groups = [{key: group[key] for key in GROUP_NUMBERS if key in group} for group in optimizer.param_groups]
    return found | ({"groups": groups} if any(groups) else {})


def put_numbers(optimizer: torch.optim.Optimizer, numbers: Mapping[str, Any]) -> None:
    """Put back what `kept_numbers` gave."""
    if "steps" in numbers:
        for state, step in zip(_states(optimizer), numbers["steps"], strict=True):
            state["step"] = step
    for group, kept in zip(optimizer.param_groups, numbers.get("groups", optimizer.param_groups), strict=True):
        group.update({key: kept[key] for key in GROUP_NUMBERS if key in kept})


def _states(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [optimizer.state[parameter] for group in optimizer.param_groups for parameter in group["params"]]

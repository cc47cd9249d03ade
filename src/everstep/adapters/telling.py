"""What other people's trainers say of themselves, as settings that a person reads: never an empty hparams.yaml."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

LONGEST = 200  # letters of a value that has no form of its own
# Ends of names whose values nobody shall read in a file; a tokenizer is none.
SECRETS = re.compile(r"(?:^|[_-])(?:token|key|secret|password)$", re.IGNORECASE)
LEFT_OUT = "(left out)"
OF_TRAINER = (*("max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "precision", "num_devices"),)


def hparams_of(trainer: Any, module: Any, settings: Mapping[str, Any]) -> str:
    """hparams.yaml of a training by Lightning."""
    loaders = getattr(trainer, "train_dataloader", None)
    told = {
        **plain(settings),
        "module": {"class": _name(module), "parameters": _count(module), **plain(dict(module.hparams))},
        "trainer": {name: plain(getattr(trainer, name, None)) for name in OF_TRAINER},
        "optimizers": [groups_of(optimizer) for optimizer in trainer.optimizers],
        "data": [data_of(loader) for loader in (loaders if isinstance(loaders, list | tuple) else [loaders])],
    }
    if trainer.datamodule is not None:
        told["datamodule"] = {"class": _name(trainer.datamodule), **plain(dict(trainer.datamodule.hparams))}
    return as_yaml(told)


def groups_of(optimizer: Any) -> dict[str, Any]:
    """An optimizer's class, and its groups without their parameters."""
    groups = [
        {**{key: plain(value) for key, value in group.items() if key != "params"}, "tensors": len(group["params"])}
        for group in optimizer.param_groups
    ]
    return {"class": _name(optimizer), "groups": groups}


def data_of(loader: Any) -> dict[str, Any]:
    """A loader's dataset and batch size."""
    dataset = getattr(loader, "dataset", None)
    told: dict[str, Any] = {"dataset": _name(dataset), "batch_size": plain(getattr(loader, "batch_size", None))}
    with suppress(TypeError):  # one that is only iterated
        told["examples"] = len(dataset)  # type: ignore[arg-type]
    return told


def as_yaml(told: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(told), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """The same as YAML can say it; of what has no form there, how it prints."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _told(str(key), one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return repr(value)[:LONGEST]


def _told(name: str, value: Any) -> Any:
    return LEFT_OUT if isinstance(value, str) and SECRETS.search(name) else plain(value)


def batch_size_of(batch: Any) -> int:
    """Examples of a batch: the first length of the first tensor in it; 0 where there is none."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((size for part in parts if (size := batch_size_of(part))), 0)


def _name(thing: Any) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""A plain PyTorch loop, kept: versions, snapshots that survive kill -9, and exact resume, in a few lines.

with everstep.keep("runs/mine", network, optimizer, every=100) as kept:
    for step in kept.steps(2_000):
        ...                          # batches, losses: functions of the step
        optimizer.step()
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from everstep.contracts import Report
from everstep.errors import UserError
from everstep.keeping.claims import Observer
from everstep.keeping.kept import Kept
from everstep.keeping.parts import HasState, Parts
from everstep.keeping.settings import Settings
from everstep.keeping.terms import Auto, Terms, refuse_ranks

Modules = nn.Module | Mapping[str, nn.Module]
Others = HasState | Mapping[str, HasState]


def keep(
    run: str | Path,
    modules: Modules,
    optimizers: Others | None = None,
    *,
    others: Mapping[str, HasState] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    images_per_step: int = 1,
    every: int | Auto | None = 300,
    every_s: float | None = None,
    keeping: Settings | None = None,
    observers: tuple[Observer, ...] = (),
    report: Report | None = None,
) -> "Kept":
    """Keep a training loop; on entering, whatever the run holds already is put back.

    Args:
        run: a name in runs/, or a path; made if it is not there.
        modules: the network, or networks by name; each is a safetensors file of every version.
        optimizers: one, or several by name. Their state may come later, and be of any kind.
        others: schedulers, scalers, loaders: whatever has state_dict() and load_state_dict().
        tensors: any other tensors by name, changed in place, within `kept.changing()`.
        settings: of the run, as hparams.yaml has them.
        facts: JSON for every version's manifest.
        every, every_s: steps, seconds between versions; every="auto" finds the interval that costs least time.
        keeping: how often snapshots are taken, where their memory is.

    Raises: UserError for what is no module, and for a training of several ranks; on entering, if another process writes
    the run, or its versions are of other parts.
    """
    if not isinstance(modules, nn.Module | Mapping) or not isinstance(run, str | Path):
        raise UserError(
            "everstep.keep takes the run's name, and a module or modules by name. Nothing was started.\n"
            "For Lightning: from everstep.adapters import lightning as everstep; for Accelerate: import accelerate so."
        )
    refuse_ranks(int(os.environ.get("WORLD_SIZE") or 1))
    named = {"weights": modules} if isinstance(modules, nn.Module) else dict(modules)
    stepping = optimizers if isinstance(optimizers, Mapping) else {"optimizer": optimizers} if optimizers else {}
    parts = Parts(named, {**stepping, **(others or {})}, dict(tensors or {}))
    terms = Terms.of(
        run,
        yaml.safe_dump(dict(settings or {}), sort_keys=False),
        (every, every_s),
        keeping,
        report,
        facts=dict(facts or {}),
        images_per_step=images_per_step,
        observers=observers,
    )
    return Kept(terms, parts)

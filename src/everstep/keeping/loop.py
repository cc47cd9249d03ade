"""A plain PyTorch loop, kept: versions, snapshots that survive kill -9, and exact resume, in a few lines.

with everstep.keep("runs/mine", network, optimizer, every=100) as kept:
    for step in kept.steps(2_000):
        ...                          # batches, losses: functions of the step
        optimizer.step()
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from everstep.contracts import Report
from everstep.keeping.claims import Observer
from everstep.keeping.kept import Kept
from everstep.keeping.parts import HasState, Parts
from everstep.keeping.settings import Settings
from everstep.keeping.terms import Terms

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
    every: int | None = 300,
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
        every, every_s: steps, seconds between versions.
        keeping: how often snapshots are taken, where their memory is.

    Raises on entering: UserError if another process writes the run, or its versions are of other parts.
    """
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

"""What a version says about how it was made: base, data, program, machine. Constant within one start."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from everstep import __version__
from everstep.arrival.cache import receipt_of_start
from everstep.contracts import ParentRef
from everstep.data import Split
from everstep.models.arithmetic import Arithmetic
from everstep.models.family import Family
from everstep.train.caching import Cache
from everstep.train.moments import as_taken
from everstep.train.ready import Ready, condition_of
from everstep.train.waiting import how_threads_wait

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")
SECRETS = ("token", "key", "secret", "password")


def version_facts(
    ready: Ready, family: Family, controlnet: Any, pairs: Split, origin: ParentRef | None, cache: Cache | None
) -> dict[str, Any]:
    """Facts for the manifest, all JSON."""
    return {
        "base": {
            "name": ready.base.name,
            "revision": ready.base.revision,
            "digest": ready.base_digest,
            "files": ready.base.file_digests(),
            "family": family.name,
            "prediction_type": family.schedule.prediction_type,
        },
        "data": {
            "path": ready.config.data.path,
            "description": ready.source.description,
            "fingerprint": ready.source.fingerprint(),
            **({} if (made := condition_of(ready.source)) is None else {"condition": made}),
            "training_pairs": len(pairs.training),
            "held_out": [ready.source.name(number) for number in pairs.held_out],
            **({} if pairs.by is None else {"held_out_by": pairs.by}),
            "skipped": dict(ready.source.skipped),
        },
        **({} if cache is None else {"cache": cache.facts()}),
        "inputs": {"condition_range": family.condition_range(controlnet), "target_range": family.target_range},
        "config": ready.config.model_dump(mode="json"),
        "started_from": _started_from(ready, origin),
        "libraries": {name: installed(name) for name in LIBRARIES},
        "code": {"everstep": __version__, "revision": revision(), "command": _command()},
        "machine": {
            "host": platform.node(),
            "python": platform.python_version(),
            "device": str(family.arithmetic.device),
            "precision": family.arithmetic.precision,  # what was used; what was asked for is in config
            "tf32": family.arithmetic.has_tf32,
            "cpus": os.cpu_count(),
            "waiting": how_threads_wait(),
            **_ranks(family.arithmetic),
        },
    }


def _ranks(arithmetic: Arithmetic) -> dict[str, Any]:
    """How several processes trained together, where they did."""
    if arithmetic.ranks == 1:
        return {}
    return {"ranks": arithmetic.ranks, "parallel": "fsdp" if arithmetic.is_shared_out else "ddp"}


def _started_from(ready: Ready, origin: ParentRef | None) -> dict[str, Any] | None:
    """The version, or what was brought from another program, as its receipt has it."""
    if origin is not None:
        return {"run": origin.run, "version": origin.version}
    receipt = None if ready.version is not None else receipt_of_start(ready.config.optim.start_from, ready.base)
    if receipt is not None:
        receipt = as_taken(receipt, ready.config.optim.optimizer)
        return {key: receipt[key] for key in ("source", "files", "layout", "family", "steps_before", "moments")}
    return None if ready.version is None else ready.version.manifest.get("started_from")


def revision() -> str | None:
    """The commit of the working tree this program runs from, or None where it was installed."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    asked = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "-q", "HEAD"], capture_output=True, text=True
    )
    return asked.stdout.strip() or None


def _command() -> list[str]:
    """The command line, with the values of what looks like a secret left out."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    hidden = []
    for before, word in zip(["", *words], words, strict=False):
        name, sign, _ = word.partition("=")
        if sign and any(secret in name.lower() for secret in SECRETS):
            word = f"{name}=***"
        elif before.startswith("--") and any(secret in before.lower() for secret in SECRETS):
            word = "***"
        hidden.append(word)
    return hidden

"""The receipt of a resume: what was restored, from which version, and what was not."""

import json
from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any

import torch

from everstep.models.arithmetic import Arithmetic
from everstep.models.files import STATE
from everstep.train.caching import Cache
from everstep.train.facts import LIBRARIES
from everstep.train.ready import Ready
from everstep.train.state import TrainState
from everstep.versions import Version, read_small


def receipt(ready: Ready, state: TrainState, arithmetic: Arithmetic, cache: Cache | None) -> str:
    """Sentences for a person; the differences named are those that can change bits."""
    version = ready.version
    assert version is not None
    lines = [
        f"Resumed from {version.name} (step {version.step:,}, {version.images_seen:,} images seen), "
        f"every digest verified: {version.path}",
        f"  restored: {', '.join(state.restored)}",
        "  not restored: nothing",
    ]
    differences = _differences(arithmetic, version) + _other_cache(version.manifest, cache)
    if differences:
        lines.append(f"  different from then, so not bit for bit the same: {'; '.join(differences)}")
    return "\n".join(lines)


def _differences(arithmetic: Arithmetic, version: Version) -> list[str]:
    then, found = version.manifest, other_arithmetic(version.manifest, arithmetic)
    threads = json.loads(read_small(version, STATE))["threads"]
    if then["machine"]["device"] == "cpu" and threads != torch.get_num_threads():
        found.append(f"{threads} threads then, {torch.get_num_threads()} now")
    return found + other_libraries(then)


def _other_cache(then: Mapping[str, Any], cache: Cache | None) -> list[str]:
    """What was encoded of the data, where it is not bit for bit what it was: made again, on another machine perhaps."""
    if cache is None or "cache" not in then:
        return []
    was, now = then["cache"], cache.facts()
    is_other = was["recipes"] != now["recipes"] or (was["root"] and now["root"] and was["root"] != now["root"])
    return ["what is cached of the pictures or prompts was made again, and is not the same"] if is_other else []


def other_arithmetic(then: Mapping[str, Any], now: Arithmetic) -> list[str]:
    """What is computed otherwise than a manifest notes, in words: `auto` may mean another precision here."""
    machine, found = then["machine"], list[str]()
    if machine["precision"] != now.precision:
        found.append(f"precision {machine['precision']} then, {now.precision} now")
    if now.has_tf32 != machine.get("tf32", False):  # there was none before it was noted
        found.append(f"TF32 {'off' if now.has_tf32 else 'on'} then, {'on' if now.has_tf32 else 'off'} now")
    ranks = machine.get("ranks", 1)
    if ranks != now.ranks:
        found.append(f"{ranks} ranks then, {now.ranks} now" if ranks > 1 else f"1 rank then, {now.ranks} now")
    return found


def other_libraries(then: Mapping[str, Any]) -> list[str]:
    """What is installed in another version than a manifest notes, in words."""
    noted, now = then["libraries"], {name: installed(name) for name in LIBRARIES}
    return [f"{name} {noted.get(name)} then, {now[name]} now" for name in LIBRARIES if noted.get(name) != now[name]]

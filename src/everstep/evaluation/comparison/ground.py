"""Whether versions can be drawn side by side, and on which pairs: those that none of them was trained on.

Reads manifests and the data. Never imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everstep.config.load import known_part, validate
from everstep.config.schema import Config, Sampling
from everstep.data import Source
from everstep.errors import UserError
from everstep.evaluation.comparison.differences import settings_that_differ
from everstep.evaluation.moved import as_they_are
from everstep.models.conditions import open_pairs
from everstep.versions import Version

PAIRS = 8  # shown where the run itself shows none
CONDITIONS = {f"data.condition{more}" for more in ("", "_model", "_random", "_resize")}
DRAWN_WITH = {f"sampling.{name}" for name in Sampling.model_fields if name != "pairs"} | CONDITIONS | {"data.resize"}


@dataclass(frozen=True, slots=True)
class Common:
    """What all versions are drawn with: the settings of the first, and pairs that all held out."""

    config: Config
    source: Source
    numbers: tuple[int, ...]
    notes: tuple[str, ...]  # what a reader of the pictures has to know


def common_ground(versions: Sequence[Version], names: Sequence[str]) -> Common:
    """Raises: UserError where base, resolution or data differ so that the pictures could not be compared."""
    configs = [_config(version, name) for version, name in zip(versions, names, strict=True)]
    _same(names, [version.manifest["base"]["digest"] for version in versions], "bases", _bases(versions))
    resolutions = [config.data.resolution for config in configs]
    _same(names, resolutions, "resolutions", [f"{side} px" for side in resolutions])
    fingerprints = [version.manifest["data"]["fingerprint"] for version in versions]
    if len(set(fingerprints)) > 1:
        paths = [config.data.path for config in configs]
        _same(names, paths, "data", paths)
    first = as_they_are(configs[0], versions[0])
    source = open_pairs(first.data)
    notes = [*_about_data(fingerprints, source, names), *_about_sampling(versions, names)]
    return Common(first, source, _numbers(versions, names, source, first.sampling.pairs or PAIRS), tuple(notes))


def _config(version: Version, name: str) -> Config:
    if any(key not in version.manifest for key in ("config", "base", "data")):
        raise UserError(f"{name} does not say how it was trained, so there is nothing to draw it on.")
    return validate(known_part(version.manifest["config"]), f"{name}: manifest.json")


def _bases(versions: Sequence[Version]) -> list[str]:
    return [str(version.manifest["base"]["name"]) for version in versions]


def _same(names: Sequence[str], values: Sequence[Any], what: str, in_words: Sequence[str]) -> None:
    """Raises: UserError naming the first version whose value is not that of the first one."""
    for name, value, word in zip(names, values, in_words, strict=True):
        if value != values[0]:
            words = "of the same name, but not the same content" if word == in_words[0] else f"{in_words[0]} and {word}"
            raise UserError(
                f"{names[0]} and {name} were trained on different {what} ({words}); side by side their pictures would "
                f"say nothing. Nothing was drawn. Settings and weights can be compared: "
                f"everstep diff {names[0]} {name}"
            )


def _numbers(versions: Sequence[Version], names: Sequence[str], source: Source, limit: int) -> tuple[int, ...]:
    """Held out by all, in the order of the first."""
    held_out = [version.manifest["data"]["held_out"] for version in versions]
    shared = set(held_out[0]).intersection(*held_out[1:])
    places = {source.name(number): number for number in range(len(source))}
    numbers = [places[pair] for pair in held_out[0] if pair in shared and pair in places]
    if not numbers:
        raise UserError(
            f"There is no pair that {', '.join(names)} all held out of training and that is still in the data, so "
            "nothing can be drawn that none of them has seen. Nothing was drawn."
        )
    return tuple(numbers[:limit])


def _about_data(fingerprints: Sequence[str], source: Source, names: Sequence[str]) -> list[str]:
    now = source.fingerprint()
    changed = [name for name, then in zip(names, fingerprints, strict=True) if then != now]
    if not changed:
        return []
    return [f"The data have changed since {', '.join(changed)}; shown are pairs that all held out, as they are now."]


def _about_sampling(versions: Sequence[Version], names: Sequence[str]) -> list[str]:
    differing = [key for key in settings_that_differ(versions) if key in DRAWN_WITH]
    if not differing:
        return []
    return [f"All are drawn with the settings of {names[0]}; {', '.join(differing)} were not the same in their runs."]

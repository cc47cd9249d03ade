"""In what versions differ: how they were made, where they come from, and their weights by block.

Reads manifests and weight files. Never imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from everstep.config.load import flatten
from everstep.errors import UserError
from everstep.evaluation.comparison.distance import Block, Distance
from everstep.versions import Version
from everstep.versions.lineage import ancestors

SECTIONS = ("base", "data", "inputs", "libraries", "code", "machine")  # of a manifest; its settings stand apart
Facts = dict[str, list[Any]]  # name -> a value for each version; None where a version does not say it


class Relation(StrEnum):
    """What the first version is to the second."""

    SAME = "same"
    ANCESTOR = "ancestor"
    DESCENDANT = "descendant"
    RELATED = "related"  # neither, but both go back to one version
    UNRELATED = "unrelated"  # as far as manifests and logs tell


@dataclass(frozen=True, slots=True)
class Kinship:
    """How two versions are related, and the nearest version that both go back to."""

    relation: Relation
    common: str | None = None  # folder@number
    from_first: int = 0  # how many steps of the line lie between it and each
    from_second: int = 0


def names_of(versions: Sequence[Version]) -> list[str]:
    """RUN@N for each; with the folder where two runs have the same name. Raises: UserError for one named twice."""
    folders = {version.path.parent for version in versions}
    is_clear = len({folder.name for folder in folders}) == len(folders)
    names = [f"{v.path.parent.name if is_clear else v.path.parent}@{v.number}" for v in versions]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"{name} is named twice; each version is compared once.")
    return names


def settings_that_differ(versions: Sequence[Version]) -> Facts:
    """Dotted settings that are not the same in all."""
    return _differing([version.manifest.get("config", {}) for version in versions])


def facts_that_differ(versions: Sequence[Version]) -> Facts:
    """The same for what else a manifest says of how the version was made: base, data, libraries, code, machine."""
    return _differing([{name: version.manifest.get(name) for name in SECTIONS} for version in versions])


def block_of(name: str) -> str:
    """The block of a ControlNet that a tensor belongs to; zero convolutions are one block for all depths.

    down_blocks.0.resnets.1.conv1.weight -> down_blocks.0, controlnet_down_blocks.3.bias -> controlnet_down_blocks,
    lllite_unet_middle_block_1_transformer_blocks_9_attn1_to_q.up.0.bias -> lllite_unet_middle_block_1
    """
    first, _, rest = name.partition(".")
    first = first.partition("_transformer_blocks_")[0]
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() and not first.startswith("controlnet_") else first


def kinship(first: Version, second: Version) -> Kinship:
    """Whether one went on from the other, over any number of versions and runs, gone ones included."""
    ours, theirs = _line(first), _line(second)
    places = {digest: place for place, (_, digest) in enumerate(theirs)}
    for place, (name, digest) in enumerate(ours):
        if digest in places:
            return Kinship(_relation(place, places[digest]), name, place, places[digest])
    return Kinship(Relation.UNRELATED)


def weights_json(distance: Distance) -> dict[str, Any]:
    """A distance with its norms and ratios."""
    return {
        "identical": distance.is_identical,
        "whole": _block_json(distance.whole),
        "blocks": {name: _block_json(block) for name, block in distance.blocks.items()},
        "only_first": distance.only_first,
        "only_second": distance.only_other,
        "reshaped": distance.reshaped,
    }


def _block_json(block: Block) -> dict[str, Any]:
    return {
        "tensors": block.tensors,
        "equal": block.equal,
        "norm_first": block.norm_first,
        "norm_second": block.norm_other,
        "norm_difference": block.norm_difference,
        "relative": block.relative,
    }


def short(value: object) -> str:
    """A setting or fact as people read it; long lists are cut."""
    if not isinstance(value, list):
        return "" if value is None else str(value)
    words = [str(item) for item in value]
    return " ".join(words) if len(words) <= 12 else f"{', '.join(words[:3])} ... ({len(words)})"


def relative_in_words(block: Block) -> str:
    """||a - b|| / ||a|| as people read it."""
    if block.relative is None:
        return "from zero"
    return "0" if block.relative == 0 else f"{block.relative:.2%}" if block.relative < 1 else f"{block.relative:.1f} x"


def _relation(from_first: int, from_second: int) -> Relation:
    if from_first and from_second:
        return Relation.RELATED
    if from_first == from_second:
        return Relation.SAME
    return Relation.DESCENDANT if from_first else Relation.ANCESTOR


def _line(version: Version) -> list[tuple[str, str]]:
    """The version and its ancestors, nearest first: where each is, and its digest."""

    def named(folder: Path, number: int) -> str:
        return f"{folder}@{number}"

    own = (named(version.path.parent, version.number), version.manifest_digest)
    return [own, *((named(folder, number), digest) for folder, number, digest in ancestors(version))]


def _differing(facts: Sequence[dict[str, Any]]) -> Facts:
    flat = [flatten(each) for each in facts]
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {key: [each.get(key) for each in flat] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}

"""everstep diff"""

from dataclasses import asdict
from typing import Any

from everstep.cli.place import open_version
from everstep.cli.printing import print_json, print_table
from everstep.evaluation.comparison.differences import (
    Facts,
    Kinship,
    Relation,
    block_of,
    facts_that_differ,
    kinship,
    names_of,
    relative_in_words,
    settings_that_differ,
    short,
    weights_json,
)
from everstep.evaluation.comparison.distance import Block, Distance, distances
from everstep.evaluation.gain import Paired
from everstep.evaluation.paired import compared
from everstep.units import size
from everstep.versions import Run, Version


def diff_(first: str, second: str, *, json: bool = False) -> int:
    """Two versions side by side: settings, data, base, libraries, lineage, scores, errors, and weights by block.

    Parameters
    ----------
    first
        RUN@N, or RUN for its latest version.
    second
        The other version, of the same run or another.
    json
        Print as JSON.
    """
    found = [open_version(first), open_version(second)]
    a, b = (version for _, version in found)
    names = names_of([a, b])
    settings, facts, kin = settings_that_differ([a, b]), facts_that_differ([a, b]), kinship(a, b)
    weights, errors = distances(a, [b], block_of)[0], compared(*found)
    if json:
        sides = [_side(name, *each) for name, each in zip(names, found, strict=True)]
        print_json(
            {
                "versions": sides,
                "settings": settings,
                "facts": facts,
                "lineage": asdict(kin),
                "errors": None if errors is None else asdict(errors),
                "weights": weights_json(weights),
            }
        )
        return 0
    _print_sides(names, [_side(name, *each) for name, each in zip(names, found, strict=True)])
    print(f"\n{_in_words(kin, *names)}{_how(kin, a, b)}\n")
    _print_facts("Settings", settings, names)
    _print_facts("Base, data and program", facts, names)
    if errors is not None:
        print(f"{_errors_in_words(errors, *names)}\n")
    _print_weights(weights, names)
    return 0


def _side(name: str, run: Run, version: Version) -> dict[str, Any]:
    note = run.annotation(version.number)
    return {
        "version": name,
        "path": str(version.path),
        "step": version.step,
        "images_seen": version.images_seen,
        "reason": version.reason,
        "created_at": version.created_at,
        "size_bytes": version.disk_bytes,
        "resumable": version.resumable,
        "labels": list(note.labels),
        "pinned": note.pinned,
        "scores": note.scores,
    }


def _print_sides(names: list[str], sides: list[dict[str, Any]]) -> None:
    rows = [
        ("step", *(f"{side['step']:,}" for side in sides)),
        ("images seen", *(f"{side['images_seen']:,}" for side in sides)),
        ("made", *(f"{side['created_at']}, {side['reason']}" for side in sides)),
        ("size", *(size(side["size_bytes"]) + ("" if side["resumable"] else ", slim") for side in sides)),
        ("labels", *(", ".join([*side["labels"], *(["pinned"] if side["pinned"] else [])]) for side in sides)),
    ]
    scores = dict.fromkeys(name for side in sides for name in side["scores"])
    rows += [(name, *(_score(side["scores"].get(name)) for side in sides)) for name in scores]
    print_table(("", *names), [row for row in rows if any(row[1:])])


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _in_words(kin: Kinship, first: str, second: str) -> str:
    """The lineage in a sentence."""
    if kin.relation is Relation.SAME:
        return f"{first} and {second} are one version."
    if kin.relation is Relation.ANCESTOR:
        return f"{second} went on from {first}, over {_versions(kin.from_second)}."
    if kin.relation is Relation.DESCENDANT:
        return f"{first} went on from {second}, over {_versions(kin.from_first)}."
    if kin.relation is Relation.RELATED:
        return f"Neither went on from the other; both go back to {kin.common}."
    return "No version is known that both go back to."


def _errors_in_words(errors: Paired, first: str, second: str) -> str:
    """How much better the second denoises held-out pairs, and how sure that is."""
    if errors.low <= 0 <= errors.high:
        between = f"{errors.less:z.1%} smaller, {errors.low:z.1%} to {errors.high:z.1%}"
        return f"Error on held-out pairs: no sure difference ({second} {between})."
    than, (low, high) = "smaller" if errors.less > 0 else "larger", sorted((abs(errors.low), abs(errors.high)))
    return f"Error on held-out pairs: {second} {abs(errors.less):.1%} {than} than {first} ({low:.1%} to {high:.1%})."


def _how(kin: Kinship, a: Version, b: Version) -> str:
    """From one run to the next only weights go."""
    is_line = kin.relation in (Relation.ANCESTOR, Relation.DESCENDANT)
    return " Between the runs only weights were taken over." if is_line and a.path.parent != b.path.parent else ""


def _versions(count: int) -> str:
    return "one version" if count == 1 else f"{count} versions"


def _print_facts(title: str, facts: Facts, names: list[str]) -> None:
    if not facts:
        print(f"{title}: the same.\n")
        return
    print_table((title, *names), [(key, *(short(value) for value in values)) for key, values in facts.items()])
    print()


def _print_weights(distance: Distance, names: list[str]) -> None:
    whole = distance.whole
    if distance.is_identical:
        print(f"Weights: identical, all {whole.tensors} tensors bit for bit.")
        return
    columns = ("Weights", "tensors", "equal", *(f"|{name}|" for name in names), "|difference|", "relative")
    rows = [_cells(name, block) for name, block in distance.blocks.items()]
    print_table(columns, [*rows, _cells("whole", whole)], right=columns[1:])
    for what, tensors in (
        (f"only in {names[0]}", distance.only_first),
        (f"only in {names[1]}", distance.only_other),
        ("of another shape", distance.reshaped),
    ):
        if tensors:
            print(f"{len(tensors)} tensors {what}: {', '.join(tensors[:3])}{' ...' if len(tensors) > 3 else ''}")


def _cells(name: str, block: Block) -> tuple[str, ...]:
    norms = (f"{norm:.4g}" for norm in (block.norm_first, block.norm_other, block.norm_difference))
    return name, str(block.tensors), str(block.equal), *norms, relative_in_words(block)

"""everstep check"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.cli.printing import beside, print_json
from everstep.errors import ExitCode, UserError

if TYPE_CHECKING:
    from everstep.contracts import Uint8Array
    from everstep.data import CheckReport
    from everstep.data.buckets import Size


def check_(
    data: Path,
    *,
    base: str | None = None,
    buckets: int | None = None,
    condition: str = "file",
    condition_model: str | None = None,
    json: bool = False,
) -> int:
    """Check a folder of pairs before it is trained on: every image is decoded; exit 1 if a pair cannot be used.

    Parameters
    ----------
    data
        Folder with metadata.jsonl or prompt.json.
    base
        The base that will be trained on: captions that its tokenizer cuts are found too.
    buckets
        Side of a square: say in which shapes of its area pictures would be trained with data.shape buckets.
    condition
        How conditions are made, as data.condition says; left out, each pair has a picture of it.
    condition_model
        Model that makes them, as data.condition_model says.
    json
        Print as JSON, every finding included.
    """
    from everstep.data import check, describe, listed
    from everstep.data.counts import counted
    from everstep.data.functions import try_function
    from everstep.data.layouts.folder import LAYOUTS
    from everstep.data.recipe import read_recipe
    from everstep.data.source import lacking, passed_over

    if data.name in LAYOUTS and data.is_file():
        raise UserError(f"{data} is the list itself. Give its folder: everstep check {data.parent}")
    if not data.is_dir():
        raise UserError(f"{data} is not a folder.")
    shapes = None if buckets is None else _shapes(buckets, base)
    recipe = read_recipe(condition, condition_model, is_random=False)
    with beside("Looking at images", "images") as said:
        report = check(data, said, needs_conditions=recipe is None)
    if recipe is not None and recipe.kind == "function" and report.usable:
        with beside("Trying the function that makes conditions"):
            try_function(recipe, _first(report))
    if base is not None:
        with beside("Counting captions that are cut"):
            report = _with_cut_captions(report, base)
    if json:
        facts: dict[str, object] = {
            "pairs": report.total,
            "usable": len(report.usable),
            "fingerprint": report.fingerprint,
        }
        if shapes is not None:
            facts |= {"shapes": [{"size": size, "pairs": count} for size, count in _filled(report, shapes)]}
        print_json({**facts, "findings": [asdict(finding) for finding in report.findings]})
    else:
        print(f"{describe(report)}: {len(report.usable):,} of {report.total:,} pairs can be used.")
        for said_of_all in filter(None, (lacking(report), passed_over(report))):
            print(said_of_all)
        if odd := counted(report.findings):
            print(f"Odd, but trained on: {odd}.")
        if shapes is not None and report.usable:
            print(_in_words(_filled(report, shapes)))
        if lacking(report) is None:  # the same of every line otherwise
            print(listed(report.findings, limit=200) if report.findings else "Nothing wrong was found.")
    return ExitCode.FAULT_FOUND if report.errors else ExitCode.DONE


def _first(report: "CheckReport") -> "Uint8Array":
    """The first target, as it is."""
    import numpy as np

    from everstep.data.source import FolderSource

    return np.array(FolderSource(report).load(0).target)


def _with_cut_captions(report: "CheckReport", base: str) -> "CheckReport":
    from everstep.models.base import locate
    from everstep.models.survey import survey, text_config
    from everstep.models.tokens import open_tokenizer
    from everstep.train.captions import cut_captions

    looked_at = survey(locate(base))
    positions = int(text_config(looked_at)["max_position_embeddings"])
    tokenizer = open_tokenizer(looked_at.path / "tokenizer", positions)
    found = (*report.findings, *cut_captions(tokenizer, report.usable))
    return replace(report, findings=tuple(sorted(found, key=lambda finding: (finding.line, finding.file))))


def _shapes(resolution: int, base: str | None) -> "tuple[Size, ...]":
    """Of a base, or of the usual step. Raises: UserError for a side that is no multiple of it."""
    from everstep.data.buckets import USUAL_STEP, shapes_of
    from everstep.models.base import locate
    from everstep.models.survey import survey

    step = USUAL_STEP if base is None else survey(locate(base)).step()
    if resolution < step or resolution % step:
        nearest = max(step, round(resolution / step) * step)
        raise UserError(f"--buckets is {resolution}, but has to be a multiple of {step}; {nearest} is the nearest.")
    return shapes_of(resolution, step)


def _filled(report: "CheckReport", shapes: "tuple[Size, ...]") -> "list[tuple[Size, int]]":
    """The shapes that pictures would have, and how many."""
    from everstep.data.buckets import filled, nearest
    from everstep.data.checking import sizes_of

    return filled(shapes, nearest(sizes_of(report), shapes))


def _in_words(filled: "list[tuple[Size, int]]") -> str:
    from everstep.data.buckets import in_words

    each = ", ".join(f"{width}x{height} {count:,}" for (width, height), count in filled)
    return f"{in_words(filled)} Pictures of each: {each}."

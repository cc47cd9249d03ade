"""everstep check"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.cli.printing import beside, print_json
from everstep.errors import ExitCode, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from everstep.contracts import Uint8Array
    from everstep.data import CheckReport
    from everstep.data.buckets import Size


SHOWN, CELL_PX, LARGEST_SHOWN_PX = 4, 256, 512


def check_(
    data: str,
    *,
    base: str | None = None,
    target_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    condition: str = "file",
    condition_model: str | None = None,
    show: Path | None = None,
    resolution: int | None = None,
    buckets: int | None = None,
    json: bool = False,
) -> int:
    """Check pairs before they are trained on: every image is decoded; exit 1 if a pair cannot be used.

    Parameters
    ----------
    data
        As data.path: a folder with metadata.jsonl, metadata.csv, prompt.json, parquet, tar shards, a saved dataset,
        or pictures named alike; a file of these; an address; a hub id.
    base
        The base that will be trained on: captions that its tokenizer cuts are found too.
    target_column, condition_column, caption_column
        As the settings of data: which column, key, folder or ending holds them; guessed if left out.
    show
        Draw four of the pairs, as they are trained on, into this picture (.png).
    resolution
        The side that pairs shall be trained at, in pixels: smaller ones are found, and --show crops to it.
    buckets
        Side of a square: say in which shapes of its area pictures would be trained with data.shape buckets;
        --show crops to them.
    condition
        How conditions are made, as data.condition says; left out, each pair has a picture of it.
    condition_model
        Model that makes them, as data.condition_model says.
    json
        Print as JSON, every finding included.
    """
    from everstep.data import Columns, check
    from everstep.data.functions import try_function
    from everstep.data.recipe import read_recipe

    shapes = None if buckets is None else _shapes(buckets, base)
    recipe = read_recipe(condition, condition_model, is_random=False)
    columns = Columns(target_column, condition_column, caption_column)
    with beside("Looking at images", "images") as said:
        report = check(data, said, resolution, columns, needs_conditions=recipe is None)
    if recipe is not None and recipe.kind == "function" and report.usable:
        with beside("Trying the function that makes conditions"):
            try_function(recipe, _first(report))
    if base is not None:
        with beside("Counting captions that are cut"):
            report = _with_cut_captions(report, base)
    if show is not None:
        sides = {} if shapes is None else _sizes(report, shapes)
        _draw(report, show, resolution or buckets, {"condition": condition, "condition_model": condition_model}, sides)
    if json:
        print_json(_row(report, shapes))
    else:
        _print(report, shapes)
    return ExitCode.FAULT_FOUND if report.errors else ExitCode.DONE


def _row(report: "CheckReport", shapes: "tuple[Size, ...] | None") -> dict[str, object]:
    facts: dict[str, object] = {
        "pairs": report.total,
        "usable": len(report.usable),
        "fingerprint": report.fingerprint,
    }
    if shapes is not None:
        facts |= {"shapes": [{"size": size, "pairs": count} for size, count in _filled(report, shapes)]}
    return {**facts, "findings": [asdict(finding) for finding in report.findings]}


def _print(report: "CheckReport", shapes: "tuple[Size, ...] | None") -> None:
    from everstep.data import describe, listed
    from everstep.data.counts import counted
    from everstep.data.source import passed_over

    print(f"{describe(report)}: {len(report.usable):,} of {report.total:,} pairs can be used.")
    if over := passed_over(report):
        print(over)
    if odd := counted(report.findings):
        print(f"Odd, but trained on: {odd}.")
    if shapes is not None and report.usable:
        print(_in_words(_filled(report, shapes)))
    print(listed(report.findings, limit=200) if report.findings else "Nothing wrong was found.")


def _first(report: "CheckReport") -> "Uint8Array":
    """The first target, as it is."""
    import numpy as np

    from everstep.data.source import ListedSource

    return np.array(ListedSource(report).load(0).target)


def _draw(
    report: "CheckReport",
    path: Path,
    resolution: int | None,
    made: dict[str, str | None],
    sizes: "Mapping[int, Size]",
) -> None:
    """Four pairs from all over the list, after crop and resize. Raises: UserError.

    Args:
        sizes: width and height of each pair that is no square, by its number.
    """
    from everstep.config.load import resolve
    from everstep.data import describe
    from everstep.data.source import ListedSource
    from everstep.evaluation.pictures.draw import shown_pairs
    from everstep.evaluation.pictures.sheet import sheet
    from everstep.models.conditions import open_framer

    if not report.usable:
        raise UserError(f"No pair can be used, so there is nothing to draw; {path} was not written.")
    source = ListedSource(report)
    side = resolution or min(*report.sizes[0], LARGEST_SHOWN_PX)
    numbers = sorted({k * (len(source) - 1) // (SHOWN - 1) for k in range(SHOWN)})
    framer = open_framer(resolve(None, {"data": {"resolution": side, **made}}), source)
    shown = shown_pairs(framer, numbers, [sizes.get(number) for number in numbers])
    page = sheet(describe(report), shown, {}, CELL_PX)
    try:
        page.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}). The pairs are as they were.") from None
    each = "" if not sizes else ", each in its shape"
    print(f"{len(numbers)} pairs at {side} px{each}: {path}", file=sys.stderr)


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


def _sizes(report: "CheckReport", shapes: "tuple[Size, ...]") -> "dict[int, Size]":
    """The shape of each pair, by its number."""
    from everstep.data.buckets import nearest
    from everstep.data.checking import sizes_of

    return {number: shapes[shape] for number, shape in enumerate(nearest(sizes_of(report), shapes).tolist())}


def _filled(report: "CheckReport", shapes: "tuple[Size, ...]") -> "list[tuple[Size, int]]":
    """The shapes that pictures would have, and how many."""
    from everstep.data.buckets import filled, nearest
    from everstep.data.checking import sizes_of

    return filled(shapes, nearest(sizes_of(report), shapes))


def _in_words(filled: "list[tuple[Size, int]]") -> str:
    from everstep.data.buckets import in_words

    each = ", ".join(f"{width}x{height} {count:,}" for (width, height), count in filled)
    return f"{in_words(filled)} Pictures of each: {each}."

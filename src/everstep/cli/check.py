"""everstep check"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.cli.printing import beside, print_json
from everstep.errors import ExitCode, UserError

if TYPE_CHECKING:
    from everstep.data import CheckReport


SHOWN, CELL_PX, LARGEST_SHOWN_PX = 4, 256, 512


def check_(
    data: str,
    *,
    base: str | None = None,
    target_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    show: Path | None = None,
    resolution: int | None = None,
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
    json
        Print as JSON, every finding included.
    """
    from everstep.data import Columns, check, describe, listed
    from everstep.data.counts import counted

    columns = Columns(target_column, condition_column, caption_column)
    with beside("Looking at images", "images") as said:
        report = check(data, said, resolution, columns)
    if base is not None:
        with beside("Counting captions that are cut"):
            report = _with_cut_captions(report, base)
    if show is not None:
        _draw(report, show, resolution)
    if json:
        facts = {"pairs": report.total, "usable": len(report.usable), "fingerprint": report.fingerprint}
        print_json({**facts, "findings": [asdict(finding) for finding in report.findings]})
    else:
        print(f"{describe(report)}: {len(report.usable):,} of {report.total:,} pairs can be used.")
        if odd := counted(report.findings):
            print(f"Odd, but trained on: {odd}.")
        print(listed(report.findings, limit=200) if report.findings else "Nothing wrong was found.")
    return ExitCode.FAULT_FOUND if report.errors else ExitCode.DONE


def _draw(report: "CheckReport", path: Path, resolution: int | None) -> None:
    """Four pairs from all over the list, after crop and resize. Raises: UserError."""
    from everstep.contracts import Framing
    from everstep.data import Framer, describe
    from everstep.data.source import ListedSource
    from everstep.evaluation.pictures.draw import shown_pairs
    from everstep.evaluation.pictures.sheet import sheet

    if not report.usable:
        raise UserError(f"No pair can be used, so there is nothing to draw; {path} was not written.")
    source = ListedSource(report)
    side = resolution or min(*report.sizes[0], LARGEST_SHOWN_PX)
    numbers = sorted({k * (len(source) - 1) // (SHOWN - 1) for k in range(SHOWN)})
    page = sheet(describe(report), shown_pairs(Framer(source, Framing(side)), numbers), {}, CELL_PX)
    try:
        page.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}). The pairs are as they were.") from None
    print(f"{len(numbers)} pairs at {side} px: {path}", file=sys.stderr)


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

"""everstep check"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.cli.printing import beside, print_json
from everstep.errors import ExitCode, UserError

if TYPE_CHECKING:
    from everstep.contracts import Uint8Array
    from everstep.data import CheckReport


def check_(
    data: Path,
    *,
    base: str | None = None,
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
        facts = {"pairs": report.total, "usable": len(report.usable), "fingerprint": report.fingerprint}
        print_json({**facts, "findings": [asdict(finding) for finding in report.findings]})
    else:
        print(f"{describe(report)}: {len(report.usable):,} of {report.total:,} pairs can be used.")
        for said_of_all in filter(None, (lacking(report), passed_over(report))):
            print(said_of_all)
        if odd := counted(report.findings):
            print(f"Odd, but trained on: {odd}.")
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

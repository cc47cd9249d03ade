"""everstep check"""

from dataclasses import asdict
from pathlib import Path

from everstep.cli.printing import print_json
from everstep.errors import ExitCode, UserError


def check_(data: Path, *, json: bool = False) -> int:
    """Check a folder of pairs before it is trained on: every image is decoded; exit 1 if a pair cannot be used.

    Parameters
    ----------
    data
        Folder with metadata.jsonl or prompt.json.
    json
        Print as JSON, every finding included.
    """
    from rich.console import Console

    from everstep.data import check, describe, listed
    from everstep.train.progress import Reporter

    if not data.is_dir():
        raise UserError(f"{data} is not a folder.")
    with Reporter(Console(stderr=True, highlight=False, soft_wrap=True)).during("Looking at images", "images") as said:
        report = check(data, said)
    if json:
        facts = {"pairs": report.total, "usable": len(report.usable), "fingerprint": report.fingerprint}
        print_json({**facts, "findings": [asdict(finding) for finding in report.findings]})
    else:
        print(f"{describe(report)}: {len(report.usable):,} of {report.total:,} pairs can be used.")
        print(listed(report.findings, limit=200) if report.findings else "Nothing wrong was found.")
    return ExitCode.FAULT_FOUND if report.errors else ExitCode.DONE

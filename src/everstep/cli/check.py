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
    from everstep.data import check, describe, listed

    if not data.is_dir():
        raise UserError(f"{data} is not a folder.")
    report = check(data, None if json else _show)
    if json:
        facts = {"pairs": report.total, "usable": len(report.usable), "fingerprint": report.fingerprint}
        print_json({**facts, "findings": [asdict(finding) for finding in report.findings]})
    else:
        print(f"{describe(report)}: {len(report.usable):,} of {report.total:,} pairs can be used.")
        print(listed(report.findings, limit=200) if report.findings else "Nothing wrong was found.")
    return ExitCode.FAULT_FOUND if report.errors else ExitCode.DONE


def _show(done: int, total: int) -> None:
    import sys

    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        end = "\n" if done == total else ""
        print(f"\rlooking at images: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)

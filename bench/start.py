"""How long the program takes to answer and to begin.

python bench/start.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import record

PROGRAM = str(Path(sys.executable).with_name("everstep"))
REPEATS = 7


def median_s(words: list[str], folder: Path) -> float:
    """Median of several runs of a command; one run before, so that files are in memory."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        subprocess.run([PROGRAM, *words], cwd=folder, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def start_s(folder: Path) -> tuple[float, float]:
    """Seconds from the command to version_0 on disk and to the end of the first step of the quickstart."""
    began = time.time()
    words = ["train", "circles", "--run", "a", "--optim.max-steps", "1"]
    subprocess.run([PROGRAM, *words], cwd=folder, check=True, capture_output=True)
    first = (folder / "runs/a/version_0/manifest.json").stat().st_mtime - began
    metrics = folder / "runs/a/records/metrics.jsonl"
    assert json.loads(metrics.read_text())["step"] == 1
    return first, metrics.stat().st_mtime - began


def main() -> None:
    """Measure and write RESULTS.md."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_s(folder)
        again = folder / "again"
        again.mkdir()
        first, step = start_s(again)
        help_s, list_s = median_s(["--help"], folder), median_s(["list", "a"], folder)
        status_s = median_s(["status", "a"], folder)
    record(
        "Answering and beginning (bench/start.py)",
        "| | measured | asked |\n| --- | --- | --- |\n"
        f"| `everstep --help` | {help_s:.2f} s | under 0.5 s |\n"
        f"| `everstep list` | {list_s:.2f} s | under 1 s |\n"
        f"| `everstep status` | {status_s:.2f} s | |\n"
        f"| circles: start to version_0 on disk | {first:.1f} s | under 15 s |\n"
        f"| circles: start to the end of the first step | {step:.1f} s | under 10 s |",
    )


if __name__ == "__main__":
    main()

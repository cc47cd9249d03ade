"""What a page that is open takes of the training it shows: steps a second, in turns with the page and without.

    python bench/watch_beside.py [--turns 12] [--seconds 15]

One training of circles goes on all the while, and the server too. Open elsewhere: the page's events are read and
what it asks for is asked, as a browser on another machine does. Open here: Chromium draws it on the same two cores.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from machine import record
from watch import FLAGS, Server

EVERSTEP = [sys.executable, "-m", "everstep"]
BEGUN_STEPS = 30


def train(folder: Path) -> "subprocess.Popen[bytes]":
    words = ["train", "circles", "--run", "live", "--optim.max-steps", "1000000", "--versions.every", "1000000"]
    more = ["--sampling.pairs", "0", "--scoring.overhead", "0"]
    return subprocess.Popen(
        [*EVERSTEP, *words, *more], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def told(folder: Path) -> tuple[int, float]:
    """The step, and when it was told."""
    while True:
        try:
            live = json.loads((folder / "runs/live/records/live.json").read_text())
            return live["step"], live["updated_at"]
        except (OSError, ValueError):
            time.sleep(0.1)


def rate(folder: Path, seconds: float) -> float:
    """Steps a second, from one telling to another."""
    before = told(folder)
    time.sleep(seconds)
    after = told(folder)
    return (after[0] - before[0]) / (after[1] - before[1])


@contextmanager
def elsewhere(address: str) -> Iterator[None]:
    is_over = threading.Event()

    def follow() -> None:
        urllib.request.urlopen(f"{address}api/runs/live").read()
        with urllib.request.urlopen(f"{address}events") as events:
            while not is_over.is_set():
                if b'"all"' in events.readline():
                    urllib.request.urlopen(f"{address}api/runs/live").read()

    viewer = threading.Thread(target=follow, daemon=True)
    viewer.start()
    yield
    is_over.set()
    viewer.join(10)


@contextmanager
def here(browser: Any, address: str) -> Iterator[None]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}#live")
    page.wait_for_selector(".state.running")
    yield
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=15.0)
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp())
    training = train(folder)
    while told(folder)[0] < BEGUN_STEPS:
        time.sleep(0.5)
    server = Server(folder)
    ways: dict[str, list[float]] = {"elsewhere": [], "here": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        opened: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "elsewhere": lambda: elsewhere(server.address),
            "here": lambda: here(browser, server.address),
        }
        for _ in range(asked.turns):
            for way, ratios in ways.items():
                rates = []
                for context in (nullcontext, opened[way], nullcontext):  # what drifts, drifts on both sides
                    with context():
                        time.sleep(1.0)
                        rates.append(rate(folder, asked.seconds))
                ratios.append(rates[1] / statistics.mean((rates[0], rates[2])))
                print(f"{way}: {rates} {ratios[-1]:.4f}", file=sys.stderr, flush=True)
        browser.close()
    training.terminate()
    training.wait()
    server.end()
    lines = ["| the page is open | steps a second, of those without | range |", "| --- | --- | --- |"]
    lines += [
        f"| {way} | {statistics.median(ratios):.4f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        for way, ratios in ways.items()
    ]
    record("watch_beside", "\n".join([*lines, "", f"Medians of {asked.turns} turns. Asked: 0.995."]))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""What the page costs: how soon it can be used, how soon a commit is seen, what fifty who watch take of a core.

    python bench/watch.py [--versions 1000] [--steps 1000000]

A real Chromium, started before, opens the page of a run with so many versions and steps; the server runs as a user
starts it. Usable is when curves, table and the newest version's facts are there. The run has versions of a few
kilobytes: their number is what the page has to carry, not their size.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from everstep.config import dump, resolve
from everstep.versions import Run
from machine import record

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
VIEWERS, WATCHED_S, OPENED = 50, 20.0, 5


def write_run(folder: Path, versions: int, steps: int, draft: Any) -> Run:
    """Nothing is flushed: what is measured here is reading."""
    run = Run.create(folder / "runs/long", dump(resolve(None, {"optim": {"max_steps": 2 * steps}})))
    real = os.fsync
    setattr(os, "fsync", lambda descriptor: None)  # noqa: B010
    try:
        for number in range(versions):
            run.commit(draft(number * steps // versions))
            if number % 1000 == 999:
                print(f"{number + 1:,} of {versions:,} versions", file=sys.stderr)
    finally:
        setattr(os, "fsync", real)  # noqa: B010
    chance = random.Random(0)
    with (run.layout.records / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            line = {"step": step, "images_seen": 4 * step, "first_example": 4 * step - 4, "learning_rate": 1e-5}
            file.write(json.dumps({**line, "loss": 0.1 + chance.random() / 10, "grad_norm": 0.1}) + "\n")
    return run


class Server:
    """`everstep watch`, and what it takes of the processor."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "everstep", "watch", "--port", "0"]
        self._process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().rpartition(" is seen at ")[2].strip()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def usable_s(browser: Any, address: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    began = time.perf_counter()
    page.goto(f"{address}#long")
    page.wait_for_selector("h2:text-matches('version_')")
    page.wait_for_selector(".uplot")
    took = time.perf_counter() - began
    context.close()
    return took


def seen_s(browser: Any, address: str, run: Run, draft: Any, step: int) -> float:
    """From a commit to the version in the page's table."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}#long")
    page.wait_for_selector("tr[data-version]")
    time.sleep(1.5)
    made = run.commit(draft(step))
    began = time.perf_counter()
    page.wait_for_selector(f"tr[data-version='{made.number}']")
    took = time.perf_counter() - began
    context.close()
    return took


def watched_share(server: Server, run: Run) -> float:
    """Of one core, while fifty listen, at a training that tells twice a second."""
    is_over = threading.Event()

    def view() -> None:
        with urllib.request.urlopen(f"{server.address}events") as events:
            while not is_over.is_set():
                events.readline()  # says where the run stands

    viewers = [threading.Thread(target=view, daemon=True) for _ in range(VIEWERS)]
    for viewer in viewers:
        viewer.start()
    time.sleep(3)
    before, began = server.cpu_s(), time.monotonic()
    while time.monotonic() - began < WATCHED_S:
        (run.layout.records / "live.json").touch()
        time.sleep(0.5)
    share = (server.cpu_s() - before) / (time.monotonic() - began)
    is_over.set()
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--steps", type=int, default=1_000_000)
    asked = parser.parse_args()
    sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("versions", "")]
    from drafts import draft  # type: ignore[import-not-found]
    from playwright.sync_api import sync_playwright

    lines = [
        "| versions | first page | a commit is seen after | 50 viewers, of one core |",
        "| --- | --- | --- | --- |",
    ]
    for versions in asked.versions:
        folder = Path(tempfile.mkdtemp())
        run = write_run(folder, versions, asked.steps, draft)
        server = Server(folder)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            browser.new_page().goto("about:blank")
            first = usable_s(browser, server.address)
            again = statistics.median(usable_s(browser, server.address) for _ in range(OPENED))
            seen = [seen_s(browser, server.address, run, draft, asked.steps + n) for n in range(3)]
            browser.close()
        share = watched_share(server, run)
        server.end()
        lines.append(
            f"| {versions:,} | {first:.2f} s, then {again:.2f} s | {statistics.median(seen):.2f} s | {share:.1%} |"
        )
        shutil.rmtree(folder)
    page = Path(__file__).parents[1] / "src/everstep/watch/page"
    total = sum(path.stat().st_size for path in page.iterdir() if path.suffix in (".html", ".js", ".css"))
    told = f"{asked.steps:,} steps in each. Page and scripts: {total / 1000:.0f} kB."
    record("watch", "\n".join([*lines, "", told, "Asked: 0.5 s with 1,000 and 1 s with 10,000; 1 s; 5 %; 200 kB."]))


if __name__ == "__main__":
    main()

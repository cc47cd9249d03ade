"""What the page costs: how soon it can be used, how soon a commit is seen, what fifty who watch take of a core.

    python bench/watch.py [--versions 1000] [--steps 1000000]

A real Chromium, started before, opens the page of a run with so many versions and steps; the server runs as a user
starts it. Usable is when curves, table, pictures and the newest version's facts are there. Versions are a few kilobytes
each, all scored and with contact sheets: their number is what the page has to carry, not their size.
"""

import argparse
import atexit
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFilter

from everstep.config.load import dump, resolve
from everstep.records.scores import Scored
from everstep.records.sheets import GAP_PX, ROWS, place_on_sheet, sheet_path
from everstep.records.verdict import Gain
from everstep.versions import Run, Version, write_annotation
from machine import record

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
IS_USABLE = """() => document.querySelectorAll('.uplot').length === 2 && document.querySelector('tr[data-version]')
  && [...document.querySelectorAll('h2')].some(h2 => h2.textContent.startsWith('version_'))
  && [...document.querySelectorAll('figure img')].every(img => img.complete && img.naturalWidth)"""
VIEWERS, WATCHED_S, OPENED, PAIRS = 50, 20.0, 5, 8


def write_run(folder: Path, versions: int, steps: int, draft: Any) -> Run:
    """Nothing is flushed: what is measured here is reading."""
    run = Run.create(folder / "runs/long", dump(resolve(None, {"optim": {"max_steps": 2 * steps}})))
    chance, real, parent = random.Random(0), os.fsync, None
    run.layout.samples.mkdir(parents=True)
    sheet = run.layout.samples / "one.png"
    right, lower = place_on_sheet(ROWS[-1], PAIRS - 1)[2:]
    noise = Image.effect_noise((right + GAP_PX, lower + GAP_PX), 120)  # blurred as pictures are
    noise.filter(ImageFilter.GaussianBlur(2)).convert("RGB").save(sheet)
    setattr(os, "fsync", lambda descriptor: None)  # noqa: B010
    try:
        with (run.layout.records / "scores.jsonl").open("w") as scores:
            for number in range(versions):
                version = run.commit(replace(draft(number * steps // versions), parent=parent))
                parent = run.ref(version)
                score(run, version, chance, scores)
                os.link(sheet, sheet_path(run, number))
                if number % 1000 == 999:
                    print(f"{number + 1:,} of {versions:,} versions", file=sys.stderr)
    finally:
        setattr(os, "fsync", real)  # noqa: B010
    with (run.layout.records / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            line = {"step": step, "images_seen": 4 * step, "first_example": 4 * step - 4, "learning_rate": 1e-5}
            file.write(json.dumps({**line, "loss": 0.1 + chance.random() / 10, "grad_norm": 0.1}) + "\n")
    return run


def score(run: Run, version: Version, chance: random.Random, file: IO[str]) -> None:
    """As a training leaves it: measured, noted, and with a contact sheet's facts."""
    value = 0.3 * version.number / (version.number + 50) + chance.random() / 50
    low, high = value - 0.01, value + 0.01
    gain = Gain(value, low, high, (value,) * 4, 96, 48, benefit=value, benefit_low=low, benefit_high=high)
    scored = Scored(version.number, version.step, version.images_seen, version.manifest_digest, gain, {"loss": 0.1})
    file.write(json.dumps({**asdict(scored), "scored_at": version.created_at}) + "\n")
    write_annotation(run.layout, version.number, scores=scored.headlines)
    captions = [f"pair {pair}, whose caption is about as long as captions are" for pair in range(PAIRS)]
    named = {"run": run.name, "version": version.number, "step": version.step, "images_seen": version.images_seen}
    drawn = {"manifest_digest": version.manifest_digest, "base": {}, "sampler": {}, "averaged": False, "device": "cpu"}
    more = {"precision": "fp32", "threads": 1, "libraries": {}, "pairs": list(range(PAIRS)), "captions": captions}
    told = {**named, **drawn, **more, "digests": []}
    sheet_path(run, version.number).with_suffix(".json").write_text(json.dumps(told))


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
    page.goto(f"{address}#long", wait_until="commit")
    while not page.evaluate(IS_USABLE):
        time.sleep(0.005)
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
    made = run.commit(replace(draft(step), parent=run.ref(run.versions()[-1])))
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
        atexit.register(server.end)
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
    page = Path(__file__).parents[1] / "src/everstep/watching/page"
    total = sum(path.stat().st_size for path in page.iterdir() if path.suffix in (".html", ".js", ".css"))
    told = f"{asked.steps:,} steps in each. Page and scripts: {total / 1000:.0f} kB."
    record("watch", "\n".join([*lines, "", told, "Asked: 0.5 s with 1,000 and 1 s with 10,000; 1 s; 5 %; 200 kB."]))


if __name__ == "__main__":
    main()

"""What looking at pairs costs: the first time, and when all of it is remembered.

python bench/check.py [PLACE] [--pairs 1000000] [--before SRC]

Pictures are decoded for the first figure only. For the others every file is there, under its own name, but empty, and
what it would have been found to be is put into the cache by the program's own writer: decoding millions of pictures
measures Pillow. SRC is the src/ of an earlier state, whose check is run beside this one on the decoded pictures.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from everstep.data.looks import LENGTH
from everstep.data.remembered import FRESH_NS, ImageFacts, Memory
from everstep.stamps import stamp_of
from machine import record

DECODED, SIDE = 3000, 256
HERE = Path(__file__).parents[1] / "src"
# Prints seconds of wall clock, seconds of processor with those of children, the peak of memory in MB.
LOOK = """
import os, resource, sys, time
from pathlib import Path
from everstep.data import check
began = time.monotonic()
report = check(Path(sys.argv[1]), None, int(sys.argv[2]))
assert not report.errors
"""
# The same for a training that begins: who is held out is chosen too, by name and look.
START = """
import os, resource, sys, time
began = time.monotonic()
from everstep.data import open_source, split
source = open_source(sys.argv[1], int(sys.argv[2]))
assert len(split(source, 64, looks=source.looks()).training) > 0
"""
TOLD = """
took, spent = time.monotonic() - began, sum(os.times()[:4])
print(took, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def look(
    folder: Path, cache: Path, resolution: int = 64, src: Path = HERE, does: str = LOOK
) -> tuple[float, float, float]:
    """Check a folder in a process of its own, by the program in src."""
    surroundings = {**os.environ, "PYTHONPATH": str(src), "XDG_CACHE_HOME": str(cache)}
    words = [sys.executable, "-c", does + TOLD, str(folder), str(resolution)]
    said = subprocess.run(words, env=surroundings, check=True, capture_output=True, text=True).stdout
    took, spent, memory = map(float, said.split())
    return took, spent, memory


def write_list(folder: Path, pairs: int) -> None:
    """A list of pairs in two folders."""
    for name in ("targets", "conditions"):
        (folder / name).mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(pairs):
            names = {"file_name": f"targets/{number:07d}.png", "conditioning_image": f"conditions/{number:07d}.png"}
            file.write(json.dumps({**names, "text": f"picture {number} of a red thing on a blue ground"}) + "\n")


def write_pictures(folder: Path, pairs: int) -> None:
    """Pictures as large as a small training's, each of its own."""
    write_list(folder, pairs)
    rng = np.random.default_rng(0)
    for name in ("targets", "conditions"):
        for number in range(pairs):
            small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            small.resize((SIDE, SIDE)).save(folder / name / f"{number:07d}.png", compress_level=1)


def write_remembered(folder: Path, cache: Path, pairs: int) -> float:
    """Empty files, and what they would have been found to be. Returns seconds spent on remembering alone."""
    write_list(folder, pairs)
    paths = [f"{folder}/{name}/{number:07d}.png" for name in ("targets", "conditions") for number in range(pairs)]
    for path in paths:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    time.sleep(1.1 * FRESH_NS / 1e9)
    os.environ["XDG_CACHE_HOME"] = str(cache)
    began = time.monotonic()
    with Memory() as memory:
        for path in paths:
            digest = xxhash.xxh3_128(path.encode())
            facts = ImageFacts(digest.hexdigest(), 512, 512, 50.0, "", (digest.digest() * 6)[:LENGTH])
            memory.remember(path, stamp_of(path), facts)
    return time.monotonic() - began


def decoded(place: Path, before: Path | None) -> list[str]:
    """First and second look at pictures that are really there, by this state and by an earlier one."""
    folder = place / "decoded"
    write_pictures(folder, DECODED)
    time.sleep(1.1 * FRESH_NS / 1e9)
    rows = []
    for name, src in (("before", before), ("now", HERE)):
        if src is not None:
            first, again = (look(folder, place / name, src=src) for _ in range(2))
            cells = (1e6 * first[0] / DECODED, 1e6 * again[0] / DECODED, 1e6 * again[1] / DECODED)
            rows.append(f"| {name} | {' | '.join(f'{cell:,.0f}' for cell in cells)} |")
    return rows


def remembered(place: Path, pairs: int) -> list[str]:
    """A long list of which every file is remembered, then the list as a whole too."""
    folder, cache = place / "remembered", place / "cache"
    writing = write_remembered(folder, cache, pairs)
    size = (cache / "everstep" / "images-2.sqlite").stat().st_size / 1e6
    rows = []
    for name, does in (
        ("files remembered, the list not", LOOK),
        ("the list remembered too", LOOK),
        ("and once more", LOOK),
        ("a new training's start, with its imports and the choice of who is held out", START),
        ("and once more", START),
    ):
        took, spent, memory = look(folder, cache, does=does)
        rows.append(f"| {name} | {took:.1f} ({spent:.1f}) | {1e6 * took / pairs:.1f} | {memory:,.0f} MB |")
    rows.append(f"| remembering them | {writing:.1f} | {1e6 * writing / pairs:.1f} | {size:,.0f} MB on disk |")
    return rows


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", nargs="?", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--before", type=Path)
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="check-", dir=asked.place))
    busy = os.getloadavg()[0]
    try:
        first, long = decoded(place, asked.before), remembered(place, asked.pairs)
    finally:
        shutil.rmtree(place)
    head = [
        f"Load of the machine meanwhile {busy:.1f} to {os.getloadavg()[0]:.1f}: others were at work on it.",
        "",
        f"{DECODED:,} pairs of pictures of {SIDE} px, microseconds a pair:",
        "",
        "| | first look | second look | of processor |",
        "| --- | ---: | ---: | ---: |",
    ]
    middle = [
        "",
        f"{asked.pairs:,} pairs whose files are remembered: two files each, under their own names, empty, their "
        "facts put into the cache without decoding. Seconds of wall clock (of processor, "
        "children's too); asked of a list that is remembered: under 10 s and 1 GB.",
        "",
        "| | seconds | microseconds a pair | memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    record("Looking at pairs (bench/check.py)", "\n".join([*head, *first, *middle, *long]))


if __name__ == "__main__":
    main()

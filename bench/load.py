"""What reading a version back costs: verified into memory that is there, against what the disk and the memory can do.

    python bench/load.py [--folder ON_THE_DISK_TO_MEASURE] [--gigabytes 4.3] [--rounds 12]

One file of about 700 tensors of many sizes, random numbers, read past the page cache. Takes turns in an order drawn
anew each time, with a rest before each: a disk that is shared lends speed to whoever has rested, or comes first.
"""

import argparse
import json
import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from everstep.contracts import Draft, TensorFile, Uint8Array
from everstep.versions import Run, Version, load_into
from everstep.versions.ahead import PIECE_BYTES, READERS, Ahead
from everstep.versions.loading import load_from_image
from everstep.versions.tensorfile import TensorPlace
from everstep.versions.verify import load_digests
from machine import record

FILE = "training/state.safetensors"
TENSORS = 700
CHUNK_BYTES = 64 << 20
REST_S = 2.0
ASKED = 0.92


class Bytes:
    """A piece of memory as a tensor to be written."""

    dtype = "U8"

    def __init__(self, memory: memoryview) -> None:
        self.memory, self.shape = memory, (memory.nbytes,)

    def buffer(self) -> memoryview:
        return self.memory


def sizes(total_bytes: int) -> list[int]:
    """As a network and its moments have them: many small ones, and a few that hold nearly all of it."""
    draws = random.Random(0)
    shares = [10 ** draws.uniform(0, 4.5) for _ in range(TENSORS)]
    return [max(1, round(total_bytes * share / sum(shares))) // 4 * 4 + 4 for share in shares]


def make_version(folder: Path, total_bytes: int) -> tuple[Version, dict[str, Uint8Array]]:
    """A version of so many random bytes, and live memory in which all pages are there."""
    draws = np.random.default_rng(0)
    live = {
        f"block.{n}": np.frombuffer(draws.bytes(size), np.uint8).copy() for n, size in enumerate(sizes(total_bytes))
    }
    files = [TensorFile(FILE, {name: Bytes(memory.data) for name, memory in live.items()})]
    run = Run.create(folder / "r", "a: 1\n")
    return run.commit(Draft(1, 1, "interval", None, files, {}, {})), live


def raw_read(path: Path) -> None:
    """What the disk does with one read at a time."""
    descriptor, buffer = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, CHUNK_BYTES)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)


def read_ahead(path: Path) -> None:
    """What it does with several on their way, and nothing looked at."""
    with Ahead(path) as ahead:
        for _ in ahead.pieces(ahead.size_bytes):
            pass


def load(version: Version, live: dict[str, Uint8Array]) -> None:
    run_through(load_into(version.path, FILE, version.files, lambda name, place: target(live, name, place)))


def target(live: dict[str, Uint8Array], name: str, place: TensorPlace) -> memoryview:
    assert live[name].nbytes == place.end - place.begin
    return live[name].data


def run_through(names: Iterator[str]) -> None:
    assert sum(1 for _ in names) == TENSORS


def bare_copy(image: Uint8Array, live: dict[str, Uint8Array]) -> None:
    offset = 0
    for memory in live.values():
        np.copyto(memory, image[offset : offset + memory.nbytes])
        offset += memory.nbytes


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.3)
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        version, live = make_version(Path(name), round(asked.gigabytes * 1e9))
        path, digests = version.path / FILE, load_digests(version.path, version.files)[FILE]
        image = np.fromfile(path, np.uint8)
        actions: dict[str, Callable[[], object]] = {
            "raw": lambda: raw_read(path),
            "load": lambda: load(version, live),
            "ahead": lambda: read_ahead(path),
            "bare": lambda: bare_copy(image, live),
            "image": lambda: run_through(load_from_image(image.data, digests, lambda n, place: target(live, n, place))),
        }
        found: dict[str, list[float]] = {key: [] for key in actions}
        draws = random.Random(0)
        for _ in range(asked.rounds):
            for key in draws.sample(list(actions), len(actions)):
                time.sleep(REST_S)
                found[key].append(timed(actions[key]))
            print(json.dumps({key: round(values[-1], 2) for key, values in found.items()}), flush=True)
    record(f"Loading {path_gigabytes(version):.1f} GB (bench/load.py)", table(found, path_gigabytes(version)))


def path_gigabytes(version: Version) -> float:
    return version.size_bytes / 1e9


def table(found: dict[str, list[float]], gigabytes: float) -> str:
    def ratio(one: str, other: str) -> str:
        ratios = [a / b for a, b in zip(found[one], found[other], strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    rows = [
        ("raw O_DIRECT read, one at a time / load and verify", ratio("raw", "load"), f"at least {ASKED}"),
        (f"the same, {READERS} of {PIECE_BYTES >> 20} MiB at a time / load and verify", ratio("ahead", "load"), ""),
        ("bare copy / load and verify from memory", ratio("bare", "image"), ""),
        *((f"{key}, GB/s at best", f"{gigabytes / min(values):.2f}", "") for key, values in found.items()),
    ]
    lines = "".join(f"| {what} | {measured} | {asked} |\n" for what, measured, asked in rows)
    load_of_machine = f"Load of the machine meanwhile {os.getloadavg()[1]:.1f}. Medians, and from least to most.\n\n"
    return f"{load_of_machine}| | measured | asked |\n| --- | --- | --- |\n{lines}"


if __name__ == "__main__":
    main()

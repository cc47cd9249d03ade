"""What a long line of versions costs: listing, planning a prune, committing; and how fast a version is verified.

python bench/scale.py [PLACE]

The manifests are those of a real training; the tensor files beside them are small, and one file under many names.
"""

import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from everstep.cli.list import list_
from everstep.config.policy import policy
from everstep.config.schema import Config, Keep
from everstep.contracts import Draft, TensorFile
from everstep.train.retiring import retiring
from everstep.versions import Run, rows, verify
from everstep.versions import manifest as manifests
from everstep.versions.pruning import decide
from machine import record

COUNTS = (10, 100, 1000, 10_000)
PROGRAM = str(Path(sys.executable).with_name("everstep"))
REPEATS = 4
COMMITS = 7
BIG_TENSORS, BIG_ITEMS = 128, 1 << 20  # 128 tensors of 4 MiB in a file, two such files in a version
PIECES = (1 << 20, 8 << 20)  # the raw rate is the better of the two


class Numbers:
    """A numpy array as a source of bytes."""

    dtype = "F32"

    def __init__(self, array: "np.ndarray[Any, np.dtype[np.float32]]") -> None:
        self._array, self.shape = array, array.shape

    def buffer(self) -> memoryview:
        return self._array.reshape(-1).view(np.uint8).data


def real_version(place: Path) -> tuple[Path, str]:
    """version_1 of the quickstart after one step, and its settings."""
    words = ["train", "circles", "--run", "real", "--optim.max-steps", "1"]
    subprocess.run([PROGRAM, *words], cwd=place, check=True, capture_output=True)
    run = place / "runs" / "real"
    return run / "version_1", (run / "hparams.yaml").read_text()


def small_draft(real: Path, step: int) -> Draft:
    """The real version's manifest and small files over tensors of a few bytes."""
    facts = json.loads((real / "manifest.json").read_text())
    own = ("format", "version", "step", "images_seen", "created_at", "reason", "parent", "digest_algorithm", "files")
    tensors = {"a": Numbers(np.full(16, step, np.float32))}
    paths = [path for path, entry in facts["files"].items() if "tensors" in entry]
    small = [path for path, entry in facts["files"].items() if "tensors" not in entry and path != "digests.json"]
    return Draft(
        step=step,
        images_seen=4 * step,
        reason="interval",
        parent=None,
        tensor_files=[TensorFile(path, tensors) for path in paths],
        small_files={path: (real / path).read_bytes() for path in small},
        facts={key: value for key, value in facts.items() if key not in (*own, "digest")},
    )


def line(place: Path, count: int, real: Path, hparams: str) -> Run:
    """A run of so many versions: the first is committed, the others are the same files under manifests of their own."""
    run = Run.create(place / "runs" / f"n{count}", hparams)
    first = run.commit(small_draft(real, 0))
    facts = {key: value for key, value in first.manifest.items() if key != "digest"}
    lines = []
    for number in range(1, count):
        folder = run.layout.version(number)
        for path in ("", *{str(Path(path).parent) for path in facts["files"]} - {"."}):
            (folder / path).mkdir()
        for path in facts["files"]:
            os.link(first.path / path, folder / path)
        sealed = manifests.encode({**facts, "version": number, "step": 300 * number, "images_seen": 1200 * number})
        (folder / "manifest.json").write_bytes(sealed)
        known = json.loads(sealed)
        names = ("version", "step", "images_seen", "created_at", "reason", "digest")
        lines.append(json.dumps({"event": "commit", **{name: known[name] for name in names}}) + "\n")
    with run.layout.log.open("a") as log:
        log.writelines(lines)
    return run


def command_s(place: Path, *words: str) -> tuple[float, float]:
    """Seconds of wall clock and of processor of a command: the best of several, since other work only adds."""
    walls, processors = [], []
    for _ in range(REPEATS):
        before, began = _children_s(), time.perf_counter()
        subprocess.run([PROGRAM, *words], cwd=place, check=True, capture_output=True)
        walls.append(time.perf_counter() - began)
        processors.append(_children_s() - before)
    return min(walls), min(processors)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def call_ms(function: Callable[[], object]) -> float:
    """Milliseconds of processor of a call in this process, the best of several."""
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return 1000 * min(taken)


def commit_ms(run: Run, real: Path) -> tuple[float, float, float]:
    """Milliseconds of a commit by wall clock and of the processor, and of letting older ones go; the medians.

    Everything is kept by count, so that all versions are looked at and none goes.
    """
    retire = retiring(Config(keep=Keep(last=100_000)), None)
    walls, processors, retired = [], [], []
    for step in range(COMMITS):
        wall, processor = time.perf_counter(), time.process_time()
        run.commit(small_draft(real, 10**7 + step))
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        processor = time.process_time()
        assert retire(run) == ""
        retired.append(time.process_time() - processor)
    return 1000 * statistics.median(walls), 1000 * statistics.median(processors), 1000 * statistics.median(retired)


def printed(name: str, place: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        list_(str(place / "runs" / name))


def row(place: Path, count: int, real: Path, hparams: str) -> str:
    """A line of the table."""
    run = line(place, count, real, hparams)
    kept = policy(Keep())
    listing = command_s(place, "list", run.name)
    planning = command_s(place, "prune", run.name, "--dry-run")
    cells = [
        f"{count:,}",
        *(f"{wall:.2f} ({processor:.2f})" for wall, processor in (listing, planning)),
        f"{call_ms(lambda: rows(Run.open(run.path))):.0f}",
        f"{call_ms(lambda: printed(run.name, place)):.0f}",
        f"{call_ms(lambda: decide(Run.open(run.path), kept, time.time())):.0f}",
        f"{call_ms(run.next_number):.1f}",
        "{:.0f} ({:.1f})".format(*(made := commit_ms(run, real))[:2]),
        f"{made[2]:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


# --- verify ------------------------------------------------------------------------------------------------


def big_run(place: Path) -> Run:
    """One version of a GiB."""
    run = Run.create(place / "runs" / "big", "a: 1\n")
    draws = np.random.default_rng(0)
    files = []
    for path in ("controlnet/weights.safetensors", "training/optimizer.safetensors"):
        tensors = {
            f"block.{n}": Numbers(draws.standard_normal(BIG_ITEMS, dtype=np.float32)) for n in range(BIG_TENSORS)
        }
        files.append(TensorFile(path, tensors))
    run.commit(Draft(1, 4, "interval", None, files, {}, {}))
    return run


def forget(folder: Path) -> None:
    """Out of the page cache."""
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_raw(folder: Path, piece_bytes: int) -> None:
    """Read everything into one buffer, and look at nothing."""
    buffer = bytearray(piece_bytes)
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def verify_rates(place: Path) -> tuple[float, float]:
    """GB/s of reading alone and of verifying, in turns, the page cache emptied before each; the best of each."""
    run = big_run(place)
    version = run.find("latest")
    total = sum(path.stat().st_size for path in _files(version.path))
    raw, verified = [], []
    for _ in range(REPEATS):
        for piece in PIECES:
            forget(version.path)
            began = time.perf_counter()
            read_raw(version.path, piece)
            raw.append(total / (time.perf_counter() - began) / 1e9)
        for _ in PIECES:
            forget(version.path)
            began = time.perf_counter()
            assert verify(version) == []
            verified.append(total / (time.perf_counter() - began) / 1e9)
    return max(raw), max(verified)


def main() -> None:
    """Measure and write RESULTS.md."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        place = Path(name)
        real, hparams = real_version(place)
        table = [row(place, count, real, hparams) for count in COUNTS]
        size = len((real / "manifest.json").read_bytes())
        raw, verified = verify_rates(place)
    record(
        "A long line of versions (bench/scale.py)",
        f"Manifests of {size:,} bytes, of a real training; load of the machine meanwhile {os.getloadavg()[2]:.1f}. "
        "Commands in seconds of wall clock (of processor); inside of one process in milliseconds of processor, but a "
        "commit, which is milliseconds of wall clock (of processor).\n\n"
        "| versions | `everstep list` | `everstep prune --dry-run` | rows | list, printed | plan | next number "
        "| commit | then letting older ones go |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        + "\n".join(table)
        + "\n\nAsked: `list` of 1,000 under 0.5 s, `prune --dry-run` under 1 s.\n\n"
        f"Verifying 1.07 GB: {verified:.2f} GB/s; reading the same files and no more: {raw:.2f} GB/s; "
        f"ratio {verified / raw:.2f} (asked: at least 0.8).",
    )


if __name__ == "__main__":
    main()

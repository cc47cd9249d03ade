"""How fast pairs come from files to batches, against bare decoding of the same files on all cores.

    python bench/data.py [--pairs 96] [--rounds 5] [--quick]

Pairs of a JPEG of 1536x1024 with the detail of a photograph (200 to 500 kB) and an outline of the same size as PNG,
read from the page cache. Ours is BatchStream from end to end: both pictures decoded, cropped, resized to 512 px,
noise drawn, batches of 4 stacked; targets by data.resize and conditions by data.condition_resize: both by area, the
default, and as other defaults were before, bilinear and Lanczos. Bare decoding is Pillow's load and a numpy array of
both pictures, by a thread for each core, and nothing else. All take turns in one run, in an order that moves on in
every round.

Once the same examples are made by processes (ProcessPoolExecutor, as many as threads), which hand them over through
pipes. Last, what single steps cost on one core, of Pillow, OpenCV and, where it is installed, pyvips: the shortest of
some repeats.
"""

import argparse
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from everstep.contracts import ExampleSettings, Framing, Uint8Array
from everstep.data import BatchStream, Framer, open_source
from everstep.data.examples import Example, make_example
from everstep.data.loader import batch_of
from everstep.data.sequence import SquareOrder, Turn
from everstep.data.transform import fit_target
from machine import record

WIDTH, HEIGHT, SIDE, BATCH = 1536, 1024, 512, 4
QUALITY, WHITE = 90, 0.05  # of the JPEGs; share of an outline
WORKERS = (1, 2, 4, 8)
ASKED = 0.9
SETTINGS = ExampleSettings(seed=0, latent_shape=(4, SIDE // 8, SIDE // 8))
DEFAULT = Framing(SIDE, "area", "area")
FRAMINGS = {
    "area": DEFAULT,
    "area, conditions bilinear": Framing(SIDE, "bilinear", "area"),
    "lanczos, conditions bilinear": Framing(SIDE, "bilinear", "lanczos"),
}
BEST_OF = 7


# --- files --------------------------------------------------------------------------------------------------


def photograph(number: int) -> Image.Image:
    """Detail of every size, the finer the fainter, as photographs have it, and a grain."""
    draws, total = np.random.default_rng(number), np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(2, 10):
        small = draws.integers(0, 256, (2**octave * 2 // 3 + 1, 2**octave, 3), dtype=np.uint8)
        grown = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += (np.asarray(grown, np.float32) - 127.5) * 0.6 ** (octave - 2)
    total += draws.normal(0, 6, total.shape).astype(np.float32)
    return Image.fromarray((127.5 + total * 0.5).clip(0, 255).astype(np.uint8))


def outline(picture: Image.Image) -> Image.Image:
    """White lines on black, where it changes most."""
    grey = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(3)), np.float32)
    down, across = np.gradient(grey)
    change = np.hypot(down, across)
    lines = (change > np.quantile(change, 1 - WHITE)).astype(np.uint8) * 255
    return Image.fromarray(lines).convert("RGB")


def write_pairs(folder: Path, count: int) -> float:
    """A folder in the metadata.jsonl layout. Returns the bytes of a JPEG, on average."""
    (folder / "target").mkdir(parents=True)
    (folder / "condition").mkdir()
    lines = []
    for number in range(count):
        picture = photograph(number)
        names = {"file_name": f"target/{number}.jpg", "conditioning_image": f"condition/{number}.png"}
        picture.save(folder / names["file_name"], quality=QUALITY)
        outline(picture).save(folder / names["conditioning_image"])
        lines.append(json.dumps({**names, "text": f"picture {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return statistics.mean(path.stat().st_size for path in (folder / "target").iterdir())


# --- pairs a second -------------------------------------------------------------------------------------------


def bare(folder: Path, pairs: int) -> float:
    """Decoding alone, by as many threads as there are cores."""
    paths = [path for number in range(pairs) for path in (f"target/{number}.jpg", f"condition/{number}.png")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decoded, [folder / path for path in paths[:BATCH]]))
        began = time.perf_counter()
        for _ in pool.map(decoded, [folder / path for path in paths]):
            pass
        return pairs / (time.perf_counter() - began)


def decoded(path: Path) -> int:
    with Image.open(path) as opened:
        return np.array(opened).nbytes


def streamed(framer: Framer, workers: int, batches: int) -> float:
    """Ours, from end to end."""
    stream = BatchStream(framer, range(len(framer.source)), 0, BATCH, SETTINGS, workers)
    try:
        next(stream)
        began = time.perf_counter()
        for _ in range(batches):
            next(stream)
        return batches * BATCH / (time.perf_counter() - began)
    finally:
        stream.close()


def by_processes(folder: Path, workers: int, batches: int) -> float:
    """The same examples, made by processes: so many ahead as BatchStream has."""
    order = SquareOrder(range(len(open_source(str(folder), SIDE))), SETTINGS.seed, BATCH)
    turns = itertools.chain.from_iterable(order.batch(first) for first in itertools.count(0, BATCH))
    with ProcessPoolExecutor(workers, initializer=open_there, initargs=(str(folder),)) as pool:
        ahead = deque(pool.submit(made_there, next(turns)) for _ in range(2 * workers + 2 * BATCH))

        def batch() -> None:
            ahead.extend(pool.submit(made_there, next(turns)) for _ in range(BATCH))
            batch_of([ahead.popleft().result() for _ in range(BATCH)])

        for _ in range(workers):  # all of them have begun
            batch()
        began = time.perf_counter()
        for _ in range(batches):
            batch()
        took = time.perf_counter() - began
        pool.shutdown(cancel_futures=True)
    return batches * BATCH / took


def open_there(folder: str) -> None:
    global FRAMER
    FRAMER = Framer(open_source(folder, SIDE), DEFAULT)


def made_there(turn: Turn) -> Example:
    return make_example(FRAMER, turn, SETTINGS)


def rates(folder: Path, pairs: int, rounds: int) -> dict[str, list[float]]:
    """Pairs a second of all, round by round."""
    source, batches = open_source(str(folder), SIDE), pairs // BATCH
    turns: dict[str, Callable[[], float]] = {"bare decoding": lambda: bare(folder, pairs)}
    most = WORKERS[-1]
    for name, framing in FRAMINGS.items():
        framer = Framer(source, framing)
        for workers in WORKERS if framing == DEFAULT else (most,):
            turns[f"{name}, {workers} threads"] = lambda f=framer, w=workers: streamed(f, w, batches)  # type: ignore[misc]
    turns[f"area, {most} processes"] = lambda: by_processes(folder, most, batches)
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        names = list(turns)[number % len(turns) :] + list(turns)[: number % len(turns)]
        for name in names:
            found[name].append(turns[name]())
        print(f"round {number + 1}/{rounds}: {json.dumps({n: round(v[-1], 1) for n, v in found.items()})}", flush=True)
    return found


# --- single steps ---------------------------------------------------------------------------------------------


def steps(folder: Path) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """What is done, by what, and how."""
    jpeg, png = (folder / "target/0.jpg").read_bytes(), (folder / "condition/0.png").read_bytes()
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    left = (WIDTH - HEIGHT) // 2
    box = (left, 0, left + HEIGHT, HEIGHT)
    yield "decode JPEG", "Pillow", lambda: pillow(jpeg)
    yield "decode JPEG at half", "Pillow, draft", lambda: pillow(jpeg, half=True)
    yield "decode PNG", "Pillow", lambda: pillow(png)
    for name in ("LANCZOS", "BILINEAR", "BOX"):
        filter_ = Image.Resampling[name]
        yield "crop, resize", f"Pillow, {name.lower()}", resized(picture, filter_, box)
    yield "crop, resize", "ours, area", lambda: fit_target(picture, SIDE, resize="area")
    yield from of_opencv(jpeg, png, np.array(picture), box)
    yield from of_pyvips(jpeg)


def resized(picture: Image.Image, filter_: Image.Resampling, box: tuple[int, int, int, int]) -> Callable[[], object]:
    return lambda: np.array(picture.resize((SIDE, SIDE), filter_, box))


def pillow(content: bytes, half: bool = False) -> Uint8Array:
    with Image.open(io.BytesIO(content)) as opened:
        if half:
            opened.draft("RGB", (WIDTH // 2, HEIGHT // 2))
        return np.array(opened)


def of_opencv(
    jpeg: bytes, png: bytes, picture: Uint8Array, box: tuple[int, int, int, int]
) -> Iterator[tuple[str, str, Callable[[], object]]]:
    try:
        import cv2
    except ImportError:
        return
    cv: Any = cv2
    cv.setNumThreads(1)
    inside = picture[box[1] : box[3], box[0] : box[2]]
    of_jpeg, of_png = np.frombuffer(jpeg, np.uint8), np.frombuffer(png, np.uint8)
    yield "decode JPEG", "OpenCV", lambda: cv.imdecode(of_jpeg, cv.IMREAD_COLOR_RGB)
    yield "decode JPEG at half", "OpenCV, reduced", lambda: cv.imdecode(of_jpeg, cv.IMREAD_REDUCED_COLOR_2)
    yield "decode PNG", "OpenCV", lambda: cv.imdecode(of_png, cv.IMREAD_COLOR_RGB)
    yield "crop, resize", "OpenCV, area", lambda: cv.resize(inside, (SIDE, SIDE), interpolation=cv.INTER_AREA)
    yield "crop, resize", "OpenCV, lanczos", lambda: cv.resize(inside, (SIDE, SIDE), interpolation=cv.INTER_LANCZOS4)


def of_pyvips(jpeg: bytes) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """One thread, as the others; libvips makes more of its own else."""
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    try:
        import pyvips  # type: ignore[import-not-found]
    except ImportError:
        return
    vips: Any = pyvips.Image
    yield "decode JPEG", "pyvips", lambda: vips.new_from_buffer(jpeg, "").numpy()
    yield (
        "decode JPEG, crop, resize",
        "pyvips, thumbnail",
        lambda: vips.thumbnail_buffer(jpeg, SIDE, height=SIDE, crop="centre").numpy(),
    )


def shortest_ms(step: Callable[[], object]) -> float:
    taken = []
    for _ in range(BEST_OF):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return 1e3 * min(taken)


# --- all of it ----------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a look whether it runs; nothing is written down")
    asked = parser.parse_args()
    pairs, rounds = (24, 1) if asked.quick else (asked.pairs, asked.rounds)
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "home")
        folder = Path(name) / "pairs"
        jpeg_bytes = write_pairs(folder, pairs)
        found = rates(folder, pairs, rounds)
        singles = [(what, by, shortest_ms(step)) for what, by, step in steps(folder)]
    head = (
        f"Load of the machine {busy:.1f} before and {os.getloadavg()[0]:.1f} after. {pairs} pairs of {WIDTH}x{HEIGHT}, "
        f"JPEGs of {jpeg_bytes / 1e3:.0f} kB; medians of {rounds} rounds, with their range."
    )
    text = "\n".join([head, "", *table_of_rates(found), "", *table_of_steps(singles)])
    if asked.quick:
        print(text)
    else:
        record("Pairs from files to batches (bench/data.py)", text)


def table_of_rates(found: dict[str, list[float]]) -> list[str]:
    lines = ["| | pairs/s | of bare decoding | asked |", "| --- | --- | --- | --- |"]
    for name, of_name in found.items():
        shares = [one / other for one, other in zip(of_name, found["bare decoding"], strict=True)]
        share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
        asked = f"at least {ASKED}" if name == f"area, {WORKERS[-1]} threads" else ""
        lines.append(f"| {name} | {statistics.median(of_name):.1f} | {share} | {asked} |")
    return lines


def table_of_steps(singles: list[tuple[str, str, float]]) -> list[str]:
    lines = [f"| one picture, to {SIDE} px, one core | by | ms |", "| --- | --- | --- |"]
    return lines + [f"| {what} | {by} | {ms:.1f} |" for what, by, ms in singles]


FRAMER: Framer  # of a process that makes examples

if __name__ == "__main__":
    main()

"""Images a second of a training, as its user has it, against diffusers' train_controlnet.py run as it is.

    python bench/throughput.py --peer train_controlnet.py [--emoji PAIRS] [--rows sd15 circles emoji memory filling]
                               [--rounds 3] [--threads 2] [--place FOLDER] [--quick]

Without --peer, which bench/beside.py tells of, its figures are left out; without --emoji, pairs that
examples/emoji/build_pairs.py made, that row. --quick only looks whether all of it runs.

**Against the script** (sd15, circles, emoji). Both are the programs themselves, in processes of their own, one at a
time, in turns: `everstep train` with data.cache off, with ahead, and the script. Both in float32 with as many threads
(as there are cores, unless told), the same pairs, batch, AdamW and clipping; everything else is each one's default,
snapshots, versions and records of ours, checkpoints and TensorBoard of theirs. Steps are counted by what each shows
while it runs, from `warm` steps on: no start, no filling of the cache, no end. The script draws no pictures and
measures nothing; ours does at every version, so the rows of 64 px are there twice, by default and without
(sampling.pairs 0, scoring.overhead 0). No version falls into the few steps of sd15. Ours drops no prompts here, as the
script drops none by default.

sd15      SD 1.5's shapes with random weights, 256 px, batch 1
circles   the built-in base and circles at 64 px, batch 4, the default of both; the script can use no AutoencoderTiny,
          so both have a KL one of the same widths with random weights, and the script is given the ControlNet to begin
          with, since it would make one for a VAE of factor 8
emoji     the same networks on pairs of examples/emoji

**Against data that is ready** (memory). The same loop in one process takes batches of a full cache through the loader,
or the same batches prepared in memory beforehand.

**Against bare encoding** (filling). What `everstep cache` does for pictures that nobody encoded, from files to flushed
shards, against a loop that has them decoded, cropped and resized in memory and only calls the VAE, as many at once.
All pairs share one prompt: prompts are another work.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import everstep
from beside import Marks, Script, script, write_parquet
from encoding import Ratios, filling, in_memory
from everstep.config.load import Settings
from everstep.data.layouts import circles
from everstep.versions import read_live
from everstep.versions.layout import RunLayout
from machine import record

ROOT = Path(__file__).parents[1]
ROWS = ("sd15", "circles", "emoji", "memory", "filling")
POLL_S = 0.02
ASKED_PEER, ASKED_MEMORY, ASKED_FILLING = 1.7, 0.97, 0.95
BARE_OF_PICTURES = ("--sampling.pairs", 0, "--scoring.overhead", 0)


@dataclass(frozen=True)
class Row:
    """One comparison with the script."""

    name: str
    base: Path
    pairs: Path
    resolution: int
    batch_size: int
    warm: int  # steps that are left out
    steps: int
    begin: Path | None = None  # ControlNet that the script begins with
    ours: dict[str, tuple[object, ...]] = field(default_factory=dict)  # words of ours, by what they are called


# --- what is trained on -----------------------------------------------------------------------------------------


def write_circles(folder: Path, count: int, side_px: int, caption: str | None = None) -> Path:
    """A folder of circles in the metadata.jsonl layout."""
    (folder / "target").mkdir(parents=True)
    (folder / "condition").mkdir()
    lines = []
    for number in range(count):
        drawn = circles.circle(number)
        target, condition = circles.pictures(drawn, side_px)
        names = {"file_name": f"target/{number:05}.png", "conditioning_image": f"condition/{number:05}.png"}
        target.save(folder / names["file_name"])
        condition.save(folder / names["conditioning_image"])
        lines.append(json.dumps({**names, "text": caption or drawn.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_large(folder: Path) -> Path:
    """SD 1.5's shapes."""
    sys.path[:0] = [str(ROOT / "tests/full_size"), str(ROOT / "tools")]
    from large_bases import write_large_base  # type: ignore[import-not-found]

    from everstep.models.whole import SD1

    print("Writing a base of SD 1.5's shapes", flush=True)
    written: Path = write_large_base(folder, SD1)
    return written


def write_small(folder: Path, begin: Path) -> Path:
    """The built-in base with a VAE that the script can use, and a ControlNet to begin with."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    shutil.copytree(Path(everstep.__file__).parent / "bases/circles", folder, ignore=shutil.ignore_patterns("vae"))
    torch.manual_seed(0)
    tiny = {"block_out_channels": (16,) * 3, "layers_per_block": 2, "norm_num_groups": 8, "latent_channels": 4}
    down, up = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    vae: Any = AutoencoderKL
    vae(**tiny, down_block_types=down, up_block_types=up, scaling_factor=1.0).save_pretrained(folder / "vae")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("AutoencoderTiny", "AutoencoderKL"))
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96)).save_pretrained(begin)
    return folder


# --- how fast it goes -------------------------------------------------------------------------------------------


def images_per_second(marks: Marks, row: Row) -> float:
    """Between the first time that the warm steps were done and the last that is known."""
    (began, first), (ended, last) = next(mark for mark in marks if mark[1] >= row.warm), marks[-1]
    assert last >= row.warm + row.steps * 0.8, f"{row.name}: only {last} steps were seen"
    return (last - first) * row.batch_size / (ended - began)


def ours(row: Row, cache: str, words: tuple[object, ...], place: Path, surroundings: dict[str, str]) -> float:
    """Images a second of `everstep train`, by its live file."""
    line = [sys.executable, "-m", "everstep", "train", "--run", "a", "--base", row.base, "--data", row.pairs]
    line += ["--data.resolution", row.resolution, "--optim.batch-size", row.batch_size, "--data.prompt-dropout", 0]
    line += ["--optim.max-steps", row.warm + row.steps, "--compute.precision", "fp32", "--data.cache", cache]
    line += ["--data.cache-folder", place / f"cache-{row.name}", *words]
    with emptied(place / "ours") as folder:
        layout, marks = RunLayout(folder / "runs/a"), Marks()
        with (folder / "said").open("w") as said:
            process = subprocess.Popen([*map(str, line)], cwd=folder, env=surroundings, stdout=said, stderr=said)
            while process.poll() is None:
                live = read_live(layout)
                if live is not None and live.state == "running" and (not marks or live.step > marks[-1][1]):
                    marks.append((live.updated_at, live.step))
                time.sleep(POLL_S)
        assert process.returncode == 0, (folder / "said").read_text()
        return images_per_second(marks, row)


def theirs(row: Row, peer: Script, place: Path, surroundings: dict[str, str]) -> float:
    """Images a second of the script, by its progress bar."""
    data = place / f"parquet-{row.name}"
    if not data.exists():
        write_parquet(row.pairs, data)
    words = ["--pretrained_model_name_or_path", row.base, "--train_data_dir", data, "--output_dir", "out"]
    words += ["--resolution", row.resolution, "--train_batch_size", row.batch_size]
    words += ["--max_train_steps", row.warm + row.steps, "--cache_dir", place / "datasets", "--seed", 0]
    words += [] if row.begin is None else ["--controlnet_model_name_or_path", row.begin]
    with emptied(place / "theirs") as folder:
        return images_per_second(peer.marks(words, folder, surroundings), row)


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def compared(row: Row, peer: Script | None, place: Path, rounds: int, threads: int) -> list[str]:
    """Lines of the table, from rounds in which all take turns."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(threads), "XDG_CACHE_HOME": str(place / "home")}
    turns: dict[str, Callable[[], float]] = {}
    for name, words in row.ours.items():
        for cache in ("off", "ahead"):
            key = f"{'live' if cache == 'off' else 'cached'}{name}"
            turns[key] = lambda cache=cache, words=words: ours(row, cache, words, place, surroundings)  # type: ignore[misc]
    if peer is not None:
        turns["script"] = lambda: theirs(row, peer, place, surroundings)
    found: dict[str, list[float]] = {key: [] for key in turns}
    for number in range(rounds):
        for key in list(turns)[number % len(turns) :] + list(turns)[: number % len(turns)]:
            found[key].append(turns[key]())
            print(f"{row.name}, round {number + 1}/{rounds}, {key}: {found[key][-1]:.3f} images/s", flush=True)
    return [line_of(row, key, rates, found.get("script")) for key, rates in found.items()]


def line_of(row: Row, key: str, rates: list[float], script_rates: list[float] | None) -> str:
    ratio = asked = ""
    if script_rates is not None and key != "script":
        ratio = in_words([one / other for one, other in zip(rates, script_rates, strict=True)])
        asked = f"{ASKED_PEER}" if key.startswith("cached") else ""
    what = f"{row.name}, {row.resolution} px, batch {row.batch_size}: {key}"
    return f"| {what} | {statistics.median(rates):.3g} | {ratio} | {asked} |"


def in_words(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


# --- all of it ----------------------------------------------------------------------------------------------


def rows_of(asked: argparse.Namespace, place: Path, large: Callable[[], Path]) -> Iterator[Row]:
    """Comparisons with the script that are asked for."""
    twice: dict[str, tuple[object, ...]] = {"": (), ", no pictures": BARE_OF_PICTURES}
    if "sd15" in asked.rows:
        pairs = write_circles(place / "pairs-256", 48, 256)
        once: dict[str, tuple[object, ...]] = {"": BARE_OF_PICTURES}
        yield Row("sd15", large(), pairs, 256, 1, 2, 2 if asked.quick else 6, None, once)
    named: dict[str, Callable[[], Path]] = {
        "circles": lambda: write_circles(place / "pairs-64", 2000, 64),
        "emoji": lambda: asked.emoji.absolute(),
    }
    wanted = [name for name in named if name in asked.rows and (name != "emoji" or asked.emoji is not None)]
    if not wanted:
        return
    begin = place / "begin"
    base = write_small(place / "small", begin)
    warm, steps = (20, 60) if asked.quick else (50, 600)
    for name in wanted:
        yield Row(name, base, named[name](), 64, 4, warm, steps, begin, {"": twice[""]} if asked.quick else twice)


def ready_rows(asked: argparse.Namespace, place: Path) -> Iterator[tuple[str, Ratios]]:
    """The loop over batches from the cache, and over batches in memory."""
    pairs = write_circles(place / "pairs-memory", 200 if asked.quick else 2000, 64)
    rounds, steps = (2, 10) if asked.quick else (4 * asked.rounds, 25)
    for batch_size in (4, 16):
        data: Settings = {"data": {"path": str(pairs), "cache": "ahead", "cache_folder": str(place / "cache-memory")}}
        settings = {**data, "optim": {"batch_size": batch_size}}
        with emptied(place / f"memory-{batch_size}") as folder:
            yield f"circles, 64 px, batch {batch_size}", in_memory(folder, settings, rounds, steps)


def filling_rows(asked: argparse.Namespace, place: Path, large: Callable[[], Path]) -> Iterator[tuple[str, Ratios]]:
    """Filling a cache, and bare encoding."""
    count = 200 if asked.quick else 10_000
    small = write_circles(place / "pairs-filling", count, 64, "a circle")
    yield f"{count:,} of 64 px, built-in base", filling(place / "f", None, small, 64, asked.rounds)
    if asked.quick and "sd15" not in asked.rows:
        return
    count = 32 if asked.quick else 64
    some = write_circles(place / "pairs-filling-256", count, 256, "a circle")
    yield f"{count} of 256 px, SD 1.5's VAE", filling(place / "f", large(), some, 256, asked.rounds)


def table_of(rows: list[tuple[str, Ratios]], heads: tuple[str, str], asked: float) -> list[str]:
    lines = ["", f"| | {heads[0]} | {heads[1]} | ratio | asked |", "| --- | --- | --- | --- | --- |"]
    for name, found in rows:
        rates = (f"{statistics.median(found.ours):.1f}", f"{statistics.median(found.bare):.1f}")
        lines.append(f"| {name} | {' | '.join(rates)} | {in_words(found.ratios())} | {asked} |")
    return lines


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a copy of examples/controlnet/train_controlnet.py")
    parser.add_argument("--emoji", type=Path, help="pairs that examples/emoji/build_pairs.py made")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of PyTorch, in all that is measured")
    parser.add_argument("--place", type=Path, help="a folder with 20 GB of room")
    parser.add_argument("--quick", action="store_true", help="a look whether it runs; nothing is written down")
    asked = parser.parse_args()
    asked.rounds = 1 if asked.quick else asked.rounds
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory(dir=asked.place, prefix="throughput-") as name:
        text = measured(asked, Path(name))
    if asked.quick:
        print(text)
    else:
        record("Throughput (bench/throughput.py)", text)


def measured(asked: argparse.Namespace, place: Path) -> str:
    busy, lines = os.getloadavg()[0], []

    def large() -> Path:
        return place / "sd15" if (place / "sd15").exists() else write_large(place / "sd15")

    peer = None if asked.peer is None else script(asked.peer, place / "libraries")
    against = [
        line for row in rows_of(asked, place, large) for line in compared(row, peer, place, asked.rounds, asked.threads)
    ]
    if against:
        lines += ["", "| | images/s | of the script's | asked |", "| --- | --- | --- | --- |", *against]
    if "memory" in asked.rows:
        found = list(ready_rows(asked, place))
        lines += table_of(found, ("from the cache, images/s", "ready in memory, images/s"), ASKED_MEMORY)
    if "filling" in asked.rows:
        found = list(filling_rows(asked, place, large))
        lines += table_of(found, ("caching, pictures/s", "bare encoding, pictures/s"), ASKED_FILLING)
    meanwhile = f"{asked.threads} threads; load of the machine {busy:.1f} before and {os.getloadavg()[0]:.1f} after. "
    return "\n".join([f"{meanwhile}Medians of {asked.rounds} rounds or more, with their range.", *lines])


if __name__ == "__main__":
    main()

"""The same pairs, written in every layout that people bring, by the programs that people write them with."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Write = Callable[[Path, "Sequence[Brought]"], str]


@dataclass(frozen=True)
class Brought:
    """One pair: two PNG files and a caption."""

    target: bytes
    condition: bytes
    caption: str


def png(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def brought(count: int = 12, size: tuple[int, int] = (32, 32)) -> list[Brought]:
    return [Brought(png(k, size), png(100 + k, size), f"number {k}") for k in range(count)]


def jsonl(folder: Path, pairs: Sequence[Brought]) -> str:
    lines = []
    for k, pair in enumerate(pairs):
        lines.append(json.dumps({**_files(folder, k, pair), "text": pair.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def table(folder: Path, pairs: Sequence[Brought], between: str = ",", encoding: str = "utf-8") -> str:
    with (folder / "metadata.csv").open("w", encoding=encoding, newline="") as file:
        rows = csv.writer(file, delimiter=between)
        rows.writerow(["file_name", "conditioning_image", "text"])
        rows.writerows([*_files(folder, k, pair).values(), pair.caption] for k, pair in enumerate(pairs))
    return str(folder)


def folders(folder: Path, pairs: Sequence[Brought]) -> str:
    for name in ("targets", "conditions"):
        (folder / name).mkdir(parents=True)
    for k, pair in enumerate(pairs):
        (folder / f"targets/{k:03d}.png").write_bytes(pair.target)
        (folder / f"conditions/{k:03d}.png").write_bytes(pair.condition)
        (folder / f"targets/{k:03d}.txt").write_text(pair.caption)
    return str(folder)


def endings(folder: Path, pairs: Sequence[Brought]) -> str:
    for k, pair in enumerate(pairs):
        (folder / f"{k:03d}.png").write_bytes(pair.target)
        (folder / f"{k:03d}_canny.png").write_bytes(pair.condition)
        (folder / f"{k:03d}.txt").write_text(pair.caption)
    return str(folder)


def parquet(folder: Path, pairs: Sequence[Brought], rows_in_a_group: int = 5) -> str:
    import pyarrow as arrow
    import pyarrow.parquet

    half = len(pairs) // 2
    for number, some in enumerate((pairs[:half], pairs[half:])):
        columns = {
            "image": [{"bytes": pair.target, "path": f"{k}.png"} for k, pair in enumerate(some)],
            "conditioning_image": [{"bytes": pair.condition, "path": None} for pair in some],
            "text": [pair.caption for pair in some],
        }
        path = folder / f"train-{number:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(arrow.table(columns), path, row_group_size=rows_in_a_group)
    return str(folder)


def saved(folder: Path, pairs: Sequence[Brought]) -> str:
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    columns = {
        "image": [{"bytes": pair.target, "path": None} for pair in pairs],
        "condition": [{"bytes": pair.condition, "path": None} for pair in pairs],
        "caption": [pair.caption for pair in pairs],
    }
    features = Features({"image": Picture(), "condition": Picture(), "caption": Value("string")})
    Dataset.from_dict(columns, features=features).save_to_disk(str(folder / "saved"), num_shards=2)
    return str(folder / "saved")


def shards(folder: Path, pairs: Sequence[Brought]) -> str:
    from webdataset import TarWriter

    half = len(pairs) // 2
    for number, some in enumerate((pairs[:half], pairs[half:])):
        with TarWriter(str(folder / f"shard-{number:06d}.tar")) as tar:
            for k, pair in enumerate(some, start=number * half):
                parts = {"jpg": pair.target, "condition.png": pair.condition, "txt": pair.caption.encode()}
                tar.write({"__key__": f"{k:06d}", **parts})
    return str(folder)


def braces(folder: Path, pairs: Sequence[Brought]) -> str:
    return shards(folder, pairs) + "/shard-{000000..000001}.tar"


def address(folder: Path, pairs: Sequence[Brought]) -> str:
    return "file://" + shards(folder, pairs)


LAYOUTS: dict[str, Write] = {
    "jsonl": jsonl,
    "csv": table,
    "folders": folders,
    "endings": endings,
    "parquet": parquet,
    "saved": saved,
    "shards": shards,
    "braces": braces,
    "address": address,
}


def _files(folder: Path, k: int, pair: Brought) -> dict[str, str]:
    (folder / f"{k}.png").write_bytes(pair.target)
    (folder / f"{k}_edges.png").write_bytes(pair.condition)
    return {"file_name": f"{k}.png", "conditioning_image": f"{k}_edges.png"}

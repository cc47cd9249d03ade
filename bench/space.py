"""What slim versions take packed and plain, over a run that was really trained, and what packing costs.

    pip install zstandard                   # not needed by Everstep itself
    everstep train circles --run runs/space --optim.max-steps 1000 --versions.every 50 --keep.everything
    python bench/space.py runs/space [MORE_RUNS]

Packs each version's weights alone, and as a difference to an earlier version; everything is unpacked and compared.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everstep.models.files import WEIGHTS
from everstep.versions import Run, Version, read_tensors
from machine import record

Words = npt.NDArray[Any]  # a version's numbers, read as unsigned integers of their width
APART = (1, 5, 10, 20)  # versions between the two of a difference; the default policy keeps one in ten
LEVELS = (3, 9)
FEWEST = 20


@dataclass(frozen=True)
class Way:
    """One way to pack: how numbers become bytes, and back."""

    name: str
    level: int
    prepare: Callable[[Words, Words | None], bytes]
    restore: Callable[[bytes, Words | None, np.dtype[Any]], Words]
    apart: int = 0  # 0: the version alone


@dataclass
class Measured:
    """Sums over all versions that were packed in one way."""

    plain: int = 0
    packed: int = 0
    pack_s: float = 0.0
    unpack_s: float = 0.0


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    for path in parser.parse_args().runs:
        run = Run.open(path)
        versions = run.versions()
        if len(versions) <= FEWEST:
            raise SystemExit(f"{path} has {len(versions)} versions; more than {FEWEST} are needed.")
        text = describe(run, versions)
        for half in (False, True):
            text += table([numbers(version, half) for version in versions], "fp16" if half else "fp32")
        rate = run.find("latest").manifest["config"]["optim"]["learning_rate"]
        record(f"Weights packed, learning rate {rate:g} (bench/space.py)", text)


def describe(run: Run, versions: list[Version]) -> str:
    """Which run this was."""
    last = versions[-1]
    optim = last.manifest["config"]["optim"]
    return (
        f"{len(versions)} versions, {versions[1].step - versions[0].step} steps apart, of "
        f"{last.manifest['base']['name']}; batch {optim['batch_size']}, learning rate {optim['learning_rate']:g}. "
        f"Weights of one version: {last.files[WEIGHTS]['size']:,} bytes.\n"
    )


def numbers(version: Version, is_half: bool) -> Words:
    """All weights of a version, one after the other."""
    loaded = read_tensors(version, WEIGHTS)
    values = np.concatenate([np.frombuffer(tensor.buffer, np.float32) for tensor in loaded.values()])
    return values.astype(np.float16).view(np.uint16) if is_half else values.view(np.uint32)


def table(versions: list[Words], kind: str) -> str:
    """One row for each way."""
    plain = versions[0].nbytes
    text = f"\n{kind}, {plain:,} bytes plain:\n\n"
    text += (
        "| way | bytes per version | plain / packed | pack, MB/s | unpack, MB/s |\n| --- | --- | --- | --- | --- |\n"
    )
    for way in ways():
        found = measure(versions, way)
        count = found.plain // plain
        text += (
            f"| {way.name}, level {way.level} | {found.packed // count:,} | {found.plain / found.packed:.3f} | "
            f"{found.plain / found.pack_s / 1e6:.0f} | {found.plain / found.unpack_s / 1e6:.0f} |\n"
        )
    return text


def measure(versions: list[Words], way: Way) -> Measured:
    """Pack and unpack all versions but the first ones, which the others may be differences to."""
    zstandard = import_module("zstandard")
    packer, unpacker, sums = zstandard.ZstdCompressor(way.level), zstandard.ZstdDecompressor(), Measured()
    for place in range(1, len(versions)):
        if place < way.apart:
            continue
        now, before = versions[place], versions[place - way.apart] if way.apart else None
        began = time.perf_counter()
        packed = packer.compress(way.prepare(now, before))
        middle = time.perf_counter()
        back = way.restore(unpacker.decompress(packed), before, now.dtype)
        ended = time.perf_counter()
        assert np.array_equal(back, now), way.name
        sums.plain += now.nbytes
        sums.packed += len(packed)
        sums.pack_s += middle - began
        sums.unpack_s += ended - middle
    return sums


# --- ways --------------------------------------------------------------------------------------------------


def ways() -> Iterator[Way]:
    """All that are compared."""
    for level in LEVELS:
        yield Way("zstd", level, lambda now, _: now.tobytes(), lambda raw, _, dtype: np.frombuffer(raw, dtype))
    for level in LEVELS:
        yield Way("byte-grouped zstd", level, lambda now, _: grouped(now), lambda raw, _, dtype: ungrouped(raw, dtype))
    for apart in APART:
        yield Way(f"xor with the one {apart} before, byte-grouped zstd", 3, xor, unxor, apart)
    for apart in APART:
        yield Way(f"minus the one {apart} before, byte-grouped zstd", 3, minus, unminus, apart)


def grouped(words: Words) -> bytes:
    """All lowest bytes, then all second bytes, and so on."""
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, words.itemsize).T).tobytes()


def ungrouped(raw: bytes, dtype: np.dtype[Any]) -> Words:
    rows = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(rows.T).reshape(-1).view(dtype)


def xor(now: Words, before: Words | None) -> bytes:
    assert before is not None
    return grouped(now ^ before)


def unxor(raw: bytes, before: Words | None, dtype: np.dtype[Any]) -> Words:
    assert before is not None
    return ungrouped(raw, dtype) ^ before


def minus(now: Words, before: Words | None) -> bytes:
    """The difference of the bit patterns, small ones of either sign as small numbers."""
    assert before is not None
    signed = np.dtype(f"i{now.itemsize}")
    difference = (now - before).view(signed)
    return grouped(((difference << 1) ^ (difference >> (8 * now.itemsize - 1))).view(now.dtype))


def unminus(raw: bytes, before: Words | None, dtype: np.dtype[Any]) -> Words:
    assert before is not None
    folded = ungrouped(raw, dtype)
    one = dtype.type(1)
    difference: Words = (folded >> one) ^ (~(folded & one) + one)
    return difference + before


if __name__ == "__main__":
    main()

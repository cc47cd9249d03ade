"""A ControlNet folder in diffusers' layout, written beside its place, read back, and only then there."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.arrival.moments import Moments
from everstep.arrival.taking import Taken
from everstep.contracts import TensorFile
from everstep.errors import DamageFound
from everstep.models.files import METADATA, OPTIMIZER, WEIGHTS
from everstep.models.numbers import Refused
from everstep.versions import fsops
from everstep.versions.placing import beside, put
from everstep.versions.tensorfile import TensorImage, read_digests

CONFIG, RECEIPT = "config.json", "receipt.json"
WEIGHTS_NAME = Path(WEIGHTS).name
OURS = {CONFIG, RECEIPT, WEIGHTS_NAME, "training"}


@dataclass(frozen=True, slots=True)
class Coming:
    """A tensor that is read when its bytes are asked for."""

    shape: tuple[int, ...]
    arrays: Iterator[tuple[str, Any]]
    dtype: str = "F32"

    def buffer(self) -> memoryview:
        _, array = next(self.arrays)  # files are written in the order in which they are laid out
        return memoryview(array.reshape(-1).view("u1"))


def write_folder(taken: Taken, moments: Moments, receipt: Mapping[str, Any], target: Path) -> None:
    """What is at the target is replaced. Raises: Refused; DamageFound if it was not written as it should be; OSError.

    Crash: what was there before, or the new one whole; of a folder that is replaced, perhaps the old one aside.
    """
    with beside(target) as staging:
        fsops.make_folder(staging)
        _write_tensors(staging / WEIGHTS_NAME, taken.shapes, taken.arrays(), METADATA[WEIGHTS])
        if moments.found:
            fsops.make_folder((staging / OPTIMIZER).parent)
            _write_tensors(staging / OPTIMIZER, moments.shapes, moments.arrays(), {})
            fsops.flush_folder((staging / OPTIMIZER).parent)
        _write_json(staging / CONFIG, dict(taken.config))
        _write_json(staging / RECEIPT, receipt)
        put(staging, target)


def _write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterator[tuple[str, Any]], metadata: Mapping[str, str]
) -> None:
    image = TensorImage(TensorFile(path.name, {n: Coming(tuple(s), arrays) for n, s in shapes.items()}, metadata))
    fsops.write_file(path, image.pieces(), image.size_bytes)
    with read_digests(path) as (_, _, digests):
        found = dict(digests)
    if found != image.digests:
        wrong = [name for name in image.digests if found.get(name) != image.digests[name]]
        raise DamageFound(f"{path.name} was not written as it should be: {wrong[0]} is another when it is read back")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    fsops.write_file(path, [text], len(text))


def check_target(target: Path, is_forced: bool) -> None:
    """Raises: Refused before any work is done, if it is there already, or holds more than an import makes."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise Refused("is there already, and is no folder", "--out names another.")
    others = sorted({entry.name for entry in target.iterdir()} - OURS)
    if others:
        raise Refused(f"holds more than a ControlNet ({others[0]})", "--out names another place.")
    if not is_forced:
        raise Refused("is there already", "--force replaces it, --out names another.")

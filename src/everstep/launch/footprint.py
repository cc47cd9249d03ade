"""What one version weighs, before there is one: from configs and headers, without weights and without torch."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from everstep.arrival.cache import start_folder
from everstep.config.load import dump
from everstep.config.schema import Config, Optim
from everstep.contracts import TensorFile
from everstep.errors import DamageFound, UserError
from everstep.keeping.arena import PlannedFile, plan_arena
from everstep.keeping.memory import SLOTS
from everstep.models.base import BaseFolder
from everstep.models.controls import new_shapes
from everstep.models.files import (
    AVERAGED,
    CONTROLNET_CONFIG,
    HPARAMS,
    METADATA,
    OPTIMIZER,
    STATE,
    TENSOR_FILES,
    WEIGHTS,
)
from everstep.models.optimizers import kept_of_network
from everstep.models.shapes import HINT_CHANNELS, Shape, controlnet_shapes
from everstep.versions import Run, Version, run_folder, split_spec
from everstep.versions.forecast import Footprint
from everstep.versions.layout import DIGESTS
from everstep.versions.tensorfile import TensorImage, read_header

DIGEST_BYTES = 64  # of one digest in JSON, with its name's quotes
CONFIG_BYTES, STATE_BYTES = 4 << 10, 48 << 10  # at most


def footprint_of(version: Version) -> Footprint:
    """Of versions like this one."""
    return Footprint({path: int(entry["size"]) for path, entry in version.files.items()})


def new_footprint(config: Config, base: BaseFolder) -> Footprint | None:
    """Of the versions of a run that is yet to begin; tensor files to the byte, small files at most.

    None where the network is of a kind whose tensors cannot be told beforehand. Raises: UserError for bad --from files.
    """
    shapes = _shapes(config, base)
    if shapes is None:
        return None
    images = [TensorImage(file) for file in _tensor_files(shapes, config.optim)]
    names = sum(len(name) + DIGEST_BYTES for image in images for name in image.places)
    small = {HPARAMS: len(dump(config)), DIGESTS: names, CONTROLNET_CONFIG: CONFIG_BYTES, STATE: STATE_BYTES}
    return Footprint({image.path: image.size_bytes for image in images} | small)


def arena_bytes(footprint: Footprint) -> dict[int, int]:
    """What snapshots of such versions take of memory, by the number of slots."""
    files = [PlannedFile(path, footprint.files[path]) for path in TENSOR_FILES if path in footprint.files]
    notes = sum(size for path, size in footprint.files.items() if path not in TENSOR_FILES)
    return {slots: plan_arena(Path(), files, 2 * notes, slots).size_bytes for slots in SLOTS}


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that does not exist yet: enough for a header."""

    shape: Shape
    dtype: str = "F32"

    def buffer(self) -> memoryview:
        raise AssertionError("a planned tensor has no bytes")


def _tensor_files(shapes: Mapping[str, Shape], optim: Optim) -> Iterator[TensorFile]:
    """Laid out as TrainState lays them out."""
    plain = {name: Planned(shape) for name, shape in shapes.items()}
    kept = kept_of_network(optim.optimizer, shapes)
    yield TensorFile(WEIGHTS, plain, METADATA[WEIGHTS])
    yield TensorFile(OPTIMIZER, {name: Planned(one.shape, one.dtype) for name, one in kept.items()}, {})
    if optim.ema_decay > 0:
        yield TensorFile(AVERAGED, plain, METADATA[AVERAGED])


def folder_to_start_from(config: Config, base: BaseFolder) -> Path | None:
    """With the ControlNet that --from names, if it names one. Raises: UserError."""
    spec = config.optim.start_from
    if spec is None:
        return None
    folder, number = split_spec(spec)
    return Run.open(run_folder(folder)).find(number).path / "controlnet" if number else start_folder(spec, base)


def _shapes(config: Config, base: BaseFolder) -> dict[str, Shape] | None:
    """Of the weights that training begins with: the base's, or those of --from."""
    folder = folder_to_start_from(config, base)
    return new_shapes(base, config.optim.control) if folder is None else _stored_shapes(folder)


def _stored_shapes(folder: Path) -> dict[str, Shape] | None:
    """From the header of its safetensors file, or, where it has none, from its config.json."""
    path = folder / Path(WEIGHTS).name
    try:
        if path.is_file():
            with path.open("rb") as file:
                header, _ = read_header(file, path.stat().st_size)
            return {name: place.shape for name, place in header.tensors.items()}
        config = json.loads((folder / "config.json").read_text())
        return controlnet_shapes(config, config.get("conditioning_embedding_out_channels", HINT_CHANNELS))
    except (OSError, ValueError, KeyError, DamageFound) as error:
        raise UserError(f"--from {folder}: it cannot be read ({error}). Nothing was started.") from None

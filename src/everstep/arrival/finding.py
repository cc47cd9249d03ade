"""What a person's word leads to: a file, a folder or a repository on the hub, and which files of it are to be read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everstep.arrival.names import unwrapped
from everstep.errors import UserError
from everstep.models.brought import is_controlnet, kind_of_folder
from everstep.models.foreign import SUFFIXES, Foreign, open_foreign
from everstep.models.hub import download_controlnet
from everstep.models.numbers import Place, Refused
from everstep.models.weights import find_weights, listed, read_json
from everstep.places import absolute, spelled

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OF_A_TRAINING = ("optimizer", "scheduler", "random_states", "scaler", "training_args", "sampler", "custom_checkpoint")


class NothingFound(Refused):
    """A folder in which there is nothing to take."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Weights, and where each of them is.

    Args:
        path: the file, or the folder, that was found.
        tensors: by their names there, with the file that holds them.
        config: its own config.json, where it has one.
        beside: what a checkpoint holds beside the weights, by names that nothing here knows.
        optimizer: the file with an optimizer's state, and that state, with a `Place` for every tensor.
        left: what else there is of a training, in words.
        is_in_file_order: whether the tensors lie in the order of the network's parameters.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, tuple[Path, Place]]
    config: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    steps_before: int | None = None
    optimizer: tuple[Path, Any] | None = None
    left: tuple[str, ...] = ()
    is_in_file_order: bool = False

    @property
    def places(self) -> dict[str, Place]:
        return {name: place for name, (_, place) in self.tensors.items()}


def is_hub_id(spec: str) -> bool:
    """Whether it can only be a repository: nothing here is called so."""
    return HUB_ID.fullmatch(spec) is not None and not spec.startswith(".") and not spec.endswith(SUFFIXES)


def locate_source(spec: str) -> Path:
    """A file or a folder here, or that of a repository in the hub's cache. Raises: Refused; UserError."""
    path = spelled(spec)
    try:
        if path.exists():
            return absolute(path)
    except (OSError, ValueError) as error:
        raise Refused(f"cannot be looked at: {error}") from None
    if path.is_symlink():
        raise Refused(f"is a link to {path.readlink()}, which is not there")
    if is_hub_id(spec):
        return download_controlnet(spec)
    raise Refused("is not there: neither a file, a folder, nor a repository on the hub")


def find(path: Path) -> Finding:
    """Raises: Refused, saying what it is if it is no ControlNet."""
    if not path.is_dir():
        if path.suffix not in SUFFIXES and path.exists():
            raise Refused(f"is no file of weights; those end in {', '.join(SUFFIXES)}")
        return merged(path, [open_foreign(path)])
    if is_controlnet(path):
        return of_diffusers(path)
    files = sorted(
        child for child in path.iterdir() if child.suffix in SUFFIXES and not child.name.startswith(OF_A_TRAINING)
    )
    if len(files) == 1:
        return merged(files[0], [open_foreign(files[0])])
    if files:
        raise Refused(f"holds {len(files)} files of weights ({listed([file.name for file in files])})", "Name one.")
    kind = kind_of_folder(path)
    raise NothingFound(
        f"is {kind}, not a ControlNet" if kind else "holds neither weights nor a ControlNet's config.json"
    )


def of_diffusers(path: Path) -> Finding:
    """A folder with a config.json, whose weights may lie in several files."""
    try:
        config, files = read_json(path / "config.json"), find_weights(path).tensor_files
    except UserError as error:
        raise Refused(f"is not whole: {str(error).removesuffix(' Nothing was started.')}") from None
    return merged(path, [_part(file) for file in files], config)


def _part(file: Path) -> Foreign:
    try:
        return open_foreign(file)
    except Refused as refused:
        raise Refused(f"cannot be taken: {file.name} {refused.fault}", refused.next_act) from None


def merged(path: Path, parts: list[Foreign], config: Mapping[str, Any] | None = None) -> Finding:
    """Raises: Refused if two files hold a tensor of one name."""
    tensors: dict[str, tuple[Path, Place]] = {}
    for part in parts:
        named = unwrapped(part.tensors)
        if double := [name for name in named if name in tensors]:
            raise Refused(f"holds tensors twice, in two files ({listed(double)})")
        tensors |= {name: (part.path, place) for name, place in named.items()}
    beside = {key: value for part in parts for key, value in part.beside.items()}
    return Finding(path, tuple(part.path for part in parts), tensors, config, beside)


def receipt_in(folder: Path) -> dict[str, Any] | None:
    """What an import said of what it made; None where the folder is none."""
    try:
        found = json.loads((folder / "receipt.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "everstep" in found else None

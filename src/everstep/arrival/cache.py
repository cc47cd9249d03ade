"""Starts of trainings that are no folder of ours: taken over once, into the user's cache, and found there again.

A training needs one until its version_0 is committed, and whoever makes that version anew. The setting keeps what the
user wrote; the folder follows from it, from the files and from the base.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from everstep import __version__
from everstep.arrival.bringing import bring, in_words
from everstep.arrival.finding import NothingFound, is_hub_id, locate_source, receipt_in
from everstep.arrival.trainings import find_any
from everstep.errors import UserError
from everstep.models.base import BaseFolder
from everstep.models.beginning import controlnet_folder
from everstep.models.brought import is_controlnet
from everstep.models.foreign import SUFFIXES
from everstep.models.numbers import Refused
from everstep.places import cache_folder, spelled

UNDONE = "Nothing was started."
KEPT_S = 7 * 24 * 3600.0  # since a start was last asked for


def start_folder(spec: str, base: BaseFolder) -> Path:
    """The ControlNet folder that a start means, made if it is not there yet.

    Raises: UserError saying what it is, if it is no ControlNet, and where one is.
    """
    path = spelled(spec)
    if _is_taken_as_it_is(path, spec):
        return controlnet_folder(spec)
    with in_words(f"--from {spec}", UNDONE):
        try:
            finding = find_any(place := locate_source(spec))
        except NothingFound:
            return controlnet_folder(spec)  # knows in words what lies there
        if is_controlnet(place):
            return place
        folder = _root() / _key((*finding.files, *([finding.optimizer[0]] if finding.optimizer else [])), base)
        if not is_controlnet(folder):
            _tidy(folder.parent)
            try:
                bring(spec, folder, base, is_partial=False, name=f"--from {spec}", undone=UNDONE)
            except OSError as error:
                raise Refused(f"could not be taken over into {folder.parent}: {error.strerror}") from None
        os.utime(folder)
        return folder


def receipt_of_start(spec: str | None, base: BaseFolder) -> dict[str, Any] | None:
    """What the import of a start said; None where it is no import, or gone."""
    if spec is None:
        return None
    with contextlib.suppress(UserError):
        return receipt_in(start_folder(spec, base))
    return None


def is_there(spec: str) -> bool:
    """Whether a start that is no version could be read again."""
    return spelled(spec).exists() or is_hub_id(spec)


def _is_taken_as_it_is(path: Path, spec: str) -> bool:
    try:
        if path.is_dir():
            return is_controlnet(path)
        return path.suffix not in SUFFIXES if path.exists() else not is_hub_id(spec)
    except (OSError, ValueError):
        return True  # the sentence for it is there


def _root() -> Path:
    root = (cache_folder() or Path(tempfile.gettempdir())) / "everstep" / "starts"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _key(files: tuple[Path, ...], base: BaseFolder) -> str:
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    asked = json.dumps([__version__, stats, base.config("unet")], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def _tidy(root: Path) -> None:
    """Let those go that nobody has asked for in a while: each is as large as a ControlNet."""
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > KEPT_S:
                shutil.rmtree(folder)

"""Which conditions are made from the pictures, where there is no picture of them: settings read, checked, identified.

Knows what each kind needs, and how it is told from another. How it is made, `conditions` knows.
"""

import difflib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xxhash

from everstep.errors import UserError
from everstep.places import shortened, spelled

FILE = "file"  # of data.condition: the condition is a picture of the pair
# Part of the identity of data: raised for a kind when what it makes of a picture becomes another.
ALGORITHMS = {
    "canny": 1,
    "softedge": 1,
    "lineart": 1,
    "depth": 1,
    "grey": 1,
    "blur": 1,
    "tile": 1,
    "inpaint": 1,
}
RANDOM = ("canny", "blur", "tile")  # that have a number which may be drawn per example
BY_MODEL = ("softedge", "lineart", "depth")  # that a model may find
FUNCTION = 1  # of what a function of one's own is given
CHUNK_BYTES = 1 << 22
MODEL_FILES = ("*.json", "*.safetensors")  # of a folder, all that is read


@dataclass(frozen=True)
class Recipe:
    """How conditions are made: one of the kinds, or a function of a file."""

    kind: str  # one of ALGORITHMS, or "function"
    path: Path | None = None  # of the model, or of the function's file
    function: str = ""
    is_random: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides a condition besides its picture and draws; JSON. Reads the model or the file, once."""
        if self.kind == "function":
            assert self.path is not None
            return {"kind": "function", "algorithm": FUNCTION, "name": self.function, "file": _digest(self.path)}
        found: dict[str, Any] = {"kind": self.kind, "algorithm": ALGORITHMS[self.kind]}
        if self.is_random:
            found["random"] = True
        if self.path is not None:
            found["model"] = _digest(self.path)
        return found

    @property
    def is_drawn(self) -> bool:
        """Whether each example has a condition of its own; of a function, whether it may."""
        return self.is_random or self.kind in ("inpaint", "function")

    @property
    def description(self) -> str:
        """For one line about the data."""
        how = f"by {self.path.name}" if self.path is not None else ""
        if self.kind == "function":
            return f"conditions made by {self.function} {how.replace('by', 'of')}"
        words = [f"conditions made: {self.kind}", how, "drawn per example" if self.is_random else ""]
        return " ".join(filter(None, words))

    def fingerprint(self, of_pairs: str) -> str:
        """Of pairs and their conditions together."""
        identity = json.dumps([of_pairs, self.identity], sort_keys=True).encode()
        return f"xxh3-128:{xxhash.xxh3_128_hexdigest(identity)}"


def read_recipe(condition: str, model: str | None, is_random: bool) -> Recipe | None:
    """What data.condition, data.condition_model and data.condition_random mean together; None for pictures of pairs.

    Raises: UserError with what does not fit.
    """
    if condition == FILE:
        for key, is_set in (("condition_model", model is not None), ("condition_random", is_random)):
            if is_set:
                raise UserError(
                    f"data.{key} is set, but data.condition is {FILE}: the condition is a picture of each pair, and "
                    f"nothing is made. Nothing was started. --set data.condition={_example(key)} makes one."
                )
        return None
    place, colon, function = condition.rpartition(":")
    if colon and place.endswith(".py"):
        return _read_function(condition, place, function, model, is_random)
    if condition not in ALGORITHMS:
        near = difflib.get_close_matches(condition.lower(), [*ALGORITHMS, FILE, "gray"], n=1)
        meant = f" Did you mean {near[0].replace('gray', 'grey')}?" if near else ""
        raise UserError(
            f"data.condition is {shortened(condition)}, but can be {FILE}, {', '.join(ALGORITHMS)}, or a function of "
            f"your own as FILE.py:FUNCTION.{meant} Nothing was started."
        )
    if is_random and condition not in RANDOM:
        why = "its masks always are" if condition == "inpaint" else "it has no number to draw"
        raise UserError(
            f"data.condition_random is set, but data.condition is {condition}: {why}. Nothing was started. "
            f"Leave it out; {', '.join(RANDOM)} can be drawn per example."
        )
    if condition == "canny" and find_spec("cv2") is None:
        raise UserError(
            "data.condition is canny, which needs opencv-python-headless, not installed here. Nothing was started. "
            "pip install 'everstep[data]'"
        )
    return Recipe(condition, _read_model(condition, model), is_random=is_random)


def _example(key: str) -> str:
    return "depth" if key == "condition_model" else "canny"


def _read_model(kind: str, model: str | None) -> Path | None:
    """Raises: UserError where one is missing, or is not used."""
    if model is None:
        if kind == "depth":
            raise UserError(
                "data.condition is depth, but data.condition_model is not set. Nothing was started. "
                "--set data.condition_model=PATH names a folder in transformers layout or an exported program (.pt2)."
            )
        return None
    if kind not in BY_MODEL:
        raise UserError(
            f"data.condition_model is {model}, but data.condition is {kind}, which uses none. Nothing was started. "
            f"Leave it out; {', '.join(BY_MODEL)} can use one."
        )
    place = spelled(model)
    if not place.exists():
        raise UserError(
            f"data.condition_model is {model}, which does not exist. Nothing was started. If it was moved, "
            "--set data.condition_model=NEW says where it is."
        )
    if not place.is_dir() and place.suffix != ".pt2":
        raise UserError(
            f"data.condition_model is {model}; it must be an exported program (.pt2)"
            f"{', or a folder in transformers layout' if kind == 'depth' else ''}. Pickled files are never loaded. "
            "Nothing was started."
        )
    if place.is_dir() and kind != "depth":
        raise UserError(
            f"data.condition_model is the folder {model}, but transformers has no models for {kind}: it must be an "
            "exported program (.pt2). Nothing was started."
        )
    return place


def _read_function(condition: str, place: str, function: str, model: str | None, is_random: bool) -> Recipe:
    for key, is_set in (("condition_model", model is not None), ("condition_random", is_random)):
        if is_set:
            raise UserError(
                f"data.{key} is set, but data.condition is {condition}: a function loads and draws what it needs by "
                "itself. Nothing was started. Leave one of them out."
            )
    path, shown = spelled(place), shortened(condition)
    if not os.path.isfile(path):  # false too for what can be no name
        raise UserError(
            f"data.condition is {shown}, but there is no such file. Nothing was started. If it was moved, "
            f"--set data.condition=NEW.py:{function} says where it is."
        )
    if not function.isidentifier():
        raise UserError(
            f"data.condition is {condition}, but {function or 'nothing'} after the colon is no name of a function. "
            "Nothing was started."
        )
    return Recipe("function", path, function)


def _digest(path: Path) -> str:
    """Of a file's content, or of all files of a folder that are read. Raises: UserError if one cannot be."""
    total = xxhash.xxh3_128()
    files = [path] if path.is_file() else sorted({found for like in MODEL_FILES for found in path.glob(like)})
    try:
        for file in files:
            if file != path:
                total.update(file.name.encode())
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    total.update(chunk)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Nothing was started.") from None
    return f"xxh3-128:{total.hexdigest()}"

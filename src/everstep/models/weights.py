"""Which files of a folder hold a network's weights, and the names and shapes inside, without loading them.

Never imports torch. Knows nothing of what a network should hold.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.errors import DamageFound, UserError
from everstep.models.numbers import Place, Refused
from everstep.models.pickled import read_pickled
from everstep.plain_files import open_plain, read_plain
from everstep.versions.tensorfile import read_header

Shape = tuple[int, ...]
POINTER = b"version https://git-lfs"
# Named as the libraries name them, in the order in which they are preferred: whole numbers before halved ones.
DIFFUSERS, TRANSFORMERS = ("diffusion_pytorch_model",) * 2, ("model", "pytorch_model")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")  # folders whose weights transformers wrote
VARIANT = "fp16"
FLOATS, COUNTERS = ("F64", "F32", "F16", "BF16"), ("position_ids", "num_batches_tracked", "num_updates")


@dataclass(frozen=True, slots=True)
class Weights:
    """The files that are loaded: one, or an index and its shards."""

    files: tuple[Path, ...]
    is_safetensors: bool
    variant: str | None = None

    @property
    def tensor_files(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if path.suffix != ".json")


def find_weights(folder: Path, stems: tuple[str, str] = DIFFUSERS) -> Weights:
    """Raises: UserError if there are none, or if they are not whole."""
    safe, pickled = stems
    for variant in (None, VARIANT):
        part = f".{variant}" if variant else ""
        for stem, kind in ((safe, "safetensors"), (pickled, "bin")):
            index = folder / f"{stem}.{kind}.index{part}.json"
            if index.is_file():
                return Weights((index, *_shards(index)), kind == "safetensors", variant)
            single = folder / f"{stem}{part}.{kind}"
            if single.exists() or single.is_symlink():
                return Weights((single,), kind == "safetensors", variant)
    raise UserError(_none(folder, f"{safe}.safetensors"))


def _none(folder: Path, wanted: str) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    partial = [name for name in names if name.endswith((".incomplete", ".part", ".crdownload", ".aria2", ".tmp"))]
    if partial:
        return f"{folder} holds no weights: {partial[0]} is a download that has not ended. Nothing was started."
    near = [name for name in names if name.endswith((".safetensors", ".bin", ".ckpt", ".pt", ".msgpack", ".h5"))]
    there = f" There is {near[0]}, which is not read under this name." if near else ""
    return f"{folder} holds no weights: {wanted} is missing.{there} Nothing was started."


def _shards(index: Path) -> list[Path]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{index} names no shards: weight_map is missing or broken. Nothing was started.")
    names = sorted(set(table.values()))
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise UserError(f"{index} names a shard outside of its folder: {name}. Nothing was started.")
    missing = [name for name in names if not is_file(index.parent / name)]
    if missing:
        raise UserError(f"{index} names {count(missing, 'shard')} that {be(missing)} not there: {listed(missing)}. "
                        "Nothing was started.")  # fmt: skip
    return [index.parent / name for name in names]


def shapes_of(weights: Weights) -> dict[str, Shape] | None:
    """Every tensor by its name; None where a file is of a kind that only PyTorch reads. Raises: UserError."""
    found: dict[str, Shape] = {}
    for path in weights.tensor_files:
        shapes = file_shapes(path)
        if shapes is None:
            return None
        found |= shapes
    index = next((path for path in weights.files if path.suffix == ".json"), None)
    if index is not None and (absent := [name for name in read_json(index)["weight_map"] if name not in found]):
        raise UserError(f"{index} names {count(absent, 'tensor')} that no shard holds: {listed(absent)}. "
                        "Nothing was started.")  # fmt: skip
    return found


def file_shapes(path: Path) -> dict[str, Shape] | None:
    """The same of one file."""
    try:
        with open_plain(path) as file:
            beginning = file.read(len(POINTER))
            if beginning == POINTER:
                raise UserError(
                    f"{path} is a git-lfs pointer, not the file. Nothing was started.\n"
                    f"Fetch it: git -C {path.parent} lfs pull"
                )
            file.seek(0)
            if path.suffix == ".safetensors":
                header, _ = read_header(file, os.fstat(file.fileno()).st_size)
                _refuse_numbers(path, {str(name): place.dtype for name, place in header.tensors.items()})
                return {str(name): place.shape for name, place in header.tensors.items()}
        return _pickled_shapes(path)
    except DamageFound as fault:
        raise UserError(f"{path} {fault}: it is damaged, or was not downloaded to its end. Nothing was started.\n"
                        "Fetch it again.") from None  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"{path} is a link that leads nowhere. Nothing was started.") from None
    except (OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Nothing was started.") from None
    except ValueError as error:  # no plain file
        raise UserError(f"{path} {error}. Nothing was started.") from None


def _refuse_numbers(path: Path, dtypes: Mapping[str, str]) -> None:
    """Numbers of another kind are loaded without a word, and mean nothing without what they were packed with."""
    odd = [name for name, dtype in dtypes.items() if dtype not in FLOATS and not name.endswith(COUNTERS)]
    if odd:
        raise UserError(f"{path} holds {count(odd, 'tensor')} of {dtypes[odd[0]]} numbers ({listed(odd)}): it was made "
                        "smaller for drawing. Weights in 16 or 32 bits are needed. Nothing was started.")  # fmt: skip


# --- .bin --------------------------------------------------------------------------------------------------


def _pickled_shapes(path: Path) -> dict[str, Shape] | None:
    """None where it is of an older layout, or holds more than tensors: loading it tells then."""
    if path.stat().st_size == 0:
        raise DamageFound("is empty")
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        try:
            held = read_pickled(file, path.stat().st_size)
        except Refused as refused:
            if is_zip and refused.fault.startswith("ends too early"):
                raise DamageFound("ends too early") from None
            return None
    if not isinstance(held, dict):
        return None
    return {key: place.shape for key, place in held.items() if isinstance(key, str) and isinstance(place, Place)}


# --- words -------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Raises: UserError if it is not there or holds no JSON object."""
    try:
        parsed = json.loads(read_plain(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Nothing was started.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Nothing was started.") from None
    except (ValueError, RecursionError) as error:
        if not path.is_file():
            raise UserError(f"{path} {error}. Nothing was started.") from None
        if _is_pointer(path):
            raise UserError(f"{path} is a git-lfs pointer, not the file. Nothing was started.\n"
                            f"Fetch it: git -C {path.parent} lfs pull") from None  # fmt: skip
        raise UserError(f"{path} is no JSON: {reason(error)}. Nothing was started.") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} holds {type(parsed).__name__}, not a JSON object. Nothing was started.")
    return parsed


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def is_file(path: Path) -> bool:
    """False too where nobody could have a file: a name that is too long, or holds a zero."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().splitlines()[0][:200] if said.strip() else type(error).__name__


def listed(names: list[str]) -> str:
    """Three of them, and how many more."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(name[:120] for name in names[:3]) + more


def count(things: list[str], noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def be(things: list[str]) -> str:
    return "is" if len(things) == 1 else "are"


def unlike(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str | None:
    """What of these tensors is missing, too much or of another shape, in words; None where they are the same."""
    parts = []
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    shaped = [name for name in expected if name in found and tuple(found[name]) != tuple(expected[name])]
    if missing:
        parts.append(f"{count(missing, 'tensor')} missing ({listed(missing)})")
    if shaped:
        words = [f"{name} is {_dims(found[name])}, not {_dims(expected[name])}" for name in shaped]
        parts.append(f"{count(shaped, 'tensor')} of another shape ({listed(words)})")
    if surplus:
        parts.append(f"{count(surplus, 'tensor')} that the config knows nothing of ({listed(surplus)})")
    return "; ".join(parts) or None


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"

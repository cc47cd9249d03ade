"""A file of tensors that somebody else wrote, opened without believing anything in it. Never imports torch."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from everstep.errors import DamageFound, UserError
from everstep.models.numbers import FLOATS, ITEMS_MOST, Place, Refused
from everstep.models.pickled import Unknown, read_pickled
from everstep.models.weights import POINTER, count, listed, reason
from everstep.plain_files import open_plain
from everstep.versions.tensorfile import read_header

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
LARGEST_HEADER_BYTES = 16 << 20
MOST_TIMES = 4  # tensors may share their numbers, but not without end
STATES = ("state_dict", "module", "model")  # under which a checkpoint keeps the weights
MOST_NESTED = 3


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a file holds.

    Args:
        tensors: by name, the weights.
        beside: what a checkpoint holds beside them, a `Place` for every tensor, an `Unknown` for every object.
        metadata: what a .safetensors says of itself, by words.
    """

    path: Path
    tensors: Mapping[str, Place]
    beside: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self.tensors.items()}


def open_foreign(path: Path) -> Foreign:
    """Look at a file; its numbers are not read. Raises: Refused."""
    with reading(path) as (file, file_bytes):
        if path.suffix == ".safetensors":
            tensors, metadata = _safetensors(file, file_bytes)
            found = Foreign(path, tensors, metadata=metadata)
        else:
            found = Foreign(path, *_weights_of(read_pickled(file, file_bytes)))
        _check(found, file_bytes)
        return found


def not_started(path: Path, refused: Refused) -> UserError:
    """What a person is told who wanted to start with it."""
    act = f"\n{refused.next_act}" if refused.next_act else ""
    return UserError(f"{path} {refused.fault}. Nothing was started.{act}")


def open_table(path: Path) -> Any:
    """All that a file of PyTorch's holds, whatever it is: an optimizer's state. Raises: Refused."""
    with reading(path) as (file, file_bytes):
        return read_pickled(file, file_bytes)


@contextmanager
def reading(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file, opened, and its size. Raises: Refused for whatever is wrong with it."""
    try:
        with open_plain(path) as file:
            file_bytes = os.fstat(file.fileno()).st_size
            if file_bytes == 0:
                raise Refused("is empty", "Fetch it again.")
            beginning = file.read(max(len(POINTER), 4))
            if beginning.startswith(POINTER):
                raise Refused("is a git-lfs pointer, not the file", f"Fetch it: git -C {path.parent} lfs pull")
            if path.suffix != ".safetensors" and not beginning.startswith(b"PK\x03\x04"):
                raise Refused(_no_zip(beginning), _NEWER if beginning.startswith(b"\x80") else "")
            file.seek(0)
            yield file, file_bytes
    except FileNotFoundError:
        raise Refused("is not there") from None
    except DamageFound as fault:
        raise Refused(f"{fault}: it is damaged, or was not downloaded to its end", "Fetch it again.") from None
    except (OSError, MemoryError) as error:
        raise Refused(f"cannot be read: {reason(error)}") from None
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except ValueError as error:  # no plain file
        raise Refused(str(error)[:200]) from None


_NEWER = "In a program that trusts it: torch.save(torch.load(FILE, weights_only=True), FILE)"


def _no_zip(beginning: bytes) -> str:
    if beginning.startswith(b"\x80"):
        return "is a file of PyTorch before 1.6, or a plain pickle, which is not read"
    return "is no file of PyTorch, or was not downloaded to its end"


def _safetensors(file: BinaryIO, file_bytes: int) -> tuple[dict[str, Place], dict[str, str]]:
    """The tensors, and what the file says of itself."""
    length = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER_BYTES < length <= file_bytes:
        raise Refused(f"has a header of {length:,} bytes; {LARGEST_HEADER_BYTES:,} are the most that is read")
    file.seek(0)
    header, raw = read_header(file, file_bytes)
    json.loads(raw[8:], object_pairs_hook=_once)
    for name, place in header.tensors.items():
        numbers = (*place.shape, place.begin, place.end)
        if len(place.shape) > 8 or not all(type(number) is int and 0 <= number <= ITEMS_MOST for number in numbers):
            raise Refused(f"has a tensor of a shape that is none: {name[:80]}")
    tensors = {
        name: Place(place.dtype, place.shape, header.data_start + place.begin, None, place.end - place.begin)
        for name, place in header.tensors.items()
    }
    said: Any = header.metadata  # whatever stands there
    words = {key: text for key, text in said.items() if isinstance(text, str)} if isinstance(said, dict) else {}
    return tensors, words


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise Refused(f"names {next(name for name in names if names.count(name) > 1)[:80]} twice")
    return table


def _weights_of(content: Any) -> tuple[dict[str, Place], dict[str, Any]]:
    """The weights, wherever a checkpoint keeps them, and what lies beside them."""
    beside: dict[str, Any] = {}
    for _ in range(MOST_NESTED):
        if isinstance(content, Unknown):
            raise Refused(
                f"holds an object of {content.asked}, not weights: making it would run code",
                "What is needed is its state_dict(), saved.",
            )
        if not isinstance(content, dict):
            raise Refused(f"holds {type(content).__name__}, not weights by their names")
        inner = next((key for key in STATES if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        beside |= {str(key): value for key, value in content.items() if key != inner}
        content = content[inner]
    if odd := [key for key in content if not isinstance(key, str)]:
        raise Refused(f"names a tensor by {odd[0]!r:.40}, not by a word")
    objects = {name: value for name, value in content.items() if isinstance(value, Unknown)}
    if objects:
        name, value = next(iter(objects.items()))
        raise Refused(f"holds an object of {value.asked} among its weights ({name[:80]}): making it would run code")
    tensors = {name: value for name, value in content.items() if isinstance(value, Place)}
    return tensors, beside | {name: value for name, value in content.items() if name not in tensors}


def _check(found: Foreign, file_bytes: int) -> None:
    if not found.tensors:
        raise Refused("holds no tensors")
    if outside := [name for name in found.tensors if set(name) & set("/\\\0")]:
        raise Refused(f"names a tensor as if it were a path: {outside[0][:80]!r}")
    if sum(place.size_bytes for place in found.tensors.values()) > MOST_TIMES * file_bytes:
        raise Refused(f"declares tensors of more than {MOST_TIMES} times its size, one over the other")


def check_numbers(tensors: Mapping[str, Place]) -> None:
    """Raises: Refused for numbers that mean nothing without what they were packed with."""
    if odd := [name for name, place in tensors.items() if place.dtype not in FLOATS]:
        raise Refused(
            f"holds {count(odd, 'tensor')} of {tensors[odd[0]].dtype} numbers ({listed(odd)}): it was made smaller for "
            "drawing",
            "Weights in 16 or 32 bits are needed.",
        )

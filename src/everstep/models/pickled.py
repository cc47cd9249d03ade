"""PyTorch's own files, .pth, .pt, .ckpt and .bin, read without running anything of them.

A file is a zip: a pickle that says what there is, and each storage as plain bytes. The pickle is read by an unpickler
that knows tensors, dictionaries and lists; whatever else it asks for becomes an `Unknown`, which does nothing.
Source: pytorch, torch/serialization.py. Never imports torch.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, BinaryIO

from everstep.models.numbers import ITEMS_MOST, Place, Refused
from everstep.versions.tensorfile import ITEM_BYTES

LARGEST_PICKLE_BYTES = 64 << 20
MOST_TUPLES = 80_000  # five of a tensor; one in the other, a few more of them overflow Python's own stack as a key
OPS_THAT_INDEX = {"BINPUT", "LONG_BINPUT", "PUT"}
OPS_OF_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# Modules that no training has a reason to store: what asks for them wants to do something where it is loaded.
HOSTILE = (
    *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes", "pty", "code"),
    *("webbrowser", "multiprocessing", "threading", "asyncio", "signal", "pickle", "urllib", "requests", "http"),
)
HOSTILE_BUILTINS = ("eval", "exec", "compile", "open", "__import__", "input", "breakpoint")
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip's entry; the last two are the lengths of its name and extras


class Unknown:
    """Stands for an object of a class that is not known here, and for its class: it takes everything, does nothing."""

    asked = ""  # the class's name

    def __new__(cls, *args: Any, **kwargs: Any) -> "Unknown":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept of what it would have been made with."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Unknown":
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Storage:
    dtype: str
    key: str
    items: int


def read_pickled(file: BinaryIO, file_bytes: int) -> Any:
    """What the file holds, with a `Place` for every tensor. Raises: Refused."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, file_bytes)
            table = next((entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"), None)
            if table is None:
                raise Refused("is a zip, but none of PyTorch's: it has no data.pkl")
            if any("/code/" in entry.filename for entry in entries):
                raise Refused("is a program (TorchScript), not weights", "Its state_dict is what is needed.")
            order = next((e for e in entries if e.filename.rpartition("/")[2] == "byteorder"), None)
            if order is not None and archive.read(order).strip() != b"little":
                raise Refused("has its numbers the wrong way round (byteorder), as machines of another kind store them")
            root = table.filename.removesuffix("data.pkl")
            data = {
                e.filename.removeprefix(f"{root}data/"): e for e in entries if e.filename.startswith(f"{root}data/")
            }
            return _Reading(archive.read(table), file, file_bytes, data).load()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError) as error:
        raise Refused(f"ends too early, or is damaged ({str(error)[:100]})", "Fetch it again.") from None


def _check_entries(entries: list[zipfile.ZipInfo], file_bytes: int) -> None:
    for entry in entries:
        name = entry.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name.split("/")[0]:
            raise Refused(f"has an entry that leads out of it, {name[:80]!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Refused(
                f"declares {entry.file_size:,} bytes in {entry.compress_size:,} ({name[:80]}): PyTorch packs nothing, "
                "and what is packed may be of any size"
            )
        if name.rpartition("/")[2] == "data.pkl" and entry.file_size > LARGEST_PICKLE_BYTES:
            raise Refused(
                f"has a table of {entry.file_size:,} bytes; {LARGEST_PICKLE_BYTES:,} are the most that is read"
            )
    if (declared := sum(entry.file_size for entry in entries)) > file_bytes:
        raise Refused(f"declares {declared:,} bytes, but is {file_bytes:,} long")
    if len({entry.filename for entry in entries}) < len(entries):
        raise Refused("has two entries of one name")


class _Reading(pickle.Unpickler):
    def __init__(self, table: bytes, file: BinaryIO, file_bytes: int, data: dict[str, zipfile.ZipInfo]) -> None:
        super().__init__(io.BytesIO(table))
        self._table, self._file, self._file_bytes, self._data = table, file, file_bytes, data
        self._begins: dict[str, int] = {}

    def load(self) -> Any:
        """Raises: Refused."""
        try:
            _check_table(self._table)
            return super().load()
        except Refused:
            raise
        except Exception as error:  # whatever a broken table leads to; nothing of it was run
            raise Refused(f"has a table that cannot be read ({type(error).__name__}: {str(error)[:100]})") from None

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in HOSTILE or (module in ("builtins", "__builtin__") and name in HOSTILE_BUILTINS):
            raise Refused(
                f"asks for {module}.{name}, which is no weight: it would run code where it is loaded. None was run",
                "Do not load it with another program either.",
            )
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "collections" and name == "defaultdict":
            return lambda *made_with: {}
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name == "Size":
            return lambda sizes=(): tuple(sizes)
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return self._tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda data, *others: data
        return type(Unknown.__name__, (Unknown,), {"asked": f"{module}.{name}"[:160]})

    def persistent_load(self, pid: Any) -> Any:
        word, dtype, key, _, items = pid
        if word != "storage" or not isinstance(key, str) or not _is_count(items):
            raise Refused("has a table that names something other than storages")
        return Storage(dtype, key, items) if isinstance(dtype, str) else Unknown()

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Any:
        if not isinstance(storage, Storage):
            return Unknown()  # of numbers that are not known here
        shape, strides = tuple(size), tuple(stride)
        if not (_is_count(offset) and all(map(_is_count, (*shape, *strides))) and len(shape) == len(strides) <= 8):
            raise Refused(f"has a tensor of a shape that is none: {str(shape)[:80]}")
        item = ITEM_BYTES[storage.dtype]
        begin, held = self._place(storage.key)
        items = 1
        for length in shape:
            items *= length
        last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True)) + 1
        if items and (last * item > held or items > held // item):
            raise Refused(f"has a tensor of {items:,} numbers outside of its storage, which has {held // item:,}")
        return Place(storage.dtype, shape, begin + offset * item, strides, (last - offset) * item if items else 0)

    def _place(self, key: str) -> tuple[int, int]:
        """Where a storage's bytes begin, and how many there are."""
        if (entry := self._data.get(key)) is None:
            raise Refused(f"has a tensor whose numbers are not in it (data/{key[:40]})")
        if key not in self._begins:
            self._file.seek(entry.header_offset)
            *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack(self._file.read(LOCAL_HEADER.size))
            self._begins[key] = entry.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        begin = self._begins[key]
        if begin + entry.file_size > self._file_bytes:
            raise Refused("ends too early", "Fetch it again.")
        return begin, entry.file_size


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number <= ITEMS_MOST


def _check_table(table: bytes) -> None:
    """The unpickler takes memory as the table tells it to: every length in it must lie inside of it."""
    tuples = 0
    for operation, argument, _ in pickletools.genops(table):
        tuples += operation.name in OPS_OF_TUPLES
        if tuples > MOST_TUPLES:
            raise Refused("has a table of more tensors than any training stores")
        if operation.name in OPS_THAT_INDEX and int(argument or 0) > len(table):
            raise Refused("has a table with a place outside of itself")
        if operation.name.startswith("EXT"):
            raise Refused("has a table with classes by number, which no training writes")

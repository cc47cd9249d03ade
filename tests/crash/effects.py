"""Every effect that this process has on the disk below a folder, seen at the calls that Python makes to the system.

Stands between `os` (and `open`) and the kernel, so it depends on nothing of how the store names or orders its own
functions. What goes around `os`, as a map or sendfile would, is not seen; whoever records compares at the end.
"""

import builtins
import io
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = {
    "open": ("open",),
    "write": ("write", "pwrite", "writev", "pwritev"),
    "fallocate": ("posix_fallocate",),
    "truncate": ("ftruncate", "truncate"),
    "fsync": ("fsync", "fdatasync"),
    "mkdir": ("mkdir",),
    "rename": ("rename", "replace"),
    "unlink": ("unlink", "remove"),
    "rmdir": ("rmdir",),
}
DIR_FDS = ("dir_fd", "src_dir_fd")
CHANGING = frozenset(CALLS) - {"open"}


@dataclass(frozen=True, slots=True)
class Effect:
    """One call that came back without an error."""

    call: str  # a key of CALLS
    path: str
    target: str = ""  # of a rename
    offset: int = 0
    content: bytes = b""
    size_bytes: int = 0  # after a fallocate or truncate
    is_new: bool = False  # the open made the file


Before = Callable[[str, str], None]
After = Callable[[Effect], None]


class Effects:
    """Inside, every call on something below the root is told: before it is made, and once it has succeeded.

    Whatever `before` raises is what the caller of the system sees.
    """

    def __init__(self, root: Path, before: Before | None = None, after: After | None = None) -> None:
        self._root, self._before, self._after = os.path.realpath(root), before, after
        self._real: list[tuple[Any, str, Any]] = []
        self._lock = threading.RLock()  # the order in which effects are told is the order in which they happened

    def __enter__(self) -> "Effects":
        for call, names in CALLS.items():
            for name in names:
                self._replace(os, name, self._watched(call, getattr(os, name)))
        opened = self._opened(io.open)
        self._replace(io, "open", opened)
        self._replace(builtins, "open", opened)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, real in reversed(self._real):
            setattr(owner, name, real)

    def _replace(self, owner: Any, name: str, instead: Any) -> None:
        self._real.append((owner, name, getattr(owner, name)))
        setattr(owner, name, instead)

    def _watched(self, call: str, real: Any) -> Any:
        def watched(*given: Any, **named: Any) -> Any:
            path, target = self._places(call, given, named)
            if path is None:
                return real(*given, **named)
            with self._lock:
                if self._before is not None:
                    self._before(call, path)
                was_there = os.path.lexists(path)
                result = real(*given, **named)
                if self._after is not None:
                    self._after(_effect(call, path, target or "", given, result, is_new=not was_there))
            return result

        return watched

    def _places(self, call: str, given: Sequence[Any], named: dict[str, Any]) -> tuple[str | None, str | None]:
        """What a call is about, and where it goes; None where that lies elsewhere."""
        path = _absolute(given[0], next((named[key] for key in DIR_FDS if named.get(key) is not None), None))
        target = _absolute(given[1], named.get("dst_dir_fd")) if call == "rename" else None
        is_ours = any(p is not None and (p + "/").startswith(self._root + "/") for p in (path, target))
        return (path, target) if is_ours else (None, None)

    def _opened(self, real: Any) -> Any:
        """`open` for writing, on top of the watched os.open and os.write."""

        def opened(file: Any, mode: str = "r", buffering: int = -1, *given: Any, **named: Any) -> Any:
            is_ours = not isinstance(file, int) and (_absolute(file, None) + "/").startswith(self._root + "/")
            if not is_ours or not set(mode) & set("wax+"):
                return real(file, mode, buffering, *given, **named)
            assert "+" not in mode, "files that are read and written are not known here"
            how = {"w": os.O_TRUNC, "a": os.O_APPEND, "x": os.O_EXCL}[next(c for c in mode if c in "wax")]
            raw = _Raw(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o666))
            if buffering == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *given, **named)

        return opened


class _Raw(io.RawIOBase):
    """A file whose bytes go through os.write."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, piece: Any) -> int:
        return os.write(self._descriptor, piece)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _absolute(place: Any, folder: int | None) -> str:
    """Of a descriptor, or of a path below a folder's descriptor; links are followed in all but the last name."""
    if isinstance(place, int):
        return os.readlink(f"/proc/self/fd/{place}")
    above = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
    head, name = os.path.split(os.path.join(above, os.fsdecode(place)))
    return os.path.join(os.path.realpath(head), name)


def _effect(call: str, path: str, target: str, given: Sequence[Any], result: Any, is_new: bool) -> Effect:
    if call == "open":
        size_bytes = 0 if given[1] & os.O_TRUNC else -1
        return Effect("open", path, is_new=is_new, size_bytes=size_bytes)
    if call == "write":
        pieces = given[1] if isinstance(given[1], (list, tuple)) else [given[1]]
        content = b"".join(bytes(memoryview(piece).cast("B")) for piece in pieces)[:result]
        is_placed = len(given) > 2
        # Where a plain write went is read off the position after it, which holds for O_APPEND too.
        offset = given[2] if is_placed else os.lseek(given[0], 0, os.SEEK_CUR) - result
        return Effect("write", path, offset=offset, content=content)
    if call in ("fallocate", "truncate"):
        size_bytes = given[1] + given[2] if call == "fallocate" else given[1]
        return Effect(call, path, size_bytes=size_bytes)
    return Effect(call, path, target=target)

"""The commit: the one way in which a version begins to exist."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from everstep.contracts import Draft
from everstep.errors import DiskFull, NotCommitted
from everstep.units import size
from everstep.versions import fsops, manifest
from everstep.versions.digests import ALGORITHM, digest
from everstep.versions.layout import DIGESTS, MANIFEST, RunLayout
from everstep.versions.tensorfile import TensorImage


class Image(Protocol):
    """A tensor file about to be written."""

    @property
    def path(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def digests(self) -> Mapping[str, str]:
        """Of every tensor; known once the file was written."""
        ...

    @property
    def is_direct(self) -> bool:
        """Whether it is written in whole pages, past the page cache."""
        ...

    def write(self, descriptor: int) -> None:
        """Write it into its new file; not flushed. Raises: OSError; DamageFound if it is not what was meant."""
        ...

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        ...


@dataclass(frozen=True, slots=True)
class Coming:
    """A version on its way: its tensors may still be being copied while their first bytes go to the disk."""

    step: int
    images: Sequence[Image]
    small_bytes: int  # of all other files, at most
    draft: Callable[[], Draft]  # asked for once the images are written; raises DamageFound if nothing came of it
    begun: Callable[[Path], None] = lambda staging: None  # told once their files are there: others may write to them

    @classmethod
    def of(cls, draft: Draft) -> "Coming":
        """All of it is there."""
        small_bytes = sum(len(content) for content in draft.small_files.values())
        return cls(draft.step, [TensorImage(file) for file in draft.tensor_files], small_bytes, lambda: draft)

    @property
    def size_bytes(self) -> int:
        return sum(image.size_bytes for image in self.images) + self.small_bytes


def commit(layout: RunLayout, number: int, coming: Coming) -> Path:
    """Write a version beside, make it durable, then let it appear under its name. Returns its folder.

    Raises: DiskFull with the bytes needed and free, or NotCommitted with what the disk said; DamageFound if an image
        is not what it was sealed as. Older versions are whole.
    Crash: before the rename, a staging folder that nothing reads and the next start removes. Between the rename and
        the flush of the run's folder, either that or the whole version. After it, the version, for good; a missing
        line in the log is written again at the next start.
    """
    staging, final = layout.new_staging(number), layout.version(number)
    try:
        _refuse_if_full(layout, number, coming)
        fsops.make_folder(staging)
        folders: set[Path] = set()
        with ExitStack() as files:
            opened = [_new_image(image, staging, folders, files) for image in coming.images]
            coming.begun(staging)
            flushes = [_write_image(image, file) for image, file in zip(coming.images, opened, strict=True)]
            draft = coming.draft()
            small_files = {**draft.small_files, DIGESTS: _digests(coming.images)}
            for path, content in small_files.items():
                flushes.append(_write_small(path, content, staging, folders, files))
            # All writes, then all flushes: the first flush takes most of what the others would wait for with it.
            for flush in flushes:
                flush()
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            fsops.flush_folder(folder)
        sealed = manifest.encode(_facts(number, draft, coming.images, small_files))
        # The manifest says that all of the above is there: it must not reach the disk before it.
        fsops.write_file(staging / MANIFEST, [sealed], len(sealed))
        fsops.flush_folder(staging)
        fsops.rename(staging, final)
        fsops.flush_folder(layout.root)
    except OSError as error:
        _abandon(staging)
        if error.errno in fsops.NO_ROOM:
            raise _full(layout, number, coming) from None
        raise NotCommitted(
            f"version_{number} (step {coming.step:,}) is not committed: {error}. Older versions are whole."
        ) from error
    except BaseException:
        _abandon(staging)
        raise
    append_log(layout, json.loads(sealed))
    return final


def _new_image(image: Image, staging: Path, folders: set[Path], files: ExitStack) -> int:
    """Its file, and the space for it."""
    path = _place(staging, image.path, folders)
    return files.enter_context(fsops.new_file(path, image.size_bytes, image.is_direct))


def _write_image(image: Image, descriptor: int) -> Callable[[], None]:
    """Returns what makes it durable."""
    image.write(descriptor)
    return lambda: fsops.flush(descriptor, image.size_bytes)


def _write_small(path: str, content: bytes, staging: Path, folders: set[Path], files: ExitStack) -> Callable[[], None]:
    descriptor = files.enter_context(fsops.new_file(_place(staging, path, folders), len(content)))
    fsops.write_all(descriptor, [content])
    return lambda: fsops.flush(descriptor)


def _place(staging: Path, path: str, folders: set[Path]) -> Path:
    """Where a file goes; the folders that it needs are made."""
    for parent in reversed(Path(path).parents[:-1]):
        if staging / parent not in folders:
            fsops.make_folder(staging / parent)
            folders.add(staging / parent)
    return staging / path


def append_log(layout: RunLayout, committed: Mapping[str, Any]) -> None:
    """Note a committed version in the log, which can be rebuilt from the versions at any time."""
    line = {key: committed[key] for key in ("version", "step", "images_seen", "created_at", "reason", "digest")}
    parent = committed.get("parent")
    line["parent"] = None if parent is None else f"{parent['run']}@{parent['version']}"  # when the version is long gone
    try:
        fsops.append_line(layout.log, json.dumps({"event": "commit", **line}))
    except OSError:
        return  # the version is there; the line is written again at the next start


def _digests(images: Sequence[Image]) -> bytes:
    """Every tensor's digest, by file and name."""
    return json.dumps({image.path: dict(image.digests) for image in images}, indent=1).encode()


def _facts(number: int, draft: Draft, images: Sequence[Image], small_files: Mapping[str, bytes]) -> dict[str, Any]:
    files = {image.path: image.entry() for image in images}
    files |= {path: {"size": len(text), "digest": digest(text)} for path, text in small_files.items()}
    return {
        "format": manifest.FORMAT,
        "version": number,
        "step": draft.step,
        "images_seen": draft.images_seen,
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "reason": draft.reason,
        "parent": None if draft.parent is None else asdict(draft.parent),
        "digest_algorithm": ALGORITHM,
        "files": files,
        **draft.facts,
    }


def _abandon(staging: Path) -> None:
    try:
        fsops.remove_tree(staging)
    except OSError:
        return  # the next start removes it


def _refuse_if_full(layout: RunLayout, number: int, coming: Coming) -> None:
    if fsops.free_bytes(layout.root) < coming.size_bytes:
        raise _full(layout, number, coming)


def _full(layout: RunLayout, number: int, coming: Coming) -> DiskFull:
    return DiskFull(
        f"version_{number} (step {coming.step:,}) is not committed: it needs {size(coming.size_bytes)}, "
        f"{layout.root} has {_free(layout)} free. Older versions are whole."
    )


def _free(layout: RunLayout) -> str:
    try:
        return size(fsops.free_bytes(layout.root))
    except OSError:  # a disk that answers badly refuses; it must not end whoever asked
        return "an unknown number of bytes"

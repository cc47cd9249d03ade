"""The commit: the one way in which a version begins to exist."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from everstep.contracts import Draft
from everstep.errors import DamageFound, DiskFull, NotCommitted
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

    def write(self, path: Path) -> None:
        """Write and flush it. Raises: OSError; DamageFound if the bytes are not those that were meant."""
        ...

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        ...


def commit(layout: RunLayout, number: int, draft: Draft, images: Sequence[Image] | None = None) -> Path:
    """Write a version beside, make it durable, then let it appear under its name. Returns its folder.

    The tensor files are the draft's, or the images where those are given.

    Raises: DiskFull with the bytes needed and free, or NotCommitted with what the disk said; DamageFound if an image
        is not what it was sealed as. Older versions are whole.
    Crash: before the rename, a staging folder that nothing reads and the next start removes. Between the rename and
        the flush of the run's folder, either that or the whole version. After it, the version, for good; a missing
        line in the log is written again at the next start.
    """
    images = [TensorImage(file) for file in draft.tensor_files] if images is None else images
    small_bytes = sum(len(content) for content in draft.small_files.values())
    _refuse_if_full(layout, number, draft, sum(image.size_bytes for image in images) + small_bytes)
    staging, final = layout.new_staging(number), layout.version(number)
    try:
        fsops.make_folder(staging)
        folders = _make_folders(staging, [*(image.path for image in images), *draft.small_files])
        for image in images:
            image.write(staging / image.path)
        small_files = {**draft.small_files, DIGESTS: _digests(images)}
        for path, content in small_files.items():
            fsops.write_file(staging / path, [content], len(content))
        for folder in folders:
            fsops.flush_folder(folder)
        sealed = manifest.encode(_facts(number, draft, images, small_files))
        fsops.write_file(staging / MANIFEST, [sealed], len(sealed))
        fsops.flush_folder(staging)
        fsops.rename(staging, final)
        fsops.flush_folder(layout.root)
    except OSError as error:
        _abandon(staging)
        if error.errno in fsops.NO_ROOM:
            _refuse(layout, number, draft, sum(image.size_bytes for image in images) + small_bytes)
        raise NotCommitted(
            f"version_{number} (step {draft.step:,}) is not committed: {error}. Older versions are whole."
        ) from error
    except DamageFound:
        _abandon(staging)
        raise
    append_log(layout, json.loads(sealed))
    return final


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


def _make_folders(staging: Path, paths: list[str]) -> list[Path]:
    """Make the folders that the paths need; returns all of them, innermost first, for flushing."""
    inner = {parent for path in paths for parent in Path(path).parents if parent != Path()}
    folders = [staging / folder for folder in sorted(inner, key=lambda folder: len(folder.parts))]
    for folder in folders:
        fsops.make_folder(folder)
    return folders[::-1]


def _abandon(staging: Path) -> None:
    try:
        fsops.remove_tree(staging)
    except OSError:
        return  # the next start removes it


def _refuse_if_full(layout: RunLayout, number: int, draft: Draft, needed_bytes: int) -> None:
    if fsops.free_bytes(layout.root) < needed_bytes:
        _refuse(layout, number, draft, needed_bytes)


def _refuse(layout: RunLayout, number: int, draft: Draft, needed_bytes: int) -> None:
    free = fsops.free_bytes(layout.root)
    raise DiskFull(
        f"version_{number} (step {draft.step:,}) is not committed: it needs {size(needed_bytes)}, "
        f"{layout.root} has {size(free)} free. Older versions are whole."
    ) from None

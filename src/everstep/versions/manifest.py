"""The manifest: the one file that says that a version exists, and everything that it holds.

Its own digest is over its canonical JSON; one that does not match does not count.
"""

import json
import os
from pathlib import Path
from typing import Any

from everstep.errors import DamageFound
from everstep.versions.digests import digest
from everstep.versions.layout import MANIFEST
from everstep.versions.reach import is_away, reaching

FORMAT = 1
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
REQUIRED = {
    "format": int,
    "version": int,
    "step": int,
    "images_seen": int,
    "created_at": str,
    "reason": str,
    "files": dict,
}


class NewerFormat(DamageFound):
    """Not damage at all: a later Everstep wrote it, and this one must not touch it."""


class NoManifest(DamageFound):
    """A folder that is named like a version and is none."""


def encode(facts: dict[str, Any]) -> bytes:
    """Seal facts into a manifest's bytes."""
    sealed = {**facts, "digest": digest(canonical(facts))}
    # Names of files need not be text; what of them is none is written as an escape of JSON, and read back as it was.
    return (json.dumps(sealed, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def canonical(facts: dict[str, Any]) -> bytes:
    """The same facts always as the same bytes."""
    return CANONICAL.encode(facts).encode("utf-8", "surrogatepass")


def stamp(folder: Path | str) -> tuple[int, ...]:
    """Changes when the manifest does; for knowing again what was read whole. Nothing else may be concluded from it."""
    try:
        found = os.stat(f"{folder}/{MANIFEST}")
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(folder: Path) -> bytes:
    try:
        with open(f"{folder}/{MANIFEST}", "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        raise NoManifest("has no manifest") from None
    except OSError as error:
        if is_away(error):
            raise
        raise DamageFound(f"has a manifest that cannot be read ({error})") from None


def read(folder: Path) -> dict[str, Any]:
    """Read a version's manifest.

    Raises: DamageFound in words without the path, if it is not whole; UnreachableDisk, if nothing can be said of it.
    """
    with reaching(folder):
        content = _content(folder)
    return decode(content)


def decode(content: bytes) -> dict[str, Any]:
    """The same of its bytes. Raises: DamageFound."""
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise DamageFound(f"has a manifest that cannot be read ({error})") from None
    if not isinstance(manifest, dict):
        raise DamageFound("has a manifest that is no table")
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise NewerFormat(f"was written by a newer Everstep: format {manifest['format']}, this one reads {FORMAT}")
    facts = {key: value for key, value in manifest.items() if key != "digest"}
    if manifest.get("digest") != digest(canonical(facts)):
        raise DamageFound("has a manifest that does not match its own digest")
    for key, kind in REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise DamageFound(f"has a manifest without {key}")
    return manifest

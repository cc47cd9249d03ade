"""A whole base in one file, unpacked into diffusers layout: once for each content, in the user's cache.

Numbers stay what they are in the file, in as many bits; where a file keeps several matrices in one they are split.
Never imports torch.
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from everstep.contracts import Counted, During
from everstep.data.remembered import is_fresh
from everstep.errors import UserError
from everstep.models.folder_files import configs_of, small_files, tensor_bytes, write_networks
from everstep.models.foreign import not_started, reading
from everstep.models.numbers import Refused
from everstep.models.one_file import OneFile
from everstep.models.predicting import settings_of
from everstep.models.tokens import check_tokenizer
from everstep.models.vocabulary import FILES, FOLDER, as_json
from everstep.models.weights import TEXT_ENCODERS, reason
from everstep.places import cache_folder
from everstep.stamps import stamp_of
from everstep.telling import untold
from everstep.units import size
from everstep.versions import fsops

CHUNK_BYTES = 1 << 24
BESIDE_BYTES = 16 << 20  # what headers and file systems take beside the numbers
CONTENT, SEEN, STAGING = "content.json", "seen.json", ".new-"
ELSEWHERE = "XDG_CACHE_HOME names another place."


def unpacked(found: OneFile, during: During = untold) -> Path:
    """The folder with what the file holds, made where it is not there yet.

    Raises: UserError where there is no room for it, or no vocabulary; nothing is left behind.
    Crash: the folder whole, or not there; what is left beside it goes with the next unpacking.
    """
    home = _home(found.path)
    around = (found.path, settings_of(found.path), *(found.path.parent / FOLDER / name for name in FILES))
    stamps = [stamp_of(str(place)) for place in around]
    key = xxhash.xxh3_128(repr((str(found.path), stamps, configs_of(found))).encode()).hexdigest()
    known = home / _seen(home).get(key, ".")
    if known != home and _is_whole(known):
        return known
    small = small_files(found)  # first, for the vocabulary may not be had
    with during(f"Reading {found.path.name}", count=size) as said:
        folder = home / f"{_stem(found.path)}-{_digest(found.path, small, said)[:16]}"
    if not _is_whole(folder):
        try:
            with during(f"Unpacking {found.path.name}", count=size) as said, _alone(home):
                if not _is_whole(folder):  # another program may have been faster
                    _make(found, small, folder, stamps[0], said)
        except OSError as error:
            raise _no_place(found.path, home, error) from None
    if not any(stamp is not None and is_fresh(stamp, time.time_ns()) for stamp in stamps):
        _remember(home, key, folder.name)
    return folder


def _home(path: Path) -> Path:
    """Raises: UserError where there is no place for it."""
    cache = cache_folder()
    if cache is None:
        raise UserError(f"{path} is a base in one file, which is unpacked into the cache of the user; there is none "
                        "here. Set XDG_CACHE_HOME. Nothing was started.")  # fmt: skip
    return cache.absolute() / "everstep/bases"


def _no_place(path: Path, home: Path, error: OSError) -> UserError:
    return UserError(f"{path} is a base in one file, which could not be unpacked into {home}: {reason(error)}. "
                     f"Nothing was started.\n{ELSEWHERE}")  # fmt: skip


def _stem(path: Path) -> str:
    letters = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in path.stem)
    return letters.encode()[:60].decode(errors="ignore").lstrip(".") or "base"


# --- what is there already ---------------------------------------------------------------------------------


def _seen(home: Path) -> dict[str, str]:
    """Which folder a file led to, by what was seen of it; what is lost of it costs time only."""
    with suppress(OSError, ValueError):
        known = json.loads((home / SEEN).read_bytes())
        if isinstance(known, dict):
            return {key: name for key, name in known.items() if isinstance(name, str) and Path(name).name == name}
    return {}


def _remember(home: Path, key: str, name: str) -> None:
    with suppress(OSError):
        known = {other: folder for other, folder in _seen(home).items() if (home / folder).is_dir()}
        fsops.replace_unflushed(home / SEEN, json.dumps({**known, key: name}).encode())


def _is_whole(folder: Path) -> bool:
    """Whether all that was written is there: others tidy caches, too, file by file."""
    try:
        sizes = json.loads((folder / CONTENT).read_bytes())
        return bool(sizes) and all((folder / name).stat().st_size == sizes[name] for name in sizes)
    except (OSError, ValueError, TypeError, KeyError):
        return False


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One unpacks at a time, so what lies there unfinished is nobody's. The system lets go of it with the process."""
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in home.glob(f"{STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


# --- unpacking ---------------------------------------------------------------------------------------------


def _digest(path: Path, small: Mapping[str, bytes], said: Counted) -> str:
    """Of all that the folder is made of. Raises: UserError."""
    digest = xxhash.xxh3_128(repr(sorted(small.items())).encode())
    try:
        with reading(path) as (file, all_bytes):
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                said(file.tell(), all_bytes)
    except Refused as refused:
        raise not_started(path, refused) from None
    return digest.hexdigest()


def _make(found: OneFile, small: Mapping[str, bytes], folder: Path, stamp: bytes | None, said: Counted) -> None:
    """
    Args:
        stamp: of the file when it was first looked at; one that changes meanwhile is none of the two.

    Raises: UserError; OSError.
    """
    _check_room(found, small, folder.parent)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder.parent))
    try:
        sizes = {name: _write(staging / name, content) for name, content in small.items()}
        texts = [part for part in found.configs if part in TEXT_ENCODERS]
        for text, tokenizer in zip(texts, found.whole.pads, strict=True):
            _check_words(found.path, staging / tokenizer, int(found.configs[text]["vocab_size"]))
        sizes |= write_networks(found, staging, said)
        _write(staging / CONTENT, as_json(sizes))
        for inside in staging.iterdir():
            if inside.is_dir():
                fsops.flush_folder(inside)
        fsops.flush_folder(staging)
        if stamp_of(str(found.path)) != stamp:
            raise UserError(f"{found.path} changed while it was read. Nothing was started.")
        if folder.is_dir():  # it has lost a file
            fsops.remove_tree(folder)
        fsops.rename(staging, folder)
        fsops.flush_folder(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_words(path: Path, folder: Path, vocabulary: int) -> None:
    """Raises: UserError that names the vocabulary's own place."""
    try:
        check_tokenizer(folder, vocabulary)
    except UserError as fault:
        said = str(fault).replace(str(folder), str(path.parent / FOLDER))
        raise UserError(said) from None


def _check_room(found: OneFile, small: Mapping[str, bytes], home: Path) -> None:
    """Raises: UserError."""
    needed = sum(map(len, small.values())) + tensor_bytes(found) + BESIDE_BYTES
    free = fsops.free_bytes(home)
    if free < needed:
        raise UserError(f"{found.path} is a base in one file, which is unpacked into {home}: that takes "
                        f"{size(needed)}, and {size(free)} are free there. Nothing was started.\n{ELSEWHERE}"
                        )  # fmt: skip


def _write(path: Path, content: bytes) -> int:
    path.parent.mkdir(exist_ok=True)
    fsops.write_file(path, [content], len(content))
    return len(content)

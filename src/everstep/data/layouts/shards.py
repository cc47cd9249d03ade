"""Pairs in tar shards, as WebDataset has them: members whose names are alike up to the first dot are one pair.

A shard is read through once; where its members begin is kept in the user's cache, so that any pair can be read at any
time. A file is known as "shard-0.tar#00017.jpg".
"""

import glob
import io
import itertools
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from everstep.data.layouts.columns import Columns, guess
from everstep.data.layouts.files import refuse_another
from everstep.data.layouts.listing import Finding, Listed, Listing, made, texts
from everstep.data.remembered import Memory
from everstep.errors import UserError
from everstep.places import spelled
from everstep.stamps import NO_STAMP, stamp_of

PICTURES = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "ppm", "gif")
TEXTS = ("txt", "text", "caption", "json")
LARGEST_TEXT_BYTES = 1 << 20
TOLD_OF_VERSION = ("ETag", "etag", "mtime", "created", "LastModified", "last_modified", "Last-Modified", "md5Hash")
T = TypeVar("T")
FORMAT = "shard-1"
Counted = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a shard; its text where it is one."""

    name: str
    offset: int
    size: int
    text: str | None = None


class Shard:
    """One tar, here or at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._path = Path(address) if "://" not in address else None
        self._system: Any = None
        if self._path is None:
            self._system, self._inside = _fsspec().core.url_to_fs(address)
        self.stamp = self._stamp()

    def open(self) -> Any:
        """For reading through it once. Raises: OSError."""
        return self._path.open("rb") if self._path is not None else self._system.open(self._inside, "rb")

    def read(self, member: Member) -> bytes:
        """Raises: OSError; ValueError in words."""
        if self._path is None:
            content = bytes(self._system.cat_file(self._inside, member.offset, member.offset + member.size))
        else:
            refuse_another(self._path, self.stamp)
            with self._path.open("rb") as file:
                file.seek(member.offset)
                content = file.read(member.size)
        if len(content) != member.size:
            raise ValueError(f"{self.address} ends too early")
        return content

    def _stamp(self) -> bytes | None:
        """Size and times; of an address whatever tells versions apart there, in their place. Raises: OSError."""
        if self._path is not None:
            self._path.stat()
            return stamp_of(str(self._path))
        told = self._system.info(self._inside)
        version = {key: str(told[key]) for key in TOLD_OF_VERSION if told.get(key) is not None}
        if not version or told.get("size") is None:
            return None
        digest = xxhash.xxh3_128_digest(json.dumps(version, sort_keys=True).encode())
        return struct.pack("<Q", told["size"]) + digest


class ShardFiles:
    """Members of shards."""

    def __init__(self, shards: dict[str, Shard], members: dict[str, Member]) -> None:
        self._shards, self._members = shards, members

    def read(self, name: str) -> bytes:
        shard, member = self._shard(name), self._members[name]
        try:
            return shard.read(member)
        except (OSError, ValueError):
            raise
        except Exception as error:  # what carries a request has errors of its own, another for each kind of address
            raise OSError(f"{shard.address}: {' '.join(str(error).split()) or type(error).__name__}") from None

    def stamp(self, name: str) -> bytes | None:
        return self._shard(name).stamp

    def stamps(self, names: Sequence[str]) -> Iterator[bytes]:
        return (self.stamp(name) or NO_STAMP for name in names)

    def place(self, name: str) -> str:
        """The shard as if it were a folder; an address as if it were one at the root."""
        address = self._shard(name).address
        return f"{address if address.startswith('/') else f'/{address}'}/{name.partition('#')[2]}"

    def where(self, name: str) -> str:
        return f"{self._shard(name).address}#{name.partition('#')[2]}"

    def in_order(self, names: Iterable[str]) -> Iterable[str]:
        return names

    def _shard(self, name: str) -> Shard:
        return self._shards[name.partition("#")[0]]


def is_address(words: str) -> bool:
    """Whether it names shards that are not, or not as one file or folder, on this disk."""
    return "://" in words or (re.search(r"\{[^{}]*\}", words) is not None and words.endswith(".tar"))


def read_shards(where: str, asked: Columns, progress: Counted | None, names: list[str] | None = None) -> Listing:
    """List the pairs of shards. Raises: UserError.

    Args:
        names: of the shards, where they are known; else the path is a file, an address, or a pattern in braces.
    """
    addresses = names or _addresses(where)
    shards: dict[str, Shard] = {}
    parts: dict[str, dict[str, Member]] = {}  # of each pair, by ending
    members: dict[str, Member] = {}
    with Memory() as memory:
        for done, address in enumerate(addresses):
            short = _short(address, shards)
            shards[short], found = _indexed(address, memory)
            for member in found:
                members[f"{short}#{member.name}"] = member
                key, ending = _key(member.name)
                parts.setdefault(f"{short}#{key}", {})[ending] = member
            if progress is not None and len(addresses) > 1:
                progress(done, len(addresses))
    if not parts:
        raise UserError(f"{where} lists no pairs: its shards are empty. Nothing was started.")
    return _listing(where, parts, shards, members, asked)


def _short(address: str, others: dict[str, Shard]) -> str:
    """The name of a shard, with the folder that it is in where another is called alike."""
    parts = re.split("/+", address)
    return next((name for k in range(1, len(parts)) if (name := "/".join(parts[-k:])) not in others), address)


def _listing(
    where: str,
    parts: dict[str, dict[str, Member]],
    shards: dict[str, Shard],
    members: dict[str, Member],
    asked: Columns,
) -> Listing:
    roles = _roles(parts)
    columns = guess(where, list(roles), asked)
    pairs: list[Listed] = []
    findings: list[Finding] = []
    for line, (key, there) in enumerate(parts.items(), start=1):
        shard = key.partition("#")[0]
        target, condition = (_named(there, column) for column in (columns.target, columns.condition))
        if target is None or (condition is None and columns.condition is not None):
            lacking = columns.target if target is None else columns.condition
            findings.append(Finding(line, key, f"has no {lacking}; it has {', '.join(there)}"))
            continue
        captions = _captions(there, columns.caption) if columns.caption else [""]
        if captions is None:
            findings.append(Finding(line, key, f"has no {columns.caption}; it has {', '.join(there)}"))
            continue
        conditions = [f"{shard}#{condition.name}"] if condition else []
        pair, odd = made(line, f"{shard}#{target.name}", conditions, captions)
        pairs.append(pair)
        findings += odd
    of = "1 shard" if len(shards) == 1 else f"{len(shards):,} shards"
    said = f"{of} ({columns.in_words()})"
    files, is_captioned = ShardFiles(shards, members), columns.caption is not None
    return Listing(where, where, said, tuple(pairs), tuple(findings), files, is_captioned)


def _roles(parts: dict[str, dict[str, Member]]) -> dict[str, None]:
    """All that may be a column: endings of pictures and texts, and the keys of a json."""
    roles: dict[str, None] = {}
    for there in parts.values():
        for ending, member in there.items():
            roles[role_of(ending)] = None
            if ending == "json" or ending.endswith(".json"):
                roles |= dict.fromkeys(key for key, value in _json(member).items() if texts(value))
    plain = [ending for there in parts.values() for ending in there if ending in PICTURES]
    if any(sum(ending in PICTURES for ending in there) > 1 for there in itertools.islice(parts.values(), 100)):
        roles.pop("image", None)
        roles |= dict.fromkeys(plain)
    return roles


def role_of(ending: str) -> str:
    """condition of condition.png, image of png, text of txt."""
    role, _, last = ending.rpartition(".")
    if last in PICTURES:
        return role or "image"
    if last in ("txt", "text"):
        return role or "text"
    return ending


def _named(there: dict[str, Member], column: str | None) -> Member | None:
    return next((member for ending, member in there.items() if column in (ending, role_of(ending))), None)


def _captions(there: dict[str, Member], column: str) -> list[str] | None:
    member = _named(there, column)
    if member is not None and member.text is not None and not member.name.endswith(".json"):
        return [member.text.strip()]
    for ending, member in there.items():
        if ending.endswith("json") and column in (told := _json(member)):
            return texts(told[column])
    return None


def _json(member: Member) -> dict[str, Any]:
    try:
        told = json.loads(member.text or "")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _key(name: str) -> tuple[str, str]:
    """As WebDataset has it: what is before the first dot of the last part, and what is after it."""
    folder, slash, last = name.rpartition("/")
    key, _, ending = last.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


# --- what is in a shard ------------------------------------------------------------------------------------


def _addresses(where: str) -> list[str]:
    found = [one for words in _without_braces(where) for one in _expanded(words)]
    if not found:
        raise UserError(f"{where} leads to no .tar. Nothing was started.")
    return found


def _without_braces(words: str) -> list[str]:
    """shard-{000..002}.tar and {a,b}.tar written out."""
    found = re.search(r"\{([^{}]*)\}", words)
    if found is None:
        return [words]
    inside, span = found[1], re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span is None:
        some = inside.split(",")
    else:
        some = [f"{number:0{len(span[1])}d}" for number in range(int(span[1]), int(span[2]) + 1)]
    begin, end = words[: found.start()], words[found.end() :]
    return [whole for one in some for whole in _without_braces(f"{begin}{one}{end}")]


def _expanded(words: str) -> list[str]:
    """The shards of a folder at an address, of a pattern with *, or the one that is named."""
    if "://" not in words:
        path = str(spelled(words))
        return sorted(glob.glob(path)) if "*" in words else [str(Path(path).absolute())]
    if words.endswith(".tar") and "*" not in words:
        return [words]
    system, inside = _reach(words, lambda: _fsspec().core.url_to_fs(words))
    pattern = inside if "*" in inside else f"{inside.rstrip('/')}/*.tar"
    found = _reach(words, lambda: sorted(system.glob(pattern)))
    return [str(system.unstrip_protocol(path)) for path in found]


def _indexed(address: str, memory: Memory) -> tuple[Shard, list[Member]]:
    """The members of a shard, from the cache where it is as it was. Raises: UserError."""
    shard = _reach(address, lambda: Shard(address))
    stamp = None if shard.stamp is None else xxhash.xxh3_128_digest(shard.stamp)
    place = f"{FORMAT}:{address}"
    known = None if stamp is None else memory.recall_list(place, stamp)
    if known is not None:
        return shard, [Member(*told) for told in json.loads(zlib.decompress(known))]
    members = _reach(address, lambda: _looked_through(shard))
    if stamp is not None:
        told = [[member.name, member.offset, member.size, member.text] for member in members]
        memory.remember_list(place, stamp, zlib.compress(json.dumps(told).encode(), 1))
    return shard, members


def _looked_through(shard: Shard) -> list[Member]:
    members = []
    with shard.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for told in tar:
            if not told.isfile():
                continue
            text = None
            if _key(told.name)[1].rpartition(".")[2] in TEXTS and told.size <= LARGEST_TEXT_BYTES:
                content = tar.extractfile(told)
                text = (content or io.BytesIO()).read().decode("utf-8-sig", "replace")
            members.append(Member(told.name, told.offset_data, told.size, text))
            end = told.offset_data + told.size
        file.seek(0, io.SEEK_END)
        if members and file.tell() < end:
            raise ValueError(f"its last member, {members[-1].name}, is cut short")
    return members


def _reach(address: str, do: Callable[[], T]) -> T:
    """Raises: UserError in one sentence, whatever kind of address it is."""
    try:
        return do()
    except (UserError, KeyboardInterrupt):
        raise
    except FileNotFoundError:
        raise UserError(f"The data {address} is not there. Nothing was started.") from None
    except tarfile.TarError as error:
        raise UserError(
            f"{address} is no plain tar that can be read ({error}); a compressed one must be unpacked first. "
            "Nothing was started."
        ) from None
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{address} cannot be read ({why}). Nothing was started.") from None


def _fsspec() -> Any:
    """Raises: UserError with what to install."""
    try:
        import_module("fsspec")
        return import_module("fsspec.core") and import_module("fsspec")
    except ImportError:
        raise UserError(
            "Shards at an address need fsspec, which is not installed. Nothing was started. "
            "pip install 'everstep[data]'"
        ) from None

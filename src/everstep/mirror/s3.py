"""A place for copies that is a prefix of an S3 bucket, by obstore. Credentials come from where obstore finds them.

What arrives is compared on the way: each request is signed over its body, and the server's digest of what it has stored
(ETag: MD5 of an object, or of the MD5 of its parts) with ours. A server that has another kind of ETag is read back.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from everstep.mirror.addresses import Address
from everstep.mirror.backend import PIECE_BYTES, Still
from everstep.mirror.credentials import found_here
from everstep.mirror.lease import leased

if TYPE_CHECKING:
    from obstore.store import ClientConfig

TIMEOUT_S = 120.0  # of one request, with a part in it
GIVEN_UP_S = 180.0  # after so long no request is tried again
RETRIES = 8
PARTS_AT_ONCE = 4
MOST_PARTS = 9000  # S3 takes 10,000
ETAG = re.compile(r'"?([0-9a-f]{32})(?:-(\d+))?"?')
CODE = re.compile(r"<Code>(\w+)</Code>")
STATUS = re.compile(r"status code: (\d{3} [A-Za-z -]+)")
FULL = ("InsufficientStorage", "507", "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge")
REFUSED = ("403", "401", "SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied")


class S3:
    """A `Place` in a bucket."""

    def __init__(self, address: Address) -> None:
        self._address = address

    @property
    def address(self) -> str:
        return str(self._address)

    def size(self, name: str) -> int | None:
        found = self._head(name)
        return None if found is None else int(found["size"])

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> bool:
        part_bytes = max(PIECE_BYTES, -(-size_bytes // MOST_PARTS))
        digests = _Digests()
        with _told():
            if size_bytes <= part_bytes:
                whole = b"".join(digests.parts(content, part_bytes))
                put = obstore.put(self._store, name, whole, use_multipart=False)
            else:
                put = obstore.put(
                    self._store,
                    name,
                    digests.parts(content, part_bytes),
                    use_multipart=True,
                    chunk_size=part_bytes,
                    max_concurrency=PARTS_AT_ONCE,
                )
        return digests.is_vouched_by(put["e_tag"])

    def create(self, name: str, content: bytes) -> bool:
        """By If-None-Match; where the answer to a first try was lost, the second says that it is there."""
        with _told():
            try:
                obstore.put(self._store, name, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def read(self, name: str) -> bytes | None:
        with _told():
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    def stream(self, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
        """Several pieces on their way at once, each a request of its own, which may be tried again."""

        def piece(begin: int) -> bytes:
            with _told():
                length = min(PIECE_BYTES, size_bytes - begin)
                return bytes(obstore.get_range(self._store, name, start=begin, length=length))

        coming, begins = deque[Any](), iter(range(0, size_bytes, PIECE_BYTES))
        with ThreadPoolExecutor(PARTS_AT_ONCE, "everstep-s3") as readers:
            try:
                for begin in begins:
                    coming.append(readers.submit(piece, begin))
                    if len(coming) > PARTS_AT_ONCE:
                        yield coming.popleft().result()
                while coming:
                    yield coming.popleft().result()
            finally:
                for asked in coming:
                    asked.cancel()

    def names(self, name: str = "") -> list[str]:
        with _told():
            found = obstore.list_with_delimiter(self._store, f"{name}/" if name else None)
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def files(self, folder: str) -> dict[str, int]:
        with _told():
            found = obstore.list(self._store, f"{folder}/").collect()
        return {str(one["path"]).removeprefix(f"{folder}/"): int(one["size"]) for one in found}

    def delete(self, name: str) -> None:
        with _told(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def alone(self, may_wait: bool) -> AbstractContextManager[Still]:
        return leased(self, may_wait)

    def age_s(self, name: str) -> float | None:
        """Beside a file that is written now."""
        probe = f".now-{secrets.token_hex(8)}"
        found = self._head(name)
        if found is None:
            return None
        try:
            with _told():
                obstore.put(self._store, probe, b"", use_multipart=False)
            now = self._head(probe)
        finally:
            self.delete(probe)
        return None if now is None else float((now["last_modified"] - found["last_modified"]).total_seconds())

    @cached_property
    def _store(self) -> S3Store:
        address = self._address
        given: dict[str, Any] = dict(found_here())
        given |= {key: address.options[key] for key in ("endpoint", "region") if key in address.options}
        options: ClientConfig = {"timeout": timedelta(seconds=TIMEOUT_S)}
        if (given.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http:"):
            options["allow_http"] = True
        return S3Store(
            address.host,
            prefix=address.path or None,
            client_options=options,
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=GIVEN_UP_S)},
            **given,
        )

    def _head(self, name: str) -> Any:
        with _told():
            try:
                return obstore.head(self._store, name)
            except FileNotFoundError:
                return None


class _Digests:
    """MD5 of what passes, part by part, as S3 makes an ETag of them."""

    def __init__(self) -> None:
        self._taken: list[bytes] = []

    def parts(self, content: Iterable[memoryview | bytes], part_bytes: int) -> Iterator[bytes]:
        """The same bytes, in parts of just this size."""
        waiting = bytearray()
        for piece in content:
            if not waiting and len(piece) == part_bytes:  # as they come from a disk: copied once
                yield self._digested(bytes(piece))
                continue
            waiting += piece
            while len(waiting) >= part_bytes:
                yield self._digested(bytes(waiting[:part_bytes]))
                del waiting[:part_bytes]
        if waiting:
            yield self._digested(bytes(waiting))

    def is_vouched_by(self, etag: str | None) -> bool:
        """False also of a server whose ETags are no MD5, as of encrypted objects: then it is read back."""
        found = ETAG.fullmatch(etag or "")
        if found is None:
            return False
        if found[2] is None and len(self._taken) <= 1:
            mine = self._taken[0] if self._taken else hashlib.md5(usedforsecurity=False).digest()
        elif found[2] is not None and int(found[2]) == len(self._taken):
            mine = hashlib.md5(b"".join(self._taken), usedforsecurity=False).digest()
        else:
            return False
        return mine.hex() == found[1]

    def _digested(self, part: bytes) -> bytes:
        self._taken.append(hashlib.md5(part, usedforsecurity=False).digest())
        return part


@contextmanager
def _told() -> Iterator[None]:
    """Inside, what obstore raises becomes an error of the system. What it says at length may hold what was signed: only
    the server's code and status are repeated.
    """
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise PermissionError(errno.EACCES, "there is no such bucket") from None
        raise
    except BaseError as error:
        raise _as_system(error) from None


def _as_system(error: BaseError) -> OSError:
    text = str(error)
    told = [found[1] for pattern in (STATUS, CODE) if (found := pattern.search(text))]
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(code in REFUSED for code in _codes(told)):
        return PermissionError(errno.EACCES, f"these credentials are refused ({', '.join(told) or 'no reason given'})")
    if any(code in FULL for code in _codes(told)):
        return OSError(errno.ENOSPC, f"it has no room ({', '.join(told)})")
    if told:
        return OSError(errno.EREMOTEIO, f"the server says {', '.join(told)}")
    first = re.sub(r"^Generic S3 error: ", "", text.split("\n")[0])
    return OSError(errno.ETIMEDOUT, f"there is no answer ({first[:200]})")


def _codes(told: list[str]) -> Iterator[str]:
    for text in told:
        yield from (text, text.split()[0])

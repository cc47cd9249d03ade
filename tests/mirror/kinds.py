"""Every kind of place that copies can be sent to, each real: what the suite needs to know of it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from servers import Server, Sshd, Weed

from everstep.mirror.addresses import place_of
from everstep.mirror.backend import Place
from everstep.mirror.folder import Folder

KINDS = ("folder", "s3", "sftp")
DISK_BYTES = 48 << 20


@dataclass
class Kind:
    """target: what a user writes. server: what can be killed; of a folder, the disk that it is on."""

    name: str
    target: str
    server: "Server | LoopDisk | None" = None
    refused: Callable[[pytest.MonkeyPatch], None] = field(default=lambda patch: None)

    @property
    def place(self) -> Place:
        """Of the run r; anew, as another process would have it."""
        return place_of(self.target, "r")

    @property
    def mirror(self) -> str:
        """The address of the copies of the run r."""
        return self.place.address

    def come_back(self) -> None:
        if self.server is not None:
            self.server.come_back()


def folder_kind(disk: Path, power: "LoopDisk | None" = None) -> Kind:
    return Kind("folder", str(disk), power)


def s3_kind(weed: Weed, folder: str) -> Kind:
    def refuse(patch: pytest.MonkeyPatch) -> None:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")

    return Kind("s3", f"s3://{weed.bucket}/{folder}?endpoint={weed.endpoint}", weed, refuse)


def sftp_kind(sshd: Sshd, stored: Path) -> Kind:
    stored.mkdir(exist_ok=True)

    def refuse(patch: pytest.MonkeyPatch) -> None:
        """Another key than the one that is known there."""
        ssh = stored.parent / "stranger/.ssh"
        ssh.mkdir(parents=True)
        shutil.copy(sshd.home / ".ssh/stranger", ssh / "id_ed25519")
        shutil.copy(sshd.home / ".ssh/known_hosts", ssh / "known_hosts")
        patch.setenv("HOME", str(ssh.parent))

    return Kind("sftp", f"sftp://{sshd.host}{stored}", sshd, refuse)


class LoopDisk:
    """A file system of its own in a file; skipped, with the reason, where that is refused."""

    def __init__(self, folder: Path, size_bytes: int = DISK_BYTES) -> None:
        self.mount_point, self._image = folder / "mounted", folder / "disk"
        image = self._image
        self.mount_point.mkdir(parents=True)
        with image.open("wb") as file:
            file.truncate(size_bytes)
        for words in (["mkfs.ext4", "-qF", "-m0", image], ["mount", "-o", "loop", image, self.mount_point]):
            if shutil.which(words[0]) is None:
                pytest.skip(f"{words[0]} is not installed")
            ended = subprocess.run(words, capture_output=True, text=True)
            if ended.returncode != 0:
                pytest.skip(f"{words[0]}: {ended.stderr.strip()}")

    def kill(self) -> None:
        """A power cut: what was not flushed is gone, the journal's tail included."""
        if shutil.which("xfs_io") is None:
            pytest.skip("xfs_io is not installed (apt-get install xfsprogs)")
        subprocess.run(["xfs_io", "-x", "-c", "shutdown", str(self.mount_point)], check=True)

    def come_back(self) -> None:
        """What is on the disk is read again."""
        subprocess.run(["umount", str(self.mount_point)], check=True)
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.mount_point)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.mount_point], capture_output=True)


def rot(place: Place, name: str) -> None:
    """One bit of what is stored, with nobody told."""
    if isinstance(place, Folder):
        path = place.root / name
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return
    content = bytearray(place.read(name) or b"")
    content[-1] ^= 1
    place.put(name, [bytes(content)], len(content))


def fill(disk: Path, left_bytes: int) -> Path:
    """Take all of its room, but for so much; returns the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        status = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left_bytes)
    return ballast

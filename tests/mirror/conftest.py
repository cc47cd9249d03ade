"""Servers that live as long as the tests of this folder, and a place of its own in them for each test."""

import getpass
from collections.abc import Iterator
from pathlib import Path

import pytest
from kinds import KINDS, Kind, LoopDisk, folder_kind, s3_kind, sftp_kind
from servers import KEY, SECRET, Sshd, Weed, start_sshd, start_weed


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    yield from start_weed(tmp_path_factory.mktemp("weed"))


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    yield from start_sshd(tmp_path_factory.mktemp("sshd"))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the tests, and none of whoever runs them."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path: Path, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kind]:
    """A place to send to, empty; its server answers, at the beginning and at the end."""
    if request.param == "folder":
        disk = LoopDisk(tmp_path / "loop")
        yield folder_kind(disk.mount_point, disk)
        disk.unmount()
        return
    server = request.getfixturevalue({"s3": "weed", "sftp": "sshd"}[request.param])
    if isinstance(server, Sshd):
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.setenv("USER", getpass.getuser())
        made = sftp_kind(server, tmp_path / "elsewhere")
    else:
        made = s3_kind(server, tmp_path.name)
    yield made
    made.come_back()

"""Data sets on the hub: what is downloaded of them, and from a hub on this machine, one of parquet."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from everstep.data.layouts.hub import wanted_files
from laid_out import brought, parquet

SHA = "1" * 40
LOOK = """
import sys
from everstep.data import open_source
told = []
source = open_source("me/pairs", 32, progress=lambda done, total: told.append((done, total)))
print(source.description, source.load(11).caption, told[:2])
"""


class Hub(BaseHTTPRequestHandler):
    folder: Path

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer()

    def _answer(self, is_head: bool = False) -> None:
        path = self.path.partition("?")[0]
        file = self.folder / path.rpartition("/")[2]
        if path.startswith("/api/"):
            names = [{"rfilename": f"data/{path.name}"} for path in sorted(self.folder.glob("*.parquet"))]
            content = json.dumps({"id": "me/pairs", "sha": SHA, "siblings": names}).encode()
        else:
            content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "hub").mkdir()
    parquet(tmp_path / "hub", brought())
    Hub.folder = tmp_path / "hub"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def look(tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), **more}
    words = [sys.executable, "-c", LOOK]
    return subprocess.run(words, env=surroundings, cwd=tmp_path, capture_output=True, text=True)


def test_a_data_set_is_downloaded_once(hub: str, tmp_path: Path) -> None:
    first = look(tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    said = "12 pairs, parquet (target image, condition conditioning_image, caption text), 32x32 number 11"
    assert first.stdout.strip() == f"{said} [(0, 2), (1, 2)]", first.stderr
    again = look(tmp_path, HF_HUB_OFFLINE="1")
    assert again.stdout.startswith(said), again.stderr


def test_offline_is_said_in_one_sentence(tmp_path: Path) -> None:
    ended = look(tmp_path, HF_HUB_OFFLINE="1")
    assert ended.stderr.splitlines()[-1] == (
        "everstep.errors.UserError: The data me/pairs is no folder here and could not be had from the hub: the hub is "
        "switched off (HF_HUB_OFFLINE). Nothing was started."
    )


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (["README.md", "data/train-0.parquet", "data/test-0.parquet", "a.png"], ["data/train-0.parquet"]),
        (["a.tar", "b.tar", "a.png"], ["a.tar", "b.tar"]),
        (["metadata.jsonl", "a.png", "b.py"], ["metadata.jsonl", "a.png"]),
        (["README.md"], []),
    ],
)
def test_what_is_downloaded(there: list[str], wanted: list[str]) -> None:
    assert wanted_files(there) == wanted

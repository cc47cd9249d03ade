"""Shards that are not on this disk: in memory, and behind a server."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from everstep.data import check, open_source
from everstep.errors import UserError
from laid_out import brought, shards


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files too, as servers of data do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path))
        if not content.is_file():
            self.send_error(404)
            return
        data, status = content.read_bytes(), 200
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            total, begin = len(data), int(first)
            data = data[begin : int(last) + 1 if last else None]
            status = 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(data) - 1}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", str(content.stat().st_mtime_ns))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    (tmp_path / "served").mkdir()
    handler = functools.partial(Ranged, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_shards_in_memory(tmp_path: Path, cache: Path) -> None:
    shards(tmp_path, brought())
    system = fsspec.filesystem("memory")
    for path in tmp_path.glob("*.tar"):
        system.pipe(f"/pairs/{path.name}", path.read_bytes())
    source = open_source("memory://pairs", 32)
    assert source.description == "12 pairs, 2 shards (target image, condition condition, caption text), 32x32"
    assert source.load(11).caption == "number 11"
    one = open_source("memory://pairs/shard-000001.tar", 32)
    assert [one.load(k).caption for k in range(len(one))] == [f"number {k}" for k in range(6, 12)]
    system.rm("/pairs", recursive=True)
    with pytest.raises(UserError, match=r"could be read when it was checked, but not now"):
        source.load(11)
    with pytest.raises(UserError, match=r"memory://pairs.* Nothing was started"):
        open_source("memory://pairs", 32)


def test_shards_behind_a_server(served: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    folder, root = served
    shards(folder, brought())
    pattern = f"{root}/shard-{{000000..000001}}.tar"
    first = check(pattern)
    source = open_source(pattern, 32)
    assert [source.load(k).caption for k in (11, 3)] == ["number 11", "number 3"]
    with monkeypatch.context() as patched:
        patched.setattr("everstep.data.examining._looked_at", None)
        patched.setattr("everstep.data.layouts.shards._looked_through", None)
        assert check(pattern).fingerprint == first.fingerprint
    with pytest.raises(UserError, match=r"shard-000007\.tar is not there\. Nothing was started"):
        check(f"{root}/shard-000007.tar")

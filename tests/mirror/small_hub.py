"""A hub on this machine: as much of its HTTP as a mirror asks for, with commits, large files by digest, and tokens.

The real one cannot be asked from a test. What it does beyond this (its own storage, Xet) is not tried here.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_testtoken"
LARGE_ENDING = ".safetensors"
NO_ENTRY = ("X-Error-Code", "EntryNotFound")


class SmallHub:
    """Its files, by path, as the newest commit has them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []  # their messages
        self.uploaded: dict[str, bytes] = {}  # by SHA-256
        self.exists = False
        self.lock = threading.Lock()

    @property
    def head(self) -> str:
        return hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()

    def commit(self, lines: list[dict[str, Any]]) -> bool:
        """All of it or nothing; False where the branch is not as it was seen."""
        with self.lock:
            header = lines[0]["value"]
            if header.get("parentCommit") not in (None, self.head):
                return False
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.uploaded[value["oid"]]
                elif line["key"] == "deletedFile":
                    self.files.pop(value["path"], None)
            self.commits.append(header["summary"])
            return True

    def told(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        told: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path.endswith(LARGE_ENDING):
            told["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return told

    def listed(self, folder: str, is_deep: bool) -> list[dict[str, Any]]:
        inside = f"{folder}/" if folder else ""
        found = {path: path[len(inside) :] for path in sorted(self.files) if path.startswith(inside)}
        files = [self.told(path) for path, rest in found.items() if is_deep or "/" not in rest]
        folders = sorted({inside + rest.split("/")[0] for rest in found.values() if "/" in rest})
        return [*files, *({"type": "directory", "path": path, "oid": "0" * 40} for path in folders)]


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def log_message(self, *told: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        taken = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != taken:
            return self._send(422, b"another digest")
        self.hub.uploaded[taken] = content
        return self._send(200, b"")

    def _answer(self, body: bytes) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(403, b"{}")
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            self.hub.exists = True
            return self._json({"url": f"{self._here()}/o/name", "id": "o/name"})
        if not self.hub.exists:
            return self._send(404, b"{}", ("X-Error-Code", "RepoNotFound"))
        return self._repository(path, body)

    def _repository(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path.startswith("/o/name/resolve/main/"):
            return self._content(path.removeprefix("/o/name/resolve/main/"))
        if path.endswith("/objects/batch"):
            return self._json({"objects": [self._upload(one) for one in json.loads(body)["objects"]]})
        if "/preupload/" in path:
            return self._json({"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]})
        if "/paths-info/" in path:
            wanted = re.findall(r"paths=([^&]*)", body.decode()) or json.loads(body)["paths"]
            wanted = [unquote(one) for one in ([wanted] if isinstance(wanted, str) else wanted)]
            return self._json([hub.told(one) for one in wanted if one in hub.files])
        if "/tree/" in path:
            folder = path.partition("/tree/main")[2].strip("/")
            found = hub.listed(folder, "recursive=true" in self.path.lower())
            return self._json(found) if found or not folder else self._send(404, b"{}", NO_ENTRY)
        if "/commit/" in path:
            if not hub.commit([json.loads(line) for line in body.splitlines()]):
                return self._send(412, b'{"error": "A commit has happened since"}')
            return self._json({"commitUrl": f"{self._here()}/o/name/commit/{hub.head}", "commitOid": hub.head})
        return self._json({"id": "o/name", "sha": hub.head, "siblings": []})

    def _content(self, name: str) -> None:
        if name not in self.hub.files:
            return self._send(404, b"", NO_ENTRY)
        content = self.hub.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            begin, end = int(asked[1]), int(asked[2] or len(content) - 1) + 1
            return self._send(206, content[begin:end], ("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}"))
        return self._send(200, content)

    def _mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(LARGE_ENDING) else "regular", "shouldIgnore": False}

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        told = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] in self.hub.uploaded:
            return told
        return {**told, "actions": {"upload": {"href": f"{self._here()}/upload/{one['oid']}"}}}

    def _here(self) -> str:
        return f"http://{self.headers['Host']}"

    def _json(self, told: Any) -> None:
        self._send(200, json.dumps(told).encode(), ("Content-Type", "application/json"))

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(hub: SmallHub) -> Iterator[str]:
    """Yields its address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

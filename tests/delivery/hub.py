"""A hub on this machine, as far as one commit needs it: run as a program, it prints its port and keeps what it gets.

What is uploaded lies in the folder that it is started with.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(BaseHTTPRequestHandler):
    folder: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = self.path.partition("?")[0]
        with (self.folder / "asked.txt").open("a") as log:
            log.write(f"{path} {self.headers.get('Authorization')}\n")
        if path == "/api/repos/create":
            (self.folder / "created.json").write_bytes(body)
            self._answer({"url": f"http://{self.headers['Host']}/me/edges", "name": "me/edges"})
        elif "/preupload/" in path:
            asked = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        elif "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    (self.folder / entry["value"]["path"]).write_bytes(content)
            self._answer({"commitUrl": f"http://{self.headers['Host']}/me/edges/commit/0", "commitOid": "0" * 40})
        else:
            self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self._answer({"id": "me/edges", "modelId": "me/edges", "siblings": []})

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, facts: object) -> None:
        refused = (self.folder / "refuse").exists()
        body = json.dumps({"error": "You may not"} if refused else facts).encode()
        self.send_response(403 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    Hub.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()

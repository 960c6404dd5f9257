"""A hub on this machine: a real server that answers as much as a download asks."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "s3cret" * 5
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "README.md": b"# card",
}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a download needs; ``server.mode`` says how it behaves."""

    def do_GET(self, body=True):
        self.server.asked.append(self.path)
        names = {f"/owner/name/resolve/{COMMIT}/{name}": data for name, data in FILES.items()}
        if self.server.mode == "missing":
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif self.server.mode == "gated" and not self.path.startswith("/api/models/owner/name/rev"):
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"no {TOKEN}"}
            self.answer(403, b"", headers, body)
        elif self.path.startswith("/api/models/owner/name/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                for n, d in FILES.items()
            ]
            self.answer(200, json.dumps(tree).encode(), {}, body)
        elif self.path.startswith("/api/models/owner/name"):
            info = {
                "id": "owner/name",
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in FILES],
            }
            self.answer(200, json.dumps(info).encode(), {}, body)
        else:
            data = names[self.path]
            self.answer(200, data, {"ETag": f'"{len(data)}"', "X-Repo-Commit": COMMIT}, body)

    def do_HEAD(self):
        self.do_GET(body=False)

    def answer(self, status, data, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def running():
    """The server; ``url``: where it is, ``mode``: open, gated or missing, ``asked``: the paths."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.mode, server.asked = "open", []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()

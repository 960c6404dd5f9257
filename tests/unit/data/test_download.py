"""Files by URL, from a real server on this machine."""

import hashlib
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from refusals import refused

from arrag.data.download import display_url, fetch_file, git_digest
from arrag.utils.errors import MismatchError, MissingError, UsageError

NOWHERE = "http://127.0.0.1:9/x"
DATA = b"one prompt a line\n" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/prompts.txt").write_bytes(DATA)
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_with_the_pinned_content_arrives_once(server, tmp_path):
    out = tmp_path / "data/prompts.txt"
    for _ in range(2):
        found = fetch_file(f"{server.url}/prompts.txt", out, sha256=SHA256[:10])
        assert found == {"bytes": len(DATA), "sha256": SHA256}
    assert out.read_bytes() == DATA and len(server.asked) == 1


def test_a_file_may_be_pinned_as_git_does(server, tmp_path):
    out = tmp_path / "prompts.txt"
    name = subprocess.check_output(["git", "hash-object", "--stdin"], input=DATA).decode().strip()
    fetch_file(f"{server.url}/prompts.txt", out, git_blob=name)
    assert git_digest(out) == name


@pytest.mark.parametrize("pin", [{"sha256": "f" * 64}, {"git_blob": "0" * 40}])
def test_other_content_names_the_digest_and_leaves_nothing(server, tmp_path, pin):
    out = tmp_path / "data/prompts.txt"
    with refused(MismatchError) as caught:
        fetch_file(f"{server.url}/prompts.txt", out, **pin)
    assert next(iter(pin.values())) in caught.value.message
    assert not list(out.parent.iterdir())


def test_what_cannot_be_had_is_refused(server, tmp_path):
    for kind, url, pin in (
        (MissingError, f"{server.url}/none.txt", {"sha256": SHA256}),
        (MissingError, NOWHERE, {"sha256": SHA256}),
        (UsageError, NOWHERE, {}),
        (UsageError, NOWHERE, {"sha256": "abc"}),
        (UsageError, NOWHERE, {"git_blob": "x" * 40}),
    ):
        with refused(kind):
            fetch_file(url, tmp_path / "x", **pin)
    assert not list(tmp_path.glob("*x*"))


def test_secrets_in_a_url_are_not_shown():
    assert display_url("https://me:pw@host:8/a/b?token=t#f") == "https://host:8/a/b"
    for url in ("ftp://me:pw@host/x?token=t", "http://me:pw@[127/x?token=t"):
        with refused() as caught:
            fetch_file(url, "x", sha256=SHA256)
        assert "pw" not in str(caught.value) and "token" not in str(caught.value)

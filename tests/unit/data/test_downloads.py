"""Files by address, from a real server on this machine."""

import hashlib
import json
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from arrag.data.download import fetch_file, git_digest, shown, write_subset
from arrag.utils.errors import ArragError

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
        found = fetch_file(f"{server.url}/prompts.txt", out, sha256=SHA256)
        assert found == {"bytes": len(DATA), "sha256": SHA256}
    assert out.read_bytes() == DATA and len(server.asked) == 1


def test_other_content_names_both_digests_and_leaves_nothing(server, tmp_path):
    out = tmp_path / "data/prompts.txt"
    with pytest.raises(ArragError) as caught:
        fetch_file(f"{server.url}/prompts.txt", out, sha256="f" * 64)
    assert SHA256 in str(caught.value) and "f" * 64 in str(caught.value)
    assert not out.exists() and not list(out.parent.iterdir())


def test_a_file_may_be_pinned_as_git_does(server, tmp_path):
    out = tmp_path / "prompts.txt"
    found = subprocess.run(
        ["git", "hash-object", "--stdin"], input=DATA, capture_output=True, check=True
    )
    name = found.stdout.decode().strip()
    fetch_file(f"{server.url}/prompts.txt", out, git_blob=name)
    assert git_digest(out) == name
    with pytest.raises(ArragError, match=f"git blob is {name}"):
        fetch_file(f"{server.url}/prompts.txt", tmp_path / "other", git_blob="0" * 40)


@pytest.mark.parametrize(
    ("path", "message"), [("/none.txt", "the server answered 404"), (None, "no answer")]
)
def test_an_address_that_does_not_answer_is_one_sentence(server, tmp_path, path, message):
    url = f"{server.url}{path}" if path else "http://127.0.0.1:9/x"
    with pytest.raises(ArragError, match=message):
        fetch_file(url, tmp_path / "x", sha256=SHA256)
    assert not (tmp_path / "x").exists()


def test_secrets_in_an_address_are_not_shown():
    assert shown("https://me:pw@host:8/a/b?token=t#f") == "https://host:8/a/b"
    with pytest.raises(ArragError, match="begins with http") as caught:
        fetch_file("ftp://me:pw@host/x?token=t", "x", sha256=SHA256)
    assert "pw" not in str(caught.value) and "token" not in str(caught.value)


def test_a_subset_keeps_every_nth_in_the_file_s_own_format(tmp_path):
    lines = tmp_path / "p.jsonl"
    lines.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(25)))
    assert write_subset(lines, tmp_path / "few.jsonl", 10) == 3
    kept = [
        json.loads(line)["prompt"] for line in (tmp_path / "few.jsonl").read_text().split("\n")[:-1]
    ]
    assert kept == ["p0", "p10", "p20"]

    meta = tmp_path / "meta_data.json"
    meta.write_text(json.dumps({f"h{i}": {"prompt": f"é{i}"} for i in range(25)}))
    assert write_subset(meta, tmp_path / "few.json", 10) == 3
    assert list(json.loads((tmp_path / "few.json").read_text())) == ["h0", "h10", "h20"]

    table = tmp_path / "dpg.csv"
    rows = [f'{item},"a, ""b""\nc",{q}' for item in range(5) for q in range(3)]
    table.write_text("item_id,text,proposition_id\n" + "\n".join(rows) + "\n")
    assert write_subset(table, tmp_path / "few.csv", 2) == 3
    from arrag.data.prompts import load_question_prompts

    found = load_question_prompts(tmp_path / "few.csv")
    assert [q["item_id"] for q in found] == ["0", "2", "4"] and found[0]["prompt"] == 'a, "b"\nc'
    with pytest.raises(ArragError, match="no prompt file"):
        (tmp_path / "bad.json").write_text("[]")
        write_subset(tmp_path / "bad.json", tmp_path / "x.json", 2)

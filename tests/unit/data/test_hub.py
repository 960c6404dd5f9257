"""Downloads of a hub reference from a real cache folder and from a real server on this machine."""

import json
import zipfile
from pathlib import Path

import hub_server
import pytest
from hub_server import COMMIT, FILES, TOKEN
from refusals import refused

from arrag.config.hub import Reference
from arrag.data.hub import fetch_hub, manifest_path
from arrag.utils.errors import FormatError, MissingError


@pytest.fixture
def cache(tmp_path) -> Path:
    """The client's cache as an earlier download leaves it, of real small files."""
    repository = tmp_path / "cache/models--owner--name"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    for name, data in FILES.items():
        (repository / "snapshots" / COMMIT / name).write_bytes(data)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Tests are offline; these ask this machine alone, and say so by ``endpoint``.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server.running() as server:
        yield server


REFERENCE = Reference("owner/name", "main")
NOWHERE = "http://127.0.0.1:9"  # a port where nothing answers


def test_without_a_network_an_earlier_download_is_taken(cache, tmp_path):
    out = tmp_path / "data/hub/owner~name@main"
    found = fetch_hub(REFERENCE, out, cache=cache, endpoint=NOWHERE)
    visible = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    assert visible == ["config.json", "model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == b"weights"
    assert found["commit"] == COMMIT and found["revision"] == "main"
    assert found["files"]["model.safetensors"]["bytes"] == 7
    assert json.loads(manifest_path(out).read_text()) == found
    (cache / f"models--owner--name/snapshots/{COMMIT}/model.safetensors").write_bytes(b"WEIGHTS")
    after = fetch_hub(REFERENCE, tmp_path / "b", cache=cache, endpoint=NOWHERE)
    assert found["digest"] != after["digest"]


def test_what_is_wanted_is_downloaded_and_nothing_else(hub, tmp_path):
    out = tmp_path / "weights"
    found = fetch_hub(REFERENCE, out, cache=tmp_path / "cache", endpoint=hub.url)
    assert set(found["files"]) == {"config.json", "model.safetensors"}
    assert (out / "config.json").read_bytes() == FILES["config.json"]
    assert not any("pytorch_model.bin" in path for path in hub.asked)


@pytest.mark.parametrize("mode", ["gated", "missing", "unreachable"])
def test_what_cannot_be_had_is_one_error_without_the_token(hub, tmp_path, mode):
    hub.mode = mode
    endpoint = NOWHERE if mode == "unreachable" else hub.url
    with refused(MissingError) as caught:
        fetch_hub(REFERENCE, tmp_path / "out", cache=tmp_path / "cache", endpoint=endpoint)
    assert "https://huggingface.co/owner/name" in caught.value.field
    assert ("gated" in caught.value.message) is (mode == "gated")
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__
    assert not (tmp_path / "out").exists()


def test_a_named_zip_is_unpacked_inside_the_folder(cache, tmp_path):
    snapshot = cache / f"models--owner--name/snapshots/{COMMIT}"
    for name, member in (("images", "animals/a.jpg"), ("own", "own/c.jpg")):
        with zipfile.ZipFile(snapshot / f"{name}.zip", "w") as zipped:
            zipped.writestr(member, member.encode())
    reference = Reference("owner/name", "main", ("*.zip",))
    fetch_hub(reference, tmp_path / "out", cache=cache, endpoint=NOWHERE)
    for file in ("images/animals/a.jpg", "own/c.jpg"):
        assert (tmp_path / "out" / file).read_bytes().decode() in file
    with zipfile.ZipFile(snapshot / "own.zip", "w") as zipped:
        zipped.writestr("../c.jpg", b"c")
    with refused(FormatError):
        fetch_hub(reference, tmp_path / "out2", cache=cache, endpoint=NOWHERE)
    assert not (tmp_path / "out2").exists()

"""Hub references, and downloads from a real cache folder and from a real server on this machine."""

import json
from pathlib import Path

import hub_server
import pytest
from hub_server import COMMIT, FILES, TOKEN

from arrag.config.hub import FOLDER, Reference, local, parse, reference_of, wanted
from arrag.data.hub import about_of, fetch
from arrag.utils.errors import ArragError


@pytest.mark.parametrize(
    "text",
    [
        "hub:owner/name@main",
        "hub:owner/name.v1_2-x@refs/pr/3",
        "hub:datasets/owner/name@main#images.zip",
        f"hub:owner/name@{COMMIT}#a.pt,unet/*.bin",
    ],
)
def test_a_folder_s_name_holds_the_whole_reference(text):
    reference, inside = parse(text)
    assert (f"hub:{reference}", inside) == (text, "")
    assert reference.folder.parent == FOLDER
    assert reference_of(reference.folder) == reference_of(reference.folder / "x/y") == reference


def test_a_part_of_a_repository_is_a_path_in_its_folder():
    assert local("hub:a/b@main:text_encoder") == "data/hub/a~b@main/text_encoder"
    assert local("checkpoints/micro-janus") == "checkpoints/micro-janus"
    assert reference_of("checkpoints/micro-janus") is None
    assert parse("hub:a/b@main")[0].fixed is False and parse(f"hub:a/b@{COMMIT}")[0].fixed


@pytest.mark.parametrize(
    "text", ["hub:a/b", "hub:b@main", "hub:a/../b@main", "hub:a/b@", "hub:a/b@m#", "hub:a--b/c@m"]
)
def test_what_is_no_reference_says_what_is(text):
    with pytest.raises(ValueError, match="hub:owner/name@revision"):
        parse(text)


def test_no_pickle_unless_it_is_named():
    assert wanted(FILES) == ["config.json", "model.safetensors"]
    assert "pytorch_model.bin" in wanted(FILES, ["*.bin"])
    with pytest.raises(ArragError, match=r"no file other\.bin there .*config\.json"):
        wanted(FILES, ["other.bin"])
    with pytest.raises(ArragError, match=r"no safetensors.*model\.bin"):
        wanted(["model.bin", ".gitattributes"])


def test_of_a_repository_of_many_models_only_what_is_named_is_fetched():
    names = ["a/model.safetensors", "a/config.json", "b/model.safetensors", "images.zip"]
    assert wanted(names, ["a/*"]) == ["a/config.json", "a/model.safetensors"]
    assert wanted(names, ["images.zip"]) == ["images.zip"]
    assert len(wanted(names)) == 3


def test_a_pipeline_is_fetched_once_not_in_each_of_its_forms():
    names = {
        "model_index.json",
        "all_in_one.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "tokenizer/vocab.json",
        "vae/onnx/model.json",
        "unet/diffusion_pytorch_model.bin",
    }
    assert wanted(names) == [
        "model_index.json",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


@pytest.fixture
def cache(tmp_path) -> Path:
    """The client's cache as an earlier download leaves it, of real small files."""
    repository = tmp_path / "cache/models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, data in FILES.items():
        (snapshot / name).write_bytes(data)
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
    about = fetch(REFERENCE, out, cache=cache, endpoint=NOWHERE)
    visible = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    assert visible == ["config.json", "model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == b"weights"
    assert about["commit"] == COMMIT and about["revision"] == "main"
    assert about["files"]["model.safetensors"]["bytes"] == 7
    assert json.loads(about_of(out).read_text()) == about


def test_other_bytes_are_another_digest(cache, tmp_path):
    before = fetch(REFERENCE, tmp_path / "a", cache=cache, endpoint=NOWHERE)
    (cache / f"models--owner--name/snapshots/{COMMIT}/model.safetensors").write_bytes(b"WEIGHTS")
    after = fetch(REFERENCE, tmp_path / "b", cache=cache, endpoint=NOWHERE)
    assert before["digest"] != after["digest"]


def test_what_is_wanted_is_downloaded_and_nothing_else(hub, tmp_path):
    out = tmp_path / "weights"
    about = fetch(REFERENCE, out, cache=tmp_path / "cache", endpoint=hub.url)
    assert set(about["files"]) == {"config.json", "model.safetensors"}
    assert (out / "config.json").read_bytes() == FILES["config.json"]
    assert not any("pytorch_model.bin" in path for path in hub.asked)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("gated", "gated; accept its licence on that page, then log in with `hf auth login`"),
        ("missing", "no such repository, or a private one"),
    ],
)
def test_what_cannot_be_had_is_one_sentence_without_the_token(hub, tmp_path, mode, message):
    hub.mode = mode
    with pytest.raises(ArragError, match="https://huggingface.co/owner/name") as caught:
        fetch(REFERENCE, tmp_path / "out", cache=tmp_path / "cache", endpoint=hub.url)
    assert message in str(caught.value)
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__
    assert not (tmp_path / "out").exists()


def test_no_network_and_no_download_is_one_sentence(tmp_path):
    with pytest.raises(ArragError, match="out of reach and no earlier download.*by hand"):
        fetch(REFERENCE, tmp_path / "out", cache=tmp_path / "cache", endpoint=NOWHERE)


def test_a_named_zip_is_unpacked(cache, tmp_path):
    import zipfile

    snapshot = cache / f"models--owner--name/snapshots/{COMMIT}"
    with zipfile.ZipFile(snapshot / "images.zip", "w") as zipped:
        zipped.writestr("animals/a.jpg", b"a")
        zipped.writestr("people/b.jpg", b"b")
    with zipfile.ZipFile(snapshot / "own.zip", "w") as zipped:
        zipped.writestr("own/c.jpg", b"c")
    reference = Reference("owner/name", "main", ("*.zip",))
    fetch(reference, tmp_path / "out", cache=cache, endpoint=NOWHERE)
    assert (tmp_path / "out/images/animals/a.jpg").read_bytes() == b"a"
    assert (tmp_path / "out/own/c.jpg").read_bytes() == b"c"

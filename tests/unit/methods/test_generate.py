"""The sampling stage: layout on disk, resuming, other settings, bad input."""

import shutil

import numpy as np
import pytest
import torch
import yaml

from arrag.config.root import load_config
from arrag.data.encode import encode_source
from arrag.data.sample_dir import load_image, read_codes
from arrag.data.token_store import TokenStore
from arrag.methods.build import ArtifactPaths
from arrag.methods.runner import generate_images, image_path, prepare, sample_benchmark
from arrag.retrieval.index import build_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_text
from arrag.utils.hashing import sha256_file

PROMPT = '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "%s"}\n'


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_janus, root):
    """A configuration of two prompts over a random model."""
    folder = tmp_path_factory.mktemp("settings")
    write_text(
        folder / "prompts.jsonl", PROMPT % "a photo of a dog" + PROMPT % "a photo of two cups"
    )
    document = yaml.safe_load((root / "config" / "micro-ci.yaml").read_text())
    document["generators"]["janus"]["checkpoint"] = str(tiny_janus)
    document["benchmarks"]["geneval"]["prompts"] = str(folder / "prompts.jsonl")
    write_text(folder / "config.yaml", yaml.safe_dump(document))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def database(tmp_path_factory, tiny_janus, assets):
    folder = tmp_path_factory.mktemp("database")
    encode_source("micro:database", tiny_janus, folder / "codes", limit=30, assets=assets)
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), mode="exact")
    return {"store": folder / "codes", "index": folder / "index"}


def digests(out):
    return {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("*.png"))}


def test_layout_resume_and_other_settings(settings, database, tmp_path):
    config = load_config(settings)
    out = tmp_path / "daid"
    run = sample_benchmark(
        config, "daid", out, paths=ArtifactPaths(**database), batch_size=3, progress=False
    )
    whole = digests(out)
    assert sorted(whole) == [f"0000{i}/samples/000{k}.png" for i in range(2) for k in range(2)]
    codes = read_codes(image_path(out, 1, 0))  # int64 [H, W], kept in the PNG
    decoded = load_tokenizer(config.generators["janus"].checkpoint).decode(
        torch.from_numpy(codes)[None]
    )
    assert np.array_equal(decoded[0], load_image(image_path(out, 1, 0)))
    assert run["config_hash"] == config.config_hash("daid")
    assert read_json(out / "run.json")["versions"]["torch"]
    assert read_json(out / "00001" / "metadata.jsonl")["prompt"] == "a photo of two cups"
    # What a kill leaves: some images, no run.json.
    (out / "run.json").unlink()
    image_path(out, 0, 1).unlink()
    kept = image_path(out, 1, 0).stat().st_mtime_ns
    sample_benchmark(
        config, "daid", out, paths=ArtifactPaths(**database), batch_size=1, progress=False
    )
    assert digests(out) == whole
    assert image_path(out, 1, 0).stat().st_mtime_ns == kept
    # The same folder for another method: nothing of the old one may stay.
    sample_benchmark(config, "vanilla", out, progress=False)
    assert read_json(out / "run.json")["method"] == "vanilla"
    assert not set(digests(out).values()) & set(whole.values())


def test_one_prompt_gives_the_benchmark_s_image(settings, tmp_path):
    config = load_config(settings)
    sample_benchmark(config, "vanilla", tmp_path / "run", progress=False)
    from PIL import Image

    stored = np.asarray(Image.open(image_path(tmp_path / "run", 1, 0)))
    alone = generate_images(config, "vanilla", ["a photo of two cups"], seed=0)
    assert np.array_equal(alone[0], stored)


def test_foreign_files_are_not_removed(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ArragError, match="no samples; name an empty folder"):
        prepare(tmp_path, {}, [])
    assert (tmp_path / "thesis.tex").exists()


def test_index_of_another_tokenizer(settings, database, tmp_path):
    from arrag.backbones import micro

    document = yaml.safe_load(settings.read_text())
    model, tokenizer = micro.build_janus(seed=9)
    micro.save_janus(model, tokenizer, tmp_path / "other")
    document["generators"]["janus"]["checkpoint"] = str(tmp_path / "other")
    write_text(tmp_path / "config.yaml", yaml.safe_dump(document))
    with pytest.raises(ArragError, match="tokenizer"):
        sample_benchmark(
            load_config(tmp_path / "config.yaml"),
            "daid",
            tmp_path / "o",
            paths=ArtifactPaths(**database),
        )
    assert not (tmp_path / "o").exists()


def test_empty_prompt_file(settings, tmp_path):
    document = yaml.safe_load(settings.read_text())
    document["benchmarks"]["geneval"]["prompts"] = str(tmp_path / "none.jsonl")
    (tmp_path / "none.jsonl").write_text("\n")
    write_text(tmp_path / "config.yaml", yaml.safe_dump(document))
    with pytest.raises(ArragError, match="none.jsonl.*no prompt"):
        sample_benchmark(load_config(tmp_path / "config.yaml"), "vanilla", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_index_leaves_no_samples(settings, database, tmp_path):
    broken = tmp_path / "codes"
    shutil.copytree(database["store"], broken)
    shard = next(broken.glob("shard-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ArragError, match="shard-00000.npy"):
        sample_benchmark(
            load_config(settings),
            "daid",
            tmp_path / "o",
            paths=ArtifactPaths(broken, database["index"]),
        )
    assert not (tmp_path / "o").exists()

"""Sampling a benchmark: layout on disk, resuming, parts, other settings, bad input."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arrag.backbones import micro
from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.data.encode import encode_source
from arrag.data.sample_dir import load_image, read_codes
from arrag.data.token_store import TokenStore
from arrag.methods.registry import ArtifactPaths
from arrag.methods.runner import generate_images, merge_parts, sample_benchmark
from arrag.methods.sample_folder import FINAL, PARTIAL, SampleFolder, image_path
from arrag.retrieval.index import build_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import ArragError, MismatchError, OutputError
from arrag.utils.files import read_json, write_json, write_text
from arrag.utils.hashing import sha256_file
from arrag.utils.shards import JobPart

PROMPT = '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "%s"}\n'
GENERATE = ["generate", "--benchmark", "geneval"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_janus, root):
    """A configuration of two prompts over a random model."""
    folder = tmp_path_factory.mktemp("settings")
    prompts = [PROMPT % "a photo of a dog", PROMPT % "a photo of two cups"]
    write_text(folder / "prompts.jsonl", "".join(prompts))
    document = yaml.safe_load((root / "config" / "micro-ci.yaml").read_text())
    document["generators"]["janus"]["checkpoint"] = str(tiny_janus)
    document["benchmarks"]["geneval"]["prompts"] = str(folder / "prompts.jsonl")
    write_text(folder / "config.yaml", yaml.safe_dump(document))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def config(settings):
    return load_config(settings)


@pytest.fixture
def changed(settings, tmp_path):
    """The configuration with other values at dotted paths."""

    def change(**values):
        document = yaml.safe_load(settings.read_text())
        for path, value in values.items():
            *parents, last = path.split("__")
            block = document
            for parent in parents:
                block = block[parent]
            block[last] = value
        write_text(tmp_path / "config.yaml", yaml.safe_dump(document))
        return load_config(tmp_path / "config.yaml")

    return change


@pytest.fixture(scope="module")
def database(tmp_path_factory, tiny_janus, assets):
    folder = tmp_path_factory.mktemp("database")
    encode_source("micro:database", tiny_janus, folder / "codes", limit=30, assets=assets)
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), mode="exact")
    return ArtifactPaths(store=folder / "codes", index=folder / "index")


def sample(config, out, method="vanilla", **options):
    return sample_benchmark(config, method, out, progress=False, **options)


def digests(out, pattern="*"):
    """SHA-256 by name, without hidden files."""
    paths = sorted(p for p in out.rglob(pattern) if p.is_file() and p.name[0] != ".")
    return {str(p.relative_to(out)): sha256_file(p) for p in paths}


def test_layout_resume_and_other_settings(config, database, tmp_path):
    out = tmp_path / "daid"
    run = sample(config, out, "daid", paths=database, batch_size=3)
    whole = digests(out, "*.png")
    assert sorted(whole) == [f"0000{i}/samples/000{k}.png" for i in range(2) for k in range(2)]
    codes = read_codes(image_path(out, 1, 0))  # int64 [H, W], kept in the PNG
    tokenizer = load_tokenizer(config.generators["janus"].checkpoint)
    decoded = tokenizer.decode(torch.from_numpy(codes)[None])
    assert np.array_equal(decoded[0], load_image(image_path(out, 1, 0)))
    assert run["config_hash"] == config.config_hash("daid")
    assert read_json(out / FINAL)["versions"]["torch"]
    assert read_json(out / "00001" / "metadata.jsonl")["prompt"] == "a photo of two cups"
    # What a kill leaves: some images, no run.json.
    (out / FINAL).unlink()
    image_path(out, 0, 1).unlink()
    kept = image_path(out, 1, 0).stat().st_mtime_ns
    sample(config, out, "daid", paths=database, batch_size=1)
    assert digests(out, "*.png") == whole
    assert image_path(out, 1, 0).stat().st_mtime_ns == kept
    # The same folder for another method: nothing of the old one may stay.
    sample(config, out)
    assert read_json(out / FINAL)["method"] == "vanilla"
    assert not set(digests(out, "*.png").values()) & set(whole.values())


def test_a_single_prompt_gives_the_benchmark_s_image(config, tmp_path):
    sample(config, tmp_path / "run")
    stored = np.asarray(Image.open(image_path(tmp_path / "run", 1, 0)))
    alone = generate_images(config, "vanilla", ["a photo of two cups"], seed=0)
    assert np.array_equal(alone[0], stored)


def test_only_samples_are_ever_removed(config, tmp_path):
    foreign = tmp_path / "thesis.tex"
    foreign.write_text("mine")
    with pytest.raises(OutputError) as error:
        sample(config, tmp_path)
    assert error.value.path == tmp_path and error.value.hint
    foreign.rename(tmp_path / "aside")
    out = tmp_path / "out"
    SampleFolder(out, {"seed": 0}, [])
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError) as error:  # other settings, which start afresh
        SampleFolder(out, {"seed": 1}, [])
    assert error.value.path == out / "thesis.tex"
    assert (out / "thesis.tex").exists() and read_json(out / PARTIAL) == {"seed": 0}


def test_bad_input_leaves_no_samples(config, changed, database, tmp_path):
    out = tmp_path / "out"
    broken = tmp_path / "codes"
    shutil.copytree(database.store, broken)
    shard = next(broken.glob("shard-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ArragError) as error:
        sample(config, out, "daid", paths=ArtifactPaths(broken, database.index))
    assert error.value.path == shard
    with pytest.raises(ArragError) as error:
        sample(config, out, "daid", paths=ArtifactPaths(store=database.store))
    assert error.value.field == "index"
    model, tokenizer = micro.build_janus(seed=9)
    micro.save_janus(model, tokenizer, tmp_path / "other")
    with pytest.raises(ArragError):
        other = changed(generators__janus__checkpoint=str(tmp_path / "other"))
        sample(other, out, "daid", paths=database)
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ArragError) as error:
        sample(changed(benchmarks__geneval__prompts=str(tmp_path / "none.jsonl")), out)
    assert error.value.path == tmp_path / "none.jsonl"
    assert not out.exists()


@given(st.integers(0, 20), st.integers(1, 6))
def test_parts_are_contiguous_and_alike(items, count):
    parts = [JobPart(i, count).slice(range(items)) for i in range(1, count + 1)]
    assert [item for part in parts for item in part] == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_sample_what_one_job_samples(config, tmp_path):
    out = tmp_path / "parts"
    run = sample(config, tmp_path / "whole", batch_size=3)
    sample(config, out, batch_size=3, part=JobPart(1, 2))
    first = list(out.rglob("*.png"))
    assert len(first) == 3, "a part is not of whole batches, but a batch may change an image"
    assert merge_parts(config, "vanilla", out, None) is None and not (out / FINAL).exists()
    dates = [path.stat().st_mtime_ns for path in first]
    for i in (3, 2, 1):  # another number of parts in between
        sample(config, out, batch_size=3, part=JobPart(i, 3))
    assert [path.stat().st_mtime_ns for path in first] == dates
    assert not (out / FINAL).exists()
    assert merge_parts(config, "vanilla", out, None).items() >= run.items()
    assert digests(out) == digests(tmp_path / "whole")


def test_what_parts_left_out_is_sampled_by_the_last_job(settings, config, tmp_path):
    out = tmp_path / "out"
    command = [*GENERATE, "--config", settings, "--method", "vanilla", "--out", out, "--join"]
    sample(config, out)
    whole = digests(out)
    image_path(out, 1, 0).unlink()
    (out / FINAL).unlink()
    assert main([*map(str, command)]) == 0
    assert digests(out) == whole


def test_a_part_removes_nothing(config, changed, tmp_path):
    out = tmp_path / "out"
    sample(config, out, part=JobPart(1, 2), batch_size=1)
    before, other = digests(out), changed(seed=1)
    with pytest.raises(MismatchError) as error:
        sample(other, out, part=JobPart(2, 2), batch_size=1)
    assert error.value.path == out / PARTIAL and error.value.hint
    assert merge_parts(other, "vanilla", out, None) is None
    assert digests(out) == before
    write_json(out / PARTIAL, {})
    assert merge_parts(config, "vanilla", out, None) is None


def test_bad_parts_are_refused(settings, tmp_path, capsys):
    command = [*GENERATE, "--config", str(settings), "--out", str(tmp_path / "out")]
    for text in ("0/3", "4/3", "3", "a/b", "-1/3"):
        assert main([*command, "--method", "vanilla", f"--part={text}"]) == 2
    assert main([*command, "--method", "real", "--part", "1/2"]) == 2
    assert "--part" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_begun_together_and_killed(changed, root, tmp_path):
    texts = (f"a photo of a {color} dog" for color in ("red", "green", "blue", "pink"))
    write_text(tmp_path / "prompts.jsonl", "".join(PROMPT % text for text in texts))
    config = changed(
        benchmarks__geneval__prompts=str(tmp_path / "prompts.jsonl"), resources={"batch_size": 1}
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "arrag", *GENERATE, "--method", "vanilla"]
    command += ["--config", str(tmp_path / "config.yaml"), "--out", str(out), "--part"]
    jobs = [subprocess.Popen([*command, f"{i}/2"], cwd=root) for i in (1, 2)]
    deadline = time.monotonic() + 240
    while not image_path(out, 2, 0).is_file():  # the second part's first
        assert jobs[1].poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    jobs[1].send_signal(signal.SIGKILL)
    assert jobs[1].wait() == -signal.SIGKILL and jobs[0].wait() == 0
    first = list(out.rglob("[0-9]*.png"))
    assert 4 < len(first) < 8, "all was sampled before the kill"
    dates = {path: os.stat(path).st_mtime_ns for path in first}
    sample(config, out, part=JobPart(2, 2), batch_size=1)
    assert {path: os.stat(path).st_mtime_ns for path in first} == dates
    assert merge_parts(config, "vanilla", out, None) and (out / FINAL).is_file()

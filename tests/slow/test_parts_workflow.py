"""The workflow in parts, killed once: the files of single jobs, and nothing made twice."""

import os
import shutil
import signal
import sys
import time

import pytest
import yaml
from background import Background

from arrag.config.root import load_config
from arrag.data.token_store import TokenStore
from arrag.methods.runner import sample_benchmark
from arrag.pipeline.layout import Layout
from arrag.retrieval.index import open_index
from arrag.training.neighbours import retrieve_neighbours
from arrag.training.pairs import Pairs
from arrag.utils.hashing import sha256_file


@pytest.fixture
def project(tmp_path, root, assets, monkeypatch):
    """A copy of the repository whose configuration is the smallest that has parts."""
    path = tmp_path / "project"
    for part in ("workflow", "profiles", "config", "checkpoints"):
        shutil.copytree(root / part, path / part)
    shutil.copy(root / "Snakefile", path)
    (path / "data").symlink_to(assets.parent)
    document = yaml.safe_load((path / "config/micro-ci.yaml").read_text())
    prompts = (root / document["benchmarks"]["geneval"]["prompts"]).read_text().splitlines(True)
    (path / "prompts.jsonl").write_text("".join(prompts[:3]))
    geneval = document["benchmarks"]["geneval"]
    geneval |= {"prompts": "prompts.jsonl", "images_per_prompt": 1}
    document["benchmarks"] = {"geneval": geneval}
    document["database"] |= {"images": 20, "shard_size": 10}
    document["training"] |= {"pairs": 10, "held_out": 4}
    document["methods"] = {name: document["methods"][name] for name in ("vanilla", "faid")}
    document["methods"]["faid"]["augment"]["adapter"] = None
    document["resources"] = {"batch_size": 1, "sample_parts": {"geneval": 2}, "retrieve_parts": 2}
    del document["grids"], document["figures"]
    (path / "config/micro.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    monkeypatch.chdir(path)
    return path


def start(*targets):
    return Background([sys.executable, "-m", "snakemake", "--cores", "2", *targets])


def digests(folder):
    return {str(p.relative_to(folder)): sha256_file(p) for p in folder.rglob("*") if p.is_file()}


def images(folder):
    return {p: p.stat().st_mtime_ns for p in folder.glob("[0-9]*/samples/[0-9]*.png")}


def test_the_workflow_in_parts_makes_the_files_of_single_jobs(project):
    config = load_config("config/micro.yaml")
    layout = Layout(config)
    samples, neighbours = layout.samples("vanilla", "geneval"), layout.neighbours("faid")
    targets = samples / "run.json", neighbours / "manifest.json"
    process = start(targets[0])
    deadline = time.monotonic() + 500
    while not images(samples):
        assert process.poll() is None and time.monotonic() < deadline, process.said()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    drawn = images(samples)
    start(*targets).finish()
    assert images(samples).items() >= drawn.items()
    marks = [path.name for path in project.glob("results/*/**/*.parts/*")]
    assert sorted(marks) == 2 * ["1-of-2"] + 2 * ["2-of-2"]

    sample_benchmark(config, "vanilla", "one", batch_size=1, progress=False)
    assert digests(samples) == digests(project / "one")
    store = TokenStore.open(layout.codes("faid"))
    pairs, index = Pairs.open(layout.pairs("faid")), open_index(layout.index("faid"), store)
    retrieve_neighbours(pairs, index, "whole", config.training.faid.k)
    assert digests(neighbours) == digests(project / "whole")

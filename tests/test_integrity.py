"""`arrag verify` and `explain` on a small run of every stage up to Table 1."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from arrag.cli import main
from arrag.codec import load_codec
from arrag.config import load_config
from arrag.files import read_json, sha256_file
from arrag.layout import Layout
from arrag.metrics.features import ImageList, read_images
from arrag.records import read_record, record_of, write_record

ROWS = ("vanilla", "daid", "faid", "real", "reconstructions")


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, assets):
    """A finished run of three methods, six prompts and 40 stored images, made by the commands."""
    path = tmp_path_factory.mktemp("integrity") / "project"
    path.mkdir()
    (path / "checkpoints").symlink_to(root / "checkpoints")
    (path / "benchmarks").symlink_to(root / "benchmarks")
    shutil.copytree(assets, path / "data/micro", ignore=shutil.ignore_patterns("*.lock"))
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
    geneval = document["benchmarks"]["geneval"]
    prompts = (root / geneval["prompts"]).read_text().splitlines(keepends=True)
    (path / "prompts.jsonl").write_text("".join(prompts[::2]))  # one a task
    geneval |= {"prompts": "prompts.jsonl", "images_per_prompt": 1}
    methods = {name: document["methods"][name] for name in ("vanilla", "daid", "faid")}
    document |= {"methods": methods, "grids": {}, "figures": {}}
    document["database"] |= {"images": 40, "shard_size": 20}
    (path / "config.yaml").write_text(yaml.safe_dump(document))
    here = os.getcwd()
    os.chdir(path)
    try:
        make(Layout(load_config("config.yaml")))
    finally:
        os.chdir(here)
    return path


def make(layout: Layout) -> None:
    codes, index = layout.codes("daid"), layout.index("daid")
    tokenizer = layout.config.generator_of("daid")[1].checkpoint
    run("encode", "micro:database", "--images", 40, "--shard-size", 20, "--tokenizer", tokenizer,
        "--out", codes)  # fmt: skip
    run("index", "build", "--codes", codes, "--out", index, "--mode", "ivf", "--nlist", 8)
    judge = layout.config.judge
    for row in ROWS:
        run("sample", "--config", "config.yaml", "--method", row)
        out = layout.scores(row)["geneval"]
        run("score", "geneval", layout.samples(row), "--prompts", "prompts.jsonl",
            "--detector", judge.detector, "--color", judge.color, "--out", out)  # fmt: skip
    run("report", "table1", "--config", "config.yaml")
    run("verify", "--record")  # of data/micro, which an earlier test may have fetched


def run(*words) -> None:
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture
def here(project, monkeypatch):
    """The project as the working directory, and its layout."""
    monkeypatch.chdir(project)
    return Layout(load_config("config.yaml"))


def verified(capsys, *words) -> tuple[int, dict]:
    capsys.readouterr()
    status = main(["verify", "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def explained(capsys, *words) -> tuple[int, dict]:
    capsys.readouterr()
    status = main(["explain", "reports/table1.md", "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def test_a_finished_run_is_as_recorded(here, capsys):
    status, found = verified(capsys)
    assert (status, found["findings"], found["notes"]) == (0, [], [])
    assert found["files"] > 40
    assert verified(capsys, "--quick")[0] == 0

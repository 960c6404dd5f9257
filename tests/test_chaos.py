"""The real workflow, killed at random moments: the same table in the end."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from arrag.files import sha256_file

KILLS = 4


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, assets):
    """A copy of the repository with a configuration of three prompts; pictures already there."""
    path = tmp_path_factory.mktemp("chaos") / "project"
    for part in ("workflow", "profiles", "config", "checkpoints", "benchmarks"):
        shutil.copytree(root / part, path / part)
    shutil.copy(root / "Snakefile", path)
    (path / "data").symlink_to(assets.parent)
    document = yaml.safe_load((path / "config/micro-ci.yaml").read_text())
    geneval = document["benchmarks"]["geneval"]
    prompts = (path / geneval["prompts"]).read_text().splitlines(keepends=True)
    # One prompt a task: the table wants them all.
    (path / "prompts.jsonl").write_text("".join(prompts[::2]))
    geneval |= {"prompts": "prompts.jsonl", "images_per_prompt": 1}
    document["database"] |= {"images": 40, "shard_size": 10}
    # Show-o runs in float32, where other batches, as after a kill, may change an image.
    for name in [n for n, method in document["methods"].items() if "generator" in method]:
        del document["methods"][name]
    document["resources"] = {"batch_size": 2}
    (path / "config/micro.yaml").write_text(yaml.safe_dump(document))
    return path


def start(project: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "reports/table1.md"]
    return subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def products(project: Path) -> dict[str, str]:
    """Digests of the table, the images and the scores, with records."""
    found = [*project.glob("reports/*"), *project.glob("results/samples/**/*.png")]
    found += project.glob("results/scores/**/*.json*")
    return {str(p.relative_to(project)): sha256_file(p) for p in found}


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_in_the_same_table(project):
    begun = time.monotonic()
    process = start(project)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    whole = time.monotonic() - begun
    expected = products(project)
    assert len(expected) == 4 + 7 * 6 + 7 * 3  # records of table and scores among them
    shutil.rmtree(project / "results")
    shutil.rmtree(project / "reports")
    shutil.rmtree(project / ".snakemake")

    moments = random.Random(0)
    for _ in range(KILLS):
        process = start(project)
        time.sleep(moments.uniform(0.1, 0.6) * whole)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(project)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert products(project) == expected
    process = start(project)
    output, _ = process.communicate()
    assert "Nothing to be done" in output

"""Table 1 through a real Slurm, with a job that lacks memory and a worker that is lost."""

import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from slurm_machine import SlurmMachine, why_not

from arrag.files import sha256_file

REASON = why_not()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=f"no Slurm: {REASON}"),
]
ROWS = 3  # DAiD and the two ceilings


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    machine = SlurmMachine(tmp_path_factory.mktemp("slurm"))
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, assets):
    """A copy of the repository whose default configuration is DAiD alone, on six prompts."""
    path = tmp_path_factory.mktemp("cluster") / "project"
    for part in ("workflow", "profiles", "config", "checkpoints", "benchmarks"):
        shutil.copytree(root / part, path / part)
    shutil.copy(root / "Snakefile", path)
    (path / "data").symlink_to(assets.parent)
    document = yaml.safe_load((path / "config/micro-ci.yaml").read_text())
    geneval = document["benchmarks"]["geneval"]
    prompts = (path / geneval["prompts"]).read_text().splitlines(keepends=True)
    (path / "prompts.jsonl").write_text("".join(prompts[::2]))
    document["benchmarks"] = {
        "geneval": geneval | {"prompts": "prompts.jsonl", "images_per_prompt": 1}
    }
    document["database"] |= {"images": 40, "shard_size": 10}
    document["methods"] = {"daid": document["methods"]["daid"] | {"baseline": None}}
    for part in ("grids", "timing", "figures"):
        document.pop(part)
    document["resources"] = {"batch_size": 2}
    (path / "config/micro.yaml").write_text(yaml.safe_dump(document))
    return path


def start(project, *arguments, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments, "--", "reports/table1.md"],
        cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process):
    """What snakemake said; it must have ended well."""
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def products(project):
    """Digests of the table, the images and the scores."""
    found = [*project.glob("reports/*"), *project.glob("results/samples/**/*.png")]
    found += project.glob("results/scores/**/*.json*")
    return {str(p.relative_to(project)): sha256_file(p) for p in found}


def of_rule(slurm, rule, state=None):
    jobs = [
        job for job in slurm.jobs().values() if job.comment.startswith(f"rule_{rule}_wildcards")
    ]
    return [job for job in jobs if state in (None, job.state)]


def test_the_table_of_a_cluster_is_that_of_one_machine(project, slurm, tmp_path):
    alone = shutil.copytree(project, tmp_path / "alone", symlinks=True)
    finish(start(alone, "--cores", "2"))
    expected = products(alone)
    assert len(expected) == 4 + ROWS * (6 + 3)  # records of the table and of scores among them

    run = start(
        project,
        *("--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "3"),
        *("--set-resources", "encode_database:mem_mb=500*attempt"),  # too little for the first
        env=slurm.environ,
    )
    try:
        while not of_rule(slurm, "sample", "RUNNING"):
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.2)
        slurm.kill_worker()
        slurm.start_worker()
        output = finish(run)
    finally:
        run.kill()
    assert products(project) == expected

    submitted = {int(number) for number in re.findall(r"with SLURM jobid (\d+)", output)}
    assert submitted == set(slurm.jobs()) and len(submitted) > 2 + 2 * ROWS + 1
    encoded = of_rule(slurm, "encode_database")
    assert [job.memory for job in encoded][:2] == ["500M", "1000M"]
    assert encoded[0].state in ("FAILED", "OUT_OF_MEMORY") and encoded[-1].state == "COMPLETED"
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job")  # by Slurm, on the worker's return
    again = finish(start(project, "--profile", "profiles/slurm", env=slurm.environ))
    assert "Nothing to be done" in again

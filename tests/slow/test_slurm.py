"""Table 1 through a real Slurm, with a job that lacks memory and a worker that is lost."""

import re
import time

import pytest
from slurm_machine import SlurmMachine, why_not
from small_project import SmallProject

REASON = why_not()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
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
    return SmallProject(tmp_path_factory.mktemp("cluster") / "project", root, assets, ("daid",))


def of_rule(slurm, rule, state=None):
    jobs = [
        job for job in slurm.jobs().values() if job.comment.startswith(f"rule_{rule}_wildcards")
    ]
    return [job for job in jobs if state in (None, job.state)]


def test_the_table_of_a_cluster_is_that_of_one_machine(project, slurm):
    project.start().finish()
    expected = project.products()
    assert sum(name.endswith(".png") for name in expected) == ROWS * 6
    project.clean()

    # The profile's memory and time are for the paper's size.
    small = "--default-resources", "mem_mb=2000*attempt", "runtime=60"
    profile = "--profile", "profiles/slurm", *small
    run = project.start(
        *(*profile, "--slurm-init-seconds-before-status-checks", "3"),
        *("--set-resources", "encode_database:mem_mb=500*attempt"),  # too little for the first
        env=slurm.environ,
    )
    try:
        while not of_rule(slurm, "sample", "RUNNING"):
            assert run.poll() is None, run.said()
            time.sleep(0.2)
        slurm.kill_worker()
        slurm.start_worker()
        output = run.finish()
    finally:
        run.kill()
    assert project.products() == expected

    submitted = {int(number) for number in re.findall(r"with SLURM jobid (\d+)", output)}
    assert submitted == set(slurm.jobs()) and len(submitted) > 2 + 2 * ROWS + 1
    encoded = of_rule(slurm, "encode_database")
    assert [job.memory for job in encoded][:2] == ["500M", "1000M"]
    assert encoded[0].state in ("FAILED", "OUT_OF_MEMORY") and encoded[-1].state == "COMPLETED"
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job")  # by Slurm, on the worker's return
    assert "Nothing to be done" in project.start(*profile, env=slurm.environ).finish()

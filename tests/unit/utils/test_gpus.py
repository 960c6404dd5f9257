"""GPUs shared by the jobs of one machine (none is needed here), and memory kept on a CPU."""

import os
import platform
import resource
import signal
import subprocess
import sys

import pytest

from arrag.utils import device
from arrag.utils.errors import OutputError, UsageError

JOB = """
import os, sys, time
from arrag.utils import device
device.POLL_SECONDS = 0.02
taken = device.acquire_gpus(int(sys.argv[1]))
assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(taken) and "ARRAG_GPUS" not in os.environ
print(*taken, flush=True)
"""
FOREVER = JOB + "time.sleep(120)"


@pytest.fixture
def start(tmp_path):
    """Start a job that takes GPUs of ``names``; it ends with the test at the latest."""
    started = []

    def start(names, count=1, code=FOREVER, **options):
        environ = os.environ | {"ARRAG_GPUS": names, "TMPDIR": str(tmp_path)}
        job = subprocess.Popen(
            [sys.executable, "-c", code, str(count)],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        started.append(job)
        return job

    yield start
    for job in started:
        job.kill()
        job.communicate()


def taken(job):
    """What a job has taken, once it has."""
    return job.stdout.readline().split()


def test_jobs_at_the_same_time_get_different_gpus(start):
    jobs = [start("0,1,GPU-c") for _ in range(3)]
    assert sorted(name for job in jobs for name in taken(job)) == ["0", "1", "GPU-c"]


def test_a_job_waits_for_one_that_is_killed(start):
    first, second = start("0,1"), start("0,1")
    held = {job: taken(job) for job in (first, second)}
    third = start("0,1")
    assert "waiting for 1 of the GPUs 0,1" in third.stderr.readline()
    assert third.poll() is None
    first.send_signal(signal.SIGKILL)
    assert taken(third) == held[first]


def test_several_gpus_are_taken_together_or_not_at_all(start):
    one = start("0,1,2")
    assert taken(one) == ["0"]
    three = start("0,1,2", count=3)
    assert "waiting for 3" in three.stderr.readline()
    two = start("0,1,2", count=2)  # the one that waits holds nothing
    assert taken(two) == ["1", "2"]
    one.kill(), two.kill()
    assert taken(three) == ["0", "1", "2"]


def test_a_job_holds_its_gpu_through_exec_and_for_its_children(start):
    became = FOREVER.replace("time.sleep(120)", "os.execv('/bin/sleep', ['sleep', '600'])")
    first = start("0", code=became)
    assert taken(first) == ["0"]
    child = "import subprocess; child = subprocess.Popen(['sleep', '600'], close_fds=False)"
    second = start("0", code=f"{JOB}{child}; print(child.pid, flush=True)")
    assert "waiting" in second.stderr.readline()
    first.kill()
    assert taken(second) == ["0"]
    (pid,) = taken(second)
    assert second.wait(60) == 0
    third = start("0")
    assert "waiting" in third.stderr.readline()
    os.kill(int(pid), signal.SIGKILL)
    assert taken(third) == ["0"]


def test_without_the_variable_nothing_happens(monkeypatch):
    monkeypatch.delenv("ARRAG_GPUS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert device.acquire_gpus(3) == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.parametrize("text", ["", "0,,1", "0,0", "../x", "0 1"])
def test_a_list_that_makes_no_sense_is_named(monkeypatch, text):
    monkeypatch.setenv("ARRAG_GPUS", text)
    with pytest.raises(UsageError) as error:
        device.acquire_gpus()
    assert error.value.field == "ARRAG_GPUS" and error.value.hint


def test_too_few_are_named_at_once(monkeypatch):
    monkeypatch.setenv("ARRAG_GPUS", "0,1")
    with pytest.raises(UsageError) as error:
        device.acquire_gpus(3)
    assert error.value.field == "ARRAG_GPUS"


def test_a_folder_of_someone_else_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ARRAG_GPUS", "0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"arrag-gpus-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(OutputError) as error:
        device.acquire_gpus()
    assert error.value.path == tmp_path / f"arrag-gpus-{os.getuid()}"


def test_whoever_asks_for_a_device_takes_one(start):
    code = (
        "from arrag.utils.device import default_device; default_device()\n" + JOB.split("taken")[0]
    )
    job = start("7", code=code + "print(os.environ['CUDA_VISIBLE_DEVICES'])")
    assert taken(job) == ["7"]


FAULTS = """
import resource, torch
from arrag.utils.device import default_device

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(1 << 24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert default_device() == "cpu"
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_freed_memory_is_used_again(root):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=root, capture_output=True, text=True, check=True
    )
    pages = 10 * (1 << 26) // resource.getpagesize()
    assert int(done.stdout) < pages / 100  # without: all of them

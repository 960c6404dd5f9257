"""The profiles beside the default one: what they ask schedulers for, and who gets which GPU.

A run on a real Slurm is tests/slow/test_slurm.py. Kubernetes is tested up to kubectl.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LOCAL = {"all", "train_adapters", "fetch_hub", "prepare_file"}
PAPER = ("-n", "-p", "--configfile", "config/paper.yaml", "--", "all", "train_adapters")


def snakemake(folder, *arguments, **variables):
    """What snakemake says; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def asked(output):
    """{rule: the resources of its first job} of a dry run."""
    found = {}
    for name, about in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", output, re.M):
        words = re.search(r"resources: (.*)", about)
        pairs = (word.split("=", 1) for word in words[1].split(", ")) if words else ()
        found.setdefault(name, dict(pair for pair in pairs if len(pair) == 2))
    return found


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_a_cluster_is_asked_for_memory_time_and_gpus(workflow_project, profile):
    jobs = asked(snakemake(workflow_project.path, "--profile", f"profiles/{profile}", *PAPER))
    for name in set(jobs) - LOCAL:
        assert int(jobs[name]["mem_mb"]) >= 8000 and int(jobs[name]["runtime"]) >= 60, name
    assert {name for name, found in jobs.items() if found.get("gpu") == "1"} == {
        *("encode_part", "build_index", "index_images", "sample", "score_geneval", "score_dpg"),
        *("score_distance", "reference_statistics", "make_pairs", "train_adapter"),
        *("retrieve_neighbours", "retrieve_references", "sample_part", "retrieve_part"),
    }


def test_several_gpus_for_a_training_come_from_a_profile(workflow_project):
    arguments = ("--set-resources", "train_adapter:gpu=4")
    profile = ("--profile", "profiles/gpu")
    plan = snakemake(workflow_project.path, *profile, *arguments, *PAPER, ARRAG_GPUS="0,1,2,3")
    assert re.search(r"arrag train adapter faid .* --gpus 4\b", plan)
    micro = snakemake(workflow_project.path, "-n", "--cores", "1", "reports/table1.md")
    assert all(found.get("gpu", "0") == "0" for found in asked(micro).values())


TINY = """
rule all:
    input: expand("{i}.txt", i=range(4))

rule job:
    output: "{i}.txt"
    resources: gpu=1
    shell:
        "{sys.executable} {workflow.basedir}/job.py {output}"
"""
JOB = """
import sys, time
from arrag.utils import device
device.POLL_SECONDS = 0.02
taken, began = device.acquire_gpus(), time.time()
time.sleep(0.3)
open(sys.argv[1], "w").write(f"{taken[0]} {began} {time.time()}")
"""


def test_jobs_of_one_machine_share_its_gpus(tmp_path):
    (tmp_path / "Snakefile").write_text("import sys\n" + TINY)
    (tmp_path / "job.py").write_text(JOB)
    profile = ["--profile", str(REPOSITORY / "profiles/gpu"), "--cores", "4"]
    said = snakemake(tmp_path, *profile, ARRAG_GPUS="5,6", TMPDIR=str(tmp_path))
    assert "waiting" not in said  # no job is started before there is a GPU for it
    jobs = [path.read_text().split() for path in sorted(tmp_path.glob("[0-3].txt"))]
    assert {gpu for gpu, _, _ in jobs} == {"5", "6"}
    for gpu in ("5", "6"):
        times = sorted((float(a), float(b)) for name, a, b in jobs if name == gpu)
        assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))


# Kubernetes


KUBECTL = """#!{python}
import json, pathlib, subprocess, sys
folder = pathlib.Path({folder!r})
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    name = job["metadata"]["name"]
    (folder / f"{{name}}.json").write_text(json.dumps(job))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    done = folder / f"{{name}}.done"
    command = container["command"] + [";", "echo", "$?", ">", str(done)]
    subprocess.Popen(" ".join(command), shell=True, cwd=container["workingDir"],
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"job.batch/{{name}} created")
elif sys.argv[1] == "get":
    done = folder / f"{{sys.argv[3]}}.done"
    text = done.read_text().strip() if done.exists() else ""
    kinds = {{"": [], "0": ["Complete"]}}.get(text, ["Failed"])
    conditions = [{{"type": kind, "status": "True"}} for kind in kinds]
    print(json.dumps({{"status": {{"conditions": conditions}}}}))
"""


def script(name):
    """A script of the profile as a module."""
    path = REPOSITORY / f"profiles/kubernetes/{name}.py"
    spec = importlib.util.spec_from_file_location(f"kubernetes_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_job_is_submitted_watched_and_tried_again_with_more(tmp_path):
    """With a kubectl that runs a pod's command here instead of in a cluster."""
    schemas = pytest.importorskip("kubernetes_validate")
    (tmp_path / "Snakefile").write_text(
        'rule job:\n    output: "a.txt"\n    threads: 2\n    resources:\n'
        "        mem_mb=lambda wildcards, attempt: 100 * attempt, runtime=3, gpu=1\n"
        '    shell: "test {resources.mem_mb} -ge 200 && echo > {output}"\n'
    )
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin/kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(tmp_path)))
    kubectl.chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.defpath])
    snakemake(
        tmp_path,
        *("--profile", str(REPOSITORY / "profiles/kubernetes"), "--latency-wait", "5", "a.txt"),
        *("--seconds-between-status-checks", "1"),
        PATH=path, ARRAG_IMAGE="registry/arrag:1", ARRAG_CLAIM="arrag",
    )  # fmt: skip
    jobs = [json.loads(p.read_text()) for p in tmp_path.glob("arrag-job-*.json")]
    for job in jobs:
        schemas.validate(job, "1.30", strict=True)
        assert job["spec"]["activeDeadlineSeconds"] == 180
    limits = [
        job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for job in jobs
    ]
    assert sorted(limits, key=lambda each: each["memory"]) == [
        {"cpu": "2", "memory": "100M", "nvidia.com/gpu": "1"},
        {"cpu": "2", "memory": "200M", "nvidia.com/gpu": "1"},
    ]


def test_states_of_a_kubernetes_job():
    state = script("status").state
    assert state({}) == "running" and state({"status": {"active": 1}}) == "running"
    conditions = [{"type": "Suspended", "status": "False"}, {"type": "Failed", "status": "True"}]
    assert state({"status": {"conditions": conditions}}) == "failed"
    assert state({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}) == "success"


def test_without_an_image_and_a_claim_it_says_so():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "profiles/kubernetes/submit.py", "script"],
        env={k: v for k, v in os.environ.items() if not k.startswith("ARRAG_")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "ARRAG_IMAGE and ARRAG_CLAIM: not set" in done.stderr

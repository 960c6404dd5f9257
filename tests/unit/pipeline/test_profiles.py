"""The profiles beside the default one: what they ask schedulers for, and who gets which GPU.

A run on a real Slurm is tests/test_slurm.py. Kubernetes is tested up to kubectl, never beyond.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import project, template  # noqa: F401 (fixtures)

from arrag.config.root import load_config
from arrag.pipeline.scheduling import STAGES, drawing_seconds, encoding_seconds, memory, minutes

REPOSITORY = Path(__file__).resolve().parents[3]
NEVER_SUBMITTED = {"all", "fetch_assets", "fetch_feature_network", "fetch_hub", "prepare_file"}


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


@pytest.mark.parametrize("profile", ["slurm", "kubernetes", "gpu"])
def test_a_profile_plans_what_the_default_one_does(project, profile):  # noqa: F811
    plan = snakemake(project.path, "-n", "--profile", f"profiles/{profile}", "reports/table1.md")
    jobs = asked(plan)
    assert {"encode_database", "build_index", "sample", "score_geneval", "table"} <= set(jobs)
    for name in set(jobs) - NEVER_SUBMITTED:
        assert int(jobs[name]["mem_mb"]) >= 2000 and int(jobs[name]["runtime"]) >= 60, name
        assert "gpu" not in jobs[name]


def test_at_the_papers_size_stages_with_a_model_ask_for_a_gpu(project):  # noqa: F811
    plan = snakemake(
        project.path, "-n", "--cores", "8", "--configfile", "config/paper.yaml", "--", "all"
    )
    jobs = asked(plan)
    with_gpu = {name for name, found in jobs.items() if "gpu" in found}
    assert with_gpu == {
        *("encode_part", "build_index", "index_images", "sample", "score_geneval", "score_dpg"),
        *("score_distance", "reference_statistics", "make_pairs", "train_adapter"),
        *("retrieve_neighbours", "retrieve_references", "sample_part", "retrieve_part"),
    }
    assert set(jobs) - with_gpu - NEVER_SUBMITTED == {
        *("list_corpus", "choose_images", "hash_test_images", "join_parts"),
        *("prepare_folder", "table", "gallery"),
    }
    assert all("mem_mb" in jobs[name] for name in set(jobs) - NEVER_SUBMITTED)


def test_a_second_attempt_gets_more(root):
    ask = STAGES["paper"]["draw"]
    assert memory(ask, 2) == 2 * memory(ask, 1) == 128_000
    assert minutes(ask, 1800.0, 1) == 60 + 2 * 30 and minutes(ask, 1800.0, 2) == 240
    assert minutes(ask, 1e6, 1) == 2880  # two days, and on from there
    assert {*STAGES["micro"]} == {*STAGES["paper"]}


def test_time_is_the_doctors_estimate(root, monkeypatch):
    monkeypatch.chdir(root)
    config = load_config("config/paper.yaml")
    # Table 4 of the paper: 4.58 s an image with Janus-Pro-1B, of 553 prompts four images each.
    assert drawing_seconds(config, "vanilla", "geneval") == pytest.approx(4.58 * 553 * 4)
    assert drawing_seconds(config, "daid", "geneval") > drawing_seconds(
        config, "vanilla", "geneval"
    )
    part = encoding_seconds(config, "daid", 100_000)
    assert encoding_seconds(config, "daid") == pytest.approx(136 * part)


def test_several_gpus_for_a_training_come_from_a_profile(project):  # noqa: F811
    plan = snakemake(
        project.path, "-n", "-p", "--cores", "1", "--set-resources", "train_adapter:gpu=4",
        "--", "train_adapters",
    )  # fmt: skip
    assert re.search(r"arrag train faid .* --gpus 4 ", plan)


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

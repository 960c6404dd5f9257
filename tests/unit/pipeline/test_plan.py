"""The plan of the shipped configurations, without starting snakemake."""

import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from arrag.config.root import load_config
from arrag.pipeline.artifact import options
from arrag.pipeline.layout import FEATURE_NETWORK
from arrag.pipeline.plan import Plan
from arrag.utils.errors import MissingError, UnknownNameError


def planned(name):
    return Plan(load_config(f"config/{name}.yaml"))


@pytest.fixture
def repository(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.mark.parametrize("name", ["micro", "micro-ci", "paper", "paper-mini"])
def test_everything_below_results_is_made_by_an_artifact(repository, name):
    plan = planned(name)
    marks = {mark for artifact in plan.values() for mark in artifact.parts}
    for path, artifact in plan.items():
        for needed in artifact.paths(given=False):
            if needed.startswith(("results/", "reports/")):
                assert needed in plan or needed.replace(".csv", ".md") in plan, (path, needed)
        for given in artifact.paths(given=True):
            assert not given.startswith("results/"), (path, given)
    assert not marks & set(plan)


def test_a_table_shows_every_row_and_a_score_its_samples(repository):
    plan = planned("micro")
    scores = plan["reports/table1.md"].inputs["scores"]
    assert len(scores) == len(plan.config.row_labels("geneval"))
    for score in scores:
        run = Path(plan[score].inputs["run"])
        assert run.parent.name == Path(score).stem and plan[str(run)].kind == "samples"
    assert {plan[path].kind for path in plan if path.startswith("reports/")} == {
        "table", "ablation", "gallery", "figure", "page",
    }  # fmt: skip


def test_parts_are_numbered_by_the_configuration_alone(repository, tmp_path):
    plan = planned("paper")
    resources, layout = plan.config.resources, plan.layout
    run = layout.samples("daid", "mjhq")
    count = resources.sample_parts["mjhq"]
    assert plan[f"{run}/run.json"].parts == [
        f"{run}.parts/{i + 1}-of-{count}" for i in range(count)
    ]
    assert plan[f"{run}/run.json"].arguments["join"] == "--join"
    neighbours = plan[f"{layout.neighbours('faid')}/manifest.json"]
    assert len(neighbours.parts) == resources.retrieve_parts
    assert all(artifact.parts == [] for artifact in planned("micro").values())


def test_missing_weights_are_told_when_they_are_needed(root, tmp_path, monkeypatch):
    for part in ("config", "benchmarks"):
        (tmp_path / part).symlink_to(root / part)
    monkeypatch.chdir(tmp_path)
    plan = planned("micro-ci")
    with pytest.raises(Exception, match="micro-janus") as raised:
        plan["reports/table1.md"]
    assert isinstance(raised.value, MissingError) and raised.value.field
    with pytest.raises(UnknownNameError):
        plan["results/samples/geneval/daid-0123456789/run.json"]


def seconds_of_children():
    """CPU time, which other programs of the machine do not lengthen."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_planning_is_quick_and_loads_no_torch(root):
    code = (
        "import sys\nfrom arrag.config.root import load_config\n"
        "from arrag.pipeline.plan import Plan\n"
        "print(len(Plan(load_config('config/micro.yaml'))))\n"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    before = seconds_of_children()
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 200, done.stderr
    assert seconds_of_children() - before < 3


def test_the_feature_network_is_where_its_command_puts_it():
    from arrag.metrics.mobilenet import FOLDER

    assert FEATURE_NETWORK == FOLDER


def test_options_are_words_of_the_command_line():
    settings = {"level": 4, "key_hop": (1, 2), "exclude": ["a b", "c"], "off": False, "none": None}
    words = shlex.split(options(settings | {"on": True}))
    assert words == [
        "--level",
        "4",
        "--key-hop",
        "1",
        "2",
        "--exclude",
        "a b",
        "--exclude",
        "c",
        "--on",
    ]

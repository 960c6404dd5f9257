"""What `arrag doctor` finds, on the built-in world and on configurations that lack something."""

import json

import hub_server
import pytest
import yaml

from arrag.cli.main import main
from arrag.config.hub import Reference
from arrag.config.root import load_config
from arrag.pipeline import doctor
from arrag.pipeline.doctor import (
    BLOCK,
    FINE,
    WARN,
    ask,
    corpora,
    examine,
    repositories,
    user_provided_paths,
)
from arrag.pipeline.estimates import constants, image_size, parameters_of
from arrag.pipeline.machine import Machine

REFERENCE = Reference("owner/name", "main")


@pytest.fixture
def place(tmp_path, root, monkeypatch):
    """A folder that holds what a clone holds."""
    for part in ("checkpoints", "benchmarks", "config"):
        (tmp_path / part).symlink_to(root / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_built_in_world_can_start(place, capsys):
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["can_start"] and {f["state"] for f in said["findings"]} == {FINE}
    stages = {stage["name"]: stage for stage in said["stages"]}
    assert stages["encode micro for micro-janus"]["bytes"] == 4000 * (144 * 2 + 40)
    assert all(stage["seconds"] > 0 for stage in stages.values())
    config = load_config("config/micro.yaml")
    rows = {
        f"draw {name} {row}"
        for name in ("geneval", "dpg", "mjhq")
        for row in config.methods_in(name)
    }
    assert {name for name in stages if name.startswith("draw ")} == rows


def test_what_is_there_is_left_out_of_the_estimate(place):
    config = load_config("config/micro.yaml")
    run = doctor.Plan(config).layout.samples("daid", "geneval")
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    names = {stage.name for stage in examine(config, "x", network=False).stages}
    assert "draw geneval daid" not in names and "draw geneval faid" in names


def test_what_is_missing_is_named_with_what_to_do(place, capsys):
    changes = {
        "base": "config/micro.yaml",
        "generators": {"janus": {"checkpoint": "nowhere/janus"}},
        "database": {"source": None, "images": None, "sources": [{"source": "c/{0..4}.tar"}]},
        "scorers": {"color": "hub:acme/clip@main"},
        "grids": None,
        "figures": None,
    }
    (place / "mine.yaml").write_text(yaml.safe_dump(changes))
    (place / "c").mkdir()
    (place / "c/0.tar").write_bytes(b"")
    assert main(["doctor", "--offline", "--json", "--config", "mine.yaml"]) == 1
    said = json.loads(capsys.readouterr().out)
    blocked = {f["part"]: f for f in said["findings"] if f["state"] == BLOCK}
    assert set(blocked) == {"file", "corpus", "repository"}
    assert blocked["file"]["name"] == "generators.janus.checkpoint"
    assert (
        blocked["corpus"]["found"].startswith("1 of 5") and "c/1.tar" in blocked["corpus"]["advice"]
    )
    assert "acme/clip" in blocked["repository"]["name"]
    assert main(["doctor", "--offline", "--config", "mine.yaml"]) == 1
    assert "Cannot start: 3 " in capsys.readouterr().out


def test_the_small_paper_profile_says_what_it_needs(place, monkeypatch):
    machine = Machine(cores=2, memory=10**12, disk=10**9, gpu=None, gpu_memory=0)
    monkeypatch.setattr(doctor, "look", lambda results: machine)
    config = load_config("config/paper-mini.yaml")
    report = examine(config, "config/paper-mini.yaml", network=False)
    states = {
        finding.name: finding.state for finding in report.findings if finding.part == "machine"
    }
    assert states == {"cores": FINE, "disk": BLOCK, "memory": FINE, "GPU": WARN}
    assert {finding.part for finding in report.blocked} == {"repository", "corpus", "machine"}
    prepared = {f.name for f in report.findings if f.part == "prepared"}
    assert prepared == set(config.assets)
    drawn = {s.name: s.amount for s in report.stages if s.name.startswith("draw ")}
    assert drawn["draw geneval vanilla"] == "24 images"
    assert drawn["draw dpg vanilla"] == "44 images"
    assert drawn["draw mjhq vanilla"] == "300 images"
    vanilla = next(s for s in report.stages if s.name == "draw geneval vanilla")
    assert vanilla.seconds_on_gpu == pytest.approx(24 * 4.58)  # Table 4 of the paper
    assert vanilla.seconds > vanilla.seconds_on_gpu
    assert "on one GPU" in report.as_text()


def test_too_many_jobs_are_a_warning(place):
    source = {"source": "c/{00000..19999}.tar", "images": 20_000_000}
    changes = {
        "base": "config/micro-ci.yaml",
        "database": {"source": None, "images": None, "sources": [source], "images_per_job": 1000},
    }
    (place / "mine.yaml").write_text(yaml.safe_dump(changes))
    report = examine(load_config("mine.yaml"), "mine.yaml", network=False)
    assert [f.state for f in report.findings if f.part == "plan"] == [WARN]


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server.running() as server:
        yield server


def test_the_hub_is_asked_what_it_would_send(hub):
    state, found, advice, answered = ask(REFERENCE, hub.url)
    assert (state, advice, answered) == (FINE, "", True)
    assert hub_server.COMMIT in found
    assert ask(REFERENCE._replace(also=("none.pt",)), hub.url)[0] == BLOCK


@pytest.mark.parametrize("mode", ["gated", "missing"])
def test_a_repository_that_is_closed_blocks_without_the_token(hub, mode):
    hub.mode = mode
    state, found, advice, answered = ask(REFERENCE, hub.url)
    assert state == BLOCK and answered and REFERENCE.page in found
    assert ("gated" in found) == (mode == "gated")
    assert hub_server.TOKEN not in found + advice


def test_a_hub_out_of_reach_blocks():
    state, _, advice, answered = ask(REFERENCE, "http://127.0.0.1:9")
    assert (state, answered) == (BLOCK, False) and advice


def test_sizes_come_from_a_checkpoint_or_from_the_paper(root, monkeypatch):
    monkeypatch.chdir(root)
    micro, paper = (load_config(f"config/{name}.yaml") for name in ("micro", "paper"))
    assert (
        image_size(micro.generators["janus"]) == image_size(micro.generators["showo"]) == (144, 48)
    )
    assert image_size(paper.generators["janus"]) == (576, 384)
    assert parameters_of(paper, "faid") == 1.2e9
    assert 1e6 < parameters_of(micro, "vanilla") < 1e8


def test_every_constant_says_where_it_is_from():
    for name, rate in constants()["rates"].items():
        assert min(rate["gpu"], rate["core"]) > 0 and rate["unit"] and rate["source"], name
    assert all(each["value"] > 0 and each["source"] for each in constants()["seconds"].values())


def test_the_paper_profile_names_what_the_docs_list(root):
    config = load_config(root / "config/paper.yaml")
    docs = (root / "docs/how-to/paper-scale.md").read_text(encoding="utf-8")
    for reference in repositories(config):
        name = str(reference).partition("@")[0]
        assert f"`{name}`" in docs, name
        assert constants()["repositories"][name]["licence"], name
    for source in corpora(config):
        assert source.partition("::")[0].rpartition("/")[0] in docs
    assert not user_provided_paths(config)

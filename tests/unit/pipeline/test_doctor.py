"""What `arrag doctor` finds, on the built-in world and on configurations that lack something."""

import json

import hub_server
import numpy as np
import pytest
import yaml

from arrag.cli.main import main
from arrag.config.hub import Reference
from arrag.config.root import load_config
from arrag.pipeline import doctor, doctor_machine, doctor_measure
from arrag.pipeline.doctor import BLOCK, FINE, ask, examine
from arrag.pipeline.doctor_needs import corpora, own_paths, repositories
from arrag.pipeline.doctor_rates import Rate, known
from arrag.pipeline.doctor_sizes import printed_parameters, sizes_of
from arrag.pipeline.doctor_text import as_text

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
    assert all(stage["seconds"] >= 0 and stage["basis"] for stage in said["stages"])
    measured = {name for name, rate in said["rates"].items() if rate["measured"]}
    assert measured >= {"disk_write", "decode_images", "scan_core", "scan_lists", "assign_flops"}
    assert all(rate["value"] > 0 and rate["source"] for rate in said["rates"].values())
    assert not list((place / "results").iterdir())  # what was written to be measured is gone
    config = load_config("config/micro.yaml")
    assert sum(name.startswith("draw ") for name in stages) == sum(
        len(config.methods_in(name)) for name in config.benchmarks
    )


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
    assert main(["doctor", "--offline", "--config", "mine.yaml"]) == 1
    said = capsys.readouterr().out
    for line in (
        "BLOCK file: generators.janus.checkpoint: nowhere/janus is not there -> put it there",
        "BLOCK corpus: database.sources[0]: 1 of 5 files, all images -> c/1.tar is missing",
        "BLOCK repository: acme/clip@main (scorers.color): not here, hub out of reach",
        "Cannot start: 3 of the above to mend first.",
    ):
        assert line in said


def test_the_small_paper_profile_says_what_it_needs(place):
    config = load_config("config/paper-mini.yaml")
    report = examine(config, "config/paper-mini.yaml", network=False, measured=False)
    blocked = {finding.part for finding in report.blocked}
    assert blocked >= {"repository", "corpus"} and "file" not in blocked
    prepared = {f.name for f in report.findings if f.part == "prepared"}
    assert prepared == set(config.assets)
    drawn = {s.name: s.amount for s in report.stages if s.name.startswith("draw ")}
    assert drawn["draw geneval vanilla"] == "24 images"
    assert drawn["draw dpg vanilla"] == "44 images"
    assert drawn["draw mjhq vanilla"] == "300 images"
    assert "raster_seconds" in as_text(report)


def test_a_small_disk_blocks(place, monkeypatch):
    machine = doctor_machine.Machine(2, 10**12, 10**9, None, 0)
    monkeypatch.setattr(doctor, "look", lambda results: machine)
    config = load_config("config/paper-mini.yaml")
    report = examine(config, "x", network=False, measured=False)
    disk = next(f for f in report.findings if f.name == "disk")
    assert disk.state == BLOCK and disk.found.startswith("1 GB free")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server.running() as server:
        yield server


def test_the_hub_is_asked_what_it_would_send(hub):
    state, found, advice, answered = ask(REFERENCE, hub.url)
    assert (state, advice, answered) == (FINE, "", True)
    assert found == f"can be fetched, 0.0 GB; pin it: @{hub_server.COMMIT}"
    missing = ask(REFERENCE._replace(also=("none.pt",)), hub.url)
    assert missing[0] == BLOCK and "no file none.pt there" in missing[1]


@pytest.mark.parametrize("mode", ["gated", "missing"])
def test_a_repository_that_is_closed_blocks_without_the_token(hub, mode):
    hub.mode = mode
    state, found, advice, answered = ask(REFERENCE, hub.url)
    assert state == BLOCK and answered and REFERENCE.page in found
    assert ("gated" in found) == (mode == "gated")
    assert hub_server.TOKEN not in found + advice


def test_a_hub_out_of_reach_is_no_crash():
    state, found, advice, answered = ask(REFERENCE, "http://127.0.0.1:9")
    assert (state, answered) == (BLOCK, False) and "out of reach" in found


def test_own_rates_take_the_place_of_others(place):
    own = {"disk_write": Rate(1.0, "bytes/s", "mine")}
    config = load_config("config/micro.yaml")
    report = examine(config, "x", network=False, measured=False, own=own)
    assert report.rates["disk_write"].source == "mine" and report.rates["host_memory"].measured
    layout = next(s for s in report.stages if s.name.startswith("layout of ivf-causal"))
    assert layout.seconds == pytest.approx(layout.bytes, rel=0.01)  # a byte a second


def test_made_up_codes_have_near_ones(tmp_path):
    """A share of the patches as in photographs: else a scan's rate says nothing of a real one."""
    store, asked = doctor_measure.made_up_store(tmp_path / "store")
    assert store.grid == (24, 24) and asked.shape[1:] == store.grid
    codes = store.grids(np.arange(len(store)))
    group = codes // (16384 // doctor_measure.GROUPS)
    share = (group == group[:1, :1, :1]).mean()
    assert 0.001 < share < 0.02 and len(np.unique(codes)) > 16000
    near, far = store.codebook[1], store.codebook[-1]
    assert np.square(near - store.codebook[0]).sum() < np.square(far - store.codebook[0]).sum()


def test_sizes_come_from_a_checkpoint_or_from_the_paper(root):
    assert sizes_of(root / "checkpoints/micro-janus") == (144, 48)
    assert sizes_of(root / "checkpoints/micro-showo") == (144, 48)
    assert sizes_of(root / "checkpoints/none") is None
    assert printed_parameters("janus-pro-1b+faid") == 1.2e9
    assert printed_parameters("no such row") is None


def test_every_assumption_says_where_it_is_from():
    for name, rate in known()["rates"].items():
        assert float(rate["value"]) > 0 and rate["unit"] and rate["source"], name


def test_the_paper_profile_names_what_the_docs_list(root):
    config = load_config(root / "config/paper.yaml")
    docs = (root / "docs/paper-scale.md").read_text(encoding="utf-8")
    for reference in repositories(config):
        name = str(reference).partition("@")[0]
        assert f"`{name}`" in docs, name
        assert known()["repositories"][name]["licence"], name
    for corpus in corpora(config):
        assert corpus.files[0].rpartition("/")[0] in docs
    assert not own_paths(config)

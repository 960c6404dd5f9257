"""The paper's profile: planned as a whole without weights or data, and its small twin."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
import yaml
from image_sources import picture, write_tars
from workflow_project import WorkflowProject

from arrag.config.paper import paper_rows, paper_tables
from arrag.config.root import load_config
from arrag.data.subsample import number
from arrag.data.token_store import TokenStore
from arrag.pipeline.layout import Layout

MOST_JOBS = 10_000

NAMES = [f"{i:05d}.png" for i in range(12)]


@pytest.fixture
def bare(tmp_path, root):
    """The workflow and nothing it works on."""
    for part in ("workflow", "profiles", "config"):
        shutil.copytree(root / part, tmp_path / part)
    shutil.copy(root / "Snakefile", tmp_path)
    return WorkflowProject(tmp_path)


@pytest.mark.slow
def test_the_paper_profile_is_planned_without_weights_and_data(bare):
    planned = bare.plan("--configfile", "config/paper.yaml", "--", "all")
    config = load_config(bare.path / "config/paper.yaml")
    assert sum(planned.values()) < MOST_JOBS
    assert planned["table"] == 3
    assert planned["sample"] == sum(len(config.methods_in(name)) for name in config.benchmarks)
    # 13.6 million images, a hundred thousand a job, for each tokenizer that retrieves.
    assert planned["encode_part"] == 2 * planned["list_corpus"] == 272
    assert planned["choose_images"] == 3 and planned["hash_test_images"] == 1
    assert planned["retrieve_part"] == 2 * config.resources.retrieve_parts  # Janus's and Show-o's
    parts = config.resources.sample_parts
    assert planned["sample_part"] == sum(
        parts[name] * len(config.methods_in(name)) for name in config.benchmarks
    )
    assert planned["fetch_hub"] and planned["reference_statistics"] == 3
    assert not list(bare.path.glob("data/*"))


@pytest.mark.slow
def test_a_hundred_million_images_are_planned(bare, root):
    path = root / "benchmarks/speed/plan.py"
    spec = importlib.util.spec_from_file_location("plan", path)
    plan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plan)
    paper = yaml.safe_load((bare.path / "config/paper.yaml").read_text(encoding="utf-8"))
    large = plan.enlarged(paper, 100_000_000)
    (bare.path / "large.yaml").write_text(yaml.safe_dump(large, sort_keys=False))
    samples = load_config(bare.path / "large.yaml").database.samples.values()
    assert sum(sample.images for sample in samples) == pytest.approx(100_000_000)
    planned = bare.plan("--configfile", "large.yaml", "--", "all")
    assert sum(planned.values()) < MOST_JOBS
    parts = sum(-(-sample.images // 100_000) for sample in samples)
    assert planned["encode_part"] == 2 * planned["list_corpus"] == 2 * parts > 2000


def test_naming_a_database_by_its_test_images_loads_no_torch(tmp_path):
    """Test images that lie in a folder are listed at every start of snakemake."""
    (tmp_path / "0.png").write_bytes(b"")
    code = (
        "import sys\nfrom arrag.pipeline.file_digests import listing_digest\n"
        f"print(listing_digest([{str(tmp_path)!r}]))\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout) == 65, done.stderr


def test_every_row_of_the_paper_is_a_method_or_said_not_to_be_run(root):
    config = load_config(root / "config/paper.yaml")
    keys = {method.paper_key for method in config.methods.values()}
    for table in ("table1", "table2", "table3"):
        for row in paper_rows(table):
            assert row in keys or row in config.skipped, row
    assert set(config.skipped).isdisjoint(keys)
    assert {"table1", "table2", "table3"} <= set(paper_tables())


def test_the_small_twin_differs_only_in_size(root):
    paper, mini = (load_config(root / f"config/{name}.yaml") for name in ("paper", "paper-mini"))
    assert list(mini.methods) == list(paper.methods)
    assert mini.generators == paper.generators and mini.index == paper.index
    assert mini.scorers == paper.scorers and mini.skipped == paper.skipped
    assert mini.training.pairs * 100 == paper.training.pairs
    for name in paper.methods:
        for block in ("label", "augment", "generator", "benchmarks", "baseline", "paper_key"):
            assert getattr(mini.methods[name], block) == getattr(paper.methods[name], block)
        databases = [config.resolved(name).database for config in (paper, mini)]
        large, small = (list(database.samples.values()) for database in databases)
        assert [s.images * 100 for s in small] == [s.images for s in large]
        assert [s.name for s in small] == [s.name for s in large]
        assert databases[0].exclude == databases[1].exclude
    for name, drawn in mini.benchmarks.items():
        made = mini.assets[str(drawn.prompts)]
        assert (made.every, made.of) == (100, paper.benchmarks[name].prompts)


@pytest.mark.slow
def test_weights_of_a_hub_and_a_corpus_become_a_database(tmp_path, root, monkeypatch):
    """The real rules, from an earlier download and tars to a store without the test images."""
    for part in ("workflow", "profiles", "config", "benchmarks", "checkpoints"):
        (tmp_path / part).symlink_to(root / part)
    shutil.copy(root / "Snakefile", tmp_path)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache/models--acme--janus"
    shutil.copytree(root / "checkpoints/micro-janus", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    write_tars(tmp_path / "a", [NAMES[:6], NAMES[6:12]])
    (tmp_path / "tests").mkdir()
    for name in ("00003.png", "00007.png"):
        (tmp_path / "tests" / name).write_bytes(picture(int(name[:5])))
    changes = {
        "base": "config/micro.yaml",
        "generators": {"janus": {"checkpoint": "hub:acme/janus@main"}},
        "database": {
            "source": None,
            "images": None,
            "sources": [{"source": "a/{00..01}.tar", "images": 10}],
            "images_per_job": 5,
            "exclude": ["tests"],
        },
        "grids": None,
        "figures": None,
    }
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changes))
    monkeypatch.chdir(tmp_path)
    store = Layout(load_config("mine.yaml")).codes("daid")
    done = WorkflowProject(tmp_path).snakemake(
        "--configfile", "mine.yaml", "--", f"{store}/manifest.json"
    )
    assert done.returncode == 0, done.stdout
    joined = TokenStore.open(store, verify=True)
    found = {joined.keys(i).partition("/")[2] for i in range(len(joined))}
    chosen = set(sorted(NAMES[:12], key=lambda name: number(name, 0))[:10])
    assert found == chosen - {"00003.png", "00007.png"}
    assert (tmp_path / "data/hub/acme~janus@main/config.json").is_file()

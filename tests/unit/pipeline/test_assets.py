"""Downloads, conversions and corpora: their names, and the files that are made of them."""

import json

import pytest
import yaml

from arrag.cli.main import main
from arrag.config.assets import asset_path, identity_of
from arrag.config.root import load_config
from arrag.pipeline.corpora import corpus_parts
from arrag.pipeline.layout import Layout
from arrag.utils.errors import ConfigError

HUB = "data/hub/acme~janus@main"


@pytest.fixture
def place(tmp_path, root, monkeypatch):
    """An empty folder with the repository's checkpoints, prompts and configurations beside it."""
    for part in ("checkpoints", "benchmarks", "config"):
        (tmp_path / part).symlink_to(root / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configuration(place, changes):
    """A configuration over config/micro.yaml."""
    file = place / "mine.yaml"
    file.write_text(
        yaml.safe_dump({"base": "config/micro.yaml", "grids": None, "figures": None, **changes})
    )
    return load_config(file)


def names(config):
    """All names of results that a method of the first generator has."""
    layout = Layout(config)
    found = {}
    for method in config.methods:
        if config.generator_of(method)[0] != config.generator_of()[0]:
            continue
        for benchmark in config.benchmarks:
            found[method, benchmark] = (
                str(layout.samples(method, benchmark)),
                {metric: str(p) for metric, p in layout.scores(method, benchmark).items()},
            )
        found[method] = {part: str(path) for part, path in layout.artifacts_for(method).items()}
    return found


FROM_HUB = {"generators": {"janus": {"checkpoint": "hub:acme/janus@main"}}}


def test_names_need_no_weights_and_stay_when_they_arrive(place):
    before = names(configuration(place, FROM_HUB))
    folder = place / HUB
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert names(configuration(place, FROM_HUB)) == before


def test_another_revision_or_repository_is_another_name(place):
    before = names(configuration(place, FROM_HUB))
    for other in ("hub:acme/janus@v2", "hub:acme/janus-2@main"):
        changed = {"generators": {"janus": {"checkpoint": other}}}
        after = names(configuration(place, changed))
        assert not {str(v) for v in before.values() if v} & {str(v) for v in after.values() if v}
    other = configuration(place, {"scorers": {"color": "hub:acme/clip@main"}})
    assert other.scorers.color.as_posix() == "data/hub/acme~clip@main"
    assert Layout(other).samples("vanilla") == Layout(load_config("config/micro.yaml")).samples(
        "vanilla"
    )


def entry(**changes):
    given = {"kind": "file", "url": "https://example.org/p.jsonl", "sha256": "ab" * 32}
    return {"assets": {"data/p.jsonl": given | changes}} | {
        "benchmarks": {"geneval": {"prompts": "data/p.jsonl"}}
    }


def test_a_pinned_file_is_known_by_its_pin_before_and_after_it_is_there(place):
    config = configuration(place, entry())
    before = names(config)
    (place / "data").mkdir(exist_ok=True)
    (place / "data/p.jsonl").write_text('{"prompt": "x"}\n')
    assert names(config) == before
    assert names(configuration(place, entry(url="https://mirror.org/p.jsonl"))) == before
    assert names(configuration(place, entry(sha256="cd" * 32))) != before


def test_what_is_made_of_something_else_follows_it(place):
    prepare = {
        "data/few.jsonl": {"kind": "subset", "of": "data/p.jsonl", "every": 10},
        "data/both": {
            "kind": "folder",
            "of": "hub:acme/a@main",
            "parts": {"llm": "hub:acme/b@main"},
        },
    }
    changes = entry()
    changes["assets"] |= prepare
    config = configuration(place, changes)
    few, both = (
        (place / "data/few.jsonl").relative_to(place),
        (place / "data/both").relative_to(place),
    )
    identity = identity_of(few, config.assets)
    assert identity == {"kind": "subset", "every": 10, "of": {"sha256": "ab" * 32}}
    assert identity_of(both, config.assets)["parts.llm"] == {"hub": "acme/b@main", "inside": ""}
    assert identity_of(both / "llm", config.assets)["inside"] == "llm"
    assert asset_path(both / "llm/config.json", config.assets) == both
    assert asset_path("data/hub/acme~a@main/x/y", config.assets).name == "acme~a@main"
    assert asset_path("checkpoints/micro-janus", config.assets) is None


def test_a_file_must_be_known_by_one_digest(place):
    for wrong in (
        entry(git_blob="0" * 40),
        entry(url="ftp://example.org/x"),
        {"scorers": {"color": "hub:no-revision"}},
    ):
        with pytest.raises(ConfigError):
            configuration(place, wrong)


def test_a_subset_and_a_folder_are_made_by_one_command(place, capsys):
    (place / "p.jsonl").write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(30)))
    for name in ("one", "two"):
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps(name))
    prepare = {
        "out/few.jsonl": {"kind": "subset", "of": "p.jsonl", "every": 10},
        "out/both": {"kind": "folder", "of": "one", "parts": {"llm": "two"}},
    }
    configuration(place, {"assets": prepare})
    for path in prepare:
        assert main(["assets", "get", path, "--config", "mine.yaml"]) == 0
    assert len((place / "out/few.jsonl").read_text().splitlines()) == 3
    assert json.loads((place / "out/both/config.json").read_text()) == "one"
    assert json.loads((place / "out/both/llm/config.json").read_text()) == "two"
    assert main(["assets", "get", "out/many.jsonl", "--config", "mine.yaml"]) == 2
    assert "out/few.jsonl" in capsys.readouterr().err


def two_corpora(place, **changes):
    sources = [
        {"source": "a/{00..05}.tar", "images": 250},
        {"source": "b/x-{0..9}.tgz", "images": 1000, "seed": 3},
    ]
    database = {"source": None, "images": None, "sources": sources, "images_per_job": 100}
    return configuration(place, {"database": database | changes})


def test_a_database_of_corpora_is_cut_into_jobs_of_whole_files(place):
    config = two_corpora(place)
    layout = Layout(config)
    parts = corpus_parts(layout, "daid")
    assert [(p.number, p.of) for p in parts] == [(i, 3) for i in range(3)] + [
        (i, 10) for i in range(10)
    ]
    assert "::".join(p.source for p in parts[:3]).split("::") == [
        f"a/{i:02d}.tar" for i in range(6)
    ]
    paths = [str(path) for p in parts for path in (p.listed, p.store)]
    assert len(set(paths)) == len(paths)
    assert len({p.choice for p in parts}) == 2
    assert layout.codes("daid").name.startswith("joined-a+b-")
    # How many jobs there are shapes neither the database nor what is made of it.
    more = Layout(two_corpora(place, images_per_job=50))
    assert more.codes("daid") == layout.codes("daid")
    assert len(corpus_parts(more, "daid")) == 15


def test_databases_that_share_a_corpus_share_its_parts(place):
    config = two_corpora(place)
    alone = two_corpora(place, sources=[{"source": "a/{00..05}.tar", "images": 250}])
    stores = [{p.store for p in corpus_parts(Layout(c), "daid")} for c in (config, alone)]
    assert stores[1] < stores[0]
    assert Layout(config).codes("daid") != Layout(alone).codes("daid")


@pytest.mark.parametrize("changes", [
    {"source": "a/{00..05}.tar"},
    {"images": 3},  # each corpus has its own number
    {"sources": [{"source": "a/{0..3}.tar"}, {"source": "b/3.tar"}]},  # two files of one name
])  # fmt: skip
def test_a_database_that_cannot_be_meant_is_refused(place, changes):
    with pytest.raises(ConfigError):
        two_corpora(place, **changes)

"""Grids in a configuration: which methods their points become, and what each mistake is called."""

import itertools

import pytest
import yaml

from arrag.config.grids import point_name, value_text
from arrag.config.root import load_config
from arrag.pipeline.layout import Layout
from arrag.utils.errors import ConfigError


@pytest.fixture
def document(root):
    return yaml.safe_load((root / "config/micro-ci.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def load(document, tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)  # paths of checkpoints and prompts

    def load(**grids):
        document["grids"] = grids
        document["figures"] = {}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return load_config(path)

    return load


def test_every_combination_is_a_method_with_those_settings(load):
    lams, taus = [0.1, 0.3], [0.2, 1.0, 5.0]
    config = load(a={"method": "daid", "values": {"augment.lam": lams, "augment.tau": taus}})
    found = [(p.method.augment.lam, p.method.augment.tau) for p in config.grid_points.values()]
    assert found == list(itertools.product(lams, taus))
    assert all(p.method.augment.k == 20 for p in config.grid_points.values())  # the method's own
    assert not set(config.methods) & set(config.grid_points)  # no rows of a table
    assert set(config.row_labels()) - set(config.methods) == {"real", "reconstructions"}


def test_a_point_equal_to_a_row_has_its_results(load):
    config = load(a={"method": "daid", "values": {"augment.lam": [0.1, 0.3]}})
    layout, (same, other) = Layout(config), config.grid_points
    assert (same, other) == ("daid@lam=0.1", "daid@lam=0.3")
    assert layout.samples(same) == layout.samples("daid")
    assert layout.scores(same, "mjhq") == layout.scores("daid", "mjhq")
    assert layout.samples(other) != layout.samples("daid")
    assert layout.index(other) == layout.index("daid")


def test_points_share_what_their_settings_leave_alone(load):
    config = load(
        a={
            "method": "faid",
            "fixed": {"augment.adapter": None},
            "values": {"training.faid.hops": [[1], [1, 2]], "training.faid.modules": [1, 2]},
        },
        b={"method": "daid", "values": {"index.key_hop": [1, 2]}},
        c={"method": "daid", "values": {"database.images": [100, 200]}},
    )
    layout, names = Layout(config), list(config.grid_points)
    faid, daid = [n for n in names if n.startswith("faid@")], names[4:]
    assert len({layout.trained_adapter(n) for n in faid}) == 4
    for part in (layout.pairs, layout.neighbours, layout.index, layout.codes):
        assert len({part(n) for n in faid}) == 1
    hops = [config.resolved(name).training.faid.hops for name in faid]
    assert hops == [(1,), (1,), (1, 2), (1, 2)]
    assert layout.index(daid[0]) == layout.index("daid") != layout.index(daid[1])
    assert layout.codes(daid[0]) == layout.codes(daid[1]) != layout.codes(daid[2])
    assert layout.codes(daid[2]) != layout.codes(daid[3])


def test_lam_and_tau_train_nothing(load):
    values = {"augment.k": [5, 10, 20]}
    config = load(a={"method": "faid", "fixed": {"augment.adapter": None}, "values": values})
    layout = Layout(config)
    assert len({layout.trained_adapter(name) for name in config.grid_points}) == 1
    assert len({layout.samples(name) for name in config.grid_points}) == 3


def test_labelled_points_and_equal_settings_in_two_grids(load):
    points = [
        {"label": "ours", "set": {}},
        {"label": "theirs", "set": {"augment.k": 100, "index.mode": "faiss:IVF16,Flat"}},
    ]
    config = load(
        a={"method": "daid", "points": points},
        b={"method": "daid", "values": {"augment.k": [20, 100]}},
    )
    layout = Layout(config)
    assert len(config.grid_points) == 4
    assert (
        len({layout.samples(name) for name in config.grid_points}) == 3
    )  # K = 20 is the method's own
    theirs = config.resolved(list(config.grid_points)[1])
    assert (theirs.index.mode, theirs.method.augment.k) == ("faiss:IVF16,Flat", 100)


A_GRID = {"method": "daid", "values": {"augment.lam": [0.1]}}
TWO = [{"label": "x", "set": {}}, {"label": "x", "set": {"augment.k": 2}}]


@pytest.mark.parametrize(
    ("grid", "field"),
    [
        ({"values": {"augment.lam": [1.5]}}, "grids.a.values.augment.lam"),
        ({"values": {"augment.lam": ["0.1"]}}, "grids.a.values.augment.lam"),
        ({"values": {"augment.lma": [0.1]}}, "grids.a.values.augment.lma"),
        ({"values": {"lam": [0.1]}}, "grids.a.values.lam"),
        ({"values": {"augment.lam": []}}, "grids.a"),
        ({"values": {"augment.lam": [0.1, 0.1]}}, "grids.a"),
        ({"values": {}}, "grids.a"),
        ({"values": None}, "grids.a"),
        ({"points": []}, "grids.a"),
        ({"values": None, "points": TWO}, "grids.a"),
        ({"values": {"index.key_hop": [0]}}, "grids.a.values.index.key_hop"),
        ({"fixed": {"index.nprob": 3}}, "grids.a.values.index.nprob"),
        ({"method": "diad"}, "grids.a.method"),
        ({"baseline": "vanila"}, "grids.a.baseline"),
        ({"benchmark": "genevl"}, "grids.a.benchmark"),
        ({"titel": "x"}, "grids.a.titel"),
        (
            {"method": "faid", "values": {"training.faid.modules": [1]}},
            "grids.a.values.training.faid.modules",
        ),
        ({"method": "vanilla"}, "grids.a.values.augment.lam"),
    ],
)
def test_each_mistake_names_its_grid_and_field(load, grid, field):
    with pytest.raises(ConfigError) as error:
        load(a=A_GRID | grid)
    assert field in {one.field for one in error.value.mistakes}


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("timing", {"methods": ["diad"]}),
        ("timing", {"benchmark": "x"}),
        ("timing", {"rounds": 0}),
        ("figures", {"maps": ["diad"]}),
        ("figures", {"maps": ["k"]}),  # a map needs two paths
    ],
)
def test_timing_and_figures_name_what_there_is(document, tmp_path, block, value):
    document["grids"]["k"] = {"method": "daid", "values": {"augment.k": [1, 2]}}
    document[block] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert error.value.field == f"{block}.{next(iter(value))}"


def test_the_name_of_a_point_tells_its_settings():
    name = point_name("daid", {"augment.tau": 0.2, "augment.lam": 0.1})
    assert name == point_name("daid", {"augment.lam": 0.1, "augment.tau": 0.2})
    assert name == "daid@lam=0.1+tau=0.2"
    listed = [
        {"training.faid.hops": [1, 2]},
        {"training.faid.hops": [1], "training.faid.modules": 2},
        {"index.mode": "faiss:IVF64,PQ4x8"},
        {"index.mode": "faiss:IVF64-PQ4x8"},
        {"augment.k": 1, "training.faid.k": 1},
        {"training.faid.hops": 12},
        {},
    ]
    names = [point_name("faid", settings) for settings in listed]
    assert len(set(names)) == len(names)
    assert all(set(n) <= set("abcdefghijklmnopqrstuvwxyzIVFPQ0123456789@=.+-_") for n in names)


def test_hops_are_written_as_in_the_paper():
    values = ([1, 2], [3], 0.5, "skip", None, 20_000)
    assert [value_text(v) for v in values] == ["12", "3", "0.5", "skip", "null", "20000"]

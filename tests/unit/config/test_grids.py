"""Grids in a configuration: which methods their points become, and what each mistake is called."""

import itertools

import pytest
import yaml

from arrag.config.grids import point_name, value_text
from arrag.config.root import load_config
from arrag.pipeline.layout import Layout
from arrag.utils.errors import ArragError


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
    found = [(p.method.augment.lam, p.method.augment.tau) for p in config.derived.values()]
    assert found == list(itertools.product(lams, taus))
    assert all(p.method.augment.k == 20 for p in config.derived.values())  # the method's own
    assert not set(config.methods) & set(config.derived)  # no rows of a table
    assert set(config.row_labels()) - set(config.methods) == {"real", "reconstructions"}


def test_a_point_equal_to_a_row_has_its_results(load):
    config = load(a={"method": "daid", "values": {"augment.lam": [0.1, 0.3]}})
    layout, (same, other) = Layout(config), config.derived
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
    layout, names = Layout(config), list(config.derived)
    faid, daid = [n for n in names if n.startswith("faid@")], names[4:]
    assert len({layout.trained_adapter(n) for n in faid}) == 4
    for part in (layout.pairs, layout.neighbours, layout.index, layout.codes):
        assert len({part(n) for n in faid}) == 1
    assert [config.resolved(n).training.faid.hops for n in faid] == [[1], [1], [1, 2], [1, 2]]
    assert layout.index(daid[0]) == layout.index("daid") != layout.index(daid[1])
    assert layout.codes(daid[0]) == layout.codes(daid[1]) != layout.codes(daid[2])
    assert layout.codes(daid[2]) != layout.codes(daid[3])


def test_lam_and_tau_train_nothing(load):
    values = {"augment.k": [5, 10, 20]}
    config = load(a={"method": "faid", "fixed": {"augment.adapter": None}, "values": values})
    layout = Layout(config)
    assert len({layout.trained_adapter(name) for name in config.derived}) == 1
    assert len({layout.samples(name) for name in config.derived}) == 3


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
    assert len(config.derived) == 4
    assert len({layout.samples(name) for name in config.derived}) == 3  # K = 20 is the method's own
    theirs = config.resolved(list(config.derived)[1])
    assert (theirs.index.mode, theirs.method.augment.k) == ("faiss:IVF16,Flat", 100)


A_GRID = {"method": "daid", "values": {"augment.lam": [0.1]}}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"values": {"augment.lam": [1.5]}}, r"grids\.a\.values\.augment\.lam: found 1\.5; .*1"),
        ({"values": {"augment.lam": ["0.1"]}}, r"grids\.a\.values\.augment\.lam: found '0\.1'"),
        ({"values": {"augment.lma": [0.1]}}, r"values\.augment\.lma: .*mean 'augment\.lam'"),
        ({"values": {"lam": [0.1]}}, r"values\.lam: no such setting; did you mean 'augment\.lam'"),
        ({"values": {"augment.lam": []}}, r"grids\.a: values\.augment\.lam: empty; add a value"),
        ({"values": {"augment.lam": [0.1, 0.1]}}, r"values\.augment\.lam: found a value twice"),
        ({"values": {}}, r"grids\.a: values: empty; add one"),
        ({"values": None}, r"grids\.a: give either `values` or `points`"),
        ({"points": []}, r"grids\.a: give either `values` or `points`"),
        ({"values": None, "points": []}, r"grids\.a: points: empty; add one"),
        ({"values": {"index.key_hop": [0]}}, r"grids\.a\.values\.\S*key_hop: .*0"),
        ({"values": {"index.mode": ["ivff"]}}, r"grids\.a\.values\.\S*mode: .*found 'ivff'"),
        ({"fixed": {"index.nprob": 3}}, r"index\.nprob: no such .*mean 'index\.nprobe'"),
        ({"method": "diad"}, r"grids\.a\.method: no such method 'diad'; did you mean 'daid'"),
        ({"baseline": "vanila"}, r"grids\.a\.baseline: no such method 'vanila'.*'vanilla'"),
        ({"benchmark": "genevl"}, r"grids\.a\.benchmark: no such benchmark .*'geneval'"),
        ({"titel": "x"}, r"grids\.a\.titel: unknown key; did you mean 'title'"),
        (
            {"method": "faid", "values": {"training.faid.modules": [1]}},
            r"training\.faid\.modules: changes nothing, .*`fixed: \{augment\.adapter: null\}`",
        ),
        ({"method": "vanilla"}, r"values\.augment\.lam: no such setting"),
    ],
)
def test_each_mistake_names_its_grid_and_field(load, grid, message):
    with pytest.raises(ArragError, match=message):
        load(a=A_GRID | grid)


def test_two_points_of_one_label_are_refused(load):
    points = [{"label": "x", "set": {}}, {"label": "x", "set": {"augment.k": 2}}]
    with pytest.raises(ArragError, match=r"points: label 'x' is given twice"):
        load(a={"method": "daid", "points": points})


@pytest.mark.parametrize(
    ("block", "value", "message"),
    [
        ("timing", {"methods": ["diad"]}, r"timing\.methods: no such method 'diad'"),
        ("timing", {"benchmark": "x"}, r"timing\.benchmark: no such benchmark 'x'"),
        ("timing", {"rounds": 0}, r"timing\.rounds: found 0"),
        ("figures", {"maps": ["diad"]}, r"figures\.maps: no such grid 'diad'; did you mean 'daid'"),
    ],
)
def test_timing_and_figures_name_what_there_is(document, tmp_path, block, value, message):
    document[block] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ArragError, match=message):
        load_config(path)


def test_a_map_needs_two_paths(document, tmp_path):
    document["grids"]["k"] = {"method": "daid", "values": {"augment.k": [1, 2]}}
    document["figures"] = {"maps": ["k"]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ArragError, match=r"figures\.maps: grid 'k' has 1 paths"):
        load_config(path)


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

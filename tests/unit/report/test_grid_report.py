"""An ablation's report from made-up scores: its numbers are the tables', its maps are in order."""

import csv
import itertools

import numpy as np
import pytest
from PIL import Image
from test_tables import blocks_of, make_score

from arrag.config.grids import point_name, value_text
from arrag.metrics.bootstrap import paired_difference
from arrag.report.figures import grids as figure_grids
from arrag.report.figures.grids import figure7, map_of
from arrag.report.grid import GridPoint, GridReport, write_grid
from arrag.utils.errors import ArragError

LAM, TAU = [0.0, 0.1, 0.9], [0.05, 1.0]
BASE = make_score([0.5] * 6)


def rates(lam, tau):
    """Shares of right prompts that tell every point from the others."""
    return [0.5 + 0.1 * LAM.index(lam) + 0.2 * TAU.index(tau)] * 5 + [0.5]


def a_map(**changed):
    points = [
        GridPoint(
            f"lam {lam}, tau {tau}",
            {"augment.lam": lam, "augment.tau": tau},
            {"geneval": make_score(rates(lam, tau))},
        )
        for lam, tau in itertools.product(LAM, TAU)
    ]
    fields = {
        "name": "daid",
        "title": "λ and τ",
        "kind": "geneval",
        "scale": "micro",
        "axes": {"augment.lam": LAM, "augment.tau": TAU},
        "points": points,
        "baseline": ("Janus", {"geneval": BASE}),
    }
    return GridReport(**(fields | changed))


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_csv_holds_every_point_and_its_paired_difference(tmp_path):
    report = a_map()
    write_grid(report, tmp_path / "ablation_daid")
    lines = rows_of(tmp_path / "ablation_daid.csv")
    overall = [line for line in lines if line["column"] == "overall"]
    assert len(overall) == 1 + 6 and len(lines) == 7 * 7
    assert overall[0]["point"] == "baseline: Janus" and overall[0]["difference"] == ""
    for line, point in zip(overall[1:], report.points, strict=True):
        assert (line["augment.lam"], line["augment.tau"]) == tuple(
            value_text(v) for v in point.settings.values()
        )
        score = point.scores["geneval"]
        want = paired_difference(score, BASE)["overall"]
        found = [float(line[f]) for f in ("difference", "difference_low", "difference_high")]
        assert np.allclose(found, want) and float(line["value"]) == score["value"]
        apart = not want.holds(0)
        assert (line["reading"] == "above the baseline") == (apart and want.value > 0)
    assert overall[1]["reading"] == "indistinguishable from zero"


def test_the_page_has_the_map_every_point_and_the_differences(tmp_path):
    write_grid(a_map(), tmp_path / "a")
    page = (tmp_path / "a.md").read_text(encoding="utf-8")
    blocks = blocks_of(page)
    heat = blocks["Overall with 95 % intervals"]
    assert heat[0] == ["λ \\\\ τ", "0.05", "1.0"]
    assert [row[0] for row in heat[2:]] == ["0.0", "0.1", "0.9"]
    assert heat[3][2].startswith("**0.750**")  # lam 0.1, tau 1.0: (5 * 0.8 + 0.5) / 6
    assert heat[2][1].startswith("0.500<br>")  # not told from the baseline: not bold
    points = blocks["Every point, with 95 % intervals"]
    assert points[2][0].startswith("Janus<br>") and len(points) == 2 + 1 + 6
    assert len(blocks["Difference to Janus, paired by prompt"]) == 2 + 6
    assert "one in twenty" in page and "Micro scale" in page
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"a{suffix}").stat().st_size > 1000


def test_a_map_has_the_first_path_in_its_rows():
    found = map_of(a_map(), "overall")
    want = [[(5 * rates(lam, tau)[0] + 0.5) / 6 for tau in TAU] for lam in LAM]
    assert np.allclose(found.values, want)
    assert (found.row_label, found.column_label) == ("λ", "τ")
    assert not found.apart[0, 0] and found.apart[2, 1]


@pytest.mark.parametrize(
    ("axes", "drawn"),
    [({"augment.k": [1, 10, 100]}, "_line"), ({"index.border": ["skip", "zero", "x"]}, "_points")],
)
def test_one_path_is_a_line_of_numbers_or_points(tmp_path, monkeypatch, axes, drawn):
    (path, values), called = *axes.items(), []
    for name in ("_line", "_points"):
        usual = getattr(figure_grids, name)
        monkeypatch.setattr(
            figure_grids, name, lambda *a, name=name, usual=usual: (called.append(name), usual(*a))
        )
    points = [
        GridPoint(str(v), {path: v}, {"geneval": make_score([0.5 + i / 10] * 6)})
        for i, v in enumerate(values)
    ]
    write_grid(a_map(axes=axes, points=points), tmp_path / "a")
    assert called == [drawn]
    assert "with 95 % intervals" in (tmp_path / "a.md").read_text()


def test_labelled_points_need_no_path(tmp_path):
    points = [
        GridPoint("ours", {}, {"geneval": make_score([0.6] * 6)}),
        GridPoint("official", {"index.nprobe": 1}, {"geneval": make_score([0.4] * 6)}),
    ]
    write_grid(a_map(axes={}, points=points, baseline=None), tmp_path / "a")
    lines = rows_of(tmp_path / "a.csv")
    assert [line["index.nprobe"] for line in lines[::7]] == ["", "1"]
    assert all(line["difference"] == "" for line in lines)


def test_the_same_report_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_grid(a_map(), tmp_path / name / "ablation")
    for suffix in (".png", ".pdf", ".csv", ".md"):
        one, two = (tmp_path / name / f"ablation{suffix}" for name in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()


def test_mistakes_name_the_grid_and_the_field(tmp_path):
    with pytest.raises(ArragError, match=r"grids\.daid\.metric: found 'fdi'; .*overall"):
        write_grid(a_map(metric="fdi"), tmp_path / "a")
    points = [GridPoint("x", {}, {})]
    with pytest.raises(ArragError, match="point x has no score"):
        write_grid(a_map(points=points), tmp_path / "a")
    other = GridPoint("x", {}, {"geneval": make_score([0.5] * 6, prompt_set_sha256="00" * 32)})
    with pytest.raises(ArragError, match="prompt_set_sha256"):
        write_grid(a_map(points=[other]), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def figure7_of(tmp_path, **changed):
    about = {
        "title": "DAiD",
        "csv": tmp_path / "ablation_daid.csv",
        "axes": {"augment.lam": LAM, "augment.tau": TAU},
        "column": "overall",
        "digits": 3,
        "lower_is_better": False,
    }
    figure7({"daid": about | changed, "again": about | changed}, tmp_path / "figure7")


def test_figure_7_draws_what_the_csvs_say(tmp_path):
    write_grid(a_map(), tmp_path / "ablation_daid")
    figure7_of(tmp_path)
    lines = [line for line in rows_of(tmp_path / "figure7.csv") if line["grid"] == "daid"]
    want = [(5 * rates(lam, tau)[0] + 0.5) / 6 for lam, tau in itertools.product(LAM, TAU)]
    assert np.allclose([float(line["value"]) for line in lines], want)
    assert [line["apart"] for line in lines] == ["False"] + ["True"] * 5
    with Image.open(tmp_path / "figure7.png") as picture:
        assert picture.width > picture.height


def test_figure_7_without_its_data_says_what_makes_it(tmp_path):
    with pytest.raises(ArragError, match=r"cannot be read; make it with .*ablation_daid\.md"):
        figure7_of(tmp_path)
    write_grid(a_map(), tmp_path / "ablation_daid")
    with pytest.raises(ArragError, match=r"no overall at augment\.lam 0\.3, augment\.tau 0\.05"):
        figure7_of(tmp_path, axes={"augment.lam": [0.3], "augment.tau": TAU})
    with pytest.raises(ArragError, match="none has two paths"):
        figure7({}, tmp_path / "figure7")


def test_a_point_s_name_is_its_settings():
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


def test_hops_are_written_as_the_paper_does():
    assert [value_text(v) for v in ([1, 2], [3], 0.5, "skip", None, 20_000)] == [
        "12", "3", "0.5", "skip", "null", "20000",
    ]  # fmt: skip

"""Ablation reports from made-up scores: their numbers, their maps, and Figure 7."""

import itertools

import numpy as np
import pytest
from report_data import BASE, LAM, TAU, a_map, blocks_of, make_score, rates, read_rows

from arrag.config.grids import value_text
from arrag.metrics.bootstrap import paired_difference
from arrag.report.ablation import grid_blocks, grid_frame, write_grid
from arrag.report.figures.grids import figure7, heat_map
from arrag.report.measures import MEASURES
from arrag.report.model import GridPoint
from arrag.report.render import read_frame
from arrag.utils.errors import ArragError, ConfigError, FormatError

MEANS = [[(5 * rates(lam, tau)[0] + 0.5) / 6 for tau in TAU] for lam in LAM]
AXES = {"augment.lam": LAM, "augment.tau": TAU}


def test_the_csv_holds_every_point_and_its_paired_difference(tmp_path):
    report = a_map()
    write_grid(report, tmp_path / "a")
    lines = read_rows(tmp_path / "a.csv")
    overall = [line for line in lines if line["column"] == "overall"]
    assert len(overall) == 1 + 6 and len(lines) == 7 * 7
    assert overall[0]["point"] == "baseline: Janus" and overall[0]["difference"] == ""
    for line, point in zip(overall[1:], report.points, strict=True):
        settings = tuple(value_text(v) for v in point.settings.values())
        assert (line["augment.lam"], line["augment.tau"]) == settings
        score = point.scores["geneval"]
        want = paired_difference(score, BASE)["overall"]
        found = [float(line[f]) for f in ("difference", "difference_low", "difference_high")]
        assert np.allclose(found, want) and float(line["value"]) == score["value"]
        apart = not want.holds(0)
        assert (line["reading"] == "above the baseline") == (apart and want.value > 0)
    assert overall[1]["reading"] == "indistinguishable from zero"


def test_the_page_has_the_map_all_points_and_the_differences(tmp_path):
    write_grid(a_map(), tmp_path / "a")
    blocks = blocks_of((tmp_path / "a.md").read_text())
    heat = blocks["Overall with 95 % intervals"]
    assert heat[0] == ["λ \\\\ τ", "0.05", "1.0"]
    assert [row[0] for row in heat[2:]] == ["0.0", "0.1", "0.9"]
    assert heat[3][2].startswith("**0.750**")  # lam 0.1, tau 1.0: (5 * 0.8 + 0.5) / 6
    assert heat[2][1].startswith("0.500<br>")  # indistinguishable from the baseline: not bold
    points = blocks["All points, with 95 % intervals"]
    assert points[2][0].startswith("Janus<br>") and len(points) == 2 + 1 + 6
    assert len(blocks["Difference to Janus, paired by prompt"]) == 2 + 6
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"a{suffix}").stat().st_size > 1000


def test_the_csv_gives_the_tables_and_the_map_again(tmp_path):
    report, measure = a_map(), MEASURES["geneval"]
    write_grid(report, tmp_path / "a")
    again = read_frame(tmp_path / "a.csv")
    for frame in (grid_frame(report), again):
        numbers = frame[(frame.column == "overall")]
        found = heat_map(numbers, AXES, "", measure)
        assert np.allclose(found.values, MEANS)  # the first path in the rows
        assert not found.differs[0, 0] and found.differs[2, 1]
    blocks = [
        grid_blocks(frame, AXES, report.columns, measure, "overall")
        for frame in (grid_frame(report), again)
    ]
    assert blocks[0] == blocks[1]


@pytest.mark.parametrize(
    ("axes", "labels"),
    [
        ({"augment.k": [1, 10, 100]}, ("K", "Overall")),  # a line
        ({"index.border": ["skip", "zero", "x"]}, ("Overall", "")),  # points
    ],
)
def test_one_path_is_a_line_of_numbers_or_points(tmp_path, monkeypatch, axes, labels):
    drawn = []
    monkeypatch.setattr(
        "arrag.report.figures.grids.save", lambda figure, stem: drawn.append(figure.axes[0])
    )
    ((path, values),) = axes.items()
    points = [
        GridPoint(str(v), {path: v}, {"geneval": make_score([0.5 + i / 10] * 6)})
        for i, v in enumerate(values)
    ]
    write_grid(a_map(axes=axes, points=points), tmp_path / "a")
    assert (drawn[0].get_xlabel(), drawn[0].get_ylabel()) == labels


def test_labelled_points_need_no_path_and_no_baseline(tmp_path):
    points = [
        GridPoint("ours", {}, {"geneval": make_score([0.6] * 6)}),
        GridPoint("official", {"index.nprobe": 1}, {"geneval": make_score([0.4] * 6)}),
    ]
    write_grid(a_map(axes={}, points=points, baseline=None), tmp_path / "a")
    lines = read_rows(tmp_path / "a.csv")
    assert [line["index.nprobe"] for line in lines[::7]] == ["", "1"]
    assert all(line["difference"] == "" for line in lines)


def test_mistakes_name_the_grid_and_the_field(tmp_path):
    for changed, field in (
        ({"metric": "fdi"}, "grids.daid.metric"),
        ({"points": [GridPoint("x", {}, {})]}, "grids.daid"),
        ({"points": []}, "grids.daid"),
    ):
        with pytest.raises(ConfigError) as raised:
            write_grid(a_map(**changed), tmp_path / "a")
        assert raised.value.field == field and raised.value.hint is not None
    other = GridPoint("x", {}, {"geneval": make_score([0.5] * 6, prompt_set_sha256="00" * 32)})
    with pytest.raises(ArragError, match="prompt_set_sha256"):
        write_grid(a_map(points=[other]), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_figure_7_draws_heat_maps(tmp_path):
    numbers = grid_frame(a_map()).query("column == 'overall'")
    found = heat_map(numbers, AXES, "DAiD", MEASURES["geneval"])
    figure7({"daid": ("overall", found), "again": ("overall", found)}, tmp_path / "figure7")
    lines = read_rows(tmp_path / "figure7.csv", grid="daid")
    assert np.allclose([float(line["value"]) for line in lines], np.ravel(MEANS))
    assert [line["apart"] for line in lines] == ["False"] + ["True"] * 5
    places = [(line["row"], line["value_of_column"]) for line in lines]
    assert places == [(value_text(a), value_text(b)) for a, b in itertools.product(LAM, TAU)]
    with pytest.raises(FormatError) as raised:
        heat_map(numbers, AXES | {"augment.lam": [0.3]}, "", MEASURES["geneval"])
    assert raised.value.field == "augment.lam 0.3, augment.tau 0.05"
    with pytest.raises(ConfigError):
        figure7({}, tmp_path / "figure7")

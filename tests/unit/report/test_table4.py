"""Table 4 from made-up times: the paper's order, overheads within rounds, the paper's block."""

import math

import pytest
from report_data import SECONDS, a_timing, blocks_of, read_rows

from arrag.config.paper import paper_rows, paper_values
from arrag.methods.timing import overhead
from arrag.report.render import read_frame, write_report
from arrag.report.table4 import make_table4, paper_ordered, timing_blocks
from arrag.utils.errors import FormatError


def write(tmp_path, timing):
    write_report(tmp_path / "table4", *make_table4(timing))
    return (tmp_path / "table4.md").read_text(), read_rows(tmp_path / "table4.csv")


def numbers(lines, block, key):
    return {
        line["column"]: tuple(float(line[f]) for f in ("value", "low", "high") if line[f])
        for line in lines
        if line["block"] == block and line["key"] == key
    }


def test_rows_are_in_the_papers_order():
    order = ["vanilla", "daid", "faid", "upstream", "pipeline"]
    assert paper_ordered(a_timing()) == order


def test_totals_seconds_an_image_and_overheads(tmp_path):
    page, lines = write(tmp_path, a_timing())
    for block, share, images in (("one", 1, 4), ("best", 1 / 4, 8)):
        found = numbers(lines, block, "daid")
        mean = math.prod(SECONDS["daid"]) ** (1 / 3) * share
        assert found["total_seconds"][0] == pytest.approx(mean)
        assert found["seconds_per_image"][0] == pytest.approx(mean / images)
        # 10 % in every round, however the rounds differ
        assert found["overhead_percent"] == pytest.approx((10, 10, 10))
        found = numbers(lines, block, "faid")["overhead_percent"]
        assert found == pytest.approx(overhead(SECONDS["faid"], SECONDS["vanilla"]))
    blocks = blocks_of(page)
    one = blocks["One image at a time, as in the paper"]
    assert [line[0].split("<br>")[0] for line in one[2:]] == [
        f"row {key}" for key in ("vanilla", "daid", "faid", "u", "p")
    ]
    assert one[2][3].startswith("0<br>") and one[3][3].startswith("**+10.0**")
    assert one[6][3] == "–"  # no bare row of its generator in this run
    best = blocks["The best batch"]
    assert len(best) == 2 + 3 and best[2][1] == "8<br><sub>16 is no faster</sub>"


def test_a_single_round_has_no_interval(tmp_path):
    page, lines = write(tmp_path, a_timing())
    assert numbers(lines, "one", "pipeline")["seconds_per_image"] == (10.0,)
    assert "nan" not in page


def test_the_papers_times_are_set_apart(tmp_path):
    page, lines = write(tmp_path, a_timing())
    (heading,) = [h for h in blocks_of(page) if h.startswith("Reported in the paper, on one L40")]
    table = blocks_of(page)[heading]
    assert [line[0].split("<br>")[0] for line in table[2:]] == [
        "ImageRAG", "Janus-Pro-1B", "Janus-Pro-1B + DAiD", "Janus-Pro-1B + FAiD",
    ]  # fmt: skip
    assert table[4][1:] == ["459.34", "4.59", "0.22"] and "here: row daid" in table[4][0]
    assert "not run: " in table[2][0]
    for key in paper_rows("table4"):
        found = numbers(lines, "paper", key)
        for column, value in paper_values("table4", key).items():
            assert found[column] == (() if value is None else (value,))


def test_the_machine_and_random_weights_are_stated(tmp_path):
    page, _ = write(tmp_path, a_timing())
    assert "a CPU (cpu), 2 threads" in page and "torch 2.13.0" in page
    assert "Random weights" not in page
    page, _ = write(tmp_path, a_timing(weights="random", scale="paper"))
    assert "> Random weights" in page and "Weights: random." in page


def test_the_csv_gives_the_tables_again(tmp_path):
    page, _ = write(tmp_path, a_timing())
    blocks = timing_blocks(read_frame(tmp_path / "table4.csv"))
    for block in blocks:
        table = blocks_of(page)[block.heading]
        assert [row[-1].text for row in block.rows] == [
            row[-1].split("<br>")[0].strip("*") for row in table[2:]
        ]


def test_another_file_is_refused(tmp_path):
    for timing in ({}, a_timing(kind="score"), a_timing(rows={})):
        with pytest.raises(FormatError) as raised:
            make_table4(timing, tmp_path / "timing.json")
        assert raised.value.path == tmp_path / "timing.json" and raised.value.hint is not None

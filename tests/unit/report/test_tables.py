"""Tables 1 to 3 from made-up scores: their numbers, and that their three forms agree."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_data import (
    ASKED,
    DISTANCES,
    DPG,
    GIVEN,
    PROMPTS,
    PULL,
    ROWS,
    RUN,
    SCORES,
    WEIGHTS,
    blocks_of,
    dpg_score,
    make_score,
    read_rows,
    wrap,
    write_tables,
)

from arrag.config.paper import NOT_CONFIGURED, paper_tables
from arrag.data.prompts import TASKS
from arrag.metrics.bootstrap import mcnemar, paired_difference, resample_indices
from arrag.report.model import TableRow
from arrag.report.provenance import PROVENANCE, footer
from arrag.report.render import number_text
from arrag.report.table_blocks import MEASURED
from arrag.utils.errors import ArragError, ConfigError, MismatchError

PAPER = Path(__file__).parents[4] / "shared/paper/tables.yaml"
DIFFERENCE = "Difference to the baseline, paired by prompt"
REPORTED = f"Reported in the paper ({paper_tables()['source']})"


def write(folder, scale, rows=ROWS, scores=SCORES, not_run=None):
    return write_tables(folder, "geneval", scale, rows, wrap(scores), not_run)


def names_of(rows):
    return [row[0].split("<br>")[0] for row in rows]


# -- Table 1: what all three tables share ------------------------------------------------------


def test_paper_scale_puts_the_papers_numbers_below_ours(tmp_path):
    blocks = blocks_of(write(tmp_path, "paper")["md"])
    measured = blocks[MEASURED["paper"]]
    assert measured[0][:3] == ["Method", "Params", "Single Obj."] and measured[0][-1] == "Overall"
    names = names_of(measured[2:])
    assert names[:2] == ["paper: PixArt-α", "paper: LlamaGen"]
    assert names[-6:] == [
        "Janus-Pro-1B + DAiD",
        "paper: Janus-Pro-1B + DAiD",
        "paper: Janus-Pro-1B + FAiD",
        "authors' repository: Janus-Pro-1B + FAiD",
        "Ceiling: real images",
        "Ceiling: reconstructions",
    ]
    assert len(names) == 18 + 2 + 1 + 2
    at = names.index("Janus-Pro-1B") + 2
    assert measured[at][1:3] == ["1.0B", r"1.000<br><sub>\[0.950," + "\u00a0" + r"1.050\]</sub>"]
    # Ours is the paper's +- 0.05 in each column, overall 0.70 +- 0.02.
    printed = ("0.98", "0.77", "0.52", "0.84", "0.61", "0.55", "0.71")
    assert measured[at + 1][1:] == ["1.0B"] + [f"{v}<br><sub>inside</sub>" for v in printed]
    daid = measured[names.index("paper: Janus-Pro-1B + DAiD") + 2]
    assert daid[7] == "0.49<br><sub>outside</sub>"  # ours 1.00
    assert not any(heading.startswith("Reported") for heading in blocks)


def test_micro_scale_never_mixes_the_papers_numbers_with_ours(tmp_path):
    files = write(tmp_path, "micro")
    assert files["md"].splitlines()[2].startswith("> Micro scale")
    scales = {(row["block"], row["scale"]) for row in read_rows(files["csv"])}
    ours = {(b, "micro") for b in ("method", "ceiling", "difference", "not run")}
    assert scales == ours | {("paper", "paper"), ("authors", "paper")}
    blocks = blocks_of(files["md"])
    assert len(blocks[MEASURED["micro"]]) == 2 + 4
    reported = blocks[REPORTED]
    assert reported[2 + 4][0] == "Janus-Pro-1B<br><sub>here: Janus-Pro-1B</sub>"
    assert reported[-1][0] == "Janus-Pro-1B + FAiD (authors' repository)"
    assert len(reported) == 2 + 18 + 1  # the paper's whole table
    assert not re.search(r"\b(inside|outside)\b", files["md"])
    assert not any(row["reading"] for row in read_rows(files["csv"], block="paper"))


@pytest.mark.parametrize("scale", MEASURED)
def test_a_row_that_was_not_run_says_why(tmp_path, scale):
    files = write(tmp_path, scale, not_run={"show-o": "no Show-o backbone yet"})
    assert "Show-o<br><sub>not run: no Show-o backbone yet" in files["md"]
    assert f"Janus-Pro-1B + RA-CM3<br><sub>not run: {NOT_CONFIGURED}" in files["md"]
    assert files["md"].count("not run:") == 18 - 2
    lines = {row["key"]: row["reading"] for row in read_rows(files["csv"], block="not run")}
    assert len(lines) == 16 and lines["show-o"] == "not run: no Show-o backbone yet"


def test_rows_are_in_the_papers_order(tmp_path):
    rows = [TableRow("own", "our own idea"), ROWS[2], ROWS[1], ROWS[0]]
    scores = SCORES | {"own": SCORES["vanilla"]}
    measured = blocks_of(write(tmp_path, "micro", rows, scores)["md"])[MEASURED["micro"]]
    names = ["Janus-Pro-1B", "Janus-Pro-1B + DAiD", "our own idea", "Ceiling: real images"]
    assert names_of(measured[2:]) == names


def test_differences_are_paired_and_bold_where_zero_is_excluded(tmp_path):
    files = write(tmp_path, "micro")
    row = blocks_of(files["md"])[DIFFERENCE][2]
    assert row[0] == "Janus-Pro-1B + DAiD<br><sub>minus Janus-Pro-1B</sub>"
    estimates = paired_difference(SCORES["daid"], SCORES["vanilla"])
    test = mcnemar(SCORES["daid"], SCORES["vanilla"])
    for task, cell in zip([*TASKS, "overall"], row[1:8], strict=True):
        assert cell.startswith("**") is not estimates[task].holds(0)
        assert number_text(estimates[task].value, 3, sign=True) in cell
    assert row[6].startswith("**+0.500**") and row[5].startswith("\u22120.100<br>")
    assert row[8] == f"{test.p:.3f}"
    # 6 prompts gained, 1 lost, 2 images each
    assert "12, only with Janus-Pro-1B: 2" in files["md"]
    lines = {row["column"]: row for row in read_rows(files["csv"], block="difference")}
    assert lines["position"]["reading"] == "indistinguishable from zero"
    assert lines["overall"]["reading"] == "above the baseline"
    assert float(lines["color_attr"]["low"]) == estimates["color_attr"].low
    assert float(lines["mcnemar_p"]["value"]) == test.p


def test_without_a_difference_nothing_is_bold(tmp_path):
    page = write(tmp_path, "micro", scores=SCORES | {"daid": SCORES["vanilla"]})["md"]
    assert not any("**" in cell for cell in blocks_of(page)[DIFFERENCE][2])
    assert DIFFERENCE not in blocks_of(write(tmp_path, "micro", rows=ROWS[2:])["md"])


def test_the_csv_holds_every_number_unrounded(tmp_path):
    scores = SCORES | {"real": make_score([1 / 3] * 6)}
    files = write(tmp_path, "paper", scores=scores)
    real = read_rows(files["csv"], block="ceiling", key="real")
    assert [row["column"] for row in real] == [*TASKS, "overall"]
    assert (float(real[0]["value"]), float(real[0]["low"])) == (1 / 3, 1 / 3 - 0.05)
    paper = {(row["key"], row["column"]): row for row in read_rows(files["csv"], block="paper")}
    assert paper["janus-pro-1b", "overall"]["reading"] == "inside"
    assert paper["janus-pro-1b+daid", "color_attr"]["reading"] == "outside"
    assert paper["janus-pro-1b+faid", "overall"]["value"] == "0.78"
    assert ("chameleon", "counting") not in paper  # not reported there


def test_provenance_and_remarks(tmp_path):
    table = blocks_of(write(tmp_path, "micro")["md"])[PROVENANCE]
    assert table[2] == ["Janus-Pro-1B", "12" * 6, "3", "2", "120", "lm " + "34" * 6, "56" * 6]
    assert table[4][1:] == ["\u2013", "\u2013", "2", "120", "\u2013", "\u2013"]
    other = make_score([0.5] * 6, versions={"arrag": "0.1.0", "torch": "2.14.0"})
    text = "\n".join(footer("geneval", wrap(SCORES | {"other": other})))
    assert "10000 resamples" in text and "sha256 " + "ab" * 32 in text
    assert "mask2former:swin_s (cdcdcdcdcdcd)" in text and "ViT-L-14:openai (efefefefefef)" in text
    assert "arrag 0.1.0, torch 2.13.0/2.14.0" in text and "zero width" not in text
    other["tasks"]["counting"]["interval"] = [1.0, 1.0]
    assert "zero width (other)" in "\n".join(footer("geneval", wrap({"other": other})))


def test_a_task_absent_from_the_prompts_is_an_empty_cell(tmp_path):
    part = make_score([0.5] * 6, RUN | {"parameters": 3_420_000})
    del part["tasks"]["counting"]
    part["per_prompt"] = [row for row in part["per_prompt"] if row["tag"] != "counting"]
    files = write(tmp_path, "paper", rows=ROWS[:2], scores={"vanilla": part, "daid": part})
    measured = blocks_of(files["md"])[MEASURED["paper"]]
    at = names_of(measured).index("Janus-Pro-1B")
    assert measured[at][1] == "3.4M"
    assert measured[at][4] == "\u2013" and measured[at + 1][4] == "0.52"
    assert blocks_of(files["md"])[DIFFERENCE][2][3] == "\u2013"


@pytest.mark.parametrize(
    ("rows", "scores", "scale", "field"),
    [
        (ROWS, SCORES, "mini", "scale"),
        ([], SCORES, "micro", "rows"),
        ([ROWS[0], ROWS[0]], SCORES, "micro", "rows"),
        ([TableRow("faid", "x")], SCORES, "micro", "faid"),
        ([ROWS[1]], SCORES, "micro", "daid.baseline"),
        ([TableRow("real", "x", "janus")], SCORES, "micro", "real.paper_key"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(tmp_path, rows, scores, scale, field):
    with pytest.raises(ConfigError) as raised:
        write(tmp_path, scale, rows, scores)
    assert raised.value.field == f"table1: {field}" and raised.value.hint is not None
    assert not list(tmp_path.iterdir())


def test_other_judges_and_unknown_rows_of_the_paper_are_refused(tmp_path):
    other = SCORES["real"] | {"judge": {"detector": "yolo"}}
    with pytest.raises(ArragError, match="judge"):
        write(tmp_path, "micro", scores=SCORES | {"real": other})
    with pytest.raises(ConfigError) as raised:
        write(tmp_path, "micro", not_run={"sho-o": "x"})
    assert raised.value.field == "table1: not_run"


@pytest.mark.parametrize("scale", MEASURED)
@pytest.mark.parametrize(
    ("kind", "rows", "scores"),
    [
        ("geneval", ROWS, wrap(SCORES)),
        ("dpg", ROWS[:2], DPG),
        ("distribution", ROWS[:2], DISTANCES),
    ],
)
def test_latex_is_balanced_and_rectangular(tmp_path, kind, rows, scores, scale):
    text = write_tables(tmp_path, kind, scale, rows, scores)["tex"]
    bare = re.sub(r"\\[{}\\%&#$_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert text.count(r"\begin{") == text.count(r"\end{")
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert tables
    for spec, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
    assert all(ord(c) < 256 for c in text)  # α, minus and dash have been spelt out


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's tables are not next to this clone")
def test_paper_tables_yaml_holds_the_papers_numbers():
    source, ours = yaml.safe_load(PAPER.read_text()), paper_tables()
    for name in ("table1", "table2", "table3", "table4"):
        columns = [c for c in source[name]["columns"] if c != "params"]
        assert ours[name]["columns"] == columns
        assert list(ours[name]["rows"]) == list(source[name]["rows"])
        for key, row in source[name]["rows"].items():
            wanted = dict(zip(source[name]["columns"], row, strict=True))
            assert ours[name]["rows"][key]["values"] == [wanted[c] for c in columns]
            assert ours[name]["rows"][key].get("params") == wanted.get("params")
            assert key in ours["labels"]
    assert ours["authors_repository"] == {
        "geneval": {"janus-pro-1b+faid": source["official_readme"]["geneval_faid"]},
        "midjourney_fid": source["official_readme"]["midjourney_fid"],
        "mscoco_fid": source["official_readme"]["mscoco_fid"],
    }


# -- Table 2 -----------------------------------------------------------------------------------


def category_share(given, number, prompts):
    """Percent of the answers to question ``number`` that count, over all images of ``prompts``."""
    scores = [
        image[number] == "yes" and (number == 1 or image[1] == "yes")
        for item in prompts
        for image in given[item].values()
        if number in image
    ]
    return 100 * sum(scores) / len(scores)


def test_table_2_has_the_papers_columns_in_percent(tmp_path):
    files = write_tables(tmp_path, "dpg", "micro", ROWS[:2], DPG)
    table = blocks_of(files["md"])[MEASURED["micro"]]
    assert table[0][2:] == ["Global", "Entity", "Attribute", "Relation", "Other", "Overall"]
    assert table[2][2] == table[2][5] == "\u2013"  # no such question
    for column, number in (("Entity", 1), ("Attribute", 2), ("Other", 3)):
        wanted = number_text(category_share(GIVEN["vanilla"], number, ASKED), 2)
        assert table[2][table[0].index(column)].startswith(f"{wanted}<br>")
    assert "Empty columns (Global, Relation)" in files["md"] and "McNemar" not in files["md"]
    both = DPG["daid"]["dpg"]["compat_values"]
    assert f"official {both['official']:.2f}, corrected {both['corrected']:.2f}" in files["md"]
    reported = blocks_of(files["md"])[REPORTED]
    assert len(reported) == 2 + 10
    assert reported[2][2:] == ["74.97", "97.32", "78.60", "82.57", "76.96", "71.11"]


def test_a_categorys_difference_is_resampled_by_prompt(tmp_path):
    files = write_tables(tmp_path, "dpg", "paper", ROWS[:2], DPG)
    found = {row["column"]: row for row in read_rows(files["csv"], block="difference")}
    assert list(found) == ["overall", "entity", "attribute", "other"]
    names = list(ASKED)
    drawn = resample_indices(["dpg"] * PROMPTS)["dpg"]
    for column, number in (("entity", 1), ("other", 3)):

        def difference(prompts, number=number):
            ours, base = (category_share(GIVEN[m], number, prompts) for m in ("daid", "vanilla"))
            return ours - base

        samples = ([names[i] for i in indices] for indices in drawn[:2000])
        spread = [difference(s) for s in samples if any(number <= len(ASKED[p]) for p in s)]
        assert float(found[column]["value"]) == pytest.approx(difference(ASKED))
        low, high = np.percentile(spread, [2.5, 97.5])
        # A fifth of the same draws: a percentile of these is near that of all.
        assert float(found[column]["low"]) == pytest.approx(low, abs=3)
        assert float(found[column]["high"]) == pytest.approx(high, abs=3)
    table = blocks_of(files["md"])[MEASURED["paper"]]
    at = names_of(table).index("paper: Janus-Pro-1B")
    assert table[at][3] == "84.53<br><sub>outside</sub>"  # ours is about half of that
    assert table[at][2] == "81.76"  # nothing of ours to compare it with


def test_scores_of_other_rules_do_not_share_table_2(tmp_path):
    other = DPG["daid"]["dpg"] | {"dependency": "none"}
    one = dpg_score({item: {0: images[0]} for item, images in GIVEN["daid"].items()})
    for score in (other, one):
        with pytest.raises(ArragError):
            write_tables(tmp_path, "dpg", "micro", ROWS[:2], DPG | {"daid": {"dpg": score}})
    assert not list(tmp_path.iterdir())


# -- Table 3 -----------------------------------------------------------------------------------


def test_table_3_names_the_extractors(tmp_path):
    few = DISTANCES["daid"]["fid"] | {"warnings": ["no more images than dimensions"]}
    scores = DISTANCES | {"daid": DISTANCES["daid"] | {"fid": few}}
    files = write_tables(tmp_path, "distribution", "micro", ROWS[:2], scores)
    table = blocks_of(files["md"])[MEASURED["micro"]]
    assert table[0] == ["Method", "Params", "CMMD-micro-clip ↓", "FID-MobileNetV2-24 ↓"]
    assert table[2][3].startswith("12.000<br>")
    columns = {row["column"] for row in read_rows(files["csv"], block="method")}
    assert columns == {"CMMD-micro-clip", "FID-MobileNetV2-24"}
    assert {r["column"] for r in read_rows(files["csv"], block="paper")} == {"cmmd", "fid", "fwd"}
    reported = blocks_of(files["md"])[REPORTED]
    assert reported[0][2:] == ["CMMD ↓", "FID ↓", "FWD ↓"]
    assert [row[3] for row in reported[-3:]][-1] == "9.31"  # of the authors' repository
    assert "Janus-Pro-1B 19.59" in files["md"]  # which no table has
    warning = "FID-MobileNetV2-24: no more images than dimensions (Janus-Pro-1B + DAiD)."
    assert warning in files["md"]


def test_a_difference_of_distances_pairs_the_resamples(tmp_path):
    files = write_tables(tmp_path, "distribution", "micro", ROWS[:2], DISTANCES)
    found = {row["column"]: row for row in read_rows(files["csv"], block="difference")}
    spread = WEIGHTS @ (0.01 * PULL[1]) / 50
    low, high = np.percentile(spread - spread.mean(), [2.5, 97.5])
    fid = found["FID-MobileNetV2-24"]
    numbers = [float(fid[field]) for field in ("value", "low", "high")]
    assert numbers == pytest.approx([9.2 - 12.0, -2.8 + low, -2.8 + high])
    assert fid["reading"] == "below the baseline"
    assert found["CMMD-micro-clip"]["reading"] == "indistinguishable from zero"
    row = blocks_of(files["md"])[DIFFERENCE][2]
    assert row[2].startswith("**\u22122.800**") and not row[1].startswith("**")


def test_table_3_with_the_paper_and_its_authors_other_number(tmp_path):
    files = write_tables(tmp_path, "distribution", "paper", ROWS[:2], DISTANCES)
    table = blocks_of(files["md"])[MEASURED["paper"]]
    names = names_of(table)
    at = names.index("paper: Janus-Pro-1B + DAiD")
    assert table[at][3] == "9.15<br><sub>inside</sub>"
    assert names[at + 1] == "authors' repository: Janus-Pro-1B + DAiD"
    assert table[at + 1][2:] == ["\u2013", "11.93<br><sub>outside</sub>"]
    authors = {r["key"]: r["reading"] for r in read_rows(files["csv"], block="authors")}
    assert authors["janus-pro-1b+daid"] == "outside" and authors["janus-pro-1b+faid"] == ""


def test_a_distance_without_an_interval_is_only_a_number(tmp_path):
    bare = {"bootstrap": None, "interval": None}
    scores = {key: found | {"fid": found["fid"] | bare} for key, found in DISTANCES.items()}
    files = write_tables(tmp_path, "distribution", "paper", ROWS[:2], scores)
    table = blocks_of(files["md"])[MEASURED["paper"]]
    at = names_of(table).index("Janus-Pro-1B + DAiD")
    assert table[at][3] == "9.200" and table[at + 1][3] == "9.15"
    assert blocks_of(files["md"])[DIFFERENCE][2][2] == "\u2013"
    (line,) = read_rows(files["csv"], block="method", key="vanilla", column="FID-MobileNetV2-24")
    assert (line["value"], line["low"], line["high"]) == ("12.0", "", "")


@pytest.mark.parametrize(
    "change",
    [
        {"n_images": 49},
        {"reference": {"sha256": "bb"}},
        {"judge": {"extractor": "inception"}},
        {"label": "FID"},
        None,
    ],
)
def test_distances_measured_otherwise_do_not_share_a_column(tmp_path, change):
    other = {"cmmd": DISTANCES["daid"]["cmmd"]}  # of fewer metrics
    if change:
        other["fid"] = DISTANCES["daid"]["fid"] | change
    with pytest.raises(MismatchError) as raised:
        write_tables(tmp_path, "distribution", "micro", ROWS[:2], DISTANCES | {"daid": other})
    assert raised.value.field == next(iter(change or ["metrics"])) and raised.value.hint
    assert not list(tmp_path.iterdir())

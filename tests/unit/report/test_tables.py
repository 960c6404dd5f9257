"""Tables from made-up scores: what they say, and that their three forms are sound."""

import csv
import io
import re
from pathlib import Path

import pytest
import yaml

from arrag.config.paper import NOT_CONFIGURED, paper_tables
from arrag.data.prompts import TASKS
from arrag.metrics.bootstrap import mcnemar, paired_difference
from arrag.report.provenance import footer
from arrag.report.render import Block, Cell, Page, latex, markdown, number_text
from arrag.report.tables import MEASURED, RowSpec, write_table
from arrag.utils.errors import ArragError

PAPER = Path(__file__).parents[4] / "shared/paper/tables.yaml"


def make_score(rates, run=None, prompts=10, **fields):
    """A score file in which the first `rate` share of each task's prompts is right."""
    rows, tasks = [], {}
    for tag, rate in zip(TASKS, rates, strict=True):
        right = round(rate * prompts)
        rows += [{"tag": tag, "mean": 1.0, "verdicts": "11"}] * right
        rows += [{"tag": tag, "mean": 0.0, "verdicts": "00"}] * (prompts - right)
        tasks[tag] = {"value": rate, "interval": [rate - 0.05, rate + 0.05], "n": prompts}
    overall = sum(rates) / len(rates)
    return {
        "metric": "geneval",
        "compat": "official",
        "value": overall,
        "interval": [overall - 0.02, overall + 0.02],
        "tasks": tasks,
        "n_prompts": len(rows),
        "n_images": 2 * len(rows),
        "per_prompt": rows,
        "prompt_set_sha256": "ab" * 32,
        "judge": {
            "detector": "mask2former:swin_s",
            "detector_digest": "cd" * 32,
            "color": "ViT-L-14:openai",
            "color_digest": "ef" * 32,
        },
        "run": run,
        "versions": {"arrag": "0.1.0", "torch": "2.13.0"},
    } | fields


RUN = {
    "config_hash": "12" * 32,
    "seed": 3,
    "parameters": 1_040_000_000,
    "weights": {"lm": "34" * 32},
    "index": "56" * 32,
    "versions": {"torch": "2.13.0"},
}
ROWS = [
    RowSpec("vanilla", "Janus-Pro-1B", "janus-pro-1b"),
    RowSpec("daid", "Janus-Pro-1B + DAiD", "janus-pro-1b+daid", baseline="vanilla"),
    RowSpec("real", "real images", kind="ceiling"),
    RowSpec("recon", "reconstructions", kind="ceiling"),
]
SCORES = {
    "vanilla": make_score([1.0, 0.8, 0.5, 0.8, 0.6, 0.5], RUN),
    "daid": make_score([1.0, 0.9, 0.5, 0.8, 0.5, 1.0], RUN | {"seed": 4}),
    "real": make_score([1.0] * 6),
    "recon": make_score([0.9] * 6),
}


def write(tmp_path, scale, rows=ROWS, scores=SCORES, not_run=None):
    return write_kind(tmp_path, "geneval", scale, rows, wrap(scores), not_run)


def wrap(scores):
    return {key: {"geneval": score} for key, score in scores.items()}


def write_kind(tmp_path, kind, scale, rows, scores, not_run=None):
    write_table(kind, rows, scores, scale, tmp_path / "table", not_run)
    return {suffix: (tmp_path / f"table.{suffix}").read_text() for suffix in ("md", "csv", "tex")}


def blocks_of(text):
    """{heading: [cells of each table row]} of a Markdown page."""
    blocks = {}
    for part in text.split("\n## ")[1:]:
        heading, *lines = part.splitlines()
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
        blocks[heading] = [[cell.strip() for cell in row] for row in rows]
    return blocks


def test_paper_scale_puts_the_papers_numbers_under_ours(tmp_path):
    page = write(tmp_path, "paper")["md"]
    blocks = blocks_of(page)
    measured = blocks[MEASURED["paper"]]
    assert measured[0] == [
        "Method",
        "Params",
        "Single Obj.",
        "Two Obj.",
        "Counting",
        "Colors",
        "Position",
        "Color Attri.",
        "Overall",
    ]
    names = [row[0].split("<br>")[0] for row in measured[2:]]
    order = ["paper: PixArt-α", "paper: LlamaGen", "paper: SD v1.5", "paper: SD v2.1"]
    assert names[:6] == [*order, "Janus-Pro-1B", "paper: Janus-Pro-1B"]
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
    ours, paper = measured[at], measured[at + 1]
    assert ours[1:4] == [
        "1.0B",
        r"1.000<br><sub>\[0.950," + "\u00a0" + r"1.050\]</sub>",
        r"0.800<br><sub>\[0.750," + "\u00a0" + r"0.850\]</sub>",
    ]
    # Paper 0.98 0.77 0.52 0.84 0.61 0.55 0.71 against ours +-0.05 (overall 0.70 +- 0.02).
    assert paper[1:] == ["1.0B"] + [
        f"{value}<br><sub>inside</sub>"
        for value in ("0.98", "0.77", "0.52", "0.84", "0.61", "0.55", "0.71")
    ]
    daid = measured[names.index("paper: Janus-Pro-1B + DAiD") + 2]
    assert daid[7] == "0.49<br><sub>outside</sub>"  # ours 1.00
    assert not any(heading.startswith("Reported") for heading in blocks)
    assert "AR-RAG, arXiv 2506.06962 v3" in page


def test_a_row_that_was_not_run_says_why(tmp_path):
    reasons = {"show-o": "no Show-o backbone yet"}
    for scale in MEASURED:
        files = write(tmp_path, scale, not_run=reasons)
        text = files["md"]
        assert "PixArt-α<br><sub>not run: needs weights that no default run downloads" in text
        assert "DALL-E 3<br><sub>not run: reported by its authors only" in text
        assert "Show-o<br><sub>not run: no Show-o backbone yet" in text
        assert f"Janus-Pro-1B + RA-CM3<br><sub>not run: {NOT_CONFIGURED}" in text
        assert len(re.findall("not run:", text)) == 18 - 2
        lines = {r["key"]: r for r in csv_rows(files["csv"]) if r["block"] == "not run"}
        assert len(lines) == 16 and lines["show-o"]["reading"] == "not run: no Show-o backbone yet"
    with pytest.raises(ArragError, match="not_run names sho-o, no row of the paper"):
        write(tmp_path, "micro", not_run={"sho-o": "x"})


def test_rows_stand_in_the_papers_order(tmp_path):
    rows = [RowSpec("own", "our own idea"), ROWS[2], ROWS[1], ROWS[0]]
    scores = SCORES | {"own": SCORES["vanilla"]}
    measured = blocks_of(write(tmp_path, "micro", rows, scores)["md"])[MEASURED["micro"]]
    names = ["Janus-Pro-1B", "Janus-Pro-1B + DAiD", "our own idea", "Ceiling: real images"]
    assert [row[0] for row in measured[2:]] == names


def test_micro_scale_never_sets_the_papers_numbers_beside_ours(tmp_path):
    files = write(tmp_path, "micro")
    head = files["md"].splitlines()[2]
    assert head.startswith("> Micro scale.") and "not comparable" in head
    assert rf"\caption{{{MEASURED['micro'].replace('%', chr(92) + '%')}}}" in files["tex"]
    scales = {(r["block"], r["scale"]) for r in csv_rows(files["csv"])}
    assert scales == {(b, "micro") for b in ("method", "ceiling", "difference", "not run")} | {
        ("paper", "paper"),
        ("authors", "paper"),
    }
    blocks = blocks_of(files["md"])
    assert len(blocks[MEASURED["micro"]]) == 2 + 4
    reported = blocks[f"Reported in the paper ({paper_tables()['source']})"]
    assert reported[2 + 4][0] == "Janus-Pro-1B<br><sub>here: Janus-Pro-1B</sub>"
    assert reported[-1][0] == "Janus-Pro-1B + FAiD (authors' repository)"
    assert len(reported) == 2 + 18 + 1  # the whole of the paper's table, in its own block
    assert not re.search(r"\b(inside|outside)\b", files["md"].split("\n\n", 2)[2])
    assert not any(row["reading"] for row in csv_rows(files["csv"]) if row["block"] == "paper")


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_differences_are_paired_and_say_when_zero_is_inside(tmp_path):
    files = write(tmp_path, "micro")
    block = blocks_of(files["md"])["Difference to the baseline, paired by prompt"]
    row = block[2]
    assert row[0] == "Janus-Pro-1B + DAiD<br><sub>minus Janus-Pro-1B</sub>"
    estimates = paired_difference(SCORES["daid"], SCORES["vanilla"])
    test = mcnemar(SCORES["daid"], SCORES["vanilla"])
    assert (test.only_first, test.only_second) == (12, 2)  # 6 prompts gained, 1 lost, 2 images each
    for task, cell in zip([*TASKS, "overall"], row[1:8], strict=True):
        assert cell.startswith("**") is not estimates[task].holds(0)
        assert number_text(estimates[task].value, 3, sign=True) in cell
    assert row[6].startswith("**+0.500**") and row[5].startswith("\u22120.100<br>")
    assert row[8] == f"{test.p:.3f}"
    assert "Every other difference is indistinguishable from zero" in files["md"]
    sentence = next(s for s in files["md"].splitlines() if "minus Janus-Pro-1B, overall" in s)
    assert "above the baseline" in sentence and "12, only with Janus-Pro-1B: 2" in sentence
    lines = {r["column"]: r for r in csv_rows(files["csv"]) if r["block"] == "difference"}
    assert lines["position"]["reading"] == "indistinguishable from zero"
    assert float(lines["color_attr"]["low"]) == estimates["color_attr"].low
    assert float(lines["mcnemar_p"]["value"]) == test.p


def test_a_null_difference_is_called_so(tmp_path):
    scores = SCORES | {"daid": SCORES["vanilla"]}
    page = write(tmp_path, "micro", scores=scores)["md"]
    sentence = next(s for s in page.splitlines() if "minus Janus-Pro-1B, overall" in s)
    assert "0.000 \\[0.000,\u00a00.000\\], indistinguishable from zero" in sentence
    block = blocks_of(page)["Difference to the baseline, paired by prompt"]
    assert not any("**" in cell for cell in block[2])


def test_without_a_baseline_there_is_no_difference_block(tmp_path):
    page = write(tmp_path, "micro", rows=ROWS[2:])["md"]
    assert "Difference to the baseline" not in page


def test_csv_holds_every_number_unrounded(tmp_path):
    scores = SCORES | {"real": make_score([1 / 3] * 6)}
    rows = csv_rows(write(tmp_path, "paper", scores=scores)["csv"])
    real = [r for r in rows if (r["block"], r["key"]) == ("ceiling", "real")]
    assert [r["column"] for r in real] == [*TASKS, "overall"]
    assert float(real[0]["value"]) == 1 / 3 and float(real[0]["low"]) == 1 / 3 - 0.05
    paper = {(r["key"], r["column"]): r for r in rows if r["block"] == "paper"}
    assert paper["janus-pro-1b", "overall"]["reading"] == "inside"
    assert paper["janus-pro-1b+daid", "color_attr"]["reading"] == "outside"
    assert paper["janus-pro-1b+faid", "overall"]["value"] == "0.78"
    assert ("chameleon", "counting") not in paper  # not reported there


def test_provenance_and_footer(tmp_path):
    page = write(tmp_path, "micro")["md"]
    table = blocks_of(page)["What produced each row"]
    assert table[2] == ["Janus-Pro-1B", "12" * 6, "3", "2", "120", "lm " + "34" * 6, "56" * 6]
    assert table[4][1:] == ["\u2013", "\u2013", "2", "120", "\u2013", "\u2013"]
    text = "\n".join(footer("geneval", wrap(SCORES)))
    assert "10000 resamples" in text and "sha256 " + "ab" * 32 in text
    assert "mask2former:swin_s (cdcdcdcdcdcd)" in text and "ViT-L-14:openai (efefefefefef)" in text
    assert "arrag 0.1.0, torch 2.13.0" in text
    other = make_score([0.5] * 6, versions={"arrag": "0.1.0", "torch": "2.14.0"})
    assert "torch 2.13.0/2.14.0" in "\n".join(footer("geneval", wrap(SCORES | {"other": other})))


def test_a_collapsed_interval_is_explained():
    flat = make_score([1.0] * 6)
    assert not any("no width" in line for line in footer("geneval", wrap({"a": flat})))
    flat["tasks"]["counting"]["interval"] = [1.0, 1.0]
    assert any("no width (a)" in line for line in footer("geneval", wrap({"a": flat})))


def test_params_are_printed_like_the_papers(tmp_path):
    scores = SCORES | {"vanilla": SCORES["vanilla"] | {"run": RUN | {"parameters": 3_420_000}}}
    measured = blocks_of(write(tmp_path, "micro", scores=scores)["md"])
    rows = measured[MEASURED["micro"]]
    assert [row[1] for row in rows[2:]] == ["3.4M", "1.0B", "\u2013", "\u2013"]


def test_a_task_absent_from_the_prompts_is_an_empty_cell(tmp_path):
    part = make_score([0.5] * 6)
    del part["tasks"]["counting"]
    part["per_prompt"] = [row for row in part["per_prompt"] if row["tag"] != "counting"]
    files = write(tmp_path, "paper", rows=ROWS[:2], scores={"vanilla": part, "daid": part})
    rows = blocks_of(files["md"])
    measured = rows[MEASURED["paper"]]
    ours = next(i for i, row in enumerate(measured) if row[0] == "Janus-Pro-1B")
    assert measured[ours][4] == "\u2013" and measured[ours + 1][4] == "0.52"
    assert rows["Difference to the baseline, paired by prompt"][2][3] == "\u2013"


@pytest.mark.parametrize(
    ("rows", "scores", "scale", "message"),
    [
        (ROWS, SCORES, "mini", "scale is 'mini'"),
        ([], SCORES, "micro", "expected at least one"),
        ([ROWS[0], ROWS[0]], SCORES, "micro", "each only once"),
        ([RowSpec("faid", "x")], SCORES, "micro", "row faid has no score"),
        ([ROWS[1]], SCORES, "micro", "baseline 'vanilla' is not a row"),
        ([RowSpec("real", "x", "janus")], SCORES, "micro", "paper_key 'janus'"),
        (
            ROWS,
            SCORES | {"real": SCORES["real"] | {"judge": {"detector": "yolo"}}},
            "micro",
            "field judge",
        ),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(tmp_path, rows, scores, scale, message):
    with pytest.raises(ArragError, match=re.escape(message)):
        write(tmp_path, scale, rows, scores)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's tables are not beside this clone")
def test_paper_yaml_holds_the_papers_numbers():
    source = yaml.safe_load(PAPER.read_text())
    ours = paper_tables()
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


# -- rendering ---------------------------------------------------------------------------------

NASTY = "a|b *c* _d_ <e> 100% & $x$ #1 {y} ~z ^w \\q [r] `s`"
TRICKY = Page(
    NASTY, NASTY, [Block(NASTY, ["x", "y"], [[Cell(NASTY), Cell("1", "[2]")]], [NASTY])], [NASTY]
)


def test_markdown_escapes_what_would_be_markup():
    row = next(line for line in markdown(TRICKY).splitlines() if line.startswith("| a"))
    assert re.split(r"(?<!\\)\|", row)[2].strip() == r"1<br><sub>\[2\]</sub>"
    assert r"a\|b \*c\* \_d\_ \<e\>" in row and r"\\q \[r\] \`s\`" in row


def test_latex_escapes_what_would_be_markup():
    text = latex(TRICKY)
    assert r"a|b *c* \_d\_ $<$e$>$ 100\% \& \$x\$ \#1 \{y\}" in text
    assert r"\textasciitilde{}z \textasciicircum{}w \textbackslash{}q {[}r{]}" in text
    assert r"\shortstack{1\\{\tiny {[}2{]}}}" in text  # a bare [ after \\ is an argument


def test_latex_of_the_table_is_balanced_and_rectangular(tmp_path):
    text = write(tmp_path, "paper")["tex"]
    bare = re.sub(r"\\[{}\\%&#$_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert text.count(r"\begin{") == text.count(r"\end{")
    for spec, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(spec) - 1
    assert all(ord(c) < 256 for c in text)  # α, minus and dash have been spelt out


@pytest.mark.parametrize(
    ("number", "digits", "sign", "text"),
    [
        (0.71549, 3, False, "0.715"),
        (-0.0211, 3, True, "\u22120.021"),
        (0.0211, 3, True, "+0.021"),
        (-0.0001, 3, True, "0.000"),
        (0.0001, 3, True, "0.000"),
        (None, 2, False, "\u2013"),
    ],
)
def test_number_text(number, digits, sign, text):
    assert number_text(number, digits, sign) == text

"""Tables 2 and 3: categories and distances, their paired differences, the paper beside them."""

import csv
import io
import re

import numpy as np
import pytest
from test_tables import blocks_of

from arrag.data.questions import Question
from arrag.metrics.bootstrap import image_bootstrap, image_weights, resample_indices
from arrag.metrics.dpg.questions import score_answers
from arrag.report.render import number_text
from arrag.report.tables import MEASURED, RowSpec, write_table
from arrag.utils.errors import ArragError

ROWS = [
    RowSpec("vanilla", "Janus-Pro-1B", "janus-pro-1b"),
    RowSpec("daid", "Janus-Pro-1B + DAiD", "janus-pro-1b+daid", baseline="vanilla"),
]
RUN = {
    "config_hash": "12" * 32,
    "seed": 0,
    "parameters": 1_040_000_000,
    "images_per_prompt": 2,
    "weights": {},
    "versions": {"torch": "2.13.0"},
}
DIFFERENCE = "Difference to the baseline, paired by prompt"


def written(tmp_path, kind, scale, rows, scores):
    write_table(kind, rows, scores, scale, tmp_path / "table")
    return {suffix: (tmp_path / f"table.{suffix}").read_text() for suffix in ("md", "csv", "tex")}


def csv_rows(files, block):
    return [row for row in csv.DictReader(io.StringIO(files["csv"])) if row["block"] == block]


def assert_sound(tex):
    bare = re.sub(r"\\[{}\\%&#$_]", "", tex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert all(ord(character) < 256 for character in tex)


# -- Table 2 -----------------------------------------------------------------------------------

KINDS = ("entity - whole (dog)", "attribute - color (dog, red)", "other - count (dog, ==2)")
PARENTS = ((), (1,), (1,))
PROMPTS, IMAGES = 12, 2
# Half of the prompts ask for a number too.
ASKED = {f"p{i:02d}": KINDS if i % 2 else KINDS[:2] for i in range(PROMPTS)}


def questions():
    return [
        Question(item, n, PARENTS[n - 1], kind, "?", item)
        for item, kinds in ASKED.items()
        for n, kind in enumerate(kinds, 1)
    ]


def answers(seed, share):
    rng = np.random.default_rng(seed)
    return {
        item: {
            image: {n: "yes" if rng.random() < share else "no" for n in range(1, len(kinds) + 1)}
            for image in range(IMAGES)
        }
        for item, kinds in ASKED.items()
    }


def dpg_score(given, **fields):
    score = score_answers("questions.csv", questions(), given, "corrected", "dsg")
    return score | {
        "prompt_set_sha256": "ab" * 32,
        "judge": {"name": "rules", "digest": "cd" * 32},
        "run": RUN,
        "versions": {"arrag": "0.1.0"},
        **fields,
    }


GIVEN = {"vanilla": answers(0, 0.5), "daid": answers(1, 0.9)}
DPG = {key: {"dpg": dpg_score(given)} for key, given in GIVEN.items()}


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
    files = written(tmp_path, "dpg", "micro", ROWS, DPG)
    table = blocks_of(files["md"])[MEASURED["micro"]]
    assert table[0][2:] == ["Global", "Entity", "Attribute", "Relation", "Other", "Overall"]
    row = table[2]
    assert row[2] == row[5] == "\u2013"  # no such question
    for column, number in (("entity", 1), ("attribute", 2), ("other", 3)):
        wanted = category_share(GIVEN["vanilla"], number, ASKED)
        cell = row[table[0].index(column.capitalize())]
        assert cell.startswith(number_text(wanted, 2) + "<br>")
    assert "Empty columns (Global, Relation)" in files["md"]
    assert "compat corrected, dependency dsg" in files["md"]
    both = DPG["daid"]["dpg"]["compat_values"]
    texts = f"official {both['official']:.2f}, corrected {both['corrected']:.2f}"
    assert f"Overall of Janus-Pro-1B + DAiD by each compat: {texts}." in files["md"]
    reported = blocks_of(files["md"])["Reported in the paper (AR-RAG, arXiv 2506.06962 v3)"]
    assert len(reported) == 2 + 10
    assert reported[2][2:] == ["74.97", "97.32", "78.60", "82.57", "76.96", "71.11"]
    assert_sound(files["tex"])


def test_a_category_s_difference_is_resampled_by_prompt(tmp_path):
    files = written(tmp_path, "dpg", "micro", ROWS, DPG)
    found = {row["column"]: row for row in csv_rows(files, "difference")}
    assert list(found) == ["overall", "entity", "attribute", "other"]
    names = list(ASKED)
    drawn = resample_indices(["dpg"] * PROMPTS)["dpg"]
    for column, number in (("entity", 1), ("other", 3)):
        spread = []
        for indices in drawn[:2000]:
            prompts = [names[i] for i in indices]
            if any(number <= len(ASKED[p]) for p in prompts):
                spread.append(
                    category_share(GIVEN["daid"], number, prompts)
                    - category_share(GIVEN["vanilla"], number, prompts)
                )
        value = category_share(GIVEN["daid"], number, ASKED) - category_share(
            GIVEN["vanilla"], number, ASKED
        )
        assert float(found[column]["value"]) == pytest.approx(value)
        low, high = np.percentile(spread, [2.5, 97.5])
        # A fifth of the same draws: a percentile of theirs is near that of all.
        assert float(found[column]["low"]) == pytest.approx(low, abs=3)
        assert float(found[column]["high"]) == pytest.approx(high, abs=3)
    assert "McNemar" not in files["md"]


def test_table_2_beside_the_paper(tmp_path):
    files = written(tmp_path, "dpg", "paper", ROWS, DPG)
    table = blocks_of(files["md"])[MEASURED["paper"]]
    names = [row[0].split("<br>")[0] for row in table[2:]]
    at = names.index("paper: Janus-Pro-1B") + 2
    assert table[at - 1][0] == "Janus-Pro-1B"
    assert table[at][3] == "84.53<br><sub>outside</sub>"  # ours is about half of that
    assert table[at][2] == "81.76"  # nothing of ours to compare it with
    assert len(names) == 10 + 2


def test_scores_of_other_rules_do_not_share_table_2(tmp_path):
    other = DPG | {"daid": {"dpg": DPG["daid"]["dpg"] | {"dependency": "none"}}}
    with pytest.raises(ArragError, match="dependency"):
        written(tmp_path, "dpg", "micro", ROWS, other)
    one = {item: {0: images[0]} for item, images in GIVEN["daid"].items()}
    with pytest.raises(ArragError, match="unequally many answers"):
        written(tmp_path, "dpg", "micro", ROWS, DPG | {"daid": {"dpg": dpg_score(one)}})
    assert not list(tmp_path.iterdir())


# -- Table 3 -----------------------------------------------------------------------------------

WEIGHTS = image_weights(50, 200)


def distance(metric, label, value, pull, **fields):
    """A score whose resampled values come from 50 images, each pulling the value its way."""
    values = value + 0.1 + WEIGHTS @ pull / 50
    boot = image_bootstrap(value, values, "ef" * 32)
    return {
        "metric": metric,
        "label": label,
        "compat": "clean",
        "value": value,
        "interval": boot.pop("interval"),
        "n": 50,
        "n_images": 50,
        "n_reference": 60,
        "reference": {"sha256": "aa" * 32},
        "judge": {"extractor": "MobileNetV2-24", "extractor_digest": "cd" * 32},
        "bootstrap": boot,
        "dimensions": 24,
        "prompt_set_sha256": "ab" * 32,
        "run": RUN,
        "versions": {"arrag": "0.1.0"},
        "warnings": [],
    } | fields


PULL = np.random.default_rng(5).normal(size=(2, 50))
DISTANCES = {
    "vanilla": {
        "cmmd": distance("cmmd", "CMMD-micro-clip", 0.5, PULL[0]),
        "fid": distance("fid", "FID-MobileNetV2-24", 12.0, PULL[0]),
    },
    "daid": {
        "cmmd": distance("cmmd", "CMMD-micro-clip", 0.45, PULL[1]),
        "fid": distance("fid", "FID-MobileNetV2-24", 9.2, PULL[0] + 0.01 * PULL[1]),
    },
}


def test_table_3_names_the_extractors_and_says_that_lower_is_better(tmp_path):
    files = written(tmp_path, "distribution", "micro", ROWS, DISTANCES)
    table = blocks_of(files["md"])[MEASURED["micro"]]
    assert table[0] == ["Method", "Params", "CMMD-micro-clip ↓", "FID-MobileNetV2-24 ↓"]
    assert table[2][3].startswith("12.000<br>")
    assert "Lower is better" in files["md"] and "nearer to the reference" in files["md"]
    columns = {row["column"] for row in csv_rows(files, "method")}
    assert columns == {"CMMD-micro-clip", "FID-MobileNetV2-24"}
    assert {row["column"] for row in csv_rows(files, "paper")} == {"cmmd", "fid", "fwd"}
    reported = blocks_of(files["md"])["Reported in the paper (AR-RAG, arXiv 2506.06962 v3)"]
    assert reported[0][2:] == ["CMMD ↓", "FID ↓", "FWD ↓"]
    assert [row[0] for row in reported[-3:]] == [
        f"{name} (authors' repository)"
        for name in ("Janus-Pro-1B", "Janus-Pro-1B + DAiD", "Janus-Pro-1B + FAiD")
    ]
    assert reported[-1][3] == "9.31"
    assert "MS-COCO, as no table does: Janus-Pro-1B 19.59" in files["md"]
    assert_sound(files["tex"])


def test_a_difference_of_distances_pairs_the_resamples(tmp_path):
    files = written(tmp_path, "distribution", "micro", ROWS, DISTANCES)
    found = {row["column"]: row for row in csv_rows(files, "difference")}
    spread = WEIGHTS @ (0.01 * PULL[1]) / 50
    low, high = np.percentile(spread - spread.mean(), [2.5, 97.5])
    fid = found["FID-MobileNetV2-24"]
    assert float(fid["value"]) == pytest.approx(9.2 - 12.0)
    assert float(fid["low"]) == pytest.approx(-2.8 + low)
    assert float(fid["high"]) == pytest.approx(-2.8 + high)
    assert fid["reading"] == "below the baseline"
    assert found["CMMD-micro-clip"]["reading"] == "indistinguishable from zero"
    row = blocks_of(files["md"])[DIFFERENCE][2]
    assert row[2].startswith("**\u22122.800**") and not row[1].startswith("**")


def test_table_3_beside_the_paper_and_the_authors_other_figure(tmp_path):
    files = written(tmp_path, "distribution", "paper", ROWS, DISTANCES)
    table = blocks_of(files["md"])[MEASURED["paper"]]
    names = [row[0].split("<br>")[0] for row in table]
    at = names.index("paper: Janus-Pro-1B + DAiD")
    assert table[at][3] == "9.15<br><sub>inside</sub>"
    assert names[at + 1] == "authors' repository: Janus-Pro-1B + DAiD"
    assert table[at + 1][2:] == ["\u2013", "11.93<br><sub>outside</sub>"]
    authors = {row["key"]: row["reading"] for row in csv_rows(files, "authors")}
    assert authors["janus-pro-1b+daid"] == "outside" and authors["janus-pro-1b+faid"] == ""


def test_a_distance_without_an_interval_is_only_a_number(tmp_path):
    bare = {"bootstrap": None, "interval": None}
    scores = {key: found | {"fid": found["fid"] | bare} for key, found in DISTANCES.items()}
    files = written(tmp_path, "distribution", "paper", ROWS, scores)
    table = blocks_of(files["md"])[MEASURED["paper"]]
    names = [row[0] for row in table]
    at = names.index("Janus-Pro-1B + DAiD")
    assert table[at][3] == "9.200" and table[at + 1][3] == "9.15"
    assert blocks_of(files["md"])[DIFFERENCE][2][2] == "\u2013"
    assert "No interval: resampling it would take too long." in files["md"]
    line = next(r for r in csv_rows(files, "method") if r["column"] == "FID-MobileNetV2-24")
    assert (line["value"], line["low"], line["high"]) == ("12.0", "", "")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_images": 49}, "field n_images is 50 in one and 49"),
        ({"reference": {"sha256": "bb"}}, "field reference"),
        ({"judge": {"extractor": "inception"}}, "field judge"),
        ({"label": "FID"}, "field label"),
    ],
)
def test_distances_measured_otherwise_do_not_share_a_column(tmp_path, change, message):
    other = DISTANCES["daid"] | {"fid": DISTANCES["daid"]["fid"] | change}
    with pytest.raises(ArragError, match=message):
        written(tmp_path, "distribution", "micro", ROWS, DISTANCES | {"daid": other})
    with pytest.raises(ArragError, match="rows have metrics cmmd, fid and cmmd"):
        part = {"cmmd": DISTANCES["daid"]["cmmd"]}
        written(tmp_path, "distribution", "micro", ROWS, DISTANCES | {"daid": part})
    assert not list(tmp_path.iterdir())


def test_warnings_of_a_score_stand_under_the_table(tmp_path):
    few = DISTANCES["daid"]["fid"] | {"warnings": ["no more images than dimensions"]}
    scores = DISTANCES | {"daid": DISTANCES["daid"] | {"fid": few}}
    page = written(tmp_path, "distribution", "micro", ROWS, scores)["md"]
    assert "FID-MobileNetV2-24: no more images than dimensions (Janus-Pro-1B + DAiD)." in page

"""DPG-Bench and DSG from recorded answers: against plain loops over the protocol; bad input."""

import csv
import json
import random

import numpy as np
import pytest
from refusals import refused

from arrag.cli.main import main
from arrag.data.questions import problems, read_questions
from arrag.metrics.base import ScoreOptions
from arrag.metrics.bootstrap import bootstrap_shares, mcnemar, paired_difference, resample_indices
from arrag.metrics.dpg.answers import read_answers
from arrag.metrics.dpg.questions import choose_rules
from arrag.metrics.dpg.score import DPGBench
from arrag.utils.errors import ArragError, FormatError, MismatchError, UsageError

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language"
)
ENTITY, COLOR, SPATIAL = "entity - whole", "attribute - color", "relation - spatial"


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def write_table(path, rows):
    """Rows are (item, proposition, dependency, category)."""
    lines = [
        (item, f"text, of {item}", "k", n, needs, category, "", f"{category} (a, b)", f"{n}?")
        for item, n, needs, category in rows
    ]
    return write_csv(path, HEADER.split(","), lines)


def write_answers(path, answers):
    """Answers are {(item, proposition, image): text}."""
    header = ("item_id", "proposition_id", "image", "answer")
    return write_csv(path, header, [(*key, text) for key, text in answers.items()])


def score(tmp_path, rows, answers, compat="official", dependency=None, **options):
    table = write_table(tmp_path / "q.csv", rows)
    given = write_answers(tmp_path / "a.csv", answers)
    metric = DPGBench(compat=compat, dependency=dependency)
    return metric.score_recorded(given, table, options=ScoreOptions(**options)).to_json()


# -- the rules, written out once more ----------------------------------------------------------


def plain_official(rows, answers):
    """The published script's behaviour, step by step, as the protocol lists its defects."""
    prompts, last = {}, None
    for item, number, dependency, category in rows[1:]:  # data row 0 is skipped
        if item != last:
            prompts[item] = []
        prompts[item].append((number, [int(d) for d in str(dependency).split(",")], category))
        last = item
    means, shares, dropped = [], {}, []
    for item in dict.fromkeys(row[0] for row in rows):
        if item not in prompts:
            dropped.append(item)
            continue
        try:
            image_scores, raw = [], {}
            for image in range(4):
                scores = {
                    n: 1.0 if answers[item, n, image] == "yes" else 0.0 for n, *_ in prompts[item]
                }
                raw = dict(scores)
                for n, parents, _ in prompts[item]:  # in row order, on scores already changed
                    for parent in parents:
                        if parent != 0 and scores[parent] == 0:  # KeyError: no such parent
                            scores[n] = 0.0
                            break
                image_scores.append(sum(scores.values()) / len(scores))
        except KeyError:
            dropped.append(item)
            continue
        means.append(sum(image_scores) / 4)
        for n, _, category in prompts[item]:  # raw answers to the last image
            shares.setdefault(category.strip(), []).append(raw[n])
    return means, shares, dropped


def plain_dsg(rows, answers):
    """Zeroing by what was answered about the parents; every row counts."""
    prompts = {}
    for item, number, dependency, _ in rows:
        prompts.setdefault(item, []).append((number, [int(d) for d in str(dependency).split(",")]))
    means = []
    for item, questions in prompts.items():
        total = 0.0
        for image in range(4):
            said = {n: answers[item, n, image] == "yes" for n, _ in questions}
            holds = [said[n] and all(said[p] for p in parents if p) for n, parents in questions]
            total += sum(holds) / len(holds)
        means.append(total / 4)
    return means


def random_case(rng, missing_parents):
    categories = ["entity - whole", "attribute - color", "other - count", "global - - ", "a-b - c"]
    rows = []
    for i in range(rng.randint(2, 6)):
        count = rng.randint(1, 6)
        numbers = list(range(1, count + 1))
        if rng.random() < 0.3:
            rng.shuffle(numbers)  # a child may stand before its parent
        for n in numbers:
            parents = [str(rng.randint(0, count)) for _ in range(rng.randint(1, 2))]
            if missing_parents and rng.random() < 0.05:
                parents.append(str(count + 1))
            rows.append((f"p{i}", n, rng.choice([",", ", "]).join(parents), rng.choice(categories)))
    said = ["yes"] * 5 + ["no", "no", "Yes", " yes", "yes.", ""]
    answers = {(r[0], r[1], image): rng.choice(said) for r in rows for image in range(4)}
    return rows, answers


@pytest.mark.parametrize("seed", range(12))
def test_official_equals_the_published_steps(seed, tmp_path):
    rng = random.Random(seed)
    rows, answers = random_case(rng, missing_parents=True)
    if seed % 4 == 0:
        rng.shuffle(rows)  # a prompt's rows apart: only the last run of them counts
    means, shares, dropped = plain_official(rows, answers)
    if not means:
        with refused(MismatchError):
            score(tmp_path, rows, answers)
        return
    found = score(tmp_path, rows, answers)
    assert found["overall"] == found["value"] == pytest.approx(100 * sum(means) / len(means))
    assert sorted(found["dropped"]) == sorted(dropped)
    assert found["n_items"] == len(means) and found["n_images"] == 4 * len(means)
    near = [text.strip().strip(".").lower() for text in answers.values() if text != "yes"]
    assert found["n_near_yes"] == near.count("yes")
    broad = {}
    for name, values in shares.items():
        broad.setdefault(name.split("-")[0].strip(), []).extend(values)
    for level, wanted in (("l1", broad), ("l2", shares)):
        cells = {name: (100 * sum(v) / len(v), len(v)) for name, v in wanted.items()}
        given = {name: (cell["value"], cell["n"]) for name, cell in found[level].items()}
        assert given == {name: pytest.approx(cell) for name, cell in cells.items()}


@pytest.mark.parametrize("seed", range(6))
def test_dsg_equals_the_plain_rule(seed, tmp_path):
    rows, answers = random_case(random.Random(seed), missing_parents=False)
    found = score(tmp_path, rows, answers, "corrected")
    means = plain_dsg(rows, answers)
    assert found["dependency"] == "dsg"
    assert found["overall"] == pytest.approx(100 * sum(means) / len(means))
    assert [row["mean"] for row in found["per_prompt"]] == pytest.approx([100 * m for m in means])


# -- one defect at a time ----------------------------------------------------------------------

CHAIN = [
    ("first", 1, "0", ENTITY),
    ("dogs", 1, "0", ENTITY),
    ("dogs", 2, "1", COLOR),
    ("dogs", 3, "2", SPATIAL),
]


def all_answers(rows, texts, images=1):
    return {
        (r[0], r[1], i): text for r, text in zip(rows, texts, strict=True) for i in range(images)
    }


def test_zeroing_runs_on_in_row_order_or_not(tmp_path):
    """dogs/1 fails: dogs/2 is zeroed; dogs/3 hangs on dogs/2, whose own answer was yes."""
    answers = all_answers(CHAIN, ["yes", "no", "yes", "yes"])
    official = score(tmp_path, CHAIN, answers, "official")
    assert official["overall"] == 0 and official["dropped"] == {
        "first": "its only question is in the skipped first row"
    }
    corrected = score(tmp_path, CHAIN, answers, "corrected")
    assert corrected["overall"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    none = score(tmp_path, CHAIN, answers, "corrected", "none")
    assert none["overall"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    mixed = score(tmp_path, CHAIN, answers, "official", "dsg")
    assert mixed["overall"] == pytest.approx(100 / 3)
    for found in (official, corrected):
        assert found["compat_values"] == pytest.approx({"official": 0, "corrected": 100 * 2 / 3})


def test_categories_of_the_last_image_raw_or_of_all_zeroed(tmp_path):
    rows = [("x", 1, "0", ENTITY), ("a", 1, "0", ENTITY), ("a", 2, "1", COLOR)]
    answers = {("x", 1, 0): "yes", ("x", 1, 1): "yes", ("a", 1, 0): "yes", ("a", 2, 0): "no"}
    answers |= {("a", 1, 1): "no", ("a", 2, 1): "yes"}
    official = score(tmp_path, rows, answers)
    assert {k: v["value"] for k, v in official["l1"].items()} == {"entity": 0, "attribute": 100}
    corrected = score(tmp_path, rows, answers, "corrected")
    assert {k: v["value"] for k, v in corrected["l1"].items()} == {"entity": 75, "attribute": 0}
    assert corrected["l1"]["attribute"]["n"] == 2


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ((None, None), ("official", "official")),
        ((None, "none"), ("corrected", "none")),
        (("corrected", None), ("corrected", "dsg")),
        (("official", "dsg"), ("official", "dsg")),
    ],
)
def test_each_rule_implies_the_other(given, rules):
    assert choose_rules(*given) == rules


def test_two_scores_pair_by_prompt(tmp_path):
    rows = [(f"p{i}", 1, "0", ENTITY) for i in range(8)]
    good = score(tmp_path, rows, all_answers(rows, ["yes"] * 8), "corrected")
    half = score(tmp_path, rows, all_answers(rows, ["yes", "no"] * 4), "corrected")
    half["judge"] = good["judge"]  # recorded answers of two methods have two files
    difference = paired_difference(good, half)["overall"]
    assert difference.value == 50 and 0 < difference.low < 50 < difference.high
    with refused(UsageError):  # there are no verdicts
        mcnemar(good, half)
    for change in ({"dependency": "none"}, {"per_prompt": half["per_prompt"][1:]}):
        with refused(MismatchError, field=next(iter(change))):
            paired_difference(good, half | change)


def test_category_intervals_are_a_ratio_over_the_same_prompts():
    totals, counts = np.array([[3.0, 0.0, 1.0, 2.0]]), np.array([[4.0, 0.0, 1.0, 5.0]])
    estimate = bootstrap_shares(totals, counts, resamples=300, seed=3)[0]
    spread = []
    for draw in resample_indices(["t"] * 4, 300, 3)["t"]:
        below = sum(counts[0][i] for i in draw)
        if below:
            spread.append(sum(totals[0][i] for i in draw) / below)
    assert estimate.value == pytest.approx(6 / 10)
    assert [estimate.low, estimate.high] == pytest.approx(list(np.percentile(spread, [2.5, 97.5])))


# -- malformed files -----------------------------------------------------------------------------


def test_malformed_dependencies_are_counted_and_refused(tmp_path):
    rows = [
        ("z", 1, "0", ENTITY),
        ("a", 1, "0", ENTITY),
        ("a", 2, "1, right", COLOR),
        ("b", 1, "1", ENTITY),
        ("c", 1, "2", ENTITY),
        ("c", 2, "1", COLOR),
        ("d", 1, "7", ENTITY),
        ("e", 1, "0", ENTITY),
        ("e", 1, "0", ENTITY),
    ]
    table = write_table(tmp_path / "q.csv", rows)
    found = problems(read_questions(table))
    assert list(found.values()) == [["a/2"], ["b/1"], ["c/1", "c/2"], ["d/1"], ["e/1"]]
    answers = {(row[0], row[1], 0): "yes" for row in rows}
    for compat in ("official", "corrected"):
        with refused(FormatError, path=table) as caught:
            score(tmp_path, rows, answers, compat)
        assert "1 (a/2)" in str(caught.value)
    clean = [row for row in rows if row[2] != "1, right"]
    with refused(FormatError, path=table) as caught:
        score(tmp_path, clean, answers, "corrected")
    assert "1 (d/1)" in str(caught.value)
    # The official script lives with the rest: it drops d, and the score says what is malformed.
    answers.pop(("a", 2, 0))
    found = score(tmp_path, clean, answers, "official")
    assert set(found["dropped"]) == {"z", "d"} and found["overall"] == 100
    assert {"count": 1, "first": ["b/1"]} in found["table_problems"].values()
    partial = score(tmp_path, rows, answers | {("a", 2, 0): "no"}, "corrected", allow_partial=True)
    assert partial["n_items"] == 6 and partial["overall"] == pytest.approx(100 * 5.5 / 6)


@pytest.mark.parametrize(
    ("absent", "extra", "named"),
    [
        ([(2, 1)], {}, "dogs, image 1: 2"),
        ([(n, 1) for n in (1, 2, 3)], {}, "(dogs)"),
        ([(n, i) for n in (1, 2, 3) for i in (0, 1)], {}, "(dogs)"),
        ([], {("cats", 1, 0): "no"}, "cats/1"),
    ],
)
def test_gaps_in_the_answers_are_refused_or_stated(absent, extra, named, tmp_path):
    answers = all_answers(CHAIN, ["yes"] * 4, images=2) | extra
    for number, image in absent:
        del answers["dogs", number, image]
    with refused(MismatchError, path=tmp_path / "q.csv") as caught:
        score(tmp_path, CHAIN, answers, "corrected")
    assert named in str(caught.value)
    found = score(tmp_path, CHAIN, answers, "corrected", allow_partial=True)
    assert sum(gap["count"] for gap in found["partial"].values()) == 1
    assert found["overall"] == 100


def test_repeated_answers_are_refused_unless_one_model_is_chosen(tmp_path):
    """The columns of DSG's released answers: several models in one file."""
    table = write_table(tmp_path / "q.csv", CHAIN)
    header = ("t2i_model", "item_id", "question_id", "dependency_id", "answer")
    lines = [
        (model, item, number, dependency, "yes" if model == "new" else "no")
        for model in ("new", "old")
        for item, number, dependency, _ in CHAIN
    ]
    path = write_csv(tmp_path / "a.csv", header, lines)
    with refused(FormatError, path=path):
        read_answers(path)
    metric = DPGBench(dependency="dsg")
    for model, value in (("new", 100), ("old", 0)):
        assert metric.score_recorded(path, table, {"t2i_model": model}).value == value
    for where in ({"model": "new"}, {"t2i_model": "none"}):
        with refused(ArragError):
            read_answers(path, where)


@pytest.mark.parametrize(
    ("read", "text", "field"),
    [
        (read_answers, "item_id,answer\na,yes\n", "proposition"),
        (
            read_answers,
            "item_id,proposition_id,answer\na,one,yes\n",
            "data row 1: proposition_id",
        ),
        (read_answers, "item_id,proposition_id,answer\n", None),
        (read_questions, "item_id,tuple\na,b\n", None),
        (read_questions, HEADER + "\n", None),
        (read_questions, HEADER + "\na,,,x,0,,,t,q\n", "data row 1"),
    ],
)
def test_a_bad_file(read, text, field, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with refused(ArragError, field=field) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_command_prints_and_writes_the_score(tmp_path, capsys):
    table = write_table(tmp_path / "q.csv", CHAIN)
    answers = write_answers(tmp_path / "a.csv", all_answers(CHAIN, ["yes", "yes", "no", "yes"]))
    command = ["score", "dpg", "--questions", str(table), "--answers", str(answers), "--json"]
    assert main([*command, "--out", str(tmp_path / "out.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out.json").read_text())
    assert printed["overall"] == printed["value"] == pytest.approx(100 / 3)
    assert printed["compat"] == "official" and printed["unit"] == "percent"
    assert set(printed["compat_values"]) == {"official", "corrected"}
    assert written["per_prompt"][0]["item_id"] == "dogs" and "per_prompt" not in printed
    assert main([*command, "--images", str(tmp_path)]) == 2

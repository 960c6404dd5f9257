"""Recorded GenEval verdicts: the official summary written once more, and bad files."""

import json
import random

import numpy as np
import pytest
from refusals import refused

from arrag.cli.main import main
from arrag.data.prompts import COLORS, RELATIONS, TASKS
from arrag.metrics.geneval.judge import evaluate_image
from arrag.metrics.geneval.results import read_results, score_results
from arrag.metrics.types import Detection
from arrag.utils.errors import FormatError, MismatchError

CLASSES = ("cup", "dog", "cat", "bench", "sports ball", "orange", "skis")
OFFICIAL_COUNTS = (80, 99, 80, 94, 100, 100)
MASK = np.ones((1, 1), bool)


def official_prompts(rng):
    """553 prompts in the official format, order and counts (2, 3, 4 objects: 26, 28, 26)."""
    tags = [tag for tag, n in zip(TASKS, OFFICIAL_COUNTS, strict=True) for _ in range(n)]
    counts = iter([2] * 26 + [3] * 28 + [4] * 26)
    for i, tag in enumerate(tags):
        a, b = ({"class": name, "count": 1} for name in rng.sample(CLASSES, 2))
        prompt = {"tag": tag, "prompt": f"a photo of {i}"}
        if tag in ("colors", "color_attr"):
            a["color"] = rng.choice(COLORS)
        if tag == "color_attr":
            b["color"] = rng.choice(COLORS)
        if tag == "position":
            b["position"] = [rng.choice(RELATIONS), 0]
        if tag == "counting":
            a["count"] = next(counts)
            prompt["exclude"] = [a | {"count": a["count"] + 1}]
        alone = tag in ("single_object", "counting", "colors")
        yield prompt | {"include": [a] if alone else [a, b]}


class BoxColors:
    """A colour that follows from the box."""

    def classify(self, image, mask, box, class_name):
        return COLORS[int(sum(box)) % 2]


def random_detections(rng, classes):
    found = []
    for name in classes:
        x, y = rng.randint(0, 20), rng.randint(0, 20)
        box = tuple(map(float, (x, y, x + rng.randint(1, 12), y + rng.randint(1, 12))))
        score = float(np.float32(rng.choice([0.3, 0.9, 0.31, 0.95, 0.99, rng.random()])))
        found.append(Detection(name, score, box, MASK))
    return found


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """2 212 records, four images a prompt, in no order, as the official code lists folders."""
    root, rng = tmp_path_factory.mktemp("results"), random.Random(1)
    prompts = list(official_prompts(rng))
    records = []
    for i, prompt in enumerate(prompts):
        wanted = [c["class"] for c in prompt["include"] for _ in range(c["count"])]
        for s in range(4):
            found = random_detections(rng, rng.choice([wanted, CLASSES]))
            name = f"out/{i:05d}/samples/{s:05d}.png"
            image = np.zeros((1, 1, 3), np.uint8)
            records.append(evaluate_image(image, found, prompt, BoxColors(), name))
    rng.shuffle(records)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "results.jsonl").write_text(lines)
    (root / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    return root, records


def plain_summary(records):
    """Means of tasks over images, their mean, and the share of prompts with a right image."""
    tasks, prompts = {}, {}
    for record in records:
        tasks.setdefault(record["tag"], []).append(record["correct"])
        prompts.setdefault(record["metadata"], []).append(record["correct"])
    means = {tag: sum(right) / len(right) for tag, right in tasks.items()}
    any_right = sum(any(right) for right in prompts.values()) / len(prompts)
    return means, sum(means.values()) / len(means), any_right


def test_the_summary_is_the_official_one(official, capsys):
    root, records = official
    command = ["score", "geneval", "--results", str(root / "results.jsonl"), "--json"]
    assert main([*command, "--prompts", str(root / "prompts.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out)
    tasks, overall, any_right = plain_summary(records)
    assert found["overall"] == found["value"] == pytest.approx(overall, abs=1e-12)
    assert {tag: cell["value"] for tag, cell in found["tasks"].items()} == pytest.approx(tasks)
    assert [found["tasks"][tag]["n"] for tag in TASKS] == list(OFFICIAL_COUNTS)
    assert found["correct_prompts"] == pytest.approx(any_right)
    assert (found["n_prompts"], found["n_images"], found["partial"]) == (553, 2212, {})
    low, high = found["interval"]
    assert low < overall < high


def test_judging_again_from_the_boxes_changes_nothing_unless_the_verdict_was_wrong(
    official, tmp_path
):
    root, records = official
    score, again = score_results(root / "results.jsonl", rejudge=True)
    assert score.rejudged["changed"]["count"] == 0
    assert score.rejudged["judged"] + score.rejudged["kept_for_color"] == 2212
    assert 2212 - 4 * (94 + 100) < score.rejudged["judged"] < 2212
    by_name = {record["filename"]: record for record in records}
    assert all(record == by_name[record["filename"]] for record in again)
    flipped = [dict(r) for r in records if r["tag"] == "position"]
    flipped[0]["correct"] = not flipped[0]["correct"]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in flipped))
    score, _ = score_results(tmp_path / "r.jsonl", rejudge=True)
    assert score.rejudged["changed"] == {"count": 1, "first": [flipped[0]["filename"]]}


def record(folder, sample, correct, tag="colors", **fields):
    prompt = {"tag": tag, "include": [{"class": "cup", "count": 1}], "prompt": f"a photo {folder}"}
    return {
        "filename": f"x/{folder:05d}/samples/{sample:04d}.png",
        "tag": tag,
        "prompt": prompt["prompt"],
        "correct": correct,
        "reason": "",
        "metadata": json.dumps(prompt),
        "details": json.dumps({"cup": [[0, 0, 4, 4, 0.99]]}),
    } | fields


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_uneven_images_are_weighed_as_the_official_code_does_and_stated(tmp_path):
    records = [record(0, 0, True), record(0, 1, True), record(0, 2, True), record(2, 0, False)]
    records.append(record(3, 0, True, tag="counting"))
    score, _ = score_results(write(tmp_path / "r.jsonl", records))
    assert score.tasks["colors"]["value"] == 0.75  # of images, not of prompts
    assert score.value == pytest.approx((0.75 + 1) / 2)
    assert score.partial["prompts with fewer than 3 images"]["count"] == 2
    assert score.partial["prompt folders are missing"] == {"count": 1, "first": ["00001"]}
    assert score.tasks["colors"]["interval"] == [0, 1]


def test_prompts_without_a_verdict_are_refused_or_stated(tmp_path):
    path = write(tmp_path / "r.jsonl", [record(0, 0, True), record(9, 0, True)])
    prompts = [json.loads(record(i, 0, True)["metadata"]) for i in range(3)]
    write(tmp_path / "p.jsonl", prompts)
    with refused(MismatchError, path=path):
        score_results(path, tmp_path / "p.jsonl")
    score, _ = score_results(path, tmp_path / "p.jsonl", allow_partial=True)
    assert score.left_out["prompts without a verdict"] == 2
    assert score.left_out["verdicts on other prompts"] == 1


SAME = record(0, 0, True)["metadata"]


@pytest.mark.parametrize(
    ("records", "field"),
    [
        ([record(0, 0, True, tag="color")], "line 1.tag"),
        ([record(0, 0, True), record(0, 0, False)], "filename"),
        ([record(0, 0, "yes")], "line 1.correct"),
        ([{"tag": "colors"}], "line 1.filename"),
        ([7], "line 1"),
        ([], None),
        ([record(0, 0, True), record(1, 0, True, metadata=SAME, tag="position")], "tag"),
        ([record(0, 0, True, details="{")], "x/00000/samples/0000.png"),
        ([record(0, 0, True, details='{"cup": [[0, 0, 4]]}')], "x/00000/samples/0000.png"),
    ],
)
def test_a_bad_results_file(records, field, tmp_path):
    with refused(FormatError, field=field):
        score_results(write(tmp_path / "r.jsonl", records), rejudge=True)
    (tmp_path / "r.jsonl").write_text("{\n")
    with refused(FormatError, path=tmp_path / "r.jsonl", field="line 1"):
        read_results(tmp_path / "r.jsonl")

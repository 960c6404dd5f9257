"""Recorded GenEval verdicts: the official summary and rules written once more, and bad files."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from arrag.cli.main import main
from arrag.data.prompts import COLORS, RELATIONS, TASKS, load_geneval_prompts
from arrag.metrics.geneval.judge import evaluate_image
from arrag.metrics.geneval.results import read_results, score_results
from arrag.metrics.types import Detection
from arrag.report.verdicts import choose, verdict_sheet
from arrag.utils.errors import ArragError

CLASSES = ("cup", "dog", "cat", "bench", "sports ball", "orange", "skis")
OFFICIAL_COUNTS = (80, 99, 80, 94, 100, 100)
NUMBERS = {2: "two", 3: "three", 4: "four"}
MASK = np.ones((1, 1), bool)


def official_prompts(seed=0):
    """553 prompts in the official format, order and counts (2, 3, 4 objects: 26, 28, 26)."""
    rng = random.Random(seed)
    prompts = []

    def add(tag, include, text, **more):
        prompts.append({"tag": tag, "include": include, **more, "prompt": f"a photo of {text}"})

    for i in range(80):
        add("single_object", [{"class": CLASSES[i % 7], "count": 1}], f"a {CLASSES[i % 7]}, {i}")
    for i in range(99):
        a, b = rng.sample(CLASSES, 2)
        include = [{"class": a, "count": 1}, {"class": b, "count": 1}]
        add("two_object", include, f"a {a} and a {b}, {i}")
    for i, count in enumerate([2] * 26 + [3] * 28 + [4] * 26):
        name = rng.choice(CLASSES)
        exclude = [{"class": name, "count": count + 1}]
        include = [{"class": name, "count": count}]
        add("counting", include, f"{NUMBERS[count]} {name}s, {i}", exclude=exclude)
    for i in range(94):
        name, color = rng.choice(CLASSES), rng.choice(COLORS)
        add("colors", [{"class": name, "count": 1, "color": color}], f"a {color} {name}, {i}")
    for i in range(100):
        (a, b), relation = rng.sample(CLASSES, 2), rng.choice(RELATIONS)
        include = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}]
        add("position", include, f"a {a} {relation} a {b}, {i}")
    for i in range(100):
        (a, b), (c, d) = rng.sample(CLASSES, 2), rng.sample(COLORS, 2)
        include = [
            {"class": a, "count": 1, "color": c},
            {"class": b, "count": 1, "color": d},
        ]
        add("color_attr", include, f"a {c} {a} and a {d} {b}, {i}")
    return prompts


class BoxColors:
    """A colour that follows from the box, for both sides of a comparison."""

    name, digest = "boxes", "c" * 64

    def classify(self, image, mask, box, class_name):
        return COLORS[int(sum(box)) % 2]


def random_detections(rng, classes=CLASSES):
    """Boxes on a coarse grid and few scores, so that ties and exact thresholds happen."""
    found = []
    for name in classes:
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 4, 18 if rng.random() < 0.05 else 1])):
            x, y = rng.randint(0, 20), rng.randint(0, 20)
            width, height = rng.randint(1, 12), rng.randint(1, 12)
            score = rng.choice([0.3, 0.9, 0.31, 0.95, 0.95, 0.99, 0.5, rng.random()])
            box = tuple(map(float, (x, y, x + width, y + height)))
            found.append(Detection(name, float(np.float32(score)), box, MASK))
    return found


# -- the rules of evaluation, written from the protocol ----------------------------------------


def plain_relations(a, b):
    delta, extent = [], []
    for low, high in ((0, 2), (1, 3)):
        delta.append((a[low] + a[high]) / 2 - (b[low] + b[high]) / 2)
        extent.append(abs(a[high] - a[low]) + abs(b[high] - b[low]))
    length = (delta[0] ** 2 + delta[1] ** 2) ** 0.5
    clear = [
        max(abs(d) - 0.1 * e, 0) * (1 if d > 0 else -1) for d, e in zip(delta, extent, strict=True)
    ]
    if max(map(abs, clear)) < 1e-3:
        return set()
    found = set()
    for value, negative, positive in (
        (clear[0], "left of", "right of"),
        (clear[1], "above", "below"),
    ):
        if value / length < -0.5:
            found.add(negative)
        if value / length > 0.5:
            found.add(positive)
    return found


def plain_verdict(detections, prompt):
    """(correct, number of reasons) of one image."""
    bound = np.float32(0.9 if prompt["tag"] == "counting" else 0.3)
    boxes = {}
    for name in {d.label for d in detections}:
        mine = [d for d in detections if d.label == name and np.float32(d.score) > bound]
        ranked = sorted(range(len(mine)), key=lambda i: (mine[i].score, i))[::-1]
        if mine:
            boxes[name] = [mine[i].box for i in ranked][:16]
    reasons, groups = 0, []
    for clause in prompt["include"]:
        here = boxes.get(clause["class"], [])[: clause["count"]]
        good = len(here) == clause["count"]
        if good and "color" in clause:
            named = [COLORS[int(sum(box)) % 2] for box in here]
            good = sum(color == clause["color"] for color in named) >= clause["count"]
        if good and "position" in clause:
            relation, target = clause["position"]
            there = groups[target]
            good = there is not None and all(
                relation in plain_relations(a, b) for a in here for b in there
            )
        reasons += not good
        groups.append(here if good else None)
    for clause in prompt.get("exclude", []):
        reasons += len(boxes.get(clause["class"], [])) >= clause["count"]
    return reasons == 0, reasons


def random_prompt(rng):
    include = []
    for i in range(rng.randint(1, 3)):
        clause = {"class": rng.choice(CLASSES[:3]), "count": rng.choice([1, 1, 2, 3])}
        if rng.random() < 0.3:
            clause["color"] = rng.choice(COLORS[:2])
        if i and rng.random() < 0.7:
            clause["position"] = [rng.choice(RELATIONS), rng.randrange(i)]
        include.append(clause)
    prompt = {"tag": rng.choice(TASKS), "include": include, "prompt": "p"}
    if rng.random() < 0.4:
        prompt["exclude"] = [{"class": rng.choice(CLASSES[:3]), "count": rng.randint(1, 4)}]
    return prompt


def test_verdicts_equal_the_plain_rules_on_random_images():
    rng = random.Random(0)
    image, right = np.zeros((1, 1, 3), np.uint8), 0
    for _ in range(3000):
        prompt, detections = random_prompt(rng), random_detections(rng, CLASSES[:3])
        record = evaluate_image(image, detections, prompt, BoxColors(), "f.png")
        correct, reasons = plain_verdict(detections, prompt)
        assert record["correct"] is correct, (prompt, detections, record["reason"])
        assert len([line for line in record["reason"].split("\n") if line]) == reasons
        right += correct
    assert 300 < right < 2700


# -- results of the official size --------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """2 212 records, four images a prompt, in no order, as the official code lists folders."""
    root, rng = tmp_path_factory.mktemp("results"), random.Random(1)
    prompts = official_prompts()
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


def test_the_official_prompt_format(official):
    prompts = load_geneval_prompts(official[0] / "prompts.jsonl")
    assert [p["tag"] for p in prompts] == [
        tag for tag, n in zip(TASKS, OFFICIAL_COUNTS, strict=True) for _ in range(n)
    ]


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


# -- partial and malformed files ---------------------------------------------------------------


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


SAME = record(0, 0, True)["metadata"]


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
    low, high = score.tasks["colors"]["interval"]
    assert (low, high) == (0, 1)


def test_prompts_without_a_verdict_are_refused_or_stated(tmp_path):
    path = write(tmp_path / "r.jsonl", [record(0, 0, True), record(9, 0, True)])
    prompts = [json.loads(record(i, 0, True)["metadata"]) for i in range(3)]
    write(tmp_path / "p.jsonl", prompts)
    with pytest.raises(ArragError):
        score_results(path, tmp_path / "p.jsonl")
    score, _ = score_results(path, tmp_path / "p.jsonl", allow_partial=True)
    assert score.partial["prompts without a verdict"]["count"] == 2
    assert score.partial["verdicts on other prompts"]["count"] == 1


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0, 0, True, tag="color")], r"r\.jsonl:1: field tag is 'color'"),
        ([record(0, 0, True), record(0, 0, False)], "files with more than one verdict: 1"),
        ([record(0, 0, "yes")], "field correct is 'yes'"),
        ([{"tag": "colors"}], "field filename is missing"),
        ([], "holds no verdict"),
        (
            [record(0, 0, True), record(1, 0, True, metadata=SAME, tag="position")],
            "field tag differs from its prompt's others",
        ),
    ],
)
def test_a_bad_results_file(records, message, tmp_path):
    path = write(tmp_path / "r.jsonl", records)
    with pytest.raises(ArragError):
        score_results(path)


def test_details_that_cannot_be_judged_again(tmp_path):
    for details in ("{", json.dumps({"cup": [[0, 0, 4]]}), "3"):
        path = write(tmp_path / "r.jsonl", [record(0, 0, True, details=details)])
        assert score_results(path)[0].value == 1
        with pytest.raises(ArragError):
            score_results(path, rejudge=True)


def test_a_line_that_is_no_json(tmp_path):
    (tmp_path / "r.jsonl").write_text("{\n")
    with pytest.raises(ArragError):
        read_results(tmp_path / "r.jsonl")


# -- pictures of verdicts ----------------------------------------------------------------------


def test_a_sheet_shows_boxes_and_reasons(tmp_path, capsys):
    records = [record(0, 0, True), record(0, 1, False, reason="expected cup>=1, found 0")]
    records.append(record(1, 0, True, tag="counting", details="{}"))
    for r in records:
        path = tmp_path / "samples" / "/".join(r["filename"].split("/")[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), "#808080").save(path)
    results = write(tmp_path / "r.jsonl", records)
    command = ["report", "verdicts", "--results", str(results), "--images"]
    assert main([*command, str(tmp_path / "samples"), "--out", str(tmp_path / "v.png")]) == 0
    capsys.readouterr()
    sheet = np.asarray(Image.open(tmp_path / "v.png"))
    blue, green, red = (
        (sheet == color).all(-1) for color in ((9, 105, 218), (26, 127, 55), (207, 34, 46))
    )
    assert blue.sum() > 200 and green.sum() > 40 and red.sum() > 40
    assert sheet.shape[1] > 3 * 240
    with pytest.raises(ArragError):
        verdict_sheet(tmp_path / "nowhere", records, tmp_path / "w.png")
    assert not (tmp_path / "w.png").exists()


def test_right_and_wrong_of_every_task_are_chosen():
    records = [record(i, 0, i % 3 == 0, tag=("colors", "counting")[i % 2]) for i in range(30)]
    chosen = choose(records, 2)
    assert [(r["tag"], r["correct"]) for r in chosen] == [
        (tag, right) for tag in ("colors", "counting") for right in (True, False) for _ in range(2)
    ]

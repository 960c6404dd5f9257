"""GenEval's rules, clause by clause and against a plain reading of the protocol."""

import json
import random

import numpy as np
import pytest

from arrag.data.prompts import COLORS, RELATIONS, TASKS
from arrag.metrics.geneval.judge import (
    evaluate_image,
    failure_reasons,
    iou,
    keep_detections,
    relations,
)
from arrag.metrics.types import Detection

IMAGE = np.zeros((64, 64, 3), np.uint8)
LEFT, RIGHT = (0, 0, 10, 10), (40, 0, 50, 10)
CLASSES = ("cup", "dog", "cat")


def thing(label, score=0.95, box=LEFT):
    mask = np.zeros((64, 64), bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return Detection(label, score, tuple(map(float, box)), mask)


class PixelColors:
    """Reads the colour off the image: the red channel under the mask is an index into `names`."""

    names = ("red", "green", "blue")

    def __init__(self):
        self.calls = 0

    def classify(self, image, mask, box, class_name):
        self.calls += 1
        return self.names[int(image[mask][0, 0])]


def verdict(detections, metadata, image=IMAGE):
    return evaluate_image(image, detections, metadata, PixelColors(), "f.png")


def prompt(*include, tag="two_object", exclude=None):
    metadata = {"tag": tag, "include": list(include), "prompt": "a photo of something"}
    return metadata | ({"exclude": exclude} if exclude else {})


def painted(*boxes_and_levels):
    image = IMAGE.copy()
    for (x0, y0, x1, y1), level in boxes_and_levels:
        image[y0:y1, x0:x1, 0] = level
    return image


@pytest.mark.parametrize(("tag", "bound"), [("single_object", 0.3), ("counting", 0.9)])
def test_thresholds_are_strict_in_float32(tag, bound):
    at = thing("cup", bound)
    above = thing("cup", np.nextafter(np.float32(bound), np.float32(1)))
    assert keep_detections([at], tag) == {}
    assert keep_detections([at, above], tag) == {"cup": [above]}


def test_the_sixteen_best_of_a_class_are_kept_best_first():
    cups = [thing("cup", 0.4 + 0.02 * i) for i in range(20)]
    kept = keep_detections([thing("dog", 0.5), *cups], "colors")
    assert kept["cup"] == cups[:3:-1] and len(kept["cup"]) == 16
    assert len(kept["dog"]) == 1
    a, b = thing("cup", 0.9), thing("cup", 0.8)  # overlapping boxes are kept unless asked
    assert keep_detections([a, b], "colors") == {"cup": [a, b]}
    assert keep_detections([b, a], "colors", max_overlap=0.5) == {"cup": [a]}


def test_iou_counts_one_more_pixel():
    # 10 x 10 boxes become 11 x 11 = 121 pixels; they share columns 5..10 -> 6 x 11 = 66.
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(66 / (242 - 66))
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == pytest.approx(11 / (242 - 11))
    assert iou((0, 0, 10, 10), (11, 0, 20, 10)) == 0


def test_counts_and_excluded_classes():
    two = {"class": "cup", "count": 2}
    assert verdict([thing("cup")], prompt(two))["reason"] == "expected cup>=2, found 1"
    assert verdict([thing("cup")] * 2, prompt(two))["correct"]
    exact = prompt(two, tag="counting", exclude=[{"class": "cup", "count": 3}])
    assert verdict([thing("cup")] * 2 + [thing("cup", 0.9)], exact)["correct"]
    assert verdict([thing("cup")] * 3, exact)["reason"] == "expected cup<3, found 3"
    assert not verdict([thing("cup"), thing("cup", 0.85)], exact)["correct"]
    several = prompt(
        {"class": "cup", "count": 1}, {"class": "dog", "count": 1},
        exclude=[{"class": "cat", "count": 1}],
    )  # fmt: skip
    assert verdict([thing("cat")], several)["reason"].split("\n") == [
        "expected cup>=1, found 0",
        "expected dog>=1, found 0",
        "expected cat<1, found 1",
    ]


def test_colours_are_those_of_the_best_detections():
    image = painted((LEFT, 0), (RIGHT, 1))  # a red and a green cup
    for best, right in ((LEFT, "red"), (RIGHT, "green")):
        cups = [thing("cup", 0.9 if box == best else 0.8, box) for box in (LEFT, RIGHT)]
        for color in ("red", "green"):
            asked = prompt({"class": "cup", "count": 1, "color": color}, tag="colors")
            assert verdict(cups, asked, image)["correct"] is (color == right)
    both = prompt({"class": "cup", "count": 2, "color": "red"}, tag="colors")
    record = verdict(cups, both, image)
    assert record["reason"] == "expected red cup>=2, found 1 red; and 1 red, 1 green"
    colors = PixelColors()  # not asked where the count fails
    assert failure_reasons(IMAGE, {"cup": [thing("cup")]}, both, colors) and not colors.calls


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (30, 0, 40, 10), ["left of"]),
        ((0, 30, 10, 40), (0, 0, 10, 10), ["below"]),
        # Offset (-30, -30), less 2 on each axis, over |(30, 30)| = 42.4: 0.66 on both axes.
        ((0, 0, 10, 10), (30, 30, 40, 40), ["left of", "above"]),
        # Offset (-2, 0): exactly the margin 0.1 * (10 + 10), nothing is left.
        ((0, 0, 10, 10), (2, 0, 12, 10), []),
        # Offset (-4, 0): 2 left over 4 = 0.5, not above it.
        ((0, 0, 10, 10), (4, 0, 14, 10), []),
        # Offset (-4.1, 0): 2.1 / 4.1 = 0.512.
        ((0, 0, 10, 10), (4.1, 0, 14.1, 10), ["left of"]),
        # Offset (-13, -20) -> (-11, -18); raw length 23.85 -> 0.461; own length 21.1 -> 0.521.
        ((0, 0, 10, 10), (13, 20, 23, 30), ["above"]),
        # The margin follows each axis' own extent: widths 40 + 40 -> 8, heights 4 + 4 -> 0.8.
        ((0, 0, 40, 4), (8, 10, 48, 14), ["above"]),
        ((5, 5, 9, 9), (5, 5, 9, 9), []),
    ],
)
def test_relations(a, b, expected):
    assert relations(a, b) == expected


def test_position_examines_every_pair_after_count_and_colour():
    target = {"class": "cup", "count": 1}
    subject = {"class": "dog", "count": 2, "position": ["right of", 0]}
    metadata = prompt(target, subject, tag="position")
    cup, near = thing("cup", box=(20, 0, 30, 10)), thing("dog", 0.8, (50, 0, 60, 10))
    assert verdict([cup, near, thing("dog", 0.7, (45, 0, 55, 10))], metadata)["correct"]
    wrong = verdict([cup, near, thing("dog", 0.7, (0, 0, 10, 10))], metadata)
    assert wrong["reason"] == "expected dog right of target, found left of target"
    unclear = verdict([cup, near, thing("dog", 0.7, (20, 0, 30, 10))], metadata)
    assert unclear["reason"] == "expected dog right of target, found  target"
    one = subject | {"count": 1}
    missing = verdict([thing("dog")], prompt(target, one, tag="position"))
    assert missing["reason"].split("\n")[1] == "no target for dog to be right of"
    blue = verdict([thing("cup"), thing("dog")], prompt(target, one | {"color": "blue"}))
    assert blue["reason"] == "expected blue dog>=1, found 0 blue; and 1 red"


def test_a_record_has_the_official_fields():
    metadata = prompt({"class": "cup", "count": 1}, tag="single_object")
    record = verdict([thing("cup", 0.5, (1, 2, 3, 4)), thing("dog", 0.1)], metadata)
    names = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert list(record) == names
    assert record["correct"] is True and record["reason"] == ""
    assert json.loads(record["metadata"]) == metadata
    assert json.loads(record["details"]) == {"cup": [[1.0, 2.0, 3.0, 4.0, 0.5]]}


# -- the protocol once more, as plain loops ------------------------------------------------------


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
    names = zip(clear, ("left of", "above"), ("right of", "below"), strict=True)
    return {
        negative if value < 0 else positive
        for value, negative, positive in names
        if abs(value / length) > 0.5
    }


def color_of(box):
    return COLORS[int(sum(box)) % 2]


class BoxColors:
    def classify(self, image, mask, box, class_name):
        return color_of(box)


def plain_verdict(detections, prompt):
    """Number of reasons why one image fails."""
    bound = np.float32(0.9 if prompt["tag"] == "counting" else 0.3)
    boxes = {}
    for name in {d.label for d in detections}:
        mine = [d for d in detections if d.label == name and np.float32(d.score) > bound]
        ranked = sorted(range(len(mine)), key=lambda i: (mine[i].score, i))[::-1]
        boxes[name] = [mine[i].box for i in ranked][:16]
    reasons, groups = 0, []
    for clause in prompt["include"]:
        here = boxes.get(clause["class"], [])[: clause["count"]]
        good = len(here) == clause["count"]
        if good and "color" in clause:
            good = sum(color_of(box) == clause["color"] for box in here) >= clause["count"]
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
    return reasons


def random_case(rng):
    """A prompt, and boxes on a coarse grid with few scores, so that ties happen."""
    include = []
    for i in range(rng.randint(1, 3)):
        clause = {"class": rng.choice(CLASSES), "count": rng.choice([1, 1, 2, 3])}
        if rng.random() < 0.3:
            clause["color"] = rng.choice(COLORS[:2])
        if i and rng.random() < 0.7:
            clause["position"] = [rng.choice(RELATIONS), rng.randrange(i)]
        include.append(clause)
    exclude = [{"class": rng.choice(CLASSES), "count": rng.randint(1, 4)}]
    found = []
    for name in CLASSES:
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 4, 18 if rng.random() < 0.05 else 1])):
            x, y = rng.randint(0, 20), rng.randint(0, 20)
            box = (x, y, x + rng.randint(1, 12), y + rng.randint(1, 12))
            score = rng.choice([0.3, 0.9, 0.31, 0.95, 0.95, 0.99, 0.5, rng.random()])
            found.append(thing(name, float(np.float32(score)), box))
    tag = rng.choice(TASKS)
    return prompt(*include, tag=tag, exclude=exclude if rng.random() < 0.4 else None), found


def test_verdicts_equal_the_plain_rules_on_random_images():
    rng, right = random.Random(0), 0
    for _ in range(2000):
        asked, detections = random_case(rng)
        record = evaluate_image(IMAGE, detections, asked, BoxColors(), "f.png")
        reasons = plain_verdict(detections, asked)
        assert len(record["reason"].split("\n")) * (record["reason"] != "") == reasons
        assert record["correct"] is (reasons == 0)
        right += record["correct"]
    assert 200 < right < 1800

"""GenEval's rules, clause by clause and against a plain reading of the protocol."""

import json
import random
import re

import numpy as np
import pytest

from arrag.data.prompts import COLORS, RELATIONS, TASKS
from arrag.metrics.geneval.judge import (
    evaluate_image,
    keep_detections,
    relations,
)
from arrag.metrics.types import Detection

IMAGE = np.zeros((64, 64, 3), np.uint8)
LEFT = (0, 0, 10, 10)
CLASSES = ("cup", "dog", "cat")


def thing(label, score=0.95, box=LEFT):
    mask = np.zeros((64, 64), bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return Detection(label, score, tuple(map(float, box)), mask)


def color_of(box):
    return COLORS[int(sum(box)) % 2]


class BoxColors:
    """A colour that follows from the box; asked once for each object."""

    def __init__(self):
        self.calls = 0

    def classify(self, image, mask, box, class_name):
        self.calls += 1
        return color_of(box)


def prompt(*include, tag="two_object", exclude=None):
    metadata = {"tag": tag, "include": list(include), "prompt": "a photo of something"}
    return metadata | ({"exclude": exclude} if exclude else {})


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


def test_a_record_has_the_official_fields():
    metadata = prompt({"class": "cup", "count": 1}, tag="single_object")
    found = [thing("cup", 0.5, (1, 2, 3, 4)), thing("dog", 0.1)]
    record = evaluate_image(IMAGE, found, metadata, BoxColors(), "f.png")
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
        return []
    names = zip(clear, ("left of", "above"), ("right of", "below"), strict=True)
    return [
        negative if value < 0 else positive
        for value, negative, positive in names
        if abs(value / length) > 0.5
    ]


def plain_verdict(detections, prompt):
    """The official reasons why one image fails, and how many colours were looked at."""
    bound = np.float32(0.9 if prompt["tag"] == "counting" else 0.3)
    boxes = {}
    for name in {d.label for d in detections}:
        mine = [d for d in detections if d.label == name and np.float32(d.score) > bound]
        ranked = sorted(range(len(mine)), key=lambda i: (mine[i].score, i))[::-1]
        boxes[name] = [mine[i].box for i in ranked][:16]
    reasons, groups, looks = [], [], 0
    for clause in prompt["include"]:
        name, count = clause["class"], clause["count"]
        here, reason = boxes.get(name, [])[:count], None
        if len(here) < count:
            reason = f"expected {name}>={count}, found {len(here)}"
        if not reason and "color" in clause:
            seen, color = [color_of(box) for box in here], clause["color"]
            looks += len(seen)
            if (hits := seen.count(color)) < count:
                tally = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
                reason = f"expected {color} {name}>={count}, found {hits} {color}; and {tally}"
        if not reason and "position" in clause:
            relation, target = clause["position"]
            if groups[target] is None:
                reason = f"no target for {name} to be {relation}"
            for a, b in [(a, b) for a in here for b in groups[target] or []]:
                if relation not in (true := plain_relations(a, b)):
                    found = " and ".join(true)
                    reason = reason or f"expected {name} {relation} target, found {found} target"
        reasons += [reason] if reason else []
        groups.append(None if reason else here)
    for clause in prompt.get("exclude", []):
        if (n := len(boxes.get(clause["class"], []))) >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {n}")
    return reasons, looks


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
    rng, right, kinds = random.Random(0), 0, set()
    for _ in range(2000):
        asked, detections = random_case(rng)
        colors = BoxColors()
        record = evaluate_image(IMAGE, detections, asked, colors, "f.png")
        reasons, looks = plain_verdict(detections, asked)
        assert record["reason"] == "\n".join(reasons) and colors.calls == looks
        assert record["correct"] is (reasons == [])
        right += record["correct"]
        kinds |= {re.sub(r"cup|dog|cat|\d|" + "|".join(COLORS), "", r) for r in reasons}
    assert 200 < right < 1800 and len(kinds) > 20  # every form of a reason

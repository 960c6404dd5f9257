"""GenEval: object-focused verdicts on generated images (Ghosh et al. 2023, arXiv 2310.11513).

A reimplementation of the rules of djghosh13/geneval, evaluation/evaluate_images.py; the thresholds
are that code's defaults. ``arrag.metrics.geneval.score`` summarises the verdicts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np

from arrag.data.prompts import COLORS
from arrag.metrics.types import Box, ColorNamer, Detection

SCORE_THRESHOLD = 0.3  # a detection counts strictly above this
COUNTING_THRESHOLD = 0.9  # the same for the counting task
MAX_OBJECTS = 16  # best detections kept a class
POSITION_MARGIN = 0.1  # share of both objects' extent that an offset must exceed
DIRECTION_THRESHOLD = 0.5  # a relation holds strictly above this share of the raw offset's length
NEGLIGIBLE_OFFSET = 1e-3  # pixels


def keep_detections(detections: list[Detection], tag: str) -> dict[str, list[Detection]]:
    """Detections that count for a prompt of task ``tag``: {class: best first, at most 16}.

    Scores are compared in float32, as the official arrays have them; of equal scores the later
    detection comes first, as the official descending sort has it. Overlapping boxes are all kept,
    which is the official default.
    """
    threshold = np.float32(COUNTING_THRESHOLD if tag == "counting" else SCORE_THRESHOLD)
    groups: dict[str, list[Detection]] = defaultdict(list)
    for detection in sorted(reversed(detections), key=lambda d: -d.score):
        if np.float32(detection.score) > threshold and len(groups[detection.label]) < MAX_OBJECTS:
            groups[detection.label].append(detection)
    return {label: group for label, group in groups.items() if group}


def relations(a: Box, b: Box) -> list[str]:
    """Where ``a`` lies relative to ``b``: of "left of", "right of", "above", "below".

    Each axis' centre offset loses a tenth of both extents (not below 0); what is left, divided by
    the length of the untouched offset, must exceed 0.5. In float32, as the official arrays are.
    """
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = np.float32(a), np.float32(b)
    offset = np.array([(ax0 + ax1) / 2 - (bx0 + bx1) / 2, (ay0 + ay1) / 2 - (by0 + by1) / 2])
    extent = np.array([abs(ax1 - ax0) + abs(bx1 - bx0), abs(ay1 - ay0) + abs(by1 - by0)])
    clear = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_MARGIN * extent, 0)
    if np.all(np.abs(clear) < NEGLIGIBLE_OFFSET):
        return []
    dx, dy = clear / np.linalg.norm(offset)
    tests = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return [name for name, share in tests.items() if share > DIRECTION_THRESHOLD]


def failure_reasons(
    image: np.ndarray,
    found: dict[str, list[Detection]],
    metadata: dict[str, Any],
    color: ColorNamer | None,
) -> list[str]:
    """Reasons why ``image`` fails its prompt; an empty list means that it is correct.

    Only the best ``count`` objects of an include clause are examined; position is examined only
    where count and colour hold. The reasons have the form of the official results.

    Args:
        image: uint8 RGB [H, W, 3].
        found: Detections by class, from ``keep_detections``.
        metadata: The prompt.
        color: The colour classifier; may be None if no clause asks for a colour.
    """
    reasons: list[str] = []
    matched: list[list[Detection] | None] = []
    for clause in metadata.get("include", []):
        name, count = clause["class"], clause["count"]
        objects = found.get(name, [])[:count]
        failure = None
        if len(objects) < count:
            failure = f"expected {name}>={count}, found {len(objects)}"
        if not failure and "color" in clause:
            failure = _color_failure(image, objects, clause, color)
        if not failure and "position" in clause:
            failure = _position_failure(objects, clause, matched)
        matched.append(None if failure else objects)
        reasons += [failure] if failure else []
    for clause in metadata.get("exclude", []):
        count = len(found.get(clause["class"], []))
        if count >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {count}")
    return reasons


def _color_failure(
    image: np.ndarray, objects: list[Detection], clause: dict[str, Any], color: ColorNamer
) -> str | None:
    name, wanted = clause["class"], clause["color"]
    seen = [color.classify(image, d.mask, d.box, name) for d in objects]
    hits = seen.count(wanted)
    if hits >= clause["count"]:
        return None
    tally = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
    return f"expected {wanted} {name}>={clause['count']}, found {hits} {wanted}; and {tally}"


def _position_failure(
    objects: list[Detection], clause: dict[str, Any], matched: list[list[Detection] | None]
) -> str | None:
    name = clause["class"]
    relation, target = clause["position"]
    others = matched[target]
    if others is None:
        return f"no target for {name} to be {relation}"
    for a in objects:
        for b in others:
            if relation not in (true := relations(a.box, b.box)):
                return f"expected {name} {relation} target, found {' and '.join(true)} target"
    return None


def evaluate_image(
    image: np.ndarray,
    detections: list[Detection],
    metadata: dict[str, Any],
    color: ColorNamer,
    filename: str,
) -> dict[str, Any]:
    """Verdict on one uint8 RGB image [H, W, 3] as a record with the official fields.

    ``metadata`` and ``details`` ({class: [[x0, y0, x1, y1, score], ...]}) are JSON texts, so that
    the official summary script reads these records too.
    """
    found = keep_detections(detections, metadata["tag"])
    reasons = failure_reasons(image, found, metadata, color)
    boxes = {k: [[*map(float, d.box), float(d.score)] for d in v] for k, v in found.items()}
    return {
        "filename": filename,
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": not reasons,
        "reason": "\n".join(reasons),
        "metadata": json.dumps(metadata),
        "details": json.dumps(boxes),
    }

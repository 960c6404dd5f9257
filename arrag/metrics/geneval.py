"""GenEval: object-focused verdicts on generated images (Ghosh et al. 2023, arXiv 2310.11513).

An own implementation of the rules of djghosh13/geneval, evaluation/evaluate_images.py and
summary_scores.py; the thresholds below are that code's defaults. Where it silently leaves out
missing folders, this one refuses (``arrag.metrics.samples.list_samples``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from arrag import __version__
from arrag.errors import ArragError
from arrag.files import sha256_file, write_json, write_text
from arrag.metrics import stats
from arrag.metrics.color import COLORS
from arrag.metrics.detection import Detection, Detector
from arrag.metrics.samples import Sample, list_samples, load_image, load_prompts, read_run

SCORE_THRESHOLD = 0.3  # a detection counts strictly above this
COUNTING_THRESHOLD = 0.9  # the same for the counting task
MAX_OBJECTS = 16  # best detections kept a class
MAX_OVERLAP = 1.0  # IoU at which the lesser of two boxes is dropped; 1 keeps every box
POSITION_MARGIN = 0.1  # share of both objects' extent that an offset must exceed
DIRECTION_THRESHOLD = 0.5  # a relation holds strictly above this share of the raw offset's length
NEGLIGIBLE_OFFSET = 1e-3  # pixels
COMPAT = "official"
LIBRARIES = ("torch", "torchvision", "transformers", "open-clip-torch", "pillow", "numpy")

Box = tuple[float, float, float, float]


class Colors(Protocol):
    """What the verdict needs of a colour classifier (arrag.metrics.color.ColorClassifier)."""

    name: str
    digest: str

    def classify(self, image: np.ndarray, mask: np.ndarray, box: Box, class_name: str) -> str:
        """One of GenEval's ten colours."""
        ...


def iou(a: Box, b: Box) -> float:
    """Intersection over union with GenEval's pixel count: an extent is x1 - x0 + 1."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)

    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - both
    return both / union if union else 0.0


def keep_detections(
    detections: list[Detection], tag: str, max_overlap: float = MAX_OVERLAP
) -> dict[str, list[Detection]]:
    """Detections that count for a prompt of task ``tag``: {class: best first, at most 16}."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else SCORE_THRESHOLD
    groups: dict[str, list[Detection]] = defaultdict(list)
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > threshold and len(groups[detection.label]) < MAX_OBJECTS:
            groups[detection.label].append(detection)
    if max_overlap < 1:
        for group in groups.values():
            left, group[:] = list(group), []
            while left:
                best = left.pop(0)
                group.append(best)
                left = [d for d in left if iou(best.box, d.box) < max_overlap]
    return {label: group for label, group in groups.items() if group}


def relations(a: Box, b: Box) -> list[str]:
    """Where ``a`` lies relative to ``b``: of "left of", "right of", "above", "below".

    Each axis' centre offset loses a tenth of both extents (not below 0); what is left, divided by
    the length of the untouched offset, must exceed 0.5.
    """
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a, b
    offset = np.array([(ax0 + ax1) - (bx0 + bx1), (ay0 + ay1) - (by0 + by1)]) / 2
    extent = np.array([abs(ax1 - ax0) + abs(bx1 - bx0), abs(ay1 - ay0) + abs(by1 - by0)])
    clear = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_MARGIN * extent, 0)
    if np.all(np.abs(clear) < NEGLIGIBLE_OFFSET):
        return []
    dx, dy = clear / np.linalg.norm(offset)
    tests = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return [name for name, share in tests.items() if share > DIRECTION_THRESHOLD]


def judge(
    image: np.ndarray,
    found: dict[str, list[Detection]],
    metadata: dict[str, Any],
    color: Colors,
) -> list[str]:
    """Reasons why ``image`` fails its prompt; an empty list is a correct image.

    ``found`` comes from ``keep_detections``. Only the best ``count`` objects of an include clause
    are examined; position is examined only where count and colour hold.
    """
    reasons: list[str] = []
    matched: list[list[Detection] | None] = []
    for clause in metadata.get("include", []):
        objects = found.get(clause["class"], [])[: clause["count"]]
        failure = (
            _count_failure(objects, clause)
            or _color_failure(image, objects, clause, color)
            or _position_failure(objects, clause, matched)
        )
        matched.append(None if failure else objects)
        reasons += [failure] if failure else []
    for clause in metadata.get("exclude", []):
        count = len(found.get(clause["class"], []))
        if count >= clause["count"]:
            reasons.append(f"{clause['class']}: {count} found, fewer than {clause['count']} wanted")
    return reasons


def _count_failure(objects: list[Detection], clause: dict[str, Any]) -> str | None:
    if len(objects) >= clause["count"]:
        return None
    return f"{clause['class']}: {len(objects)} found, at least {clause['count']} wanted"


def _color_failure(
    image: np.ndarray, objects: list[Detection], clause: dict[str, Any], color: Colors
) -> str | None:
    if "color" not in clause:
        return None
    name, wanted = clause["class"], clause["color"]
    seen = [color.classify(image, d.mask, d.box, name) for d in objects]
    if seen.count(wanted) >= clause["count"]:
        return None
    tally = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
    return f"{name}: {tally} found, at least {clause['count']} {wanted} wanted"


def _position_failure(
    objects: list[Detection], clause: dict[str, Any], matched: list[list[Detection] | None]
) -> str | None:
    if "position" not in clause:
        return None
    name = clause["class"]
    relation, target = clause["position"]
    others = matched[target]
    if others is None:
        return f"{name}: nothing found to be {relation}"
    for a in objects:
        for b in others:
            if relation not in (true := relations(a.box, b.box)):
                return f"{name}: {' and '.join(true) or 'no clear side'} found, {relation} wanted"
    return None


def evaluate_image(
    image: np.ndarray,
    detections: list[Detection],
    metadata: dict[str, Any],
    color: Colors,
    filename: str,
) -> dict[str, Any]:
    """Verdict on one uint8 RGB image [H, W, 3] as a record with the official fields.

    ``metadata`` and ``details`` ({class: [[x0, y0, x1, y1, score], ...]}) are JSON texts, as the
    official results have them, so that its summary script reads these records too.
    """
    found = keep_detections(detections, metadata["tag"])
    reasons = judge(image, found, metadata, color)
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


def evaluate_directory(
    samples: list[Sample],
    prompts: list[dict[str, Any]],
    detector: Detector,
    color: Colors,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Records of all samples, in their order; ``filename`` is folder/samples/name."""
    records = []
    with tqdm(total=len(samples), desc="GenEval", unit="image") as progress:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            images = [load_image(sample.path) for sample in batch]
            for sample, image, detections in zip(
                batch, images, detector.detect(images), strict=True
            ):
                filename = "/".join(sample.path.parts[-3:])
                prompt = prompts[sample.prompt_index]
                records.append(evaluate_image(image, detections, prompt, color, filename))
            progress.update(len(batch))
    return records


def summarise(
    samples: list[Sample], records: list[dict[str, Any]], prompts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Task values, their mean as the overall ``value``, 95 % intervals, and what pairing needs.

    ``per_prompt`` has one row a prompt: its tag, its mean, and its images' verdicts as a text of
    0 and 1 in sample order.
    """
    verdicts = [""] * len(prompts)
    for sample, record in zip(samples, records, strict=True):
        verdicts[sample.prompt_index] += str(int(record["correct"]))
    rows = [
        {"tag": prompt["tag"], "mean": bits.count("1") / len(bits), "verdicts": bits}
        for prompt, bits in zip(prompts, verdicts, strict=True)
    ]
    tags = [row["tag"] for row in rows]
    estimates = stats.bootstrap(tags, [row["mean"] for row in rows])
    overall = estimates.pop(stats.OVERALL)
    return {
        "value": overall.value,
        "interval": [overall.low, overall.high],
        "tasks": {
            tag: {"value": e.value, "interval": [e.low, e.high], "n": tags.count(tag)}
            for tag, e in estimates.items()
        },
        "n_prompts": len(prompts),
        "n_images": len(samples),
        "per_prompt": rows,
    }


def score_geneval(
    images_dir: str | Path,
    prompts_path: str | Path,
    detector: Detector,
    color: Colors,
    out_json: str | Path,
    records_out: str | Path,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Score a directory of samples; write the score and one record an image, both atomically.

    Raises ArragError when the samples are not the whole prompt set or when a prompt asks for a
    class that the detector does not know. ``n`` of a task counts prompts.
    """
    prompts = load_prompts(prompts_path)
    clauses = [c for p in prompts for c in [*p["include"], *p.get("exclude", [])]]
    if unknown := sorted({c["class"] for c in clauses} - set(detector.classes)):
        raise ArragError(
            f"{prompts_path}: field class is {', '.join(unknown)}, which detector {detector.name} "
            "does not know; use the prompts that belong to this detector"
        )
    samples = list_samples(images_dir, prompts)
    records = evaluate_directory(samples, prompts, detector, color, batch_size)
    score = {
        "metric": "geneval",
        "compat": COMPAT,
        **summarise(samples, records, prompts),
        "prompt_set_sha256": sha256_file(prompts_path),
        "judge": {
            "detector": detector.name,
            "detector_digest": detector.digest,
            "color": color.name,
            "color_digest": color.digest,
        },
        "run": read_run(images_dir),
        "versions": {"arrag": __version__} | {name: version(name) for name in LIBRARIES},
    }
    write_text(records_out, "".join(json.dumps(record) + "\n" for record in records))
    write_json(out_json, score)
    return score

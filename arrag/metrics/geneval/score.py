"""A GenEval score: from a folder of images, or from recorded verdicts (results.jsonl).

The numbers are those of djghosh13/geneval, evaluation/summary_scores.py: a task's value is the
share of its correct images, the overall is the mean of the tasks. Where the official code silently
leaves out missing folders, this one refuses, or with ``allow_partial`` states what is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arrag import __version__
from arrag.data.prompts import load_geneval_prompts
from arrag.data.questions import counted
from arrag.data.sample_dir import Sample, folder_prompts, list_samples, load_image, read_run
from arrag.metrics import bootstrap as stats
from arrag.metrics.geneval.judge import evaluate_image
from arrag.metrics.journal import Journal
from arrag.metrics.objects import Colors, Detector
from arrag.utils.errors import ArragError
from arrag.utils.files import write_json, write_text
from arrag.utils.hashing import images_digest, sha256_file, sha256_json
from arrag.utils.readers import open_picture

COMPAT = "official"
LIBRARIES = ("torch", "torchvision", "transformers", "open-clip-torch", "pillow", "numpy")

Record = dict[str, Any]  # one line of results.jsonl
Gaps = dict[str, list[str]]


def score_geneval(
    images_dir: str | Path,
    prompts_path: str | Path | None,
    detector: Detector,
    color: Colors,
    out_json: str | Path,
    records_out: str | Path,
    batch_size: int = 8,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """Score a directory of samples; write the score and one record an image, both atomically.

    Without ``prompts_path`` the folders' own metadata.jsonl are the prompt set. An interrupted run
    goes on where it stopped. Raises ArragError when the samples are not the whole prompt set or
    when a prompt asks for a class that the detector does not know. ``n`` of a task counts prompts.
    """
    if prompts_path is None:
        prompts = folder_prompts(images_dir)
        digest = sha256_json([prompts[i] for i in sorted(prompts)])
    else:
        prompts = dict(enumerate(load_geneval_prompts(prompts_path)))
        digest = sha256_file(prompts_path)
    clauses = [c for p in prompts.values() for c in [*p["include"], *p.get("exclude", [])]]
    if unknown := sorted({c["class"] for c in clauses} - set(detector.classes)):
        raise ArragError(
            f"{prompts_path or images_dir}: field class is {', '.join(unknown)}, which detector "
            f"{detector.name} does not know; use the prompts that belong to this detector"
        )
    in_order = [prompts[i] for i in sorted(prompts)] if prompts_path is not None else None
    samples, gaps = list_samples(images_dir, in_order, allow_partial)
    judge = {
        "detector": detector.name,
        "detector_digest": detector.digest,
        "color": color.name,
        "color_digest": color.digest,
    }
    journal = Journal(Path(records_out).with_suffix(".partial"), ["geneval", judge])
    records = evaluate_samples(samples, prompts, detector, color, batch_size, journal)
    numbered = [(s.prompt_index, r) for s, r in zip(samples, records, strict=True)]
    score = {
        "metric": "geneval",
        "compat": COMPAT,
        **summarise(numbered, gaps),
        "prompt_set_sha256": digest,
        "judge": judge,
        "image_sizes": image_sizes(samples),
        "images": {
            "path": str(images_dir),
            "sha256": images_digest(sha256_file(s.path) for s in samples),
        },
        "run": read_run(images_dir),
        "versions": {"arrag": __version__} | {name: version(name) for name in LIBRARIES},
    }
    write_text(records_out, "".join(json.dumps(record) + "\n" for record in records))
    write_json(out_json, score)
    journal.finish()
    return score


def evaluate_samples(
    samples: list[Sample],
    prompts: dict[int, dict[str, Any]],
    detector: Detector,
    color: Colors,
    batch_size: int,
    journal: Journal,
) -> list[Record]:
    """Records of all samples, in their order; ``filename`` is folder/samples/name."""
    keys = [
        sha256_json([sha256_file(s.path), prompts[s.prompt_index], _filename(s)]) for s in samples
    ]
    left = [i for i, key in enumerate(keys) if key not in journal]
    with tqdm(total=len(samples), initial=len(samples) - len(left), desc="GenEval") as progress:
        for start in range(0, len(left), batch_size):
            batch = left[start : start + batch_size]
            images = [load_image(samples[i].path) for i in batch]
            done = {
                keys[i]: evaluate_image(
                    image, found, prompts[samples[i].prompt_index], color, _filename(samples[i])
                )
                for i, image, found in zip(batch, images, detector.detect(images), strict=True)
            }
            journal.add(done)
            progress.update(len(batch))
    return [journal[key] for key in keys]


def _filename(sample: Sample) -> str:
    return "/".join(sample.path.parts[-3:])


def image_sizes(samples: list[Sample]) -> dict[str, int]:
    """How many images have which size, "width x height"."""
    counts: Counter[str] = Counter()
    for sample in samples:
        with open_picture(sample.path) as picture:
            counts["{} x {}".format(*picture.size)] += 1
    return dict(counts.most_common())


def summarise(records: list[tuple[Any, Record]], gaps: Gaps) -> dict[str, Any]:
    """Task values, their mean as the overall ``value``, 95 % intervals, and what pairing needs.

    ``records`` are (prompt's key, record) in sample order. ``per_prompt`` has one row a prompt: its
    tag, its mean, and its images' verdicts as a text of 0 and 1. ``n`` of a task counts prompts.
    ``correct_prompts`` is the share of prompts with at least one correct image.
    """
    tags: dict[Any, str] = {}
    verdicts: dict[Any, str] = {}
    for key, record in records:
        if tags.setdefault(key, record["tag"]) != record["tag"]:
            raise ArragError(f"{record['filename']}: field tag differs from its prompt's others")
        verdicts[key] = verdicts.get(key, "") + str(int(record["correct"]))
    rows = [
        {"tag": tags[key], "mean": bits.count("1") / len(bits), "verdicts": bits}
        for key, bits in verdicts.items()
    ]
    if gaps:  # a partial run can only be paired with one of the same prompts
        for row, key in zip(rows, verdicts, strict=True):
            row["item_id"] = key
    sizes = [len(bits) for bits in verdicts.values()]
    tasks = [row["tag"] for row in rows]
    even = len(set(sizes)) == 1
    estimates = stats.bootstrap(
        tasks, [row["mean"] for row in rows], weights=None if even else sizes
    )
    overall = estimates.pop(stats.OVERALL)
    return {
        "value": overall.value,
        stats.OVERALL: overall.value,
        "interval": [overall.low, overall.high],
        "tasks": {
            tag: {"value": e.value, "interval": [e.low, e.high], "n": tasks.count(tag)}
            for tag, e in estimates.items()
        },
        "n_prompts": len(rows),
        "n_images": len(records),
        "correct_images": sum(record["correct"] for _, record in records) / len(records),
        "correct_prompts": sum("1" in bits for bits in verdicts.values()) / len(rows),
        "partial": {what: counted(names) for what, names in gaps.items()},
        "per_prompt": rows,
    }

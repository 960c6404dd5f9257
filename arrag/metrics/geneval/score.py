"""The GenEval score of a folder of images.

The numbers are those of djghosh13/geneval, evaluation/summary_scores.py: a task's value is the
share of its correct images, the overall is the mean of the tasks. Where the official code silently
leaves out missing folders, this one refuses, or with ``allow_partial`` states what is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arrag.data.prompts import load_geneval_prompts
from arrag.data.questions import counted
from arrag.data.sample_dir import (
    Sample,
    folder_prompts,
    image_size,
    list_samples,
    load_image,
    read_run,
)
from arrag.metrics.base import DEFAULTS, Metric, Score, ScoreOptions, library_versions
from arrag.metrics.bootstrap import OVERALL, bootstrap
from arrag.metrics.geneval.judge import evaluate_image
from arrag.metrics.resume_log import ResumeLog
from arrag.metrics.types import ColorNamer, Detector, Gaps
from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import write_text
from arrag.utils.hashing import images_digest, sha256_file, sha256_json

COMPAT = "official"
LIBRARIES = ("torch", "torchvision", "transformers", "open-clip-torch", "pillow", "numpy")
BATCH_SIZE = 8

Record = dict[str, Any]  # one line of results.jsonl


class GenEval(Metric):
    """Share of images whose objects, counts, colours and places are those of the prompt."""

    name = "geneval"

    def __init__(self, detector: Detector, color: ColorNamer) -> None:
        self.detector, self.color = detector, color

    def score(
        self, images: str | Path, target: str | Path | None, options: ScoreOptions = DEFAULTS
    ) -> Score:
        """Score a folder of samples; an interrupted run continues where it stopped.

        Args:
            images: Samples in GenEval's layout, ``NNNNN/samples/*.png``.
            target: The prompt file; None takes the prompts of the folders' metadata.jsonl.
            options: ``records`` is the file of one JSON line an image.

        Raises:
            ArragError: The samples are not the whole prompt set, or a prompt asks for a class that
                the detector does not know.
        """
        if target is None:
            prompts = folder_prompts(images)
            digest = sha256_json([prompts[i] for i in sorted(prompts)])
        else:
            prompts = dict(enumerate(load_geneval_prompts(target)))
            digest = sha256_file(target)
        self._check_classes(target or images, prompts)
        in_order = [prompts[i] for i in sorted(prompts)] if target is not None else None
        samples, gaps = list_samples(images, in_order, options.allow_partial)
        judge = {
            "detector": self.detector.name,
            "detector_digest": self.detector.digest,
            "color": self.color.name,
            "color_digest": self.color.digest,
        }
        unfinished = options.records and options.records.with_suffix(".partial")
        log = ResumeLog(unfinished, ["geneval", judge])
        records = self._evaluate(samples, prompts, options.batch_size or BATCH_SIZE, log)
        numbered = [(s.prompt_index, r) for s, r in zip(samples, records, strict=True)]
        score = Score(
            metric=self.name,
            compat=COMPAT,
            **summarise(numbered, gaps),
            prompt_set_sha256=digest,
            judge=judge,
            image_sizes=dict(Counter("{} x {}".format(*image_size(s.path)) for s in samples)),
            images={
                "path": str(images),
                "sha256": images_digest(sha256_file(s.path) for s in samples),
            },
            run=read_run(images),
            versions=library_versions(*LIBRARIES),
        )
        if options.records is not None:
            write_records(options.records, records)
        score.write(options.out)
        log.remove()
        return score

    def _check_classes(self, path: str | Path, prompts: dict[int, dict[str, Any]]) -> None:
        clauses = [c for p in prompts.values() for c in [*p["include"], *p.get("exclude", [])]]
        if unknown := sorted({c["class"] for c in clauses} - set(self.detector.classes)):
            raise MismatchError(
                f"{', '.join(unknown)}: detector {self.detector.name} does not know that",
                path=path,
                field="class",
                hint="use the prompts that belong to this detector",
            )

    def _evaluate(
        self,
        samples: list[Sample],
        prompts: dict[int, dict[str, Any]],
        batch_size: int,
        log: ResumeLog,
    ) -> list[Record]:
        """Records of all samples, in their order; ``filename`` is folder/samples/name."""
        names = ["/".join(s.path.parts[-3:]) for s in samples]
        asked = [prompts[s.prompt_index] for s in samples]
        keys = [
            sha256_json([sha256_file(s.path), prompt, name])
            for s, prompt, name in zip(samples, asked, names, strict=True)
        ]
        left = [i for i, key in enumerate(keys) if key not in log]
        with tqdm(total=len(samples), initial=len(samples) - len(left), desc="GenEval") as progress:
            for start in range(0, len(left), batch_size):
                batch = left[start : start + batch_size]
                images = [load_image(samples[i].path) for i in batch]
                rows = zip(batch, images, self.detector.detect(images), strict=True)
                log.add(
                    {
                        keys[i]: evaluate_image(image, found, asked[i], self.color, names[i])
                        for i, image, found in rows
                    }
                )
                progress.update(len(batch))
        return [log[key] for key in keys]


def write_records(path: str | Path, records: list[Record]) -> None:
    """Write records as JSON lines, as the official code does, atomically."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def summarise(records: list[tuple[Any, Record]], gaps: Gaps) -> dict[str, Any]:
    """Task values, their mean as the overall ``value``, 95 % intervals, and what pairing needs.

    Args:
        records: (key of the prompt, record) in sample order.
        gaps: What is missing, for ``partial``.

    Returns:
        Fields of the score. ``per_prompt`` has one row a prompt: tag, mean, and the verdicts of its
        images as a text of 0 and 1. ``n`` of a task counts prompts. ``correct_prompts`` is the
        share of prompts with at least one correct image.
    """
    tags: dict[Any, str] = {}
    verdicts: dict[Any, str] = {}
    for key, record in records:
        if tags.setdefault(key, record["tag"]) != record["tag"]:
            message = "differs from the tag of the prompt's other images"
            raise FormatError(message, path=record["filename"], field="tag")
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
    weights = None if len(set(sizes)) == 1 else sizes
    estimates = bootstrap(tasks, [row["mean"] for row in rows], weights=weights)
    overall = estimates.pop(OVERALL)
    return {
        "value": overall.value,
        OVERALL: overall.value,
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

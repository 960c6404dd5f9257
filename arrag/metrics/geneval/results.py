"""GenEval verdicts that are already there: the official results.jsonl, summed up or judged again.

A line holds ``filename, tag, prompt, correct, reason, metadata, details``; the last two are JSON
texts (djghosh13/geneval, evaluation/evaluate_images.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from arrag import __version__
from arrag.data.prompts import MAX_COUNT, TASKS, load_geneval_prompts, prompt_problem
from arrag.data.questions import counted, listed
from arrag.metrics.geneval.judge import judge
from arrag.metrics.geneval.score import COMPAT, Gaps, Record, summarise
from arrag.metrics.objects import Detection
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file, sha256_json
from arrag.utils.readers import numbered_lines, parse_json, read_text

# Of folder and sample in a filename.
NUMBERS = re.compile(r"(?<![0-9])([0-9]{1,9})/samples/([0-9]{1,9})\.png$")
NO_MASK = np.zeros((0, 0), dtype=bool)


def read_results(path: str | Path) -> list[Record]:
    """All records of a results file in (folder, sample) order where the names have numbers.

    ``correct`` becomes a bool; ``metadata`` and ``details`` stay texts. Raises ArragError that
    names the line of the first mistake: a missing field, an unknown tag, a file named twice.
    """
    path = Path(path)
    lines = numbered_lines(read_text(path, "the file of results"))
    records = [_record(f"{path}:{number}", line) for number, line in lines]
    if not records:
        raise ArragError(f"{path}: holds no verdict; give the official results.jsonl")
    twice = [name for name, n in Counter(r["filename"] for r in records).items() if n > 1]
    if twice:
        raise ArragError(f"{path}: files with more than one verdict: {listed(twice)}; keep one")
    places = [NUMBERS.search(record["filename"]) for record in records]
    if all(places):
        # The official code lists folders in no order; McNemar's pairs need one.
        order = [tuple(map(int, place.groups())) for place in places]
        records = [records[i] for i in sorted(range(len(records)), key=order.__getitem__)]
    return records


def _record(where: str, line: str) -> Record:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ArragError(f"{where}: not a JSON object ({error})") from None
    for name in ("filename", "tag", "correct", "metadata"):
        if not isinstance(record, dict) or name not in record:
            raise ArragError(f"{where}: field {name} is missing; give the official results.jsonl")
    if record["tag"] not in TASKS:
        raise ArragError(
            f"{where}: field tag is {record['tag']!r}, expected one of {', '.join(TASKS)}"
        )
    if record["correct"] not in (True, False):
        raise ArragError(f"{where}: field correct is {record['correct']!r}, expected true or false")
    if not isinstance(record["metadata"], str):
        record["metadata"] = json.dumps(record["metadata"])
    for name in ("reason", "prompt"):
        if not isinstance(record.setdefault(name, ""), str):
            raise ArragError(f"{where}: field {name} is no text; give the official results.jsonl")
    return record | {"filename": str(record["filename"]), "correct": bool(record["correct"])}


def score_results(
    path: str | Path,
    prompts_path: str | Path | None = None,
    rejudge: bool = False,
    allow_partial: bool = False,
) -> tuple[dict[str, Any], list[Record]]:
    """The score of a results file, and its records (judged again if asked).

    A prompt is whatever has the same ``metadata``, as in the official summary. Raises ArragError
    when the file lacks prompts of ``prompts_path`` or has others, unless ``allow_partial``. Without
    a prompt file only gaps in the folders' numbers and in the images a prompt can be seen: they
    are stated in ``partial``, not refused, because the official summary takes such a file too.
    """
    records = read_results(path)
    verdict = rejudge_records(path, records) if rejudge else None
    gaps = _gaps(records)
    if prompts_path is not None:
        missing, foreign = _against(records, load_geneval_prompts(prompts_path))
        for what, names in (
            ("prompts without a verdict", missing),
            ("verdicts on other prompts", foreign),
        ):
            if names and not allow_partial:
                raise ArragError(
                    f"{path}: {what}, by {prompts_path}: {listed(names)}; judge the whole set, or "
                    "pass --allow-partial to have it stated in the score"
                )
            gaps |= {what: names} if names else {}
    texts = list(dict.fromkeys(record["metadata"] for record in records))
    digest = sha256_file(prompts_path) if prompts_path else sha256_json(sorted(texts))
    score = {
        "metric": "geneval",
        "compat": COMPAT,
        **summarise([(record["metadata"], record) for record in records], gaps),
        "prompt_set_sha256": digest,
        "judge": {"name": "recorded", "digest": sha256_file(path)},
        "run": None,
        "versions": {"arrag": __version__},
    }
    return score | ({"rejudged": verdict} if verdict else {}), records


def _gaps(records: list[Record]) -> Gaps:
    """Prompts with fewer images than others, and numbers that no folder has."""
    images = Counter(record["metadata"] for record in records)
    most = max(images.values())
    few = [m for m, n in images.items() if n < most]
    gaps: Gaps = {f"prompts with fewer than {most} images": few} if few else {}
    places = [NUMBERS.search(record["filename"]) for record in records]
    if all(places):
        present = {int(place[1]) for place in places}
        if max(present) <= MAX_COUNT:  # beyond that they are names, not numbers from 0 on
            absent = [f"{i:05d}" for i in range(max(present)) if i not in present]
            gaps |= {"prompt folders are missing": absent} if absent else {}
    return gaps


def _against(records: list[Record], prompts: list[dict]) -> tuple[list[str], list[str]]:
    """Texts of the prompts that have no record, and of records that are of no prompt."""
    wanted = {sha256_json(prompt): prompt["prompt"] for prompt in prompts}
    found = {}
    for text in dict.fromkeys(record["metadata"] for record in records):
        try:
            found[text] = sha256_json(parse_json(text))
        except ValueError:
            found[text] = ""
    missing = [text for digest, text in wanted.items() if digest not in set(found.values())]
    foreign = [m for m, digest in found.items() if digest not in wanted]
    return missing, foreign


def rejudge_records(path: str | Path, records: list[Record]) -> dict[str, Any]:
    """Judge every record anew from its boxes, in place: ``correct`` and ``reason`` are replaced.

    Counts and places follow from ``details``. A colour needs the image: a record whose colour
    clauses have enough objects keeps its recorded verdict. Returns how many were judged, kept, and
    changed, with the first changed files. Raises ArragError for metadata or details that cannot be
    read.
    """
    changed, kept = [], []
    for record in records:
        metadata, found = _boxes(path, record)
        colored = [c for c in metadata.get("include", []) if "color" in c]
        if any(len(found.get(c["class"], [])) >= c["count"] for c in colored):
            kept.append(record["filename"])
            continue
        reasons = judge(NO_MASK, found, metadata, None)  # no clause asks for a colour here
        if record["correct"] != (not reasons):
            changed.append(record["filename"])
        record |= {"correct": not reasons, "reason": "\n".join(reasons)}
    return {
        "judged": len(records) - len(kept),
        "kept_for_color": len(kept),
        "changed": counted(changed),
    }


def _boxes(path: str | Path, record: Record) -> tuple[dict, dict[str, list[Detection]]]:
    where = f"{path}: {record['filename']}"
    try:
        metadata = parse_json(record["metadata"])
        details = record.get("details")
        details = parse_json(details) if isinstance(details, str) else details
        found = {
            label: [
                Detection(label, float(box[4]), tuple(map(float, box[:4])), NO_MASK)
                for box in boxes
            ]
            for label, boxes in details.items()
        }
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ArragError(f"{where}: metadata or details cannot be read ({error})") from None
    if problem := prompt_problem(metadata):
        raise ArragError(f"{where}: metadata: {problem}")
    return metadata, found

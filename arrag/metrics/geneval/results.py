"""Recorded GenEval verdicts: the official results.jsonl, summarised or judged again.

A line holds ``filename, tag, prompt, correct, reason, metadata, details``; the last two are JSON
texts (djghosh13/geneval, evaluation/evaluate_images.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from arrag.data.prompts import MAX_COUNT, TASKS, load_geneval_prompts, prompt_problem
from arrag.data.questions import counted, listed
from arrag.metrics.base import Score, library_versions
from arrag.metrics.geneval.judge import failure_reasons
from arrag.metrics.geneval.score import COMPAT, Record, summarise
from arrag.metrics.types import Detection, Gaps, refuse_gaps
from arrag.utils.errors import FormatError
from arrag.utils.files import validate_model
from arrag.utils.hashing import sha256_file, sha256_json
from arrag.utils.readers import numbered_lines, parse_json, read_text

# Of folder and sample in a filename.
NUMBERS = re.compile(r"(?<![0-9])([0-9]{1,9})/samples/([0-9]{1,9})\.png$")
NO_MASK = np.zeros((0, 0), dtype=bool)
HINT = "give the official results.jsonl"


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _RecordForm(BaseModel):
    model_config = ConfigDict(extra="allow")

    filename: Annotated[str, BeforeValidator(str)]
    tag: Literal[TASKS]
    correct: Annotated[Literal[True, False, 0, 1], AfterValidator(bool)]
    metadata: Annotated[str, BeforeValidator(_json_text)]
    reason: str = ""
    prompt: str = ""


def read_results(path: str | Path) -> list[Record]:
    """Read a results file, in (folder, sample) order where the filenames have numbers.

    ``correct`` becomes a bool; ``metadata`` and ``details`` stay texts.

    Raises:
        FormatError: A line is not a record (``field`` names line and field), a file is named twice,
            or there is no record.
    """
    path = Path(path)
    lines = numbered_lines(read_text(path, "the file of results"))
    records = [_parse_record(path, number, line) for number, line in lines]
    if not records:
        raise FormatError("holds no verdict", path=path, hint=HINT)
    twice = [name for name, n in Counter(r["filename"] for r in records).items() if n > 1]
    if twice:
        message = f"files with more than one verdict: {listed(twice)}"
        raise FormatError(message, path=path, field="filename", hint="keep one")
    places = [NUMBERS.search(record["filename"]) for record in records]
    if all(places):
        # The official code lists folders in no order; McNemar's pairs need one.
        order = [tuple(map(int, place.groups())) for place in places]
        records = [records[i] for i in sorted(range(len(records)), key=order.__getitem__)]
    return records


def _parse_record(path: Path, number: int, line: str) -> Record:
    at = f"line {number}"
    try:
        record = parse_json(line)
    except ValueError as error:
        raise FormatError(f"not a JSON object ({error})", path=path, field=at) from None
    return record | validate_model(record, _RecordForm, path, HINT, at).model_dump()


def score_results(
    path: str | Path,
    prompts_path: str | Path | None = None,
    rejudge: bool = False,
    allow_partial: bool = False,
) -> tuple[Score, list[Record]]:
    """The score of a results file, and its records (judged again if asked).

    As in the official summary, a prompt is whatever has the same ``metadata``. Without a prompt
    file only gaps in the numbers of folders and in the images of a prompt can be seen: they are
    stated in ``partial``, not refused, because the official summary accepts such a file too.

    Raises:
        MismatchError: The file lacks prompts of ``prompts_path`` or has others, unless
            ``allow_partial``.
    """
    records = read_results(path)
    rejudged = {"rejudged": rejudge_records(path, records)} if rejudge else {}
    gaps = _gaps(records)
    if prompts_path is not None:
        others = _compare_prompts(records, load_geneval_prompts(prompts_path))
        refuse_gaps(others, path, allow_partial, f"judge all prompts of {prompts_path}")
        gaps |= others
    texts = list(dict.fromkeys(record["metadata"] for record in records))
    score = Score(
        metric="geneval",
        compat=COMPAT,
        **summarise([(record["metadata"], record) for record in records], gaps),
        prompt_set_sha256=sha256_file(prompts_path) if prompts_path else sha256_json(sorted(texts)),
        judge={"name": "recorded", "digest": sha256_file(path)},
        run=None,
        versions=library_versions(),
        **rejudged,
    )
    return score, records


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


def _compare_prompts(records: list[Record], prompts: list[dict]) -> Gaps:
    """Prompts that have no record, and records of no prompt."""
    wanted = {sha256_json(prompt): prompt["prompt"] for prompt in prompts}
    found = {}
    for text in dict.fromkeys(record["metadata"] for record in records):
        try:
            found[text] = sha256_json(parse_json(text))
        except ValueError:
            found[text] = ""
    present = set(found.values())
    gaps = {
        "prompts without a verdict": [t for digest, t in wanted.items() if digest not in present],
        "verdicts on other prompts": [m for m, digest in found.items() if digest not in wanted],
    }
    return {what: names for what, names in gaps.items() if names}


def rejudge_records(path: str | Path, records: list[Record]) -> dict[str, Any]:
    """Judge every record anew from its boxes, in place: ``correct`` and ``reason`` are replaced.

    Counts and positions follow from ``details``. A colour needs the image: a record whose colour
    clauses have enough objects keeps its recorded verdict.

    Returns:
        How many were judged, kept, and changed, with the first changed files.

    Raises:
        FormatError: Metadata or details cannot be read.
    """
    changed, kept = [], []
    for record in records:
        metadata, found = _read_boxes(path, record)
        colored = [c for c in metadata.get("include", []) if "color" in c]
        if any(len(found.get(c["class"], [])) >= c["count"] for c in colored):
            kept.append(record["filename"])
            continue
        reasons = failure_reasons(NO_MASK, found, metadata, None)  # no clause asks for a colour
        if record["correct"] != (not reasons):
            changed.append(record["filename"])
        record |= {"correct": not reasons, "reason": "\n".join(reasons)}
    return {
        "judged": len(records) - len(kept),
        "kept_for_color": len(kept),
        "changed": counted(changed),
    }


def _read_boxes(path: str | Path, record: Record) -> tuple[dict, dict[str, list[Detection]]]:
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
        problem = prompt_problem(metadata)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        problem = f"metadata or details cannot be read ({error})"
    if problem:
        raise FormatError(problem, path=path, field=record["filename"], hint=HINT)
    return metadata, found

"""The prompts of a benchmark, whatever file they come in."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from arrag.config.benchmarks import Benchmark
from arrag.data.samples import load_prompts
from arrag.utils.errors import ArragError
from arrag.utils.readers import numbered_lines, parse_json, read_text, short_message


def load_prompt_set(benchmark: Benchmark) -> list[dict[str, Any]]:
    """One mapping a prompt, in the file's order; ``prompt`` is the text to draw.

    The rest is what the kind's scorer needs: GenEval's metadata, DPG's ``item_id``, or ``id`` and
    ``category`` of a distribution's prompt. Raises ArragError that names the first mistake.
    """
    if benchmark.kind == "geneval":
        return load_prompts(benchmark.prompts)
    if benchmark.kind == "dpg":
        return question_prompts(benchmark.questions)
    return captions(benchmark.prompts)


def question_prompts(path: str | Path) -> list[dict[str, Any]]:
    """``{"item_id", "prompt"}`` of every item of a question table, in order of appearance."""
    found: dict[str, str] = {}
    for number, row in enumerate(_rows(Path(path)), 2):
        item, text = (row.get("item_id") or "").strip(), (row.get("text") or "").strip()
        if not item or not text:
            raise ArragError(f"{path}:{number}: item_id or text is missing; correct that line")
        if found.setdefault(item, text) != text:
            raise ArragError(
                f"{path}:{number}: item {item} has another text than before; give one text an item"
            )
    if not found:
        raise ArragError(f"{path}: holds no question; give a table in dpg_bench.csv's format")
    return [{"item_id": item, "prompt": text} for item, text in found.items()]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return list(csv.DictReader(handle))
    except (OSError, ValueError, csv.Error) as error:
        raise ArragError(f"{path}: the question table cannot be read ({error})") from None


def captions(path: str | Path) -> list[dict[str, Any]]:
    """``{"id", "category", "prompt", ...}`` of JSON lines, or of MJHQ-30K's meta_data.json."""
    path = Path(path)
    try:
        text = read_text(path, "the file of prompts")
        if path.suffix == ".json":
            lines = [{"id": name, **entry} for name, entry in parse_json(text).items()]
        else:
            lines = [parse_json(line) for _, line in numbered_lines(text)]
    except (ValueError, AttributeError, TypeError) as error:
        raise ArragError(f"{path}: the prompts cannot be read ({short_message(error)})") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            raise ArragError(f"{path}: entry {number} has no text under `prompt`; correct it")
        if not line["prompt"].strip():
            raise ArragError(f"{path}: entry {number}: `prompt` is empty; correct it")
        if (name := str(line.get("id", number))) in seen:
            raise ArragError(f"{path}: entry {number}: id {name} is given twice; name each once")
        seen.add(name)
    if not lines:
        raise ArragError(f"{path}: holds no prompt; give JSON lines with `prompt`")
    return lines

"""Prompts of the benchmarks: GenEval's metadata, captions, the items of question tables.

A GenEval prompt file holds one JSON object a line (djghosh13/geneval, evaluation_metadata.jsonl):
``{"tag": ..., "include": [{"class", "count", "color"?, "position"?}], "exclude"?, "prompt": ...}``.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from arrag.config.benchmarks import Benchmark
from arrag.data.questions import bad_row, read_rows
from arrag.utils.errors import FormatError
from arrag.utils.files import write_text
from arrag.utils.readers import numbered_lines, parse_json, read_text, short_message

# GenEval's six tasks in the order of its prompt file and of the paper's Table 1.
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
# GenEval's ten colours, in its order: the argmax of the colour classifier runs over them.
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
MAX_COUNT = 1_000_000  # objects of a clause, prompts of a set, images of a prompt


class _Clause(BaseModel):
    model_config = ConfigDict(strict=True)

    class_: str = Field(alias="class")
    count: int = Field(ge=1, le=MAX_COUNT)
    color: Literal[COLORS] = COLORS[0]
    position: tuple[Literal[RELATIONS], int] = Field(None, strict=False)


class _GenEvalPrompt(BaseModel):
    """Form of one prompt's metadata; further fields are allowed."""

    model_config = ConfigDict(strict=True)

    tag: Literal[TASKS]
    prompt: str = Field(pattern=r"\S")
    include: list[_Clause] = Field(min_length=1)
    exclude: list[_Clause] = []

    @model_validator(mode="after")
    def _positions_refer_back(self) -> _GenEvalPrompt:
        for clauses in (self.include, self.exclude):
            for i, clause in enumerate(clauses):
                if clause.position and not 0 <= clause.position[1] < i:
                    raise ValueError(f"position {clause.position} names no earlier clause")
        return self


def prompt_problem(prompt: Any) -> str | None:
    """Say what is wrong with one prompt's GenEval metadata; None if it is valid."""
    try:
        _GenEvalPrompt.model_validate(prompt)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        message = first["msg"].removeprefix("Value error, ")
        return f"{where}: {message}, found {str(first['input'])[:40]!r}"
    return None


def load_geneval_prompts(path: str | Path) -> list[dict[str, Any]]:
    """Read and check a GenEval prompt file; blank lines are allowed.

    Raises:
        FormatError: A line is invalid (``field`` gives its number), or the file has no prompt.
    """
    prompts = []
    for number, line in numbered_lines(read_text(path, "the prompt file")):
        try:
            prompt = parse_json(line)
            problem = prompt_problem(prompt)
        except ValueError as error:
            problem = f"not a JSON object ({error})"
        if problem:
            raise FormatError(problem, path=path, field=f"line {number}", hint="correct that line")
        prompts.append(prompt)
    return _not_empty(prompts, path, "give a file in GenEval's metadata format")


def _not_empty(prompts: list, path: str | Path, hint: str) -> list:
    if not prompts:
        raise FormatError("contains no prompt", path=path, hint=hint)
    return prompts


def load_prompt_set(benchmark: Benchmark) -> list[dict[str, Any]]:
    """Read the prompts of a benchmark of any kind.

    Returns:
        One mapping a prompt in the file's order. ``prompt`` is the text to generate from; the rest
        is what the scorer needs: GenEval's metadata, DPG's ``item_id``, or ``id`` and ``category``
        of a caption.

    Raises:
        FormatError: The file has a mistake; the first one is named.
    """
    if benchmark.kind == "dpg":
        return load_question_prompts(benchmark.questions)
    load = load_geneval_prompts if benchmark.kind == "geneval" else load_captions
    return load(benchmark.prompts)


def load_question_prompts(path: str | Path) -> list[dict[str, Any]]:
    """Read ``{"item_id", "prompt"}`` of every item of a question table, in order of appearance."""
    found: dict[str, str] = {}
    for number, row in enumerate(read_rows(path, ("item_id", "text")), 1):
        item, text = row["item_id"].strip(), row["text"].strip()
        if not item or not text or found.setdefault(item, text) != text:
            problem = "item_id or text is missing, or the item had another text before"
            raise bad_row(path, number, problem)
    _not_empty(list(found), path, "give a table in dpg_bench.csv's format")
    return [{"item_id": item, "prompt": text} for item, text in found.items()]


def load_captions(path: str | Path) -> list[dict[str, Any]]:
    """Read ``{"id", "category", "prompt", ...}`` from JSON lines or MJHQ-30K's meta_data.json."""
    path = Path(path)
    text = read_text(path, "the prompt file")
    try:
        if path.suffix == ".json":
            entries = [{"id": name, **entry} for name, entry in parse_json(text).items()]
        else:
            entries = [parse_json(line) for _, line in numbered_lines(text)]
    except (ValueError, AttributeError, TypeError) as error:
        raise FormatError(
            f"not JSON lines, nor a mapping of ids to entries ({short_message(error)})",
            path=path,
            hint="give another file",
        ) from None
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        where = {"path": path, "field": f"entry {number}"}
        prompt = entry.get("prompt") if isinstance(entry, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise FormatError("`prompt` is no text, or is empty", **where, hint="correct it")
        if (name := str(entry.get("id", number))) in seen:
            raise FormatError(f"id {name} is given twice", **where, hint="use each id once")
        seen.add(name)
    return _not_empty(entries, path, "give JSON lines with `prompt`")


def first_of_each_task(
    prompts: Sequence[Mapping[str, Any]],
    per_task: int | None,
    task: Callable[[Mapping[str, Any]], Hashable] = lambda prompt: prompt.get("tag", ""),
) -> list[int]:
    """Indices of the first ``per_task`` prompts of every task (None: of all), in order."""
    seen: Counter[Hashable] = Counter()
    chosen = []
    for i, prompt in enumerate(prompts):
        seen[task(prompt)] += 1
        if per_task is None or seen[task(prompt)] <= per_task:
            chosen.append(i)
    return chosen


def write_subset(source: str | Path, out: str | Path, every: int) -> int:
    """Write every ``every``-th prompt of a prompt file in the file's own format.

    Regular steps keep tasks and categories in proportion.

    Args:
        source: JSON lines, MJHQ-30K's meta_data.json or a question table (taken by ``item_id``).
        out: The file to write.
        every: Step.

    Returns:
        The number of prompts written.
    """
    source, out = Path(source), Path(out)
    if source.suffix == ".csv":
        rows = _not_empty(read_rows(source, ("item_id",)), source, "give another table")
        kept = list(dict.fromkeys(row["item_id"] for row in rows))[::every]
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row["item_id"] in set(kept))
        write_text(out, table.getvalue())
        return len(kept)
    text = read_text(source, "the prompt file", "fetch it first")
    if source.suffix == ".json":
        try:
            kept = dict(list(parse_json(text).items())[::every])
        except (ValueError, AttributeError) as error:
            raise FormatError(
                f"not a prompt file ({short_message(error)})", path=source, hint="give another"
            ) from None
        write_text(out, json.dumps(kept, ensure_ascii=False))
        return len(kept)
    lines = [line for _, line in numbered_lines(text)][::every]
    write_text(out, "\n".join(lines) + "\n")
    return len(lines)

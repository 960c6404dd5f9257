"""The micro benchmark of questions, in the format of DPG-Bench's question table.

Every proposition follows from the caption and is decided by detector, colour classifier and boxes:

    entity - whole (dog)                      is there a dog
    attribute - color (dog, red)              is the dog red
    relation - spatial (dog, cup, left of)    is the dog left of the cup
    other - count (dog, ==3)                  are there exactly three dogs
    global - objects (==3)                    are there three objects in the picture, and no more

Entities stand first and depend on nothing, no more than ``global`` does; everything else depends on
the entities it is about.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arrag.data.micro.prompts import benchmark_prompts, distinct_prompts
from arrag.data.micro.world import NUMBERS, plural
from arrag.data.questions import COLUMNS
from arrag.utils.files import write_text

# Items of each task. Single objects are left out: all sixteen are prompts of the GenEval set.
ITEMS = {"two_object": 10, "counting": 25, "colors": 15, "position": 30, "color_attr": 20}


def items(per_task: int | None = None) -> list[dict[str, Any]]:
    """Metadata of the items, at most ``per_task`` of a task.

    None is a prompt of the GenEval set, except among counts, of which there are only 48.
    """
    known = {prompt["prompt"] for prompt in benchmark_prompts() if prompt["tag"] != "counting"}
    wanted = {task: min(count, per_task or count) for task, count in ITEMS.items()}
    return [
        item
        for task, count in wanted.items()
        for item in distinct_prompts(task, count, "questions", known)
    ]


def propositions(metadata: dict[str, Any]) -> Iterator[tuple[str, str, list[int], str]]:
    """(category, tuple's arguments, parents' numbers, question) of a prompt, numbered from 1."""
    include = metadata["include"]
    parents = {clause["class"]: number for number, clause in enumerate(include, 1)}
    for label in parents:
        yield "entity - whole", label, [], f"Is there at least one {label}?"
    for clause in include:
        label = clause["class"]
        own = [parents[label]]
        if "color" in clause:
            color = clause["color"]
            yield "attribute - color", f"{label}, {color}", own, f"Is the {label} {color}?"
        if "position" in clause:
            relation, target = clause["position"]
            other = include[target]["class"]
            arguments = f"{label}, {other}, {relation}"
            question = f"Is the {label} {relation} the {other}?"
            yield "relation - spatial", arguments, sorted([*own, parents[other]]), question
        if clause["count"] > 1:
            count = clause["count"]
            question = f"Are there exactly {NUMBERS[count]} {plural(label)}?"
            yield "other - count", f"{label}, =={count}", own, question
    total = sum(clause["count"] for clause in include)
    exactly = (
        f"Are there exactly {NUMBERS[total]} objects"
        if total > 1
        else "Is there exactly one object"
    )
    yield "global - objects", f"=={total}", [], f"{exactly} in the picture?"


def question_rows(per_task: int | None = None) -> list[dict[str, Any]]:
    """The table's rows, with the columns of dpg_bench.csv."""
    rows = []
    for i, metadata in enumerate(items(per_task)):
        keywords = ", ".join(clause["class"] for clause in metadata["include"])
        for number, (kind, arguments, parents, question) in enumerate(propositions(metadata), 1):
            dependency = ",".join(map(str, parents)) or "0"
            item = (f"micro{i:04d}", metadata["prompt"], keywords, number, dependency)
            values = (*item, *kind.split(" - "), f"{kind} ({arguments})", question)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_questions(path: str | Path, per_task: int | None = None) -> None:
    """Write the question table as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(question_rows(per_task))
    write_text(path, out.getvalue())

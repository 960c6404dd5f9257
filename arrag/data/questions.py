"""Question tables of DPG-Bench and DSG: one yes/no proposition a row, grouped by prompt.

The tables are TencentQQGYLab/ELLA's dpg_bench.csv and j-min/DSG's dsg-1k-anns.csv. Their column
``dependency`` lists the propositions that must hold first; 0 is none.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from arrag.utils.errors import FormatError
from arrag.utils.readers import short_message

COLUMNS = (
    *("item_id", "text", "keywords", "proposition_id", "dependency"),
    *("category_broad", "category_detailed", "tuple", "question_natural_language"),
)
REQUIRED = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
NO_PARENT = 0
NAMED = 5  # offenders that a message or a report names
EXAMPLE = "give a table like dpg_bench.csv"

NOT_INTEGER = "dependency is not a list of whole numbers"
OWN_PARENT = "a proposition depends on itself"
CYCLE = "propositions depend on each other in a circle"
MISSING_PARENT = "a dependency names a proposition that the item lacks"
DUPLICATE = "a proposition stands more than once"


@dataclass(frozen=True)
class Question:
    """One row of a table: proposition ``id`` of the prompt ``item``.

    ``parents`` is None when the dependency cannot be read; NO_PARENT is left out.
    """

    item: str
    id: int
    parents: tuple[int, ...] | None
    tuple: str
    question: str
    text: str

    @property
    def category(self) -> str:
        """The official L2 category: the tuple's text before its bracket."""
        return self.tuple.split("(")[0].strip()


def broad(category: str) -> str:
    """The L1 category of an L2 category: its text before the first dash."""
    return category.split("-")[0].strip()


Items = dict[str, dict[int, Question]]  # prompt -> proposition -> question, in the table's order


def read_rows(path: str | Path, required: Iterable[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file as texts, without converting anything.

    Not by pandas, which fills up rows that are too short.

    Raises:
        FormatError: The file cannot be parsed, lacks a column of ``required``, or has a row with
            another number of fields than the header.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, ValueError, csv.Error) as error:
        raise FormatError(
            f"not a readable CSV file ({short_message(error)})", path=path, hint="give another file"
        ) from None
    if absent := [name for name in required if name not in columns]:
        message = f"columns {', '.join(absent)} are missing; found {', '.join(columns) or 'none'}"
        raise FormatError(message, path=path, hint=EXAMPLE)
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise bad_row(path, number, f"expected {len(columns)} fields")
    return rows


def bad_row(path: str | Path, number: int, message: str) -> FormatError:
    """The error for data row ``number``, from 1, of a table."""
    return FormatError(message, path=path, field=f"data row {number}", hint="correct that row")


def read_questions(path: str | Path) -> list[Question]:
    """Read all rows of a question table in its order.

    Raises:
        FormatError: The table is empty, or a row lacks its item or proposition number.
    """
    rows = read_rows(path, REQUIRED)
    if not rows:
        raise FormatError("holds no question", path=path, hint=EXAMPLE)
    questions = []
    for number, row in enumerate(rows, 1):
        item, proposition = row["item_id"], _whole(row["proposition_id"])
        if not item or proposition is None:
            name = "proposition_id" if item else "item_id"
            expected = "expected the prompt's name and a whole number"
            raise bad_row(path, number, f"{name} is {row[name]!r}, {expected}")
        numbers = [_whole(part) for part in row["dependency"].split(",")]
        parents = None if None in numbers else tuple(n for n in numbers if n != NO_PARENT)
        text = row["question_natural_language"]
        questions.append(
            Question(item, proposition, parents, row["tuple"], text, row.get("text", ""))
        )
    return questions


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def by_item(questions: list[Question]) -> Items:
    """Every question of every prompt; of a repeated proposition the last row holds."""
    items: Items = {}
    for question in questions:
        items.setdefault(question.item, {})[question.id] = question
    return items


def by_item_official(questions: list[Question]) -> Items:
    """What the official DPG script holds: without data row 0, and of a prompt whose rows are not
    together only the last run of them (compute_dpg_bench.py, ``prepare_dpg_data``)."""
    items: Items = {}
    for item, run in groupby(questions[1:], key=lambda question: question.item):
        items[item] = {question.id: question for question in run}
    return items


def problems(questions: list[Question]) -> dict[str, list[str]]:
    """What is malformed in a table: {kind: ["item/proposition", ...]}; empty when all is well."""
    found: dict[str, list[str]] = {}

    def note(kind: str, question: Question) -> None:
        found.setdefault(kind, []).append(f"{question.item}/{question.id}")

    rows = Counter((q.item, q.id) for q in questions)
    for item in by_item(questions).values():
        for question in item.values():
            if rows[question.item, question.id] > 1:
                note(DUPLICATE, question)
            if question.parents is None:
                note(NOT_INTEGER, question)
            elif question.id in question.parents:
                note(OWN_PARENT, question)
            elif set(question.parents) - set(item):
                note(MISSING_PARENT, question)
            elif _in_circle(question, item):
                note(CYCLE, question)
    return found


def _in_circle(start: Question, item: dict[int, Question]) -> bool:
    """Whether a proposition is its own ancestor."""
    seen: set[int] = set()
    ahead = list(start.parents or ())
    while ahead:
        number = ahead.pop()
        if number == start.id:
            return True
        if number not in seen and number in item:
            seen.add(number)
            ahead += item[number].parents or ()
    return False


def counted(names: list[str]) -> dict[str, object]:
    """Summarise offenders for a report: how many, and the first few."""
    return {"count": len(names), "first": names[:NAMED]}


def listed(names: list[str]) -> str:
    """Summarise offenders for a message: how many, and the first few."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} ({', '.join(names[:NAMED])}{more})"

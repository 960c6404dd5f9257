"""Recorded answers to a question table: item, proposition, image, text.

Reads the columns of j-min/DSG's released answers (``item_id, question_id, answer``) and those that
this project writes (``item_id, proposition_id, image, answer``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from arrag.data.questions import Items, Question, listed, read_rows
from arrag.utils.errors import ArragError
from arrag.utils.files import write_text

# prompt -> image -> proposition -> what the judge said
Answers = dict[str, dict[str, dict[int, str]]]

ALIASES = {
    "item": ("item_id", "item", "prompt_id"),
    "proposition": ("proposition_id", "question_id", "qid"),
    # The part of a grid before the file it is in: both may be there.
    "image": ("crop_index", "crop", "sample_index", "sample", "image_index", "image"),
    "answer": ("answer", "vqa_answer", "response"),
}
COLUMNS = ("item_id", "proposition_id", "image", "answer")  # as written
ONLY_IMAGE = "0"  # the image's name where a file has no such column


class Judge(Protocol):
    """Answers questions on one image. The answers never depend on other images."""

    name: str
    digest: str
    versions: dict[str, str]

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """One text a question on the uint8 RGB image [H, W, 3]; "yes" is what counts."""
        ...


def read_answers(path: str | Path, where: Mapping[str, str] | None = None) -> Answers:
    """Read recorded answers; ``where`` keeps the rows whose columns have the given values.

    Images come in the order of their numbers, or of the file when their names are not numbers.
    Raises ArragError for missing columns, a proposition that is no number, or repeated answers.
    """
    where = dict(where or {})
    rows = read_rows(path, where)
    columns = _columns(path, rows)
    answers: Answers = {}
    repeated = []
    for number, row in enumerate(rows, 1):
        if any(row[name] != value for name, value in where.items()):
            continue
        item, text = row[columns["item"]], row[columns["proposition"]]
        image = row[columns["image"]] if "image" in columns else ONLY_IMAGE
        try:
            proposition = int(text)
        except ValueError:
            raise ArragError(
                f"{path}: data row {number}: field {columns['proposition']} is {text!r}; "
                "wanted a whole number"
            ) from None
        given = answers.setdefault(item, {}).setdefault(image, {})
        if proposition in given:
            repeated.append(f"{item}/{proposition} of image {image}")
        given[proposition] = row[columns["answer"]]
    if not answers:
        raise ArragError(f"{path}: holds no answer" + (f" where {where}" if where else ""))
    if repeated:
        raise ArragError(
            f"{path}: answered more than once: {listed(repeated)}; give one answer a question and "
            "image, or pick one model's rows with --where COLUMN=VALUE"
        )
    return {item: _in_order(images) for item, images in answers.items()}


def _columns(path: str | Path, rows: list[dict[str, str]]) -> dict[str, str]:
    """Which column holds what; the image's may be absent."""
    present = list(rows[0]) if rows else []
    found = {}
    for meaning, names in ALIASES.items():
        match = [name for name in names if name in present]
        if match:
            found[meaning] = match[0]
        elif meaning != "image":
            raise ArragError(
                f"{path}: no column for the {meaning}: wanted one of {', '.join(names)}, found "
                f"{', '.join(present) or 'none'}"
            )
    return found


def _in_order(images: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
    if all(name.isdecimal() for name in images):
        return {name: images[name] for name in sorted(images, key=int)}
    return images


def write_answers(path: str | Path, answers: Answers) -> None:
    """Write answers as CSV, atomically."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item, images in answers.items():
        for image, given in images.items():
            writer.writerows(
                [item, proposition, image, text] for proposition, text in given.items()
            )
    write_text(path, out.getvalue())


def complete(answers: Answers, items: Items) -> tuple[Answers, dict[str, list[str]]]:
    """The images whose every question is answered, and what is missing or belongs to no question.

    Every item should have the same images as the item that has most.
    """
    gaps: dict[str, list[str]] = {}
    whole: Answers = {}
    counts = [len(answers.get(item, {})) for item in items]
    most = max(counts, default=0)
    for item, questions in items.items():
        images = answers.get(item)
        if not images:
            gaps.setdefault("items without an answer", []).append(item)
            continue
        if len(images) < most:
            gaps.setdefault(f"items with fewer than {most} images", []).append(item)
        for image, given in images.items():
            if absent := [str(number) for number in questions if number not in given]:
                name = f"{item}, image {image}: {'/'.join(absent)}"
                gaps.setdefault("images with unanswered questions", []).append(name)
            else:
                whole.setdefault(item, {})[image] = given
    return whole, gaps


def strangers(answers: Answers, items: Items) -> list[str]:
    """Answers to questions that the table does not have."""
    return [
        f"{item}/{number}"
        for item, images in answers.items()
        for number in sorted({n for given in images.values() for n in given})
        if number not in items.get(item, {})
    ]

"""Recorded answers to a question table: prompt, proposition, image, text.

Reads the columns of j-min/DSG's released answers (``item_id, question_id, answer``) and those that
this project writes (``item_id, proposition_id, image, answer``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from arrag.data.questions import Items, Question, listed, read_rows
from arrag.metrics.types import Gaps
from arrag.utils.errors import FormatError
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
COLUMNS = ["item_id", "proposition_id", "image", "answer"]  # as written
ONLY_IMAGE = "0"  # name of the image where a file has no such column


class VqaJudge(Protocol):
    """Answers questions on one image. The answers never depend on other images."""

    name: str
    digest: str
    versions: dict[str, str]

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """One text a question on the uint8 RGB image [H, W, 3]; "yes" is what counts."""
        ...


def read_answers(path: str | Path, where: Mapping[str, str] | None = None) -> Answers:
    """Read recorded answers.

    Images come in the order of their numbers, or of the file if their names are not numbers.

    Args:
        path: A CSV file.
        where: Keeps the rows whose columns have the given values.

    Raises:
        FormatError: Columns are missing, a proposition is not a number, or answers are repeated.
    """
    where = dict(where or {})
    rows = read_rows(path, where)
    columns = _find_columns(path, rows)
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
            field = f"data row {number}: {columns['proposition']}"
            message = f"is {text!r}, expected a whole number"
            raise FormatError(message, path=path, field=field) from None
        given = answers.setdefault(item, {}).setdefault(image, {})
        if proposition in given:
            repeated.append(f"{item}/{proposition} of image {image}")
        given[proposition] = row[columns["answer"]]
    if not answers:
        raise FormatError("holds no answer" + (f" where {where}" if where else ""), path=path)
    if repeated:
        raise FormatError(
            f"answered more than once: {listed(repeated)}",
            path=path,
            hint="give one answer a question and image, or pick one model's rows with --where "
            "COLUMN=VALUE",
        )
    for item, images in answers.items():
        if all(name.isdecimal() for name in images):
            answers[item] = dict(sorted(images.items(), key=lambda pair: int(pair[0])))
    return answers


def _find_columns(path: str | Path, rows: list[dict[str, str]]) -> dict[str, str]:
    """The column of each meaning; the image's may be absent."""
    present = list(rows[0]) if rows else []
    found = {}
    for meaning, names in ALIASES.items():
        match = [name for name in names if name in present]
        if match:
            found[meaning] = match[0]
        elif meaning != "image":
            raise FormatError(
                f"no such column, found {', '.join(present) or 'none'}",
                path=path,
                field=meaning,
                hint=f"name a column {' or '.join(names)}",
            )
    return found


def write_answers(path: str | Path, answers: Answers) -> None:
    """Write answers as CSV, atomically."""
    import pandas as pd

    rows = [
        (item, proposition, image, text)
        for item, images in answers.items()
        for image, given in images.items()
        for proposition, text in given.items()
    ]
    write_text(path, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))


def complete_images(answers: Answers, items: Items) -> tuple[Answers, Gaps]:
    """The images whose every question is answered, and what is missing.

    Every item should have as many images as the item with the most.
    """
    gaps: Gaps = {}
    complete: Answers = {}
    most = max((len(answers.get(item, {})) for item in items), default=0)
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
                complete.setdefault(item, {})[image] = given
    return complete, gaps


def unknown_ids(answers: Answers, items: Items) -> list[str]:
    """Answers to questions that the table does not have, as "item/proposition"."""
    return [
        f"{item}/{number}"
        for item, images in answers.items()
        for number in sorted({n for given in images.values() for n in given})
        if number not in items.get(item, {})
    ]

"""The samples of a benchmark by prompt and method, with what the judge says of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arrag.data.sample_dir import load_image
from arrag.metrics.geneval.results import NUMBERS, read_results
from arrag.report.page.markup import element, picture, text
from arrag.utils.errors import ArragError

Verdicts = dict[tuple[int, int], tuple[bool, str]]  # (prompt, sample) -> right, and why not


@dataclass(frozen=True)
class Column:
    """A method's (or ceiling's) samples: folder in GenEval's layout and the verdicts on them."""

    key: str
    label: str
    folder: Path
    verdicts: Verdicts = field(default_factory=dict)

    def image(self, prompt: int, sample: int) -> Path:
        """Path of an image."""
        return self.folder / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def read_verdicts(path: Path) -> Verdicts:
    """Verdicts of a GenEval results file. ArragError for a name that is no sample's."""
    found: Verdicts = {}
    for record in read_results(path):
        match = NUMBERS.search(record["filename"])
        if match is None:
            raise ArragError(f"{path}: {record['filename']!r} is no sample's name; score again")
        reason = "; ".join(filter(None, record.get("reason", "").split("\n")))
        found[int(match[1]), int(match[2])] = bool(record["correct"]), reason
    return found


def cards(
    columns: list[Column],
    prompts: list[dict[str, Any]],
    shown: Iterable[int],
    images: int,
    traced: set[tuple[str, int, int]],
) -> str:
    """A card a prompt, in it a figure a method. ``traced``: (method, prompt, sample) of those
    whose patches the page can follow. ArragError for an image that is missing or damaged."""
    return "".join(_card(columns, prompts[i], i, images, traced) for i in shown)


def _card(
    columns: list[Column],
    prompt: dict[str, Any],
    number: int,
    images: int,
    traced: set[tuple[str, int, int]],
) -> str:
    tag = prompt.get("tag", "")
    name = prompt["prompt"]
    label = element("span", text(tag.replace("_", " ")), class_="tag") if tag else ""
    heading = element("h3", element("q", text(name)) + label)
    figures = "".join(
        element(
            "figure",
            element("figcaption", text(column.label))
            + element(
                "div",
                "".join(
                    _tile(column, number, i, (column.key, number, i) in traced)
                    for i in range(images)
                ),
                class_="tiles",
            ),
            data_method=column.key,
        )
        for column in columns
    )
    return element(
        "article",
        heading + element("div", figures, class_="columns"),
        class_="card",
        data_prompt=number,
        data_tag=tag,
    )


def _tile(column: Column, prompt: int, sample: int, traced: bool) -> str:
    right, why = column.verdicts.get((prompt, sample), (None, ""))
    verdict = {None: None, True: "right", False: "wrong"}[right]
    said = f"{column.label}, sample {sample + 1}"
    said += f", {verdict}" if verdict else ""
    said += ", patches can be followed" if traced else ""
    source = picture(load_image(column.image(prompt, sample)))
    return element(
        "button",
        element("img", src=source, alt="", loading="lazy", decoding="async"),
        type="button",
        class_=" ".join(filter(None, ("tile", verdict, "traced" if traced else ""))),
        tabindex=-1,
        data_sample=sample,
        data_why=why or None,
        aria_label=said,
    )

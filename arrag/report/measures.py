"""How each kind of benchmark's score files are read: columns, values, and paired differences.

A row's scores are ``{metric: score file's contents}``. Tables know no more of a metric than this.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from arrag.metrics import bootstrap as stats
from arrag.metrics.bootstrap import OVERALL, Estimate, McNemar
from arrag.utils.errors import MismatchError

Scores = dict[str, dict[str, Any]]  # metric -> score file

GENEVAL_COLUMNS = {
    "single_object": "Single Obj.",
    "two_object": "Two Obj.",
    "counting": "Counting",
    "colors": "Colors",
    "position": "Position",
    "color_attr": "Color Attri.",
    OVERALL: "Overall",
}
DPG_COLUMNS = {
    "global": "Global",
    "entity": "Entity",
    "attribute": "Attribute",
    "relation": "Relation",
    "other": "Other",
    OVERALL: "Overall",
}


class Measure(ABC):
    """A kind of benchmark as a table shows it."""

    table: str  # key of the paper's table
    title: str
    paper_columns: dict[str, str]  # heading of each column of the paper's table
    digits: int  # after the point, of our numbers
    overall: str | None = None  # the column that sums a row up
    lower_is_better = False

    def columns(self, scores: Scores) -> dict[str, str]:
        """Heading of each column of our table."""
        return self.paper_columns

    @abstractmethod
    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        """Our value with its 95 % interval; None if it was not measured."""

    @abstractmethod
    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        """First minus second by column, paired by prompt."""

    def test(self, first: Scores, second: Scores) -> McNemar | None:
        """McNemar's test on single images; None where images have no verdicts."""
        return None

    @abstractmethod
    def check(self, first: Scores, second: Scores) -> None:
        """Raise MismatchError unless two rows were measured alike."""


class _PromptMeasure(Measure):
    """A benchmark with one score file a row: a mean over prompts, and parts of it."""

    overall = OVERALL
    metric: str
    parts: str  # field of the score file that holds the columns but the overall one

    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        score = scores[self.metric]
        found = score if column == OVERALL else score[self.parts].get(column)
        return Estimate(found["value"], *found["interval"]) if found else None

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        return stats.paired_difference(first[self.metric], second[self.metric])

    def check(self, first: Scores, second: Scores) -> None:
        stats.check_comparable(first[self.metric], second[self.metric])


class GenEvalMeasure(_PromptMeasure):
    """Share of correct images, by task; overall is the mean of the task means."""

    table, title, digits = "table1", "Table 1: GenEval", 3
    metric, parts, paper_columns = "geneval", "tasks", GENEVAL_COLUMNS

    def test(self, first: Scores, second: Scores) -> McNemar | None:
        return stats.mcnemar(first["geneval"], second["geneval"])


class DpgMeasure(_PromptMeasure):
    """Percent of questions answered yes, by category; overall is the mean over prompts."""

    table, title, digits = "table2", "Table 2: DPG-Bench", 2
    metric, parts, paper_columns = "dpg", "l1", DPG_COLUMNS

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        found = {OVERALL: super().differences(first, second)[OVERALL]}
        names = list(first["dpg"]["l1"])
        a, b = (_category_sums(s["dpg"], names) for s in (first, second))  # [C, 2, prompts]
        if not np.array_equal(a[:, 1], b[:, 1]):
            message = "scores cannot be compared: their prompts have unequal numbers of answers"
            hint = "generate both with the same images_per_prompt"
            raise MismatchError(message, field="images_per_prompt", hint=hint)
        shares = stats.bootstrap_shares(a[:, 0] - b[:, 0], a[:, 1])
        return found | dict(zip(names, shares, strict=True))


def _category_sums(score: dict[str, Any], names: list[str]) -> np.ndarray:
    """Sum and number of the scores that each prompt adds to a category: float64 [C, 2, prompts]."""
    rows = [[row["l1"].get(name, (0, 0)) for row in score["per_prompt"]] for name in names]
    return np.asarray(rows, dtype=np.float64).transpose(0, 2, 1)


class DistanceMeasure(Measure):
    """Distances between the images of a row and reference images; one column a metric."""

    table, title, digits = "table3", "Table 3: distance to real images", 3
    paper_columns, lower_is_better = {"cmmd": "CMMD ↓", "fid": "FID ↓", "fwd": "FWD ↓"}, True

    def columns(self, scores: Scores) -> dict[str, str]:
        return {metric: f"{score['label']} ↓" for metric, score in scores.items()}

    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        unknown = (math.nan, math.nan)  # where resampling would take too long
        score = scores.get(column)
        return score and Estimate(score["value"], *(score["interval"] or unknown))

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        return {
            metric: stats.paired_difference(ours, second[metric])[OVERALL]
            for metric, ours in first.items()
            if ours["bootstrap"] and second[metric]["bootstrap"]
        }

    def check(self, first: Scores, second: Scores) -> None:
        if first.keys() != second.keys():
            found = f"rows have metrics {', '.join(first)} and {', '.join(second)}"
            raise MismatchError(found, field="metrics", hint="score both alike")
        for metric, ours in first.items():
            for field in ("label", "compat", "judge", "n_images", "reference"):
                a, b = ours[field], second[metric][field]
                if field == "reference":
                    a, b = a["sha256"], b["sha256"]
                if a != b:
                    found = f"of {metric} is {a!r} in one row and {b!r} in the other"
                    raise MismatchError(found, field=field, hint="score both alike")


MEASURES: dict[str, Measure] = {
    "geneval": GenEvalMeasure(),
    "dpg": DpgMeasure(),
    "distribution": DistanceMeasure(),
}
"""By kind of benchmark."""

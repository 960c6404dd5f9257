"""What each table reads from score files: its columns, its numbers, and differences of two rows.

A row's scores are ``{metric: score file's contents}``. Tables know nothing of metrics beyond this.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from arrag.metrics import bootstrap as stats
from arrag.metrics.bootstrap import Estimate, McNemar
from arrag.utils.errors import ArragError

Scores = dict[str, dict[str, Any]]  # metric -> score file

GENEVAL_COLUMNS = {
    "single_object": "Single Obj.",
    "two_object": "Two Obj.",
    "counting": "Counting",
    "colors": "Colors",
    "position": "Position",
    "color_attr": "Color Attri.",
    stats.OVERALL: "Overall",
}
DPG_COLUMNS = {
    "global": "Global",
    "entity": "Entity",
    "attribute": "Attribute",
    "relation": "Relation",
    "other": "Other",
    stats.OVERALL: "Overall",
}


class Measure(Protocol):
    """A kind of benchmark as a table shows it."""

    table: str  # key of the paper's table
    title: str
    paper_columns: dict[str, str]  # the paper's columns and their headings
    digits: int  # of our numbers
    overall: str | None  # the column that sums a row up
    lower_is_better: bool

    def columns(self, scores: Scores) -> dict[str, str]:
        """{column: its heading}."""
        ...

    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        """Our value with its interval, None when it was not measured."""
        ...

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        """First minus second, paired by prompt."""
        ...

    def test(self, first: Scores, second: Scores) -> McNemar | None:
        """A test on single images, where there are verdicts."""
        ...

    def check(self, first: Scores, second: Scores) -> None:
        """ArragError unless two rows may stand in one column."""
        ...


def _cell(found: dict[str, Any] | None) -> Estimate | None:
    return Estimate(found["value"], *found["interval"]) if found else None


class GenEvalMeasure:
    """Shares of right images, by task."""

    table, title, digits, overall = "table1", "Table 1: GenEval", 3, stats.OVERALL
    paper_columns, lower_is_better = GENEVAL_COLUMNS, False

    def columns(self, scores: Scores) -> dict[str, str]:
        return GENEVAL_COLUMNS

    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        score = scores["geneval"]
        return _cell(score if column == stats.OVERALL else score["tasks"].get(column))

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        return stats.paired_difference(first["geneval"], second["geneval"])

    def test(self, first: Scores, second: Scores) -> McNemar | None:
        return stats.mcnemar(first["geneval"], second["geneval"])

    def check(self, first: Scores, second: Scores) -> None:
        stats.check_comparable(first["geneval"], second["geneval"])


class DpgMeasure:
    """Percent of propositions that hold, by category; overall is the mean over prompts."""

    table, title, digits, overall = "table2", "Table 2: DPG-Bench", 2, stats.OVERALL
    paper_columns, lower_is_better = DPG_COLUMNS, False

    def columns(self, scores: Scores) -> dict[str, str]:
        return DPG_COLUMNS

    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        score = scores["dpg"]
        return _cell(score if column == stats.OVERALL else score["l1"].get(column))

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        ours, theirs = first["dpg"], second["dpg"]
        found = {stats.OVERALL: stats.paired_difference(ours, theirs)[stats.OVERALL]}
        names = list(ours["l1"])
        a, b = (_category_sums(score, names) for score in (ours, theirs))  # [C, 2, prompts]
        if not np.array_equal(a[:, 1], b[:, 1]):
            raise ArragError(
                "scores cannot be compared: their prompts have unequally many answers; generate "
                "both with the same images_per_prompt"
            )
        shares = stats.bootstrap_shares(a[:, 0] - b[:, 0], a[:, 1])
        return found | dict(zip(names, shares, strict=True))

    def test(self, first: Scores, second: Scores) -> McNemar | None:
        return None

    def check(self, first: Scores, second: Scores) -> None:
        stats.check_comparable(first["dpg"], second["dpg"])


def _category_sums(score: dict[str, Any], names: list[str]) -> np.ndarray:
    """Sum and number of the scores that each prompt adds to a category: float64 [C, 2, prompts]."""
    rows = [[row["l1"].get(name, (0, 0)) for row in score["per_prompt"]] for name in names]
    return np.asarray(rows, dtype=np.float64).transpose(0, 2, 1)


class DistanceMeasure:
    """Distances between the images of a row and reference images; a column an extractor."""

    table, title, digits, overall = "table3", "Table 3: distance to real images", 3, None
    paper_columns, lower_is_better = {"cmmd": "CMMD ↓", "fid": "FID ↓", "fwd": "FWD ↓"}, True

    def columns(self, scores: Scores) -> dict[str, str]:
        return {metric: f"{score['label']} ↓" for metric, score in scores.items()}

    def estimate(self, scores: Scores, column: str) -> Estimate | None:
        score = scores.get(column)
        if score is None:
            return None
        unknown = (math.nan, math.nan)  # where resampling would take too long
        return Estimate(score["value"], *(score["interval"] or unknown))

    def differences(self, first: Scores, second: Scores) -> dict[str, Estimate]:
        return {
            metric: stats.paired_difference(ours, second[metric])[stats.OVERALL]
            for metric, ours in first.items()
            if ours["bootstrap"] and second[metric]["bootstrap"]
        }

    def test(self, first: Scores, second: Scores) -> McNemar | None:
        return None

    def check(self, first: Scores, second: Scores) -> None:
        if first.keys() != second.keys():
            raise ArragError(
                f"rows have metrics {', '.join(first)} and {', '.join(second)}; score both alike"
            )
        for metric, ours in first.items():
            for field in ("label", "compat", "judge", "n_images", "reference"):
                a, b = ours[field], second[metric][field]
                if field == "reference":
                    a, b = a["sha256"], b["sha256"]
                if a != b:
                    raise ArragError(
                        f"scores of {metric} cannot be compared: field {field} is {a!r} in one and "
                        f"{b!r} in the other; score both alike"
                    )


MEASURES: dict[str, Measure] = {
    "geneval": GenEvalMeasure(),
    "dpg": DpgMeasure(),
    "distribution": DistanceMeasure(),
}

"""The rows of a configuration's tables, and their scores where the workflow has them."""

from __future__ import annotations

from arrag.config.methods import CEILING_LABELS
from arrag.config.root import Config
from arrag.pipeline.layout import Layout
from arrag.report.measures import Scores
from arrag.report.tables import RowSpec
from arrag.utils.files import read_json


def table_rows(config: Config, benchmark: str) -> list[RowSpec]:
    """The methods that a benchmark's table has, then the ceilings."""
    rows = [
        RowSpec(name, m.label, paper_key=m.paper_key, baseline=m.baseline)
        for name, m in config.methods_in(benchmark).items()
    ]
    return rows + [
        RowSpec(name, label, kind="ceiling")
        for name, label in config.row_labels(benchmark).items()
        if name in CEILING_LABELS
    ]


def read_scores(layout: Layout, rows: list[RowSpec], benchmark: str) -> dict[str, Scores]:
    """{row key: its score files}; ArragError for one that is not there."""
    return {
        row.key: {
            metric: read_json(path) for metric, path in layout.scores(row.key, benchmark).items()
        }
        for row in rows
    }

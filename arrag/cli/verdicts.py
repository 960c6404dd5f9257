"""``arrag report verdicts``: a contact sheet of GenEval's verdicts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count


def add_verdicts(reports: Any) -> None:
    """Add ``verdicts`` to the group ``report``."""
    parser = command(
        reports,
        "verdicts",
        "GenEval's verdicts as pictures: boxes, labels and reasons",
        "arrag report verdicts --results daid.jsonl --images results/samples/daid-0123456789 "
        "--out verdicts.png",
        run_verdicts,
    )
    parser.add_argument("--results", type=Path, required=True, help="results.jsonl of a score")
    parser.add_argument("--images", type=Path, required=True, help="the folder it was scored from")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument(
        "--per-task", type=count, default=2, help="right and wrong images a task (%(default)s)"
    )


def run_verdicts(args: argparse.Namespace) -> dict[str, Any]:
    """Some right and some wrong images of every task."""
    from arrag.metrics.geneval.results import read_results
    from arrag.report.verdicts import choose, verdict_sheet

    chosen = choose(read_results(args.results), args.per_task)
    verdict_sheet(args.images, chosen, args.out)
    return {"sheet": args.out, "images": [record["filename"] for record in chosen]}

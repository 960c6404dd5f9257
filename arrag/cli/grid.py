"""``arrag report ablation``: a grid's report from its points' scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, config_option


def add_ablation(reports: Any) -> None:
    """Add ``report ablation``."""
    parser = command(
        reports,
        "ablation",
        "a grid of the configuration as Markdown, CSV, PNG and PDF, from its points' scores",
        "arrag report ablation daid --config config/micro.yaml",
        run_ablation,
    )
    parser.add_argument("grid", help="its name in `grids`")
    parser.add_argument("--out", type=Path, help="(reports/ablation_GRID.md)")
    config_option(parser)


def run_ablation(args: argparse.Namespace) -> dict[str, Any]:
    """Write the report of a grid."""
    from arrag.config.root import load_config
    from arrag.report.ablation import write_ablation

    out = args.out or Path(f"reports/ablation_{args.grid}.md")
    report = write_ablation(load_config(args.config), args.config, args.grid, out)
    return {"report": out, "points": len(report.points), "drawn": report.drawn}

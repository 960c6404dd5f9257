"""``arrag report figure4`` to ``figure7``, and the folder that shows them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, config_option
from arrag.pipeline.reports import FIGURES


def add_figures(reports: Any) -> None:
    """Add ``report figure4`` to ``figure7`` and ``report figures``."""
    for name in FIGURES:
        parser = command(
            reports,
            name,
            f"{name[:-1]} {name[-1]} as PNG, PDF and CSV",
            f"arrag report {name} --config config/micro.yaml --out results/figures/{name}.png",
            run_figure,
        )
        parser.set_defaults(figure=name, reports=Path("reports"))
        out = Path(f"results/figures/{name}.png")
        parser.add_argument("--out", type=Path, default=out, help="%(default)s")
        if name == "figure7":
            there = {"type": Path, "default": Path("reports"), "metavar": "DIR"}
            parser.add_argument("--reports", **there, help="of the grids (%(default)s)")
        config_option(parser)
    page = command(
        reports,
        "figures",
        "a folder of the figures, with a page that shows them",
        "arrag report figures --config config/micro.yaml --out reports/figures",
        run_figures,
    )
    drawn = Path("results/figures")
    page.add_argument("--drawn", type=Path, default=drawn, help="where they are (%(default)s)")
    page.add_argument("--out", type=Path, default=Path("reports/figures"), help="%(default)s")
    config_option(page)


def run_figure(args: argparse.Namespace) -> dict[str, Any]:
    """Write one figure."""
    from arrag.cli.timing import opened
    from arrag.config.root import load_config
    from arrag.report.figures.build import write_figure

    config = load_config(args.config)
    about = write_figure(
        config,
        args.config,
        args.figure,
        args.out,
        reports=args.reports,
        open_method=lambda method: opened(config, method, args.config),
    )
    return {"figure": args.out, **about}


def run_figures(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the figures in a folder."""
    from arrag.config.root import load_config
    from arrag.report.figures.build import write_figures

    write_figures(load_config(args.config), args.drawn, args.out)
    return {"folder": args.out}

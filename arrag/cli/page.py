"""``arrag report page``: everything a run has to show, in one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, config_option, count


def add_page(reports: Any) -> None:
    """Add ``page`` to the group ``report``."""
    page = command(
        reports,
        "page",
        "one self-contained web page: tables, figures, a gallery, and where patches came from",
        "arrag report page --config config/micro.yaml --out reports/index.html",
        run_page,
    )
    out = Path("reports/index.html")
    page.add_argument("--out", type=Path, default=out, help="%(default)s")
    page.add_argument("--benchmark", help="whose samples are shown (the one of Table 1)")
    page.add_argument(
        "--reports", type=Path, default=out.parent, help="folder of figures (%(default)s)"
    )
    page.add_argument("--prompts", type=count, help="prompts a task in the gallery (all)")
    page.add_argument("--images", type=count, default=2, help="images a prompt (%(default)s)")
    page.add_argument(
        "--followed", type=count, default=2, help="prompts a task whose patches can be followed"
    )
    page.add_argument(
        "--neighbours", type=count, default=6, help="retrieved patches shown (%(default)s)"
    )
    config_option(page)


def run_page(args: argparse.Namespace) -> dict[str, Any]:
    """Write the page of a configuration's results."""
    from arrag.cli.timing import opened
    from arrag.config.root import load_config
    from arrag.report.page.build import Options, write_page

    config = load_config(args.config)
    return write_page(
        config,
        args.config,
        args.out,
        benchmark=args.benchmark,
        reports=args.reports,
        options=Options(
            prompts=args.prompts,
            images=args.images,
            traced_prompts=args.followed,
            neighbours=args.neighbours,
        ),
        open_method=lambda method: opened(config, method, args.config),
    )

"""``arrag report page``: everything a run has to show, in one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from arrag.cli.common import command, config_option, count
from arrag.pipeline.records import write_record

if TYPE_CHECKING:
    from arrag.config.root import Config
    from arrag.report.page.patches import Drawing, Redraw


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
    """What is there of the configuration's results."""
    from arrag.config.root import load_config
    from arrag.pipeline.reports import TABLES
    from arrag.report.page.build import Options, write_page

    config = load_config(args.config)
    about = write_page(
        config,
        args.config.name,
        args.out,
        tables=list(TABLES.items()),
        benchmark=args.benchmark,
        reports=args.reports,
        options=Options(
            prompts=args.prompts,
            images=args.images,
            followed=args.followed,
            neighbours=args.neighbours,
        ),
        redrawer=lambda method: redraw_with(config, args.config, method),
    )
    write_record(args.out)
    return about


def redraw_with(config: Config, path: Path, method: str) -> Redraw:
    """What draws a method's samples again, loading the generator when it is first needed."""

    def redraw(jobs: list[tuple[str, int]]) -> list[Drawing]:
        from arrag.cli.generate import paths_of
        from arrag.methods.registry import open_method
        from arrag.report.page.redraw import draw_again

        given = dict.fromkeys(("codes", "index", "image_index", "adapter"))
        asked = SimpleNamespace(method=method, config=path, **given)
        sampler = open_method(config, method, paths_of(config, asked))
        return draw_again(sampler, jobs, config.seed, config.resources.batch_size)

    return redraw

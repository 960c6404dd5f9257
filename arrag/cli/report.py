"""``arrag report``: tables, figures and pages from scores and samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from arrag.cli.common import DEFAULT_CONFIG, Count, group
from arrag.pipeline.layout import RESULTS
from arrag.utils.errors import UsageError

app = group("report", "Write tables, figures and pages from scores and samples.")
REPORTS = Path("reports")


@app.command
def table(
    number: Literal[1, 2, 3, 4],
    /,
    *,
    config: Path = DEFAULT_CONFIG,
    out: Path | None = None,
    benchmark: str | None = None,
    timing: Path | None = None,
) -> dict[str, Any]:
    """Write a table as Markdown, CSV and LaTeX.

    Example: arrag report table 1 --config config/micro.yaml

    Args:
        number: 1 (GenEval), 2 (DPG-Bench), 3 (CMMD, FID, FWD) or 4 (seconds per image).
        config: Configuration file; its scores are read where the workflow has them.
        out: The Markdown file; by default reports/tableNUMBER.md.
        benchmark: A benchmark of the configuration; by default its first of the table's kind.
        timing: For Table 4: what 'benchmark' wrote; by default where the workflow has it.
    """
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.pipeline.reports import timed_methods
    from arrag.report.table4 import write_table4
    from arrag.report.tables import write_table

    if number == 4 and benchmark or number != 4 and timing:
        wrong = "--benchmark" if number == 4 else "--timing"
        raise UsageError(f"not for table {number}", field=wrong, hint="leave it out")
    settings, out = load_config(config), out or REPORTS / f"table{number}.md"
    if number == 4:
        timing = timing or Layout(settings).timing(timed_methods(settings))
        return {"table": out, "rows": list(write_table4(settings, config, timing, out))}
    return {
        "table": out,
        "values": write_table(settings, config, f"table{number}", out, benchmark),
    }


@app.command
def ablation(
    grid: str, /, *, config: Path = DEFAULT_CONFIG, out: Path | None = None
) -> dict[str, Any]:
    """Write a grid of settings as Markdown, CSV, PNG and PDF, from its points' scores.

    Example: arrag report ablation daid --config config/micro.yaml

    Args:
        grid: Its name in the configuration's 'grids'.
        config: Configuration file.
        out: The Markdown file; by default reports/ablation_GRID.md.
    """
    from arrag.config.root import load_config
    from arrag.report.ablation import write_ablation

    out = out or REPORTS / f"ablation_{grid}.md"
    report = write_ablation(load_config(config), config, grid, out)
    return {"report": out, "points": len(report.points)}


@app.command
def figure(
    number: Literal[4, 5, 6, 7],
    /,
    *,
    config: Path = DEFAULT_CONFIG,
    out: Path | None = None,
    reports: Path = REPORTS,
) -> dict[str, Any]:
    """Draw a figure of the paper as PNG, PDF and CSV.

    Example: arrag report figure 4 --config config/micro.yaml

    Args:
        number: 4 (samples), 5 (copying), 6 (distances to retrieved patches) or 7 (ablations).
        config: Configuration file.
        out: The PNG; by default results/figures/figureNUMBER.png.
        reports: Folder of the ablation reports, for Figure 7.
    """
    from arrag.config.root import load_config
    from arrag.report.figures.build import write_figure

    settings = load_config(config)
    out = out or RESULTS / f"figures/figure{number}.png"
    about = write_figure(
        settings,
        config,
        f"figure{number}",
        out,
        reports=reports,
        open_method=_opener(settings, config),
    )
    return {"figure": out, **about}


@app.command
def figures(
    *,
    config: Path = DEFAULT_CONFIG,
    drawn: Path = RESULTS / "figures",
    out: Path = REPORTS / "figures",
) -> dict[str, Any]:
    """Collect the drawn figures in a folder with a page that shows them.

    Example: arrag report figures --config config/micro.yaml --out reports/figures

    Args:
        config: Configuration file.
        drawn: Folder of the figures.
        out: Folder to write.
    """
    from arrag.config.root import load_config
    from arrag.report.figures.build import write_figures

    write_figures(load_config(config), drawn, out)
    return {"figures": out}


@app.command
def gallery(
    *,
    config: Path = DEFAULT_CONFIG,
    out: Path = REPORTS / "samples.png",
    per_task: Count = 2,
    images: Count = 4,
) -> dict[str, Any]:
    """Draw a contact sheet: the methods' samples next to each other, prompts of every task.

    Example: arrag report gallery --config config/micro.yaml

    Args:
        config: Configuration file.
        out: The PNG.
        per_task: Prompts per task.
        images: Images per prompt.
    """
    from arrag.config.root import load_config
    from arrag.report.gallery import write_gallery

    return {"sheet": out, "prompts": write_gallery(load_config(config), out, per_task, images)}


@app.command
def page(
    *,
    config: Path = DEFAULT_CONFIG,
    out: Path = REPORTS / "index.html",
    benchmark: str | None = None,
    reports: Path = REPORTS,
    prompts: Count | None = None,
    images: Count = 2,
    traced_prompts: Count = 2,
    neighbours: Count = 6,
) -> dict[str, Any]:
    """Write one self-contained web page: tables, figures, samples, and where patches came from.

    Example: arrag report page --config config/micro.yaml

    Args:
        config: Configuration file.
        out: The HTML file.
        benchmark: Whose samples are shown; by default that of Table 1.
        reports: Folder of Table 4, ablations and figures.
        prompts: Prompts per task in the gallery; by default all.
        images: Images per prompt.
        traced_prompts: Prompts per task whose patches are traced.
        neighbours: Retrieved patches shown.
    """
    from arrag.config.root import load_config
    from arrag.report.page.build import Options, write_page

    settings = load_config(config)
    about = write_page(
        settings,
        config,
        out,
        benchmark=benchmark,
        reports=reports,
        options=Options(
            prompts=prompts, images=images, traced_prompts=traced_prompts, neighbours=neighbours
        ),
        open_method=_opener(settings, config),
    )
    return about


@app.command
def verdicts(*, results: Path, images: Path, out: Path, per_task: Count = 2) -> dict[str, Any]:
    """Draw GenEval's verdicts on the images: boxes, labels and reasons.

    Example: arrag report verdicts --results daid.jsonl --images results/samples/geneval/daid-0123
    --out verdicts.png

    Args:
        results: The results.jsonl of a score.
        images: The folder that was scored.
        out: The PNG.
        per_task: Correct and wrong images per task.
    """
    from arrag.metrics.geneval.results import read_results
    from arrag.report.verdicts import choose, verdict_sheet

    chosen = choose(read_results(results), per_task)
    verdict_sheet(images, chosen, out)
    return {"sheet": out, "images": [record["filename"] for record in chosen]}


@app.command
def crate(
    reports: list[Path], /, *, config: Path = DEFAULT_CONFIG, out: Path = RESULTS / "crate"
) -> dict[str, Any]:
    """Pack a finished run as an RO-Crate: workflow, configuration, tables, scores, records.

    Example: arrag report crate reports/table1.md --config config/micro.yaml --out results/crate

    Args:
        reports: The Markdown of its tables.
        config: Configuration file.
        out: Folder to write.
    """
    from arrag.report.crate import write_crate

    written = write_crate(config, reports, out)
    return {"crate": out, "files": len(written.data_entities)}


def _opener(settings: Any, config: Path) -> Callable[[str], Any]:
    from arrag.pipeline.generate import open_configured

    return lambda method: open_configured(settings, method, config)

"""``arrag verify``, ``explain`` and ``crate``: are results what they were, and what of."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, config_option
from arrag.pipeline.layout import RESULTS


class Report(dict):
    """A command's result with its own text and exit status."""

    text: str
    status: int


def add(commands: Any) -> None:
    """Add ``verify``, ``explain`` and ``crate``."""
    verify = command(
        commands,
        "verify",
        "compare results, downloads and reports with their records; exit status 1 if some differ",
        "arrag verify results",
        run_verify,
    )
    verify.add_argument("results", nargs="?", type=Path, default=RESULTS, help="(%(default)s)")
    verify.add_argument(
        "--quick", action="store_true", help="compare sizes; read only records and descriptions"
    )
    verify.add_argument(
        "--record",
        action="store_true",
        help="first write records of results that have none, as they are now",
    )
    verify.add_argument(
        "--config", type=Path, help="also say what of this configuration's tables is not there"
    )
    verify.add_argument(
        "--trace",
        nargs=3,
        metavar=("TABLE", "ROW", "COLUMN"),
        help="trace a number of a table to its sources instead, computing each digest again",
    )
    explain = command(
        commands,
        "explain",
        "trace a number of a table to its sources, computing each digest again; exit status 1 if "
        "one differs (as `verify --trace`)",
        "arrag explain reports/table1.md --row daid --column overall",
        run_trace,
    )
    explain.add_argument("report", type=Path, help="a table or an ablation, where it was written")
    explain.add_argument("--row", required=True, help="a method's key, or the row's label")
    explain.add_argument(
        "--column", required=True, help="as the CSV names it; 'difference overall' to the baseline"
    )
    crate = command(
        commands,
        "crate",
        "pack a finished run as an RO-Crate: workflow, configuration, tables, scores, records",
        "arrag crate reports/table1.md --config config/micro.yaml --out results/crate",
        run_crate,
    )
    crate.add_argument("reports", nargs="+", type=Path, help="the Markdown of its tables")
    crate.add_argument("--out", type=Path, default=RESULTS / "crate", help="%(default)s")
    config_option(crate)


def run_verify(args: argparse.Namespace) -> Report:
    """Exit status 1 if something is not as recorded."""
    if args.trace:
        args.report, args.row, args.column = args.trace
        return run_trace(args)
    from tqdm import tqdm

    from arrag.pipeline.verify import Verifier, record_unrecorded

    recorded = record_unrecorded(args.results) if args.record else []
    with tqdm(desc="verify", unit="B", unit_scale=True) as bar:

        def tick(size: int, total: int) -> None:
            bar.total = total
            bar.update(size)

        found = Verifier(args.results, full=not args.quick, tick=tick).run()
    if args.config:
        found.issues += missing_scores(args.config, args.results)
    report = Report(
        findings=[vars(finding) for finding in found.issues],
        notes=[vars(note) for note in found.notes],
        recorded=[str(path) for path in recorded],
        records=found.records,
        files=found.files,
        bytes=found.bytes,
    )
    report.status = 1 if found.issues else 0
    lines = [*map(str, found.issues), *(f"note: {note}" for note in found.notes)]
    lines.append(
        f"{found.records} records, {found.files} files, {found.bytes} bytes: "
        + (f"{len(found.issues)} findings" if found.issues else "all as recorded")
    )
    report.text = "\n".join(lines)
    return report


def missing_scores(path: Path, results: Path) -> list[Any]:
    """Findings: the scores that the tables of a configuration need and that are not there."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.pipeline.verify import Issue

    config = load_config(path)
    layout = Layout(config, results)
    wanted = [
        score
        for benchmark in config.benchmarks
        for row in config.row_labels(benchmark)
        for score in layout.scores(row, benchmark).values()
    ]
    make = f"make it: snakemake --cores all all --configfile {path}"
    return [Issue(str(score), "missing", make) for score in wanted if not score.is_file()]


def run_trace(args: argparse.Namespace) -> Report:
    """Exit status 1 if a step differs."""
    from dataclasses import asdict

    from arrag.report.trace import trace_cell

    found = trace_cell(args.report, args.row, args.column)
    steps = [asdict(step) | {"verified": step.verified} for step in found.steps]
    report = Report(asdict(found) | {"steps": steps})
    report.status = int(any(step.verified is False for step in found.steps))
    interval = f" [{', '.join(found.interval)}]" if all(found.interval) else ""
    lines = [f"{found.report}: {found.row}, {found.column} = {found.value}{interval}"]
    marks = {True: "ok", False: "DIFFERS", None: "not checked"}
    for step in found.steps:
        of = f"{step.row}: " if step.row else ""
        lines.append(f"{marks[step.verified]:12}{of}{step.what}  {step.path}  {step.recorded}")
        if step.verified is False:
            lines.append(f"{'':12}found now: {step.found}")
    for stage, versions in found.versions.items():
        text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        lines.append(f"versions of {stage}: {text}")
    report.text = "\n".join(lines)
    return report


def run_crate(args: argparse.Namespace) -> dict[str, Any]:
    """Write the crate and read it back."""
    from arrag.report.crate import write_crate

    crate = write_crate(args.config, args.reports, args.out)
    return {"crate": args.out, "files": len(crate.data_entities)}

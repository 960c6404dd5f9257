"""``arrag score`` and ``report``: verdicts on images, and what people read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.commands import command, config_option, count, group


def add(commands: Any) -> None:
    """Add ``score geneval``, ``report table1`` and ``report gallery``."""
    scores = group(commands, "score", "score a folder of images", "arrag score geneval --help")
    geneval = command(
        scores,
        "geneval",
        "GenEval's verdicts on a folder of samples",
        "arrag score geneval results/samples/daid-0123456789 --prompts "
        "benchmarks/geneval_micro.jsonl --detector checkpoints/micro-detector "
        "--color checkpoints/micro-clip --out daid.json",
        run_geneval,
    )
    geneval.add_argument("images", type=Path, help="folder in GenEval's layout")
    geneval.add_argument("--prompts", type=Path, required=True, help="the prompt file")
    geneval.add_argument("--detector", type=Path, required=True, help="folder of a detector")
    geneval.add_argument("--color", type=Path, required=True, help="folder of an open_clip model")
    geneval.add_argument("--out", type=Path, required=True, help="JSON file of the score")
    geneval.add_argument("--records", type=Path, help="JSON lines, one an image (OUT with .jsonl)")
    geneval.add_argument("--batch-size", type=count, default=8, help="images at a time")
    reports = group(
        commands, "report", "tables and pictures from scores and samples", "arrag report table1"
    )
    table = command(
        reports,
        "table1",
        "Table 1 (GenEval) as Markdown, CSV and LaTeX from the configuration's scores",
        "arrag report table1 --config config/micro.yaml --out reports/table1.md",
        run_table1,
    )
    table.add_argument("--out", type=Path, default=Path("reports/table1.md"), help="%(default)s")
    gallery = command(
        reports,
        "gallery",
        "a contact sheet: the methods' samples side by side, prompts of every task",
        "arrag report gallery --config config/micro.yaml --out reports/samples.png",
        run_gallery,
    )
    gallery.add_argument(
        "--out", type=Path, default=Path("reports/samples.png"), help="%(default)s"
    )
    gallery.add_argument("--per-task", type=count, default=2, help="prompts a task (%(default)s)")
    gallery.add_argument("--images", type=count, default=4, help="images a prompt (%(default)s)")
    for parser in (table, gallery):
        config_option(parser)


def run_geneval(args: argparse.Namespace) -> dict[str, Any]:
    """Score; without the verdicts of every prompt, which are in the file."""
    from arrag.metrics.color import ColorClassifier
    from arrag.metrics.detection import load_detector
    from arrag.metrics.geneval import score_geneval

    score = score_geneval(
        args.images,
        args.prompts,
        load_detector(args.detector),
        ColorClassifier(args.color),
        args.out,
        args.records or args.out.with_suffix(".jsonl"),
        batch_size=args.batch_size,
    )
    shown = ("value", "interval", "tasks", "n_prompts", "n_images")
    return {"score": args.out, **{name: score[name] for name in shown}}


def run_table1(args: argparse.Namespace) -> dict[str, Any]:
    """Methods in the configuration's order, then the ceilings."""
    from arrag.config import CEILING_LABELS, load_config
    from arrag.files import read_json
    from arrag.layout import Layout
    from arrag.report.tables import RowSpec, table1

    config = load_config(args.config)
    rows = [
        RowSpec(name, m.label, paper_key=m.paper_key, baseline=m.baseline)
        for name, m in config.methods.items()
    ]
    rows += [RowSpec(name, label, kind="ceiling") for name, label in CEILING_LABELS.items()]
    layout = Layout(config)
    scores = {row.key: read_json(layout.score(row.key)) for row in rows}
    stem = args.out.with_suffix("")
    table1(rows, scores, config.scale, stem)
    return {"table": args.out, "overall": {key: score["value"] for key, score in scores.items()}}


def run_gallery(args: argparse.Namespace) -> dict[str, Any]:
    """Every method and the real images, for the first prompts of each task."""
    from PIL import Image

    from arrag.config import CEILING_LABELS, load_config
    from arrag.layout import Layout
    from arrag.metrics.samples import load_prompts
    from arrag.report.gallery import contact_sheet

    config = load_config(args.config)
    layout = Layout(config)
    labels = {name: method.label for name, method in config.methods.items()}
    labels["real"] = CEILING_LABELS["real"]
    columns = {label: layout.samples(name) for name, label in labels.items()}
    shown = first_of_each_task(load_prompts(config.benchmark.prompts), args.per_task)
    images = min(args.images, config.benchmark.images_per_prompt)
    with Image.open(layout.samples("real") / "00000/samples/0000.png") as picture:
        scale = max(1, 96 // picture.width)  # small worlds are enlarged to about 96 pixels
    contact_sheet(columns, shown, args.out, images, scale)
    return {"sheet": args.out, "prompts": shown}


def first_of_each_task(prompts: list[dict[str, Any]], per_task: int) -> list[int]:
    """Indices of the first ``per_task`` prompts of every task, in the file's order."""
    taken: dict[str, int] = {}
    chosen = []
    for i, prompt in enumerate(prompts):
        taken[prompt["tag"]] = taken.get(prompt["tag"], 0) + 1
        if taken[prompt["tag"]] <= per_task:
            chosen.append(i)
    return chosen

"""``arrag score``: verdicts on images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.commands import command, count, group


def add(commands: Any) -> None:
    """Add ``score geneval``."""
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

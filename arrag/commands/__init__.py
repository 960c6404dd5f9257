"""The sub-commands of ``arrag``, a module a group; each imports what it runs only when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

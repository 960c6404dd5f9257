"""``arrag config``: check a configuration file, print the schema of all of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import DEFAULT_CONFIG, command, group


def add(commands: Any) -> None:
    """Add ``config check`` and ``config schema``."""
    inner = group(
        commands, "config", "check configuration files", "arrag config check config/micro.yaml"
    )
    check = command(
        inner,
        "check",
        "check a configuration file and show what identifies each method's samples",
        "arrag config check config/micro.yaml --json",
        run_check,
    )
    check.add_argument("path", nargs="?", type=Path, default=DEFAULT_CONFIG, help="%(default)s")
    schema = command(
        inner,
        "schema",
        "write the JSON schema of configuration files",
        "arrag config schema --out workflow/schemas/config.schema.json",
        run_schema,
    )
    schema.add_argument("--out", type=Path, help="file to write; without it, the schema is printed")


def run_check(args: argparse.Namespace) -> dict[str, Any]:
    """Load the file; any mistake in it is an ArragError."""
    from arrag.config.root import load_config

    config = load_config(args.path)
    return {
        "config": args.path,
        "scale": config.scale,
        "generators": {name: settings.kind for name, settings in config.generators.items()},
        "methods": {
            method: {
                name: config.config_hash(method, name)
                for name in config.benchmarks
                if method in config.methods_in(name)
            }
            for method in config.methods
        },
    }


def run_schema(args: argparse.Namespace) -> dict[str, Any]:
    """Write or return the schema."""
    from arrag.config.root import config_schema
    from arrag.utils.files import write_json

    if args.out is None:
        return config_schema()
    write_json(args.out, config_schema())
    return {"schema": args.out}

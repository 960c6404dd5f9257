"""``arrag doctor``: whether a configuration can run here, and what it will take."""

from __future__ import annotations

import argparse
from typing import Any

from arrag.cli.common import command, config_option


class Findings(dict):
    """A result that says in text what it says as JSON; status: 1 when something blocks a run."""

    text = ""
    status = 0


def add(commands: Any) -> None:
    """Add ``doctor``."""
    doctor = command(
        commands,
        "doctor",
        "say whether a configuration can run on this machine, what is missing, and how long each "
        "stage takes; exit status 1 if something blocks it",
        "arrag doctor --config config/paper.yaml",
        run_doctor,
    )
    config_option(doctor)
    doctor.add_argument(
        "--offline", action="store_true", help="do not ask the hub about what is not here"
    )


def run_doctor(args: argparse.Namespace) -> dict[str, Any]:
    """Look at everything."""
    from arrag.config.root import load_config
    from arrag.pipeline.doctor import examine

    report = examine(load_config(args.config), args.config, network=not args.offline)
    found = Findings(report.as_json())
    found.text, found.status = report.as_text(), int(bool(report.blocked))
    return found

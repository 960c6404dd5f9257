"""``arrag doctor``: whether a configuration can run here, and what it will take."""

from __future__ import annotations

import argparse
from pathlib import Path
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
    doctor.add_argument(
        "--rates", type=Path, metavar="FILE", help="your own rates and prices, YAML: `name: number`"
    )
    doctor.add_argument(
        "--scale",
        action="store_true",
        help="print the tables of docs/scale.md instead: 1 million to 1 billion images, by rates "
        "that are not measured here",
    )


def run_doctor(args: argparse.Namespace) -> dict[str, Any]:
    """Look at everything, or only multiply."""
    from arrag.pipeline.doctor_rates import assumed, own_rates

    own = own_rates(args.rates) if args.rates else {}
    if args.scale:
        from arrag.pipeline.doctor_scale import as_json
        from arrag.pipeline.doctor_scale_tables import as_markdown

        found = Findings(as_json(assumed() | own))
        found.text = as_markdown(assumed() | own)
        return found
    from arrag.config.root import load_config
    from arrag.pipeline.doctor import examine
    from arrag.pipeline.doctor_text import as_text

    config = load_config(args.config)
    report = examine(config, args.config, network=not args.offline, own=own)
    found = Findings(report.as_json())
    found.text, found.status = as_text(report), int(bool(report.blocked))
    return found

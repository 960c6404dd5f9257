"""``arrag doctor``: whether a configuration can run here, and what it will take."""

from __future__ import annotations

from pathlib import Path

from arrag.cli.common import DEFAULT_CONFIG, Result


def doctor(*, config: Path = DEFAULT_CONFIG, offline: bool = False) -> Result:
    """Check whether a configuration can run on this machine, and what is missing.

    Ends with exit status 1 if something blocks the run.

    Example: arrag doctor --config config/paper.yaml

    Args:
        config: Configuration file.
        offline: Do not ask the hub about what is not here.
    """
    from arrag.config.root import load_config
    from arrag.pipeline.doctor import examine

    report = examine(load_config(config), config, network=not offline)
    found = Result(report.as_json())
    found.text, found.status = report.as_text(), int(bool(report.blocked))
    return found

"""``arrag benchmark``: seconds per image of every row, in one run (Table 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from arrag.cli.common import DEFAULT_CONFIG, Count


def benchmark(
    *,
    out: Path,
    config: Path = DEFAULT_CONFIG,
    methods: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    num_images: Count | None = None,
    rounds: Count | None = None,
    max_batch: Count | None = None,
    batch_size: Count | None = None,
) -> dict[str, Any]:
    """Time every row of Table 4 in one run, in turn; leave the machine idle meanwhile.

    Example: arrag benchmark --config config/micro.yaml --out timing.json

    Args:
        out: JSON file of the measurements.
        config: Configuration file.
        methods: Rows; by default those of the block 'timing'.
        num_images: Images that a row draws in a round.
        rounds: Times that each row is timed.
        max_batch: Largest batch that is tried.
        batch_size: Time this batch instead of looking for the best.
    """
    from arrag.pipeline.generate import time_configured

    given = {"methods": methods, "images": num_images, "rounds": rounds, "max_batch": max_batch}
    return time_configured(config, out, given, batch_size)

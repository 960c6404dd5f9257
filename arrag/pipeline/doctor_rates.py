"""Rates that estimates rest on: assumed ones with their source, the user's, or measured here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from arrag.utils.errors import ArragError

KNOWN = Path(__file__).with_name("doctor_known.yaml")


@dataclass(frozen=True)
class Rate:
    """A value, its unit, and where it is from; measured: here, a moment ago."""

    value: float
    unit: str
    source: str
    measured: bool = False


Rates = dict[str, Rate]


@lru_cache(maxsize=1)
def known() -> dict[str, Any]:
    """The table of assumptions."""
    return yaml.safe_load(KNOWN.read_text(encoding="utf-8"))


def assumed() -> Rates:
    """The rates that hold where none was measured, by name."""
    return {
        name: Rate(float(rate["value"]), rate["unit"], rate["source"])
        for name, rate in known()["rates"].items()
    }


def own_rates(path: Path) -> Rates:
    """A user's rates, from a YAML file of ``name: number``.

    Raises ArragError for a file that cannot be read, an unknown name, or no number above 0.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ArragError(
            f"{path}: cannot be read ({reason}); write lines of `name: number`"
        ) from None
    if not isinstance(raw, dict):
        raise ArragError(f"{path}: found {raw!r}; write lines of `name: number`")
    found, rates = {}, assumed()
    for name, written in raw.items():
        if name not in rates:
            names = ", ".join(rates)
            raise ArragError(f"{path}: {name}: no such rate; these are: {names}")
        try:
            value = float(written)  # YAML takes 2e9 for a text
        except (TypeError, ValueError):
            value = 0.0
        if not 0 < value < float("inf"):
            raise ArragError(f"{path}: {name}: found {written!r}; use a number above 0")
        found[name] = Rate(value, rates[name].unit, f"yours: {path}")
    return found

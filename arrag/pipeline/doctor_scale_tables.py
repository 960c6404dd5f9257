"""The tables of docs/scale.md as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from arrag.pipeline.doctor_rates import Rates
from arrag.pipeline.doctor_scale import SIZES, Row, dollars, limits, rows
from arrag.pipeline.doctor_text import duration, in_bytes

HEADS = [f"{n / 1e6:g} M images" if n < 1e9 else f"{n / 1e9:g} B images" for n in SIZES]


def as_markdown(rates: Rates) -> str:
    """All of them, under headings."""
    by_size = [rows(rates, n) for n in SIZES]
    stages = list(zip(*by_size, strict=True))
    cost = lambda row: dollars(rates, row.cost)  # noqa: E731
    storage = [sum(r.cost.bytes for r in kept(found)) for found in by_size]
    month = [size / 1e12 * rates["terabyte_month"].value for size in storage]
    parts = [
        ("Time, one stage after the other", _times(stages, by_size)),
        ("Bytes that stay", _bytes(stages, storage)),
        ("Jobs", _jobs(stages)),
        ("Dollars", _dollars(stages, by_size, cost, month)),
        ("Where a choice must change", _limits(rates)),
        ("Rates", _rates(rates)),
    ]
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in parts)


def kept(found: list[Row], search: str = "ivf") -> list[Row]:
    """The stages of a run with this way to search."""
    return [row for row in found if row.search in (None, search)]


def _times(stages: list[tuple[Row, ...]], by_size: list[list[Row]]) -> str:
    lines = [
        [
            stage[0].name,
            *(duration(row.cost.seconds) for row in stage),
            ", ".join(dict.fromkeys(name for row in stage for name in row.cost.basis)),
        ]
        for stage in stages
    ]
    for search in ("exact", "ivf"):
        sums = (sum(row.cost.seconds for row in kept(found, search)) for found in by_size)
        lines.append([f"**all, {search}**", *map(duration, sums), ""])
    return table(["stage", *HEADS, "rests on"], lines)


def _bytes(stages: list[tuple[Row, ...]], storage: list[float]) -> str:
    lines = [
        [stage[0].name, *(in_bytes(row.cost.bytes) for row in stage)]
        for stage in stages
        if stage[0].cost.bytes
    ]
    return table(["stage", *HEADS], [*lines, ["**all, with ivf**", *map(in_bytes, storage)]])


def _jobs(stages: list[tuple[Row, ...]]) -> str:
    lines = [[s[0].name, *(f"{row.jobs:,}" for row in s)] for s in stages if s[0].jobs]
    sums = [f"{sum(row.jobs for row in column):,}" for column in zip(*stages, strict=True)]
    return table(["begins with", *HEADS], [*lines, ["**all**", *sums]])


def _dollars(
    stages: list[tuple[Row, ...]],
    by_size: list[list[Row]],
    cost: Callable[[Row], float],
    month: list[float],
) -> str:
    lines = [[s[0].name, *(money(cost(row)) for row in s), s[0].cost.where] for s in stages]
    lines.append(["a month of storage, with ivf", *map(money, month), "disk"])
    for search in ("exact", "ivf"):
        sums = (
            sum(map(cost, kept(found, search))) + stored
            for found, stored in zip(by_size, month, strict=True)
        )
        lines.append([f"**all, {search}**", *map(money, sums), ""])
    return table(["stage", *HEADS, "paid"], lines)


def _limits(rates: Rates) -> str:
    lines = [
        [limit.choice, f"{limit.images / 1e6:,.1f} M images", limit.arithmetic, limit.then]
        for limit in sorted(limits(rates), key=lambda limit: limit.images)
    ]
    return table(["choice", "holds up to", "arithmetic", "then"], lines)


def _rates(rates: Rates) -> str:
    lines = [[name, f"{r.value:,.4g}", r.unit, r.source] for name, r in rates.items()]
    return table(["rate", "value", "unit", "from"], lines)


def money(dollars: float) -> str:
    """``$1,200``, and cents of small sums."""
    return f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:.2f}"


def table(heads: list[str], lines: Iterable[list[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *lines])

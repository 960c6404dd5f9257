"""What `arrag doctor` found, for a person."""

from __future__ import annotations

from arrag.pipeline.doctor import BLOCK, FINE, WARN, Report
from arrag.pipeline.doctor_estimates import Stage
from arrag.pipeline.doctor_rates import Rates


def as_text(report: Report) -> str:
    """The report for a person."""
    marks = {FINE: "  ok ", WARN: "  !  ", BLOCK: "BLOCK"}
    lines = []
    for finding in report.findings:
        advice = f" -> {finding.advice}" if finding.advice else ""
        mark = marks[finding.state]
        lines.append(f"{mark} {finding.part}: {finding.name}: {finding.found}{advice}")
    if report.stages:
        lines += ["", *_table(report.stages), "", *_rates(report.stages, report.rates)]
        lines.append("These are estimates, good to a factor of a few.")
    if blocked := len(report.blocked):
        lines.append(f"Cannot start: {blocked} of the above to mend first.")
    else:
        lines.append("Can start." if report.stages else "Nothing is left to run.")
    return "\n".join(lines)


def _table(stages: list[Stage]) -> list[str]:
    """The stages in columns, and their sum."""
    beside = any(stage.seconds_on_gpu is not None for stage in stages)
    rows = [
        ("stage", "amount", "time here", *(["on one GPU"] if beside else []), "disk", "rests on")
    ]
    seconds, on_gpu, size = 0.0, 0.0, 0.0
    for s in stages:
        gpu = s.seconds if s.seconds_on_gpu is None else s.seconds_on_gpu
        seconds, on_gpu, size = seconds + s.seconds, on_gpu + gpu, size + s.bytes
        cells = [duration(s.seconds)] + ([duration(gpu)] if beside else [])
        rows.append((s.name, s.amount, *cells, in_bytes(s.bytes), ", ".join(s.basis)))
    cells = [duration(seconds)] + ([duration(on_gpu)] if beside else [])
    rows.append(("all, one after the other", "", *cells, in_bytes(size), ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    padded = ([cell.ljust(w) for cell, w in zip(row, [*widths, 0], strict=True)] for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def _rates(stages: list[Stage], rates: Rates) -> list[str]:
    """The rates that the estimates rest on, and where they are from."""
    beside = any(stage.seconds_on_gpu is not None for stage in stages)
    used = {basis for stage in stages for basis in stage.basis if basis in rates}
    used |= {"gpu_flops", "encode_gpu", "scan_entries", "raster_seconds"} if beside else set()
    about = ((name, rates[name]) for name in sorted(used))
    return [f"{name}: {rate.value:.3g} {rate.unit} ({rate.source})" for name, rate in about]


def duration(seconds: float) -> str:
    """``3.2 h`` and the like."""
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"


def in_bytes(count: float) -> str:
    """``3.2 GB`` and the like; "" for nothing."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return "" if count == 0 else f"{count / 1e3:,.0f} kB"

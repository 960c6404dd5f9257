"""``arrag verify``: compare results with their records; trace a number of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from arrag.cli.common import Result
from arrag.pipeline.layout import RESULTS


def verify(
    results: Path = RESULTS,
    /,
    *,
    quick: bool = False,
    record: bool = False,
    config: Path | None = None,
    trace: Annotated[tuple[Path, str, str] | None, Parameter(name="--trace")] = None,
) -> Result:
    """Compare results, downloads and reports with their records; exit status 1 if some differ.

    Example: arrag verify

    Example: arrag verify --trace reports/table1.md daid overall

    Args:
        results: Folder of results.
        quick: Compare sizes; read only records and descriptions.
        record: First write records of results that have none.
        config: Also report which scores of this configuration's tables are missing.
        trace: TABLE ROW COLUMN: list what this number was computed from, each digest computed
            again. ROW is a method's key or the row's label, COLUMN as the CSV names it.
    """
    if trace:
        from arrag.report.trace import trace_cell

        traced = trace_cell(*trace)
        return _result(traced.as_json(), traced.as_text(), not traced.holds)
    from tqdm import tqdm

    from arrag.pipeline.verify import verify_results

    with tqdm(desc="verify", unit="B", unit_scale=True) as bar:

        def tick(size: int, total: int) -> None:
            bar.total = total
            bar.update(size)

        found = verify_results(results, full=not quick, record=record, config=config, tick=tick)
    return _result(found.as_json(), found.as_text(), bool(found.issues))


def _result(about: dict, text: str, failed: bool) -> Result:
    result = Result(about)
    result.text, result.status = text, int(failed)
    return result

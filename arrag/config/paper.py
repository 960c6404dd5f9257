"""What the paper prints, and why a row of it may not have been run here
(arrag/config/paper_tables.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

NOT_CONFIGURED = "no method of this configuration does it"


@cache
def paper_tables() -> dict[str, Any]:
    """The whole of paper_tables.yaml."""
    text = files("arrag.config").joinpath("paper_tables.yaml").read_text("utf-8")
    return YAML(typ="safe", pure=True).load(text)


def paper_rows(table: str) -> list[str]:
    """Keys of a table's rows, in the paper's order."""
    return list(paper_tables()[table]["rows"])


def paper_label(key: str) -> str:
    """A row's name as the paper prints it."""
    return paper_tables()["labels"][key]


def paper_params(table: str, key: str) -> str | None:
    """Parameters of a row as the paper prints them, None where it does not."""
    return paper_tables()[table]["rows"][key].get("params")


def paper_values(table: str, key: str) -> dict[str, float | None]:
    """{column: number} of a row; None where the paper has none."""
    found = paper_tables()[table]
    return dict(zip(found["columns"], found["rows"][key]["values"], strict=True))


def authors_values(table: str) -> dict[str, dict[str, float]]:
    """{row: {column: number}} where the authors' repository prints other numbers than the paper."""
    theirs = paper_tables()["authors_repository"]
    if table == "table1":
        columns = paper_tables()["table1"]["columns"]
        return {key: dict(zip(columns, row, strict=True)) for key, row in theirs["geneval"].items()}
    if table == "table3":
        return {key: {"fid": number} for key, number in theirs["midjourney_fid"].items()}
    return {}


def authors_remarks(table: str) -> list[str]:
    """What the authors' repository prints for a benchmark that no table of the paper has."""
    if table != "table3":
        return []
    found = paper_tables()["authors_repository"]["mscoco_fid"]
    texts = ", ".join(f"{paper_label(key)} {number:.2f}" for key, number in found.items())
    return [f"The authors' repository also prints FID on MS-COCO, as no table does: {texts}."]


def not_run(key: str, configured: Mapping[str, str]) -> str:
    """Why the row ``key`` has no measurement: the configuration's reason, else the usual one."""
    reasons = paper_tables()["not_run"]
    return f"not run: {configured.get(key) or reasons.get(key, NOT_CONFIGURED)}"

"""Scores to tables, figures, the web page and the RO-Crate, and back from a number to its sources.

May import every package but ``arrag.cli``. Each public function below reads a configuration's
results where the workflow has them and writes one report with its record. Start reading at
``tables.py`` (Tables 1 to 3); ``model.py`` has the data, ``render.py`` writes CSV, Markdown and
LaTeX, and ``templates/`` holds the Jinja2 templates of all forms.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "write_table": "tables",
    "write_table4": "table4",
    "write_ablation": "ablation",
    "write_figure": "figures.build",
    "write_gallery": "gallery",
    "write_page": "page.build",
    "write_crate": "crate",
    "trace_cell": "trace",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)

"""The one schema of a configuration file, and what follows from it.

Imports ``arrag.utils`` alone, and no torch: a workflow is planned with it. Start with
:mod:`arrag.config.schema` (the blocks of a file) and :mod:`arrag.config.root` (``load_config``, and
what stages ask a configuration). A parameter is declared in one model here; the command line, the
records and the JSON schema are made from it.
"""

from importlib import import_module

_PUBLIC = {
    "CmmdSettings": "arrag.config.benchmarks",
    "Config": "arrag.config.root",
    "ConfigFile": "arrag.config.schema",
    "FaidSettings": "arrag.config.training",
    "FidSettings": "arrag.config.benchmarks",
    "FwdSettings": "arrag.config.benchmarks",
    "GridPoint": "arrag.config.expand",
    "ResolvedMethod": "arrag.config.resolve",
    "config_schema": "arrag.config.root",
    "expand_grids": "arrag.config.expand",
    "load_config": "arrag.config.root",
    "paper_tables": "arrag.config.paper",
    "resolve": "arrag.config.resolve",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

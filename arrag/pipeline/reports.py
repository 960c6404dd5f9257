"""What the tables, figures and ablations of a configuration show.

The workflow plans their inputs from these functions, and the commands draw the same rows from them.
"""

from __future__ import annotations

from typing import Any

from arrag.config.grids import Grid, point_name
from arrag.config.root import Config
from arrag.utils.errors import ConfigError
from arrag.utils.registry import unknown_name

TABLES = {"table1": "geneval", "table2": "dpg", "table3": "distribution"}
"""The tables of scores, and the kind of benchmark that each one shows. Table 4 shows timings."""
FIGURES = ("figure4", "figure5", "figure6", "figure7")


def tables_of(config: Config) -> list[str]:
    """The tables of scores that a configuration has a benchmark for."""
    return [table for table, kind in TABLES.items() if config.benchmark_of_kind(kind)]


def timed_methods(config: Config) -> list[str]:
    """The methods that Table 4 times."""
    return config.timing.methods or list(config.methods)


def find_method(config: Config, kind: str | None, generator: str | None = None) -> str | None:
    """Find the first method of a kind of augmentation.

    Args:
        config: The configuration.
        kind: The kind of augmentation; None is the bare model.
        generator: Name of the generator; None is the configuration's first.
    """
    generator = generator or next(iter(config.generators))
    for name, method in config.methods.items():
        same = config.generator_of(name)[0] == generator
        if same and getattr(method.augment, "kind", None) == kind:
            return name
    return None


def figure4_methods(config: Config) -> list[str]:
    """The columns of Figure 4: the bare model, DAiD and FAiD of the first generator."""
    found = [find_method(config, kind) for kind in (None, "daid", "faid")]
    return [name for name in found if name]


def figure5_methods(config: Config) -> list[str]:
    """The rows of Figure 5: image-level retrieval, then the other methods on its generator."""
    for generator in config.generators:
        if image_level := find_method(config, "racm3", generator):
            others = [find_method(config, kind, generator) for kind in ("daid", "faid", None)]
            return [image_level, *(name for name in others if name)]
    return []


def figure7_grids(config: Config) -> list[str]:
    """The grids that Figure 7 draws as maps."""
    if config.figures.maps is not None:
        return config.figures.maps
    return [name for name, grid in config.grids.items() if len(grid.axes) == 2]


def lacking_for(config: Config, figure: str) -> str | None:
    """What a configuration lacks for a figure; None if the figure can be drawn."""
    if figure == "figure4" and len(figure4_methods(config)) < 2:
        return "methods: needs two of bare, daid and faid on one generator; add one"
    if figure == "figure5" and len(figure5_methods(config)) < 2:
        return (
            "methods: needs one with augment.kind racm3 and another on its generator; add them "
            "as in config/micro.yaml"
        )
    if figure == "figure6" and config.benchmark_of_kind("distribution") is None:
        return "benchmarks: needs one of kind distribution, whose reference is held out; add one"
    if figure == "figure6" and find_method(config, "daid") is None:
        return "methods: needs one with augment.kind daid on the first generator; add one"
    if figure == "figure7" and not figure7_grids(config):
        return "grids: needs one of two paths; add one as in config/micro.yaml"
    return None


def get_grid(config: Config, name: str) -> Grid:
    """Return the ablation grid called ``name``.

    Raises:
        ConfigError: The configuration has no such grid.
    """
    if not config.grids:
        raise ConfigError(
            f"found none, wanted '{name}'", field="grids", hint="add it as in config/micro.yaml"
        )
    if name not in config.grids:
        raise unknown_name("grid", name, list(config.grids))
    return config.grids[name]


def grid_points(config: Config, name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(method's name, label, settings) of a grid's points, in order."""
    grid = get_grid(config, name)
    return [(point_name(grid.method, some), label, some) for label, some in grid.settings()]


def grid_baseline(config: Config, name: str) -> str | None:
    """The method that a grid's points are compared with."""
    grid = get_grid(config, name)
    return grid.baseline or config.method(grid.method).baseline


def grid_methods(config: Config, name: str) -> list[str]:
    """The methods whose scores a grid's report reads: its baseline, then its points."""
    baseline = grid_baseline(config, name)
    points = [point for point, _, _ in grid_points(config, name)]
    return list(dict.fromkeys([baseline, *points] if baseline else points))

"""Whether the blocks of a configuration fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from arrag.config.expand import expand_grid
from arrag.config.methods import CEILING_LABELS, Method
from arrag.config.resolve import ResolvedMethod, resolve
from arrag.config.schema import ConfigFile
from arrag.utils.errors import ConfigError
from arrag.utils.registry import nearest


def find_mistakes(file: ConfigFile) -> list[ConfigError]:
    """Every mistake in what the blocks say of each other."""
    found: list[ConfigError] = []
    name, first = file.generator_named(None)
    if file.scale == "micro" and first.context is None:
        found.append(
            ConfigError(
                f"found '{first.kind}', but the first generator's tokenizer makes the row of "
                "reconstructions",
                field=f"generators.{name}.kind",
                hint="put one that draws codes first",
            )
        )
    for name, method in file.methods.items():
        at = f"methods.{name}"
        with _collected(found):
            _check_references(file, name, method, at)
            _check_augment(resolve(file, method, at), at)
    for name in file.resources.sample_parts:
        with _collected(found):
            _check_known("benchmark", name, file.benchmarks, "resources.sample_parts")
    for name in file.grids:
        with _collected(found):
            _check_grid(file, name)
    with _collected(found):
        _check_known("benchmark", file.timing.benchmark, file.benchmarks, "timing.benchmark")
        for method_name in file.timing.methods or ():
            _check_known("method", method_name, file.methods, "timing.methods")
    for name in file.figures.maps or ():
        with _collected(found):
            _check_known("grid", name, file.grids, "figures.maps")
            if len(axes := file.grids[name].axes) != 2:
                raise ConfigError(
                    f"grid '{name}' has {len(axes)} paths",
                    field="figures.maps",
                    hint="name a grid of two paths",
                )
    return found


@contextmanager
def _collected(found: list[ConfigError]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        found += error.mistakes


def _check_known(kind: str, name: str | None, known: Mapping[str, object], field: str) -> None:
    if name is not None and name not in known:
        raise ConfigError(f"unknown {kind} '{name}'", field=field, hint=nearest(name, known))


def _check_references(file: ConfigFile, name: str, method: Method, at: str) -> None:
    """The names that a method refers to, and its own."""
    if name in CEILING_LABELS:
        raise ConfigError("the name is taken by a ceiling row", field=at, hint="choose another")
    _check_known("generator", method.generator, file.generators, f"{at}.generator")
    for benchmark in method.benchmarks or ():
        _check_known("benchmark", benchmark, file.benchmarks, f"{at}.benchmarks")
    baseline, field = method.baseline, f"{at}.baseline"
    if baseline is None:
        return
    if baseline == name:
        raise ConfigError("found its own name", field=field, hint="name another method")
    _check_known("method", baseline, file.methods, field)
    for benchmark in file.benchmarks:
        rows = file.methods_in(benchmark)
        if name in rows and baseline not in rows:
            raise ConfigError(
                f"'{baseline}' is not in the table of benchmark '{benchmark}', where '{name}' is",
                field=field,
                hint="change the `benchmarks` of one of them",
            )


def _check_augment(resolved: ResolvedMethod, at: str) -> None:
    """That the generator supports the augmentation, and that the blocks it needs are there."""
    method, generator = resolved.method, resolved.generator
    if method.augment and method.augment.kind not in generator.supported_augmentations:
        supported = ", ".join(generator.supported_augmentations) or "none"
        raise ConfigError(
            f"found '{method.augment.kind}'",
            field=f"{at}.augment.kind",
            hint=f"a {generator.kind} generator takes {supported}",
        )
    if method.is_trained_here:
        lacks = None
        if not generator.trainable:
            lacks = f"`training` makes no adapter for a {generator.kind} generator"
        elif resolved.training is None:
            lacks = "the block `training` is missing"
        if lacks:
            hint = "name the folder of a trained adapter"
            raise ConfigError(f"null, but {lacks}", field=f"{at}.augment.adapter", hint=hint)
    for block in resolved.required_blocks:
        if getattr(resolved, block) is None:
            message = f"retrieves, but the block `{block}` is missing"
            raise ConfigError(message, field=at, hint="add that block")


def _check_grid(file: ConfigFile, name: str) -> None:
    grid, at = file.grids[name], f"grids.{name}"
    _check_known("method", grid.method, file.methods, f"{at}.method")
    _check_known("method", grid.baseline, file.methods, f"{at}.baseline")
    _check_known("benchmark", grid.benchmark, file.benchmarks, f"{at}.benchmark")
    for point in expand_grid(file, name, grid).values():
        _check_augment(resolve(file, point.method, point.at), point.at)

"""Whether the methods of a configuration fit its other blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arrag.config.grids import check_reports
from arrag.config.methods import CEILING_LABELS, Method
from arrag.config.resolve import Resolved, resolve

if TYPE_CHECKING:
    from arrag.config.root import Config


def check_methods(config: Config) -> None:
    """Raises ValueError naming the field, what was found and what to do."""
    name, first = next(iter(config.generators.items()))
    if config.scale == "micro" and first.context is None:
        raise ValueError(
            f"generators.{name}.kind: found '{first.kind}'; the first generator's tokenizer makes "
            "the row of reconstructions: put one that draws codes first"
        )
    for name, method in config.methods.items():
        at = f"methods.{name}"
        if name in CEILING_LABELS:
            raise ValueError(f"{at}: the name is taken by a ceiling row; choose another")
        _check_names(config, name, method, at)
        _check_augment(resolve(config, name), at)
    check_reports(config)
    for name in config.resources.sample_parts:
        _check_known("resources.sample_parts", "benchmark", name, config.benchmarks)
    for name, point in config.derived.items():
        _check_augment(resolve(config, name), point.at)


def _check_names(config: Config, name: str, method: Method, at: str) -> None:
    """The names that a method refers to."""
    if method.generator is not None:
        _check_known(f"{at}.generator", "generator", method.generator, config.generators)
    for benchmark in method.benchmarks or ():
        _check_known(f"{at}.benchmarks", "benchmark", benchmark, config.benchmarks)
    baseline = method.baseline
    if baseline is None:
        return
    if baseline == name:
        raise ValueError(f"{at}.baseline: found its own name; name another method")
    _check_known(f"{at}.baseline", "method", baseline, config.methods)
    for benchmark in config.benchmarks:
        rows = config.methods_in(benchmark)
        if name in rows and baseline not in rows:
            raise ValueError(
                f"{at}.baseline: '{baseline}' is not in the table of benchmark '{benchmark}', "
                f"where '{name}' is; change the `benchmarks` of one of them"
            )


def _check_known(field: str, what: str, found: str, known: dict) -> None:
    if found not in known:
        raise ValueError(f"{field}: found '{found}', no such {what}; one of {', '.join(known)}")


def _check_augment(resolved: Resolved, at: str) -> None:
    """That the generator takes it, and that the blocks are there that it needs."""
    method, generator = resolved.method, resolved.generator
    if method.augment and method.augment.kind not in generator.takes:
        raise ValueError(
            f"{at}.augment.kind: found '{method.augment.kind}'; a {generator.kind} generator takes "
            f"{', '.join(generator.takes) or 'none'}"
        )
    if method.is_trained_here and not generator.trained_here:
        raise ValueError(
            f"{at}.augment.adapter: null, but `training` makes no adapter for a {generator.kind} "
            "generator; name the folder of a trained one"
        )
    if method.is_trained_here and resolved.training is None:
        raise ValueError(
            f"{at}.augment.adapter: null, but `training` is missing; name the folder of a "
            "trained adapter, or add that block"
        )
    for part in resolved.needs:
        if getattr(resolved, part) is None:
            raise ValueError(f"{at} retrieves, but `{part}` is missing; add that block")

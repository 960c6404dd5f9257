"""The page's last section: the configuration and the versions that the results are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arrag
from arrag.config.root import Config
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_json

SHOWN = {"kind", "prompts", "questions", "images_per_prompt"}  # of a benchmark

Fact = tuple[str, str, str | None]  # term, text, digest


def run_facts(config: Config, name: str, samples: Sequence[Path]) -> list[Fact]:
    """Scale, configuration (file ``name``), generators, database, prompts, methods and versions.

    The ``run.json`` of the folders ``samples`` have the versions of the libraries.
    """
    digest = sha256_json(config.model_dump(mode="json", exclude={"resources"}))
    facts: list[Fact] = [
        ("Scale", config.scale, None),
        ("Configuration", name, digest),
        ("Seed", str(config.seed), None),
    ]
    for key, generator in config.generators.items():
        facts.append((f"Generator {key}", _settings(generator.model_dump(mode="json")), None))
    for field in ("database", "index"):
        if block := getattr(config, field):
            facts.append((field.capitalize(), _settings(block.model_dump(mode="json")), None))
    for key, benchmark in config.benchmarks.items():
        chosen = benchmark.model_dump(mode="json", include=SHOWN)
        facts.append((f"Benchmark {key}", _settings(chosen), None))
    for key, method in config.methods.items():
        digest = config.config_hash(key, config.main_benchmark)
        facts.append((method.label, f"{_method(config, key)}; hash", digest))
    return [*facts, ("Versions", _versions(samples), None)]


def _method(config: Config, name: str) -> str:
    """What a method adds to which generator, and what it changes for itself."""
    method = config.methods[name]
    text = "the generator alone"
    if method.augment:
        text = _settings(method.augment.model_dump(mode="json"))
    if len(config.generators) > 1:
        text = f"{config.generator_of(name)[0]}: {text}"
    for block in ("database", "index", "training"):
        if changes := getattr(method, block):
            text += f"; {block}: {_settings(changes)}"
    return text


def _settings(block: dict[str, Any]) -> str:
    """``kind janus, guidance_scale 2.0``: the settings that are set."""
    return ", ".join(
        f"{key} {_value(value)}"
        for key, value in block.items()
        if not (value is None or value is False or value in ([], {}))
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_value(v)}" for k, v in value.items()) + ")"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _versions(samples: Sequence[Path]) -> str:
    """Of this package and of the libraries that generated the samples."""
    found: dict[str, set[str]] = {"arrag": {arrag.__version__}}
    for folder in samples:
        for name, version in read_json(folder / "run.json").get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {'/'.join(sorted(v))}" for name, v in sorted(found.items()))

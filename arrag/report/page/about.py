"""What was run: the head of the page and its first section. No date, no path of a machine."""

from __future__ import annotations

from typing import Any

import arrag
from arrag.config.root import Config
from arrag.report.page.gallery import Column
from arrag.report.page.markup import element, text
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_json

LEAD = {
    "micro": "Patch-level retrieval inside autoregressive image generation: what it changes, in a "
    "small built-in world that two processor cores draw and judge.",
    "paper": "Patch-level retrieval inside autoregressive image generation: the paper's methods, "
    "measured again.",
}
SHOWN = {"kind", "prompts", "questions", "images_per_prompt"}  # of a benchmark
BANNER = {
    "micro": "Micro scale. Images, prompts, generator and judge are small and this project's own. "
    "None of the measured numbers is a number of the paper or comparable with one; what the paper "
    "reports stands apart and is called so.",
}


def banner(scale: str) -> str:
    """The warning of a scale that has one."""
    if scale not in BANNER:
        return ""
    first, rest = BANNER[scale].split(". ", 1)
    warning = element("p", element("strong", text(f"{first}.")) + " " + text(rest))
    return element("aside", warning, class_="banner", aria_label="About these numbers")


def config_digest(config: Config) -> str:
    """Digest of all that shapes results."""
    return sha256_json(config.model_dump(mode="json", exclude={"resources"}))


def about_section(config: Config, name: str, columns: list[Column]) -> str:
    """Scale, configuration, generators, database, prompts, methods and versions."""
    facts = [
        ("Scale", text(config.scale)),
        ("Configuration", f"{text(name)}, {_code(config_digest(config))}"),
        ("Seed", text(config.seed)),
        *((f"Generator {key}", _settings(value)) for key, value in _generators(config).items()),
    ]
    for field in ("database", "index"):
        if block := getattr(config, field):
            facts.append((field.capitalize(), _settings(block.model_dump(mode="json"))))
    for key, drawn in config.benchmarks.items():
        chosen = drawn.model_dump(mode="json", include=SHOWN)
        facts.append((f"Benchmark {key}", _settings(chosen)))
    facts += [(method.label, _method(config, key)) for key, method in config.methods.items()]
    facts.append(("Versions", text(_versions(columns))))
    rows = "".join(element("dt", text(key)) + element("dd", value) for key, value in facts)
    heading = element("h2", "What was run", id="run-title")
    return element(
        "section",
        heading + element("dl", rows, class_="facts"),
        id="run",
        aria_labelledby="run-title",
    )


def _method(config: Config, name: str) -> str:
    """What a method adds to which generator, what it changes for itself, and its hash."""
    method = config.methods[name]
    augment = method.augment.model_dump(mode="json") if method.augment else {}
    said = _settings(augment) if augment else "the generator alone"
    if len(config.generators) > 1:
        said = f"{text(config.generator_of(name)[0])}: {said}"
    for block in ("database", "index", "training"):
        if changes := getattr(method, block):
            said += f"; {block}: {_settings(changes)}"
    return f"{said}; hash {_code(config.config_hash(name, config.main_benchmark))}"


def _generators(config: Config) -> dict[str, dict[str, Any]]:
    return {key: value.model_dump(mode="json") for key, value in config.generators.items()}


def _code(digest: str) -> str:
    return element("code", text(digest[:12]), title=digest)


def _settings(block: dict[str, Any]) -> str:
    """``kind janus, guidance_scale 2.0``: settings that are set."""
    said = [f"{key} {_value(value)}" for key, value in block.items() if _is_set(value)]
    return text(", ".join(said))


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value not in ([], {})


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_value(v)}" for k, v in value.items()) + ")"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _versions(columns: list[Column]) -> str:
    """Of this package and of the libraries that drew the samples."""
    found: dict[str, set[str]] = {"arrag": {arrag.__version__}}
    for column in columns:
        for name, version in read_json(column.folder / "run.json").get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {'/'.join(sorted(v))}" for name, v in sorted(found.items()))

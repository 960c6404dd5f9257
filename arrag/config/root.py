"""A configuration: loaded, validated, and asked by every stage.

Everything that reads a configuration (the command line, the Snakefile, the tests) comes through
``load_config``; ``workflow/schemas/config.schema.json`` is generated from the models by
``arrag config schema``. Nothing here imports torch, so a workflow parses in a moment.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arrag.config.checks import find_mistakes
from arrag.config.errors import mistakes_in
from arrag.config.expand import GridPoint, expand_grids
from arrag.config.generators import Generator
from arrag.config.loader import BASE, read_config
from arrag.config.methods import Method
from arrag.config.resolve import ResolvedMethod, resolve
from arrag.config.schema import ConfigFile
from arrag.utils.errors import ConfigError
from arrag.utils.hashing import sha256_json
from arrag.utils.registry import unknown_name


class Config(ConfigFile):
    """A configuration, with what follows from its blocks together."""

    @cached_property
    def grid_points(self) -> dict[str, GridPoint]:
        """The points of all grids, as methods that are in no table, by their names."""
        return expand_grids(self)

    def method(self, name: str) -> Method:
        """The method, or point of a grid, called ``name``.

        Raises:
            UnknownNameError: There is none.
        """
        if name in self.methods:
            return self.methods[name]
        if name in self.grid_points:
            return self.grid_points[name].method
        raise unknown_name("method", name, self.methods)

    def generator_of(self, method: str | None = None) -> tuple[str, Generator]:
        """Name and settings of a method's generator; None: the first, which ceilings have too."""
        return self.generator_named(None if method is None else self.method(method).generator)

    def resolved(self, method: str) -> ResolvedMethod:
        """A method's generator and blocks, its own changes in them.

        Raises:
            UnknownNameError: There is no such method.
        """
        point = self.grid_points.get(method) if method not in self.methods else None
        return resolve(self, self.method(method), point.at if point else f"methods.{method}")

    def samples_identity(self, method: str, benchmark: str | None = None) -> dict[str, Any]:
        """Exactly what shapes a method's samples, as JSON: no label, no batch size, no scorer.

        Database and index take part only when the method retrieves. A generator's name is only a
        name; its settings are under "backbone".
        """
        resolved, prompts = self.resolved(method), self.benchmark(benchmark)
        augment = resolved.method.augment
        identity: dict[str, Any] = {
            "seed": self.seed,
            "backbone": resolved.generator.model_dump(mode="json"),
            "benchmark": {
                "prompts": str(prompts.prompts),
                "images_per_prompt": prompts.images_per_prompt,
            },
            "augment": augment and augment.model_dump(mode="json"),
        }
        identity |= resolved.retrieved_from()
        if resolved.method.is_trained_here:
            identity["training"] = resolved.training_identity()
        return identity

    def config_hash(self, method: str, benchmark: str | None = None) -> str:
        """Hex SHA-256 of ``samples_identity``; samples and scores carry it."""
        return sha256_json(self.samples_identity(method, benchmark))


def load_config(path: str | Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        ConfigError: All mistakes of the file, each with its field and the way out.
        MissingError: There is no such file.
    """
    document = read_config(path)
    try:
        config = Config.model_validate(document)
        mistakes = find_mistakes(config)
    except ValidationError as error:
        mistakes = mistakes_in(error, document, Config)
    if mistakes:
        raise ConfigError.of(mistakes, path)
    return config


def config_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors and for ``workflow/schemas``."""
    schema = Config.model_json_schema()
    base = {"type": "string", "description": "a file beside this one, which this one changes"}
    schema["properties"] = {BASE: base, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

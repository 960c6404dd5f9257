"""The one definition of a configuration file: what it may hold, and what each mistake is called.

Everything that reads a configuration (the command line, the Snakefile, the tests) comes through
``load_config``; ``workflow/schemas/config.schema.json`` is generated from the models below by
``arrag config schema``. Nothing here imports torch, so a workflow parses in a moment.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from arrag.config.assets import Prepared
from arrag.config.backbones import Generator
from arrag.config.base import Model, Name
from arrag.config.benchmarks import KINDS, Benchmark, Judge
from arrag.config.checks import check_methods
from arrag.config.database import Database, Index
from arrag.config.grids import Derived, Figures, Grid, Timing, derive
from arrag.config.methods import CEILING_LABELS, Method
from arrag.config.resolve import Resolved, resolve
from arrag.config.training import Training
from arrag.utils.hashing import sha256_json


class Resources(Model):
    """What changes speed and memory, never a result; no hash contains it."""

    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="images drawn at a time; null: what memory holds, 32 on a CPU",
    )
    encode_batch_size: int = Field(default=64, ge=1, description="images encoded at a time")
    encode_workers: int = Field(
        default=0, ge=0, description="further processes that decode the images to encode"
    )
    threads: int = Field(default=1, ge=1, description="threads of one job")
    train_batch_size: int = Field(default=16, ge=1, description="images trained on at a time")
    save_minutes: float = Field(default=10.0, gt=0, description="between a training's checkpoints")
    sample_parts: dict[Name, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="jobs that share a method's images of a benchmark; 1 where none are given",
    )
    retrieve_parts: int = Field(
        default=1, ge=1, description="jobs that share the retrieval that a training reads"
    )


class Config(Model):
    """A configuration file."""

    scale: Literal["micro", "paper"] = Field(description="which world the numbers are about")
    seed: int = Field(ge=0, lt=2**63, description="root of every random stream, >= 0")
    generators: dict[Name, Generator] = Field(
        min_length=1, description="what draws; a method that names none has the first"
    )
    database: Database | None = Field(default=None, description="needed by methods that retrieve")
    index: Index | None = Field(default=None, description="needed by methods that retrieve")
    benchmarks: dict[Name, Annotated[Benchmark, Field(discriminator="kind")]] = Field(
        min_length=1, description="the prompts and how their images are scored"
    )
    judge: Judge = Field(description="the models that score")
    training: Training | None = Field(default=None, description="how adapters are trained")
    methods: dict[Name, Method] = Field(min_length=1, description="the rows, in the table's order")
    prepare: dict[str, Prepared] = Field(
        default_factory=dict,
        description="files and folders that are made before anything else, by their paths",
    )
    not_run: dict[str, str] = Field(
        default_factory=dict,
        description="rows of the paper that are left out, and why; the tables print it",
    )
    grids: dict[Name, Grid] = Field(
        default_factory=dict, description="ablations, each a report of its own"
    )
    timing: Timing = Field(default_factory=Timing, description="what Table 4 times")
    figures: Figures = Field(default_factory=Figures, description="what the figures show")
    resources: Resources = Field(default_factory=Resources, description="speed and memory only")

    @model_validator(mode="after")
    def _methods_fit(self) -> Config:
        check_methods(self)
        return self

    def method(self, name: str) -> Method:
        """The method called ``name``; ArragError with a suggestion if there is none."""
        from arrag.config.errors import unknown_choice

        if name in self.methods:
            return self.methods[name]
        if name in self.derived:
            return self.derived[name].method
        raise unknown_choice("method", name, list(self.methods))

    @cached_property
    def derived(self) -> dict[str, Derived]:
        """The points of all grids, as methods that are in no table, by their names."""
        return derive(self)

    def generator_of(self, method: str | None = None) -> tuple[str, Generator]:
        """Name and settings of a method's generator; None: the first, which ceilings have too."""
        named = self.method(method).generator if method is not None else None
        name = next(iter(self.generators)) if named is None else named
        return name, self.generators[name]

    def resolved(self, method: str) -> Resolved:
        """A method's generator and blocks, its own changes in them; ArragError if there is none."""
        self.method(method)
        return resolve(self, method)

    def methods_in(self, benchmark: str | None = None) -> dict[str, Method]:
        """The methods that are rows of a benchmark's table (None: the main one), in order."""
        name = self.main_benchmark if benchmark is None else benchmark
        return {
            key: method
            for key, method in self.methods.items()
            if method.benchmarks is None or name in method.benchmarks
        }

    def benchmark(self, name: str | None = None) -> Benchmark:
        """The benchmark called ``name`` (None: the main one); ArragError if there is none."""
        from arrag.config.errors import unknown_choice

        name = self.main_benchmark if name is None else name
        if name not in self.benchmarks:
            raise unknown_choice("benchmark", name, list(self.benchmarks))
        return self.benchmarks[name]

    @property
    def main_benchmark(self) -> str:
        """The one meant when none is named: that of the first table there is."""
        return next(name for kind in KINDS if (name := self.benchmark_of_kind(kind)))

    def benchmark_of_kind(self, kind: str) -> str | None:
        """Name of the first benchmark of ``kind``: the one that the kind's table shows."""
        return next((name for name, b in self.benchmarks.items() if b.kind == kind), None)

    def row_labels(self, benchmark: str | None = None) -> dict[str, str]:
        """Labels of a table's rows: its methods, and at micro scale the ceilings."""
        labels = {name: method.label for name, method in self.methods_in(benchmark).items()}
        return labels | (CEILING_LABELS if self.scale == "micro" else {})

    def samples_identity(self, method: str, benchmark: str | None = None) -> dict[str, Any]:
        """Exactly what shapes a method's samples, as JSON: no label, no batch size, no judge.

        Database and index take part only when the method retrieves. A generator's name is only a
        name; its settings stand under "backbone".
        """
        resolved, drawn = self.resolved(method), self.benchmark(benchmark)
        augment = resolved.method.augment
        identity: dict[str, Any] = {
            "seed": self.seed,
            "backbone": resolved.generator.model_dump(mode="json"),
            "benchmark": {
                "prompts": str(drawn.prompts),
                "images_per_prompt": drawn.images_per_prompt,
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
    """Read and check a configuration file.

    Raises ArragError naming the file, the field, what was found and what to do; all mistakes of
    a file come in one message.
    """
    from pydantic import ValidationError

    from arrag.config.errors import explain
    from arrag.config.inherit import read_config

    document = read_config(path)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise explain(error, Path(path), Config) from None


def config_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors and for ``workflow/schemas``."""
    schema = Config.model_json_schema()
    base = {"type": "string", "description": "a file beside this one, which this one changes"}
    schema["properties"] = {"base": base, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

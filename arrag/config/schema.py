"""What a configuration file may hold: its blocks, and lookups in them.

The models of the blocks are in the other modules of this package. ``arrag.config.root.Config`` adds
what is derived from several blocks.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from arrag.config.assets import Asset
from arrag.config.base import Model, Name
from arrag.config.benchmarks import KINDS, Benchmark, Scorers
from arrag.config.database import Database, Index
from arrag.config.generators import Generator
from arrag.config.grids import Figures, Grid, Timing
from arrag.config.methods import CEILING_LABELS, Method
from arrag.config.training import Training
from arrag.utils.registry import unknown_name


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


class ConfigFile(Model):
    """The blocks of a configuration file."""

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
    scorers: Scorers = Field(description="the models that score")
    training: Training | None = Field(default=None, description="how adapters are trained")
    methods: dict[Name, Method] = Field(min_length=1, description="the rows, in the table's order")
    assets: dict[str, Asset] = Field(
        default_factory=dict,
        description="files and folders that are made before anything else, by their paths",
    )
    skipped: dict[str, str] = Field(
        default_factory=dict,
        description="rows of the paper that are left out, and why; the tables print it",
    )
    grids: dict[Name, Grid] = Field(
        default_factory=dict, description="ablations, each a report of its own"
    )
    timing: Timing = Field(default_factory=Timing, description="what Table 4 times")
    figures: Figures = Field(default_factory=Figures, description="what the figures show")
    resources: Resources = Field(default_factory=Resources, description="speed and memory only")

    def generator_named(self, name: str | None) -> tuple[str, Generator]:
        """Name and settings of a generator; None: the first."""
        name = next(iter(self.generators)) if name is None else name
        return name, self.generators[name]

    def methods_in(self, benchmark: str | None = None) -> dict[str, Method]:
        """The methods that are rows of a benchmark's table (None: the main one), in order."""
        name = self.main_benchmark if benchmark is None else benchmark
        return {
            key: method
            for key, method in self.methods.items()
            if method.benchmarks is None or name in method.benchmarks
        }

    def benchmark(self, name: str | None = None) -> Benchmark:
        """The benchmark called ``name`` (None: the main one).

        Raises:
            UnknownNameError: There is none.
        """
        name = self.main_benchmark if name is None else name
        if name not in self.benchmarks:
            raise unknown_name("benchmark", name, self.benchmarks)
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

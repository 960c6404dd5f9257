"""The one definition of a configuration file: what it may hold, and what each mistake is called.

Everything that reads a configuration (the command line, the Snakefile, the tests) comes through
``load_config``; ``workflow/schemas/config.schema.json`` is generated from the models below by
``arrag config schema``. Nothing here imports torch, so a workflow parses in a moment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from arrag.config_backbones import Janus, Showo
from arrag.config_benchmarks import KINDS, Benchmark, Judge
from arrag.config_database import Database, Index, without_unused
from arrag.config_model import Model, Name
from arrag.config_training import Faid, Finetune, Racm3, Training
from arrag.files import sha256_json

# Rows of Table 1 that the workflow adds by itself: what the judge says of images of the world, and
# of the same images after the tokenizer. No method can be expected to score higher.
CEILING_LABELS = {"real": "real images", "reconstructions": "reconstructions"}


class Daid(Model):
    """Distribution-level augmentation: p = (1 - lam) p_model + lam p_retrieved."""

    needs: ClassVar[tuple[str, ...]] = ("database", "index")

    kind: Literal["daid"]
    k: int = Field(ge=1, description="patches retrieved for a position (K), >= 1")
    lam: float = Field(
        ge=0, le=1, description="retrieval weight λ in [0, 1]; not stated in the paper"
    )
    tau: float = Field(gt=0, description="retrieval temperature τ, > 0; not stated in the paper")


class Method(Model):
    """One row of the table."""

    label: str = Field(min_length=1, description="the row's name in the tables")
    augment: Annotated[Daid | Faid | Racm3 | Finetune, Field(discriminator="kind")] | None = Field(
        default=None, description="retrieval, adapter or both; null = the bare model"
    )
    baseline: Name | None = Field(default=None, description="method this one is compared with")
    paper_key: str | None = Field(
        default=None, description="the paper's row to print beside it, as in benchmarks/paper"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """The blocks of the configuration that it retrieves from: of "database", "index"."""
        return () if self.augment is None else self.augment.needs

    @property
    def is_trained_here(self) -> bool:
        """Whether its adapter is the one that the configuration's ``training`` makes."""
        return self.augment is not None and getattr(self.augment, "adapter", "") is None


class Resources(Model):
    """What changes speed and memory, never a result; no hash contains it."""

    batch_size: int = Field(default=16, ge=1, description="images drawn at a time")
    encode_batch_size: int = Field(default=64, ge=1, description="images encoded at a time")
    encode_workers: int = Field(
        default=0, ge=0, description="further processes that decode the images to encode"
    )
    threads: int = Field(default=1, ge=1, description="threads of one job")
    train_batch_size: int = Field(default=16, ge=1, description="images trained on at a time")
    save_minutes: float = Field(default=10.0, gt=0, description="between a training's checkpoints")


class Config(Model):
    """A configuration file."""

    scale: Literal["micro", "paper"] = Field(description="which world the numbers are about")
    seed: int = Field(ge=0, description="root of every random stream, >= 0")
    backbone: Janus | Showo = Field(discriminator="kind", description="the generator")
    database: Database | None = Field(default=None, description="needed by methods that retrieve")
    index: Index | None = Field(default=None, description="needed by methods that retrieve")
    benchmarks: dict[Name, Annotated[Benchmark, Field(discriminator="kind")]] = Field(
        min_length=1, description="the prompts and how their images are scored"
    )
    judge: Judge = Field(description="the models that score")
    training: Training | None = Field(default=None, description="how adapters are trained")
    methods: dict[Name, Method] = Field(min_length=1, description="the rows, in the table's order")
    not_run: dict[str, str] = Field(
        default_factory=dict,
        description="rows of the paper that are left out, and why; the tables print it",
    )
    resources: Resources = Field(default_factory=Resources, description="speed and memory only")

    @model_validator(mode="after")
    def _methods_fit(self) -> Config:
        for name, method in self.methods.items():
            at = f"methods.{name}"
            if name in CEILING_LABELS:
                raise ValueError(f"{at}: the name is taken by a ceiling row; choose another")
            if method.baseline is not None and method.baseline == name:
                raise ValueError(f"{at}.baseline: found its own name; name another method")
            if method.baseline is not None and method.baseline not in self.methods:
                known = ", ".join(self.methods)
                raise ValueError(
                    f"{at}.baseline: found '{method.baseline}', no such method; one of {known}"
                )
            kind = self.backbone.kind
            if method.augment and method.augment.kind not in self.backbone.takes:
                raise ValueError(
                    f"{at}.augment.kind: found '{method.augment.kind}'; a {kind} backbone takes "
                    f"{', '.join(self.backbone.takes)}"
                )
            if method.is_trained_here and not self.backbone.trained_here:
                raise ValueError(
                    f"{at}.augment.adapter: null, but `training` makes no adapter for a {kind} "
                    "backbone; name the folder of a trained one"
                )
            if method.is_trained_here and self.training is None:
                raise ValueError(
                    f"{at}.augment.adapter: null, but `training` is missing; name the folder of a "
                    "trained adapter, or add that block"
                )
            for part in method.needs:
                if getattr(self, part) is None:
                    raise ValueError(f"{at} retrieves, but `{part}` is missing; add that block")
        needed = self.backbone.context
        if self.index is not None and self.index.context != needed:
            order = {"causal": "codes in raster order", "full": "all codes at once"}[needed]
            raise ValueError(
                f"index.context: found '{self.index.context}'; a {self.backbone.kind} backbone "
                f"decodes {order} and needs '{needed}'"
            )
        return self

    def method(self, name: str) -> Method:
        """The method called ``name``; ArragError with a suggestion if there is none."""
        from arrag.config_errors import unknown_choice

        if name not in self.methods:
            raise unknown_choice("method", name, list(self.methods))
        return self.methods[name]

    def benchmark(self, name: str | None = None) -> Benchmark:
        """The benchmark called ``name`` (None: the main one); ArragError if there is none."""
        from arrag.config_errors import unknown_choice

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

    @property
    def row_labels(self) -> dict[str, str]:
        """Everything that draws images, by name: the methods, and at micro scale the ceilings."""
        labels = {name: method.label for name, method in self.methods.items()}
        return labels | (CEILING_LABELS if self.scale == "micro" else {})

    def samples_identity(self, method: str, benchmark: str | None = None) -> dict[str, Any]:
        """Exactly what shapes a method's samples, as JSON: no label, no batch size, no judge.

        Database and index take part only when the method retrieves; ``nprobe`` and ``nlist``
        only when there are lists.
        """
        augment = self.method(method).augment
        drawn = self.benchmark(benchmark)
        identity: dict[str, Any] = {
            "seed": self.seed,
            "backbone": self.backbone.model_dump(mode="json"),
            "benchmark": {
                "prompts": str(drawn.prompts),
                "images_per_prompt": drawn.images_per_prompt,
            },
            "augment": None,
        }
        if augment is not None:
            identity["augment"] = augment.model_dump(mode="json")
            identity |= self._retrieved_from(self.method(method).needs)
            if self.method(method).is_trained_here:
                identity["training"] = self.training_identity(augment.kind)
        return identity

    def _retrieved_from(self, needs: tuple[str, ...]) -> dict[str, Any]:
        return {part: getattr(self, f"{part}_identity")() for part in needs}

    def pairs_identity(self) -> dict[str, Any]:
        """What shapes the images with captions; which scenes are held out hangs on the database."""
        assert self.training is not None
        identity = self.training.model_dump(mode="json", include={"source", "pairs", "held_out"})
        return identity | {"seed": self.seed, "first_held_out": self.first_held_out}

    @property
    def first_held_out(self) -> int | None:
        """Number of the first held-out scene of the micro world: neither trained on nor stored."""
        assert self.training is not None
        if self.training.source != "micro":
            return None
        stored = self.database.images if self.database and self.database.source == "micro" else 0
        return max(self.training.pairs, stored or 0)

    def training_identity(self, kind: str) -> dict[str, Any]:
        """What shapes an adapter: nothing of how a method samples with it (no λ, no τ)."""
        assert self.training is not None
        augment = {"faid": Faid, "racm3": Racm3, "finetune": Finetune}[kind]
        identity = {
            "kind": kind,
            "checkpoint": str(self.backbone.checkpoint),
            "pairs": self.pairs_identity(),
            "training": self.training.model_dump(
                mode="json", exclude=set() if kind == "faid" else {"faid"}
            ),
        }
        return identity | self._retrieved_from(augment.needs)

    def database_identity(self) -> dict[str, Any]:
        """What shapes the database's contents: not how it is cut into shards."""
        assert self.database is not None
        return without_unused(self.database, {"shard_size"})

    def index_identity(self) -> dict[str, Any]:
        """What shapes a search's answer."""
        assert self.index is not None
        scans = self.index.mode in ("exact", "hamming")
        unused = {"nprobe", "nlist"} if scans else {"nlist"} if self.index.mode != "ivf" else set()
        return without_unused(self.index, unused)

    def config_hash(self, method: str, benchmark: str | None = None) -> str:
        """Hex SHA-256 of ``samples_identity``; samples and scores carry it."""
        return sha256_json(self.samples_identity(method, benchmark))


def load_config(path: str | Path) -> Config:
    """Read and check a configuration file.

    Raises ArragError naming the file, the field, what was found and what to do; all mistakes of
    a file come in one message.
    """
    from pydantic import ValidationError

    from arrag.config_errors import explain, read_yaml

    document = read_yaml(path)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise explain(error, Path(path), Config) from None


def config_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors and for ``workflow/schemas``."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""All settings of one method, and what of them shapes each of its results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arrag.config.base import Model, deep_merge
from arrag.config.database import Database, Index, PlacedIndex, without_unused
from arrag.config.errors import mistakes_in
from arrag.config.generators import Generator
from arrag.config.methods import Method
from arrag.config.schema import ConfigFile
from arrag.config.training import Training
from arrag.utils.errors import ConfigError


@dataclass(frozen=True)
class ResolvedMethod:
    """A method with its generator, and the file's blocks with the method's changes in them.

    A block is None where neither the file nor the method has it; so is the index of a generator
    that draws no codes.
    """

    seed: int
    method: Method
    generator_name: str
    generator: Generator
    database: Database | None
    index: PlacedIndex | None
    training: Training | None

    def retrieved_from(self) -> dict[str, Any]:
        """What shapes whatever the method retrieves from, as JSON; {} if it retrieves nothing."""
        identities = {"database": self.database_identity, "index": self.index_identity}
        return {block: identities[block]() for block in self.required_blocks}

    @property
    def required_blocks(self) -> tuple[str, ...]:
        """The blocks that it retrieves from: of "database", "index"."""
        return self.generator.required_blocks or self.method.required_blocks

    @property
    def retrieval_settings(self) -> Model | None:
        """The settings that say what is retrieved: the generator's own, else of the ``augment``."""
        return self.generator if self.generator.required_blocks else self.method.augment

    @property
    def tokenizer(self) -> Path:
        """The checkpoint whose tokenizer encodes what the method retrieves or is trained on."""
        return getattr(self.generator, "tokenizer", self.generator.checkpoint)

    def database_identity(self) -> dict[str, Any]:
        """What shapes the database's contents: not how it is cut into shards."""
        assert self.database is not None
        return without_unused(self.database, {"shard_size", "images_per_job"})

    def index_identity(self) -> dict[str, Any]:
        """What shapes a search's answer; ``nprobe`` and ``nlist`` only when there are lists."""
        assert self.index is not None
        scans = self.index.mode == "exact"
        unused = {"nprobe", "nlist"} if scans else {"nlist"} if self.index.mode != "ivf" else set()
        return without_unused(self.index, unused)

    def pairs_identity(self) -> dict[str, Any]:
        """What shapes the images with captions; the database decides which scenes are held out."""
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

    def training_identity(self) -> dict[str, Any]:
        """What shapes the method's adapter: nothing of how it samples with it (no λ, no τ)."""
        assert self.training is not None and self.method.augment is not None
        kind = self.method.augment.kind
        identity = {
            "kind": kind,
            "checkpoint": str(self.generator.checkpoint),
            "pairs": self.pairs_identity(),
            "training": self.training.model_dump(
                mode="json", exclude=set() if kind == "faid" else {"faid"}
            ),
        }
        return identity | self.retrieved_from()


def resolve(file: ConfigFile, method: Method, at: str) -> ResolvedMethod:
    """The settings of a method.

    Args:
        file: The configuration that it is, or is derived, of.
        method: The method.
        at: Where the file has it, for errors.

    Raises:
        ConfigError: What the method changes in a block makes the block invalid.
    """
    generator_name, generator = file.generator_named(method.generator)
    index = _changed(Index, file.index, method.index, f"{at}.index")
    if index is not None:
        index = generator.context and PlacedIndex.of(index, generator.context)
    return ResolvedMethod(
        seed=file.seed,
        method=method,
        generator_name=generator_name,
        generator=generator,
        database=_changed(Database, file.database, method.database, f"{at}.database"),
        index=index,
        training=_changed(Training, file.training, method.training, f"{at}.training"),
    )


def _changed(
    model: type[Model], block: Model | None, changes: dict[str, Any] | None, at: str
) -> Any:
    """A block of the file with a method's changes in it, validated as a whole."""
    if changes is None:
        return block
    merged = deep_merge(block.model_dump(exclude_unset=True) if block else {}, changes)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError.of(mistakes_in(error, merged, model, at)) from None

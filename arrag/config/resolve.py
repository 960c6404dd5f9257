"""All settings of one method, and what of them shapes each of its results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from arrag.config.backbones import Generator
from arrag.config.base import Model
from arrag.config.database import Database, Index, PlacedIndex, without_unused
from arrag.config.inherit import over
from arrag.config.methods import Method
from arrag.config.training import Training

if TYPE_CHECKING:
    from arrag.config.root import Config


@dataclass(frozen=True)
class Resolved:
    """A method with its generator, and the file's blocks with what the method changes in them.

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
        return {part: identities[part]() for part in self.needs}

    @property
    def needs(self) -> tuple[str, ...]:
        """The blocks that it retrieves from: of "database", "index"."""
        return self.generator.needs or self.method.needs

    @property
    def retriever(self) -> Model | None:
        """The settings that say what is retrieved: the generator's own, else of the ``augment``."""
        return self.generator if self.generator.needs else self.method.augment

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


def resolve(config: Config, name: str) -> Resolved:
    """The settings of the method called ``name``.

    Raises ValueError naming methods.NAME.BLOCK.FIELD for a change that makes a block a mistake;
    a configuration that was loaded has none.
    """
    method = config.method(name)
    generator_name, generator = config.generator_of(name)
    at = f"methods.{name}" if name in config.methods else config.derived[name].at
    index = _changed(Index, config.index, method.index, f"{at}.index")
    if index is not None:
        index = generator.context and PlacedIndex.of(index, generator.context)
    return Resolved(
        seed=config.seed,
        method=method,
        generator_name=generator_name,
        generator=generator,
        database=_changed(Database, config.database, method.database, f"{at}.database"),
        index=index,
        training=_changed(Training, config.training, method.training, f"{at}.training"),
    )


def _changed(
    model: type[Model], block: Model | None, changes: dict[str, Any] | None, at: str
) -> Any:
    """A block of the file with a method's changes in it, checked as a whole."""
    from arrag.config.errors import sentences

    if changes is None:
        return block
    given = block.model_dump(exclude_unset=True) if block else {}
    try:
        return model.model_validate(over(given, changes))
    except ValidationError as error:
        raise ValueError("; ".join(sentences(error, model, at))) from None

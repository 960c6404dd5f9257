"""Where every stage's result lies: names that change when, and only when, the contents would.

A folder's name ends in a digest of what shapes its contents: the settings, the weights' bytes,
the prompts. Two configurations therefore never overwrite each other, a half-made folder is never
continued with other settings, and going back to earlier settings finds the earlier results.
Nothing here imports torch.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from arrag.config import CEILING_LABELS, Config
from arrag.errors import ArragError
from arrag.files import sha256_file, sha256_json, tree_digest

RESULTS = Path("results")
MICRO_ASSETS = Path("data/micro")
MICRO = "micro"  # a database source
KEY_LENGTH = 10  # hexadecimal digits: enough for a folder of a few thousand


class Layout:
    """Paths of the results of one configuration, relative to the repository root."""

    def __init__(self, config: Config, results: Path = RESULTS) -> None:
        self.config = config
        self.results = results

    @cached_property
    def backbone_digest(self) -> str:
        """Digest of the generator's checkpoint; ArragError if the folder is not there."""
        return checkpoint_digest(self.config.backbone.checkpoint, "backbone.checkpoint")

    @cached_property
    def judge_digests(self) -> dict[str, str]:
        """Digests of the judge's models by field name."""
        judge = self.config.judge
        return {
            "detector": checkpoint_digest(judge.detector, "judge.detector"),
            "color": checkpoint_digest(judge.color, "judge.color"),
        }

    @cached_property
    def prompts_digest(self) -> str:
        """SHA-256 of the prompt file; ArragError if it is not there."""
        path = self.config.benchmark.prompts
        if not path.is_file():
            raise ArragError(
                f"benchmark.prompts: no file {path}; for the built-in world run "
                "`arrag micro prompts`, else correct the path"
            )
        if not path.read_bytes().strip():
            raise ArragError(
                f"benchmark.prompts: {path} is empty; for the built-in world run "
                "`arrag micro prompts`, else name another file"
            )
        return sha256_file(path)

    @property
    def codes(self) -> Path:
        """The token store of the database: ``codes/{tokenizer}/{corpus}``."""
        database = self.config.database
        if database is None:
            raise ArragError("database: missing, but something retrieves; add that block")
        tokenizer = f"{self.config.backbone.checkpoint.name}-{self.backbone_digest[:KEY_LENGTH]}"
        corpus = _key(Path(database.source).name, self.config.database_identity())
        return self.results / "codes" / tokenizer / corpus

    @property
    def index(self) -> Path:
        """The index over ``codes``."""
        if self.config.index is None:
            raise ArragError("index: missing, but something retrieves; add that block")
        name = f"{self.config.index.mode}-{self.config.index.context}"
        return self.results / "index" / _key(name, [str(self.codes), self.config.index_identity()])

    def run(self, method: str) -> str:
        """Folder name of a method's (or ceiling's) samples: its name and a digest."""
        if method in CEILING_LABELS:
            benchmark = self.config.benchmark.model_dump(mode="json", exclude={"name"})
            settings = [self.config.seed, benchmark]
            if method == "reconstructions":
                settings.append(self.backbone_digest)
        else:
            settings = [self.config.config_hash(method), self.backbone_digest]
            settings += self._adapter_digests(method)
        return _key(method, [*settings, self.prompts_digest])

    def _adapter_digests(self, method: str) -> list[str]:
        """Digests of the folders that a method's ``augment`` names."""
        augment = self.config.method(method).augment
        return [
            checkpoint_digest(folder, f"methods.{method}.augment.{field}")
            for field in ("adapter", "clip")
            if (folder := getattr(augment, field, None)) is not None
        ]

    @property
    def pairs(self) -> Path:
        """The images with captions that adapters are trained on."""
        if self.config.training is None:
            raise ArragError("training: missing, but an adapter is to be trained; add that block")
        identity = [self.backbone_digest, self.config.pairs_identity()]
        return self.results / "pairs" / _key(Path(self.config.training.source).name, identity)

    @property
    def neighbours(self) -> Path:
        """What every position of ``pairs`` retrieves from ``index``."""
        k = self.config.training.faid.k
        return self.results / "neighbours" / _key(f"k{k}", [str(self.pairs), str(self.index)])

    def image_index(self, clip: Path) -> Path:
        """The index of whole images over ``codes``, made with the model ``clip``."""
        identity = [str(self.codes), checkpoint_digest(clip, "clip")]
        return self.results / "image-index" / _key(clip.name, identity)

    def references(self, clip: Path) -> Path:
        """The image that each caption of ``pairs`` retrieves."""
        identity = [str(self.pairs), str(self.image_index(clip))]
        return self.results / "references" / _key(clip.name, identity)

    def trained_adapter(self, kind: str, clip: Path | None = None) -> Path:
        """The adapter that ``training`` makes of a kind; ``clip``: of kind racm3, its model."""
        identity = [self.config.training_identity(kind), str(self.pairs)]
        if kind == "racm3":
            identity.append(str(self.references(clip)))
        return self.results / "adapters" / _key(kind, identity)

    def adapter(self, method: str) -> Path:
        """The adapter of a method that has one: the folder it names, or the one trained for it."""
        augment = self.config.method(method).augment
        if augment.adapter is not None:
            return augment.adapter
        return self.trained_adapter(augment.kind, getattr(augment, "clip", None))

    def samples(self, method: str) -> Path:
        """The folder of a method's images; ``run.json`` in it says that they are complete."""
        return self.results / "samples" / self.run(method)

    def score(self, method: str) -> Path:
        """The JSON with a method's verdicts, made by the configured judge."""
        name = _key(self.config.benchmark.name, self.judge_digests)
        return self.results / "scores" / name / f"{self.run(method)}.json"


def checkpoint_digest(folder: Path, field: str) -> str:
    """Digest of a checkpoint folder's files, model cards and plots left out."""
    if not folder.is_dir():
        raise ArragError(
            f"{field}: no folder {folder}; the micro checkpoints come with the repository (run "
            "from its root), others must be downloaded there, or correct the path"
        )
    return tree_digest(folder)


def _key(name: str, identity: object) -> str:
    return f"{name}-{sha256_json(identity)[:KEY_LENGTH]}"

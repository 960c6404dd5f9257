"""Where every stage's result lies: names that change when, and only when, the contents would.

A folder's name ends in a digest of what shapes its contents: the settings, the weights' bytes,
the prompts. Two configurations therefore never overwrite each other, a half-made folder is never
continued with other settings, and going back to earlier settings finds the earlier results.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from arrag.config import CEILING_LABELS, Config
from arrag.config_benchmarks import Benchmark
from arrag.config_model import Model
from arrag.errors import ArragError
from arrag.files import sha256_file, sha256_json, tree_digest

RESULTS = Path("results")
MICRO_ASSETS = Path("data/micro")
MICRO = "micro"  # a database source
MICRO_REFERENCE = "micro:reference"  # a reference: the scenes that the prompts describe
KEY_LENGTH = 10  # hexadecimal digits: enough for a folder of a few thousand


class Layout:
    """Paths of the results of one configuration, relative to the repository root."""

    def __init__(self, config: Config, results: Path = RESULTS) -> None:
        self.config = config
        self.results = results
        self._digests: dict[str, str] = {}

    @cached_property
    def backbone_digest(self) -> str:
        """Digest of the generator's checkpoint; ArragError if the folder is not there."""
        return checkpoint_digest(self.config.backbone.checkpoint, "backbone.checkpoint")

    @cached_property
    def judge_digests(self) -> dict[str, str]:
        """Digests of the models that see objects and colours, by field name."""
        judge = self.config.judge
        return {
            "detector": checkpoint_digest(judge.detector, "judge.detector"),
            "color": checkpoint_digest(judge.color, "judge.color"),
        }

    def prompts_digest(self, benchmark: str | None = None) -> str:
        """SHA-256 of a benchmark's prompt file; ArragError if it is not there."""
        name = self._name(benchmark)
        if name not in self._digests:
            self._digests[name] = _prompts_digest(self.config.benchmark(name), name)
        return self._digests[name]

    def _name(self, benchmark: str | None) -> str:
        return self.config.main_benchmark if benchmark is None else benchmark

    @property
    def codes(self) -> Path:
        """The token store of the database: ``codes/{tokenizer}/{corpus}``."""
        database = self.config.database
        if database is None:
            raise ArragError("database: missing, but something retrieves; add that block")
        tokenizer = f"{self.config.backbone.checkpoint.name}-{self.backbone_digest[:KEY_LENGTH]}"
        identity = self.config.database_identity()
        if database.exclude:
            identity["excluded_files"] = listing_digest(database.exclude)
        corpus = _key(Path(database.source).name, identity)
        return self.results / "codes" / tokenizer / corpus

    @property
    def index(self) -> Path:
        """The index over ``codes``."""
        if self.config.index is None:
            raise ArragError("index: missing, but something retrieves; add that block")
        kind = self.config.index.mode.partition(":")[0]  # a factory string is no name of a folder
        name = f"{kind}-{self.config.index.context}"
        return self.results / "index" / _key(name, [str(self.codes), self.config.index_identity()])

    def run(self, method: str, benchmark: str | None = None) -> str:
        """Folder name of a method's (or ceiling's) samples: its name and a digest."""
        if method in CEILING_LABELS:
            drawn = self.config.benchmark(benchmark)
            identity = {
                "prompts": str(drawn.prompts),
                "images_per_prompt": drawn.images_per_prompt,
            }
            settings = [self.config.seed, identity]
            if method == "reconstructions":
                settings.append(self.backbone_digest)
        else:
            settings = [self.config.config_hash(method, benchmark), self.backbone_digest]
            settings += self._adapter_digests(method)
        return _key(method, [*settings, self.prompts_digest(benchmark)])

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

    def samples(self, method: str, benchmark: str | None = None) -> Path:
        """The folder of a method's images; ``run.json`` in it says that they are complete.

        ``benchmark`` is a name of the configuration; None, here and below, its main one.
        """
        return self.results / "samples" / self._name(benchmark) / self.run(method, benchmark)

    def reference(self, benchmark: str) -> Path:
        """The folder of images that a distribution is compared with."""
        drawn = self.config.benchmark(benchmark)
        if drawn.reference != MICRO_REFERENCE:
            return Path(drawn.reference)
        return self.results / "reference" / _key(benchmark, self.prompts_digest(benchmark))

    def judges(self, benchmark: str | None = None) -> dict[str, str]:
        """What scores a benchmark: {metric: its name and a digest of all that shapes a score}."""
        name, drawn = self._name(benchmark), self.config.benchmark(benchmark)
        if drawn.kind == "geneval":
            return {"geneval": _key("geneval", self.judge_digests)}
        if drawn.kind == "dpg":
            return {"dpg": _key("dpg", [self._answerer(), drawn.rules])}
        reference = str(self.reference(name))
        return {
            metric: _key(
                metric,
                [settings.model_dump(mode="json"), _weights(settings, metric), reference],
            )
            for metric, settings in drawn.metrics.wanted.items()
        }

    def _answerer(self) -> object:
        """What identifies the judge that answers questions."""
        judge = self.config.judge
        if judge.vqa is None:
            return self.judge_digests
        folders = judge.question_models
        return [checkpoint_digest(path, "judge.vqa") for path in folders] or judge.vqa

    def scores(self, method: str, benchmark: str | None = None) -> dict[str, Path]:
        """The JSON files with a method's scores, {metric: path}."""
        folder, run = self.results / "scores" / self._name(benchmark), self.run(method, benchmark)
        return {
            metric: folder / judge / f"{run}.json"
            for metric, judge in self.judges(benchmark).items()
        }


def _prompts_digest(benchmark: Benchmark, name: str) -> str:
    path = benchmark.prompts
    field = f"benchmarks.{name}.{'questions' if benchmark.kind == 'dpg' else 'prompts'}"
    if not path.is_file():
        raise ArragError(
            f"{field}: no file {path}; for the built-in world run `arrag micro prompts`, else "
            "correct the path"
        )
    if not path.read_bytes().strip():
        raise ArragError(
            f"{field}: {path} is empty; for the built-in world run `arrag micro prompts`, else "
            "name another file"
        )
    return sha256_file(path)


def _weights(settings: Model, metric: str) -> str | None:
    """Digest of an extractor's weights when they lie in a folder or file of the user's."""
    path = Path(getattr(settings, "extractor", ""))
    if path.is_dir() and path != Path():
        return checkpoint_digest(path, f"metrics.{metric}.extractor")
    return sha256_file(path) if path.is_file() else None


def checkpoint_digest(folder: Path, field: str) -> str:
    """Digest of a checkpoint folder's files, model cards and plots left out."""
    if not folder.is_dir():
        raise ArragError(
            f"{field}: no folder {folder}; the micro checkpoints come with the repository (run "
            "from its root), others must be downloaded there, or correct the path"
        )
    return tree_digest(folder)


def listing_digest(sources: Sequence[str]) -> str:
    """Digest of the names and sizes of the files of ``database.exclude``.

    A test set is too large to be read at every start; the codes' manifest names its pixels.
    ArragError for a source that is not there.
    """
    from webdataset.shardlists import expand_urls

    found = []
    for source in sources:
        for path in map(Path, expand_urls(source)):
            if not path.exists():
                raise ArragError(f"database.exclude: no file or folder {path}; correct the path")
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            found.append([[str(f), f.stat().st_size] for f in files if f.is_file()])
    return sha256_json(found)


def _key(name: str, identity: object) -> str:
    return f"{name}-{sha256_json(identity)[:KEY_LENGTH]}"

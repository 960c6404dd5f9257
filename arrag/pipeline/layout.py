"""Paths of every stage's results: names that change when, and only when, the contents would.

A folder's name ends in a digest of what shapes its contents: the settings, the weights' bytes,
the prompts. Two configurations therefore never overwrite each other, a half-made folder is never
continued with other settings, and going back to earlier settings finds the earlier results.
Nothing here imports torch.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from arrag.config.assets import identity_of
from arrag.config.base import Model
from arrag.config.benchmarks import OwnMetric
from arrag.config.database import Database
from arrag.config.methods import CEILING_LABELS
from arrag.config.root import Config
from arrag.pipeline.file_digests import (
    checkpoint_digest,
    extractor_digest,
    listing_digest,
    prompts_digest,
)
from arrag.utils.errors import ConfigError
from arrag.utils.hashing import sha256_json

RESULTS = Path("results")
MICRO_ASSETS = Path("data/micro")
FEATURE_NETWORK = Path("data/weights/mobilenetv2")  # as arrag.metrics.mobilenet has it
MICRO = "micro"  # a database source
MICRO_REFERENCE = "micro:reference"  # a reference: the scenes that the prompts describe
KEY_LENGTH = 10  # hexadecimal digits: enough for a folder of a few thousand

# The file of a stage's folder that is written last.
SENTINEL_FILES = {
    "codes": "manifest.json",
    "index": "meta.json",
    "image_index": "meta.json",
    "pairs": "pairs.json",
    "neighbours": "manifest.json",
    "references": "manifest.json",
    "trained_adapter": "config.json",
}
# What sampling reads of them, and what training reads, by the kind of augmentation or generator.
INFERENCE_INPUTS = {
    "daid": ("codes", "index"),
    "faid": ("codes", "index"),
    "racm3": ("codes", "image_index"),
    "rdm": ("codes", "image_index"),
    "imagerag": ("codes", "image_index"),
}
TRAINING_INPUTS = {
    "finetune": ("pairs",),
    "faid": ("pairs", "index", "neighbours"),
    "racm3": ("pairs", "image_index", "references"),
}


class Layout:
    """Paths of the results of one configuration, relative to the repository root."""

    def __init__(self, config: Config, results: Path = RESULTS) -> None:
        self.config = config
        self.results = results
        self._digests: dict[tuple, str] = {}

    def _cached(self, key: tuple, digest: Any, *args: Any) -> str:
        """``digest(*args)``, which reads files, computed once."""
        if key not in self._digests:
            self._digests[key] = digest(*args)
        return self._digests[key]

    def generator_digest(self, method: str | None = None) -> str:
        """Digest of a method's generator (None: the first)."""
        name, settings = self.config.generator_of(method)
        return self._checkpoint_digest(settings.checkpoint, f"generators.{name}.checkpoint")

    def _checkpoint_digest(self, folder: Path, field: str) -> str:
        return self.made_digest(folder) or self._cached(
            ("checkpoint", folder), checkpoint_digest, folder, field
        )

    def made_digest(self, path: Path | str) -> str | None:
        """Digest of what a path is made from, if it is the hub's or ``assets``': none is read."""
        identity = identity_of(Path(path), self.config.assets)
        return identity and sha256_json(identity)

    @cached_property
    def judge_digests(self) -> dict[str, str]:
        """Digests of the models that see objects and colours, by field name."""
        judge = self.config.scorers
        return {
            "detector": self._checkpoint_digest(judge.detector, "scorers.detector"),
            "color": self._checkpoint_digest(judge.color, "scorers.color"),
        }

    def prompts_digest(self, benchmark: str | None = None) -> str:
        """SHA-256 of a benchmark's prompt file."""
        name = self._name(benchmark)
        drawn = self.config.benchmark(name)
        made = self.made_digest(drawn.prompts)
        return made or self._cached(("prompts", name), prompts_digest, drawn, name)

    def _name(self, benchmark: str | None) -> str:
        return self.config.main_benchmark if benchmark is None else benchmark

    def artifacts_for(self, method: str) -> dict[str, Path]:
        """The folders that stages make for a method's samples or its adapter, by their names here.

        The adapter and what it is trained on are among them even if the method names the folder of
        a trained one.
        """
        resolved = self.config.resolved(method)
        kind = getattr(resolved.retrieval_settings, "kind", None)
        parts = INFERENCE_INPUTS.get(kind, ())
        if resolved.training and resolved.generator.trainable and kind in TRAINING_INPUTS:
            parts += (*TRAINING_INPUTS[kind], "trained_adapter")
        return {part: getattr(self, part)(method) for part in parts}

    def codes(self, method: str) -> Path:
        """The token store of a method's database: ``codes/{tokenizer}/{corpus}``."""
        resolved = self.config.resolved(method)
        if resolved.database is None:
            raise ConfigError("missing, but a method retrieves", field="database")
        identity = resolved.database_identity()
        if resolved.database.exclude:
            identity["excluded_files"] = self.excluded_digest(resolved.database)
        corpus = _key(resolved.database.name, identity)
        return self.results / "codes" / self.tokenizer(method) / corpus

    def tokenizer(self, method: str) -> str:
        """Folder name of what is encoded for a method's generator."""
        resolved = self.config.resolved(method)
        field = "tokenizer" if hasattr(resolved.generator, "tokenizer") else "checkpoint"
        at = f"generators.{resolved.generator_name}.{field}"
        digest = self._checkpoint_digest(resolved.tokenizer, at)[:KEY_LENGTH]
        return f"{slugify(resolved.tokenizer.name)}-{digest}"

    def excluded_digest(self, database: Database) -> str:
        """Digest of the test images that a database is kept free of."""
        made = [self.made_digest(source) for source in database.exclude]
        listed = [s for s, digest in zip(database.exclude, made, strict=True) if digest is None]
        found = self._cached(("listing", *listed), listing_digest, listed)
        return sha256_json([found, made]) if any(made) else found

    def index(self, method: str) -> Path:
        """The index over ``codes``."""
        resolved = self.config.resolved(method)
        if resolved.index is None:
            raise ConfigError("missing, but a method retrieves", field="index")
        # A factory string is no name of a folder.
        name = f"{resolved.index.mode.partition(':')[0]}-{resolved.index.context}"
        identity = [str(self.codes(method)), resolved.index_identity()]
        return self.results / "index" / _key(name, identity)

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
                settings.append(self.generator_digest())
        else:
            settings = [self.config.config_hash(method, benchmark), self.generator_digest(method)]
            settings += self._adapter_digests(method) + self._named_digests(method)
        # A point of a grid, METHOD@SETTINGS, shares what its method makes with equal settings.
        return _key(method.partition("@")[0], [*settings, self.prompts_digest(benchmark)])

    def _adapter_digests(self, method: str) -> list[str]:
        """Digests of the folders that a method's ``augment`` names."""
        augment = self.config.method(method).augment
        return [
            self._checkpoint_digest(folder, f"methods.{method}.augment.{field}")
            for field in ("adapter", "clip")
            if (folder := getattr(augment, field, None)) is not None
        ]

    def _named_digests(self, method: str) -> list[str]:
        """Digests of what a method's generator names in addition to its checkpoint."""
        name, generator = self.config.generator_of(method)
        paths = getattr(generator, "named_paths", {})
        return [
            self._checkpoint_digest(path, f"generators.{name}.{field}")
            for field, path in paths.items()
        ]

    def pairs(self, method: str) -> Path:
        """The images with captions that a method's adapter is trained on."""
        resolved = self.config.resolved(method)
        if resolved.training is None:
            raise ConfigError("missing, but an adapter is to be trained", field="training")
        identity = [self.generator_digest(method), resolved.pairs_identity()]
        return self.results / "pairs" / _key(Path(resolved.training.source).name, identity)

    def neighbours(self, method: str) -> Path:
        """What every position of ``pairs`` retrieves from ``index``."""
        k = self.config.resolved(method).training.faid.k
        identity = [str(self.pairs(method)), str(self.index(method))]
        return self.results / "neighbours" / _key(f"k{k}", identity)

    def image_index(self, method: str) -> Path:
        """The index of whole images over ``codes``, made with the method's ``clip``."""
        clip = self.config.resolved(method).retrieval_settings.clip
        digest = self._checkpoint_digest(clip, f"the clip of method {method}")
        return self.results / "image-index" / _key(clip.name, [str(self.codes(method)), digest])

    def references(self, method: str) -> Path:
        """The image that each caption of ``pairs`` retrieves from ``image_index``."""
        identity = [str(self.pairs(method)), str(self.image_index(method))]
        clip = self.config.method(method).augment.clip
        return self.results / "references" / _key(clip.name, identity)

    def trained_adapter(self, method: str) -> Path:
        """The adapter that ``training`` makes for a method."""
        kind = self.config.method(method).augment.kind
        identity = [self.config.resolved(method).training_identity(), str(self.pairs(method))]
        if kind == "racm3":
            identity.append(str(self.references(method)))
        return self.results / "adapters" / _key(kind, identity)

    def adapter(self, method: str) -> Path:
        """The adapter of a method that has one: the folder it names, or the one trained for it."""
        named = self.config.method(method).augment.adapter
        return self.trained_adapter(method) if named is None else named

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
                [settings.model_dump(mode="json"), self._extractor(settings, metric), reference],
            )
            for metric, settings in drawn.metrics.wanted.items()
        }

    def statistics(self, benchmark: str, metric: str) -> Path | None:
        """Statistics of a reference that is the hub's, computed once; None for other references."""
        drawn = self.config.benchmark(benchmark)
        own = isinstance(drawn.metrics.wanted[metric], OwnMetric)
        if own or self.made_digest(drawn.reference) is None:
            return None
        judge = self.judges(benchmark)[metric]
        return self.results / "reference-statistics" / benchmark / f"{judge}.npz"

    def _extractor(self, settings: Model, metric: str) -> str | None:
        made = self.made_digest(getattr(settings, "extractor", ""))
        return made or extractor_digest(settings, metric)

    def _answerer(self) -> object:
        """What identifies the judge that answers questions."""
        judge = self.config.scorers
        if judge.vqa is None:
            return self.judge_digests
        folders = judge.question_models
        return [self._checkpoint_digest(path, "scorers.vqa") for path in folders] or judge.vqa

    def scores(self, method: str, benchmark: str | None = None) -> dict[str, Path]:
        """The JSON files with a method's scores, {metric: path}."""
        folder, run = self.results / "scores" / self._name(benchmark), self.run(method, benchmark)
        return {
            metric: folder / judge / f"{run}.json"
            for metric, judge in self.judges(benchmark).items()
        }

    def timing(self, methods: list[str]) -> Path:
        """The file of a timing run of some methods, named by what is timed."""
        settings = self.config.timing
        runs = [self.run(name, settings.benchmark) for name in methods]
        identity = [settings.model_dump(mode="json"), methods, runs]
        return self.results / "timing" / f"{_key('timing', identity)}.json"


def _key(name: str, identity: object) -> str:
    return f"{slugify(name)}-{sha256_json(identity)[:KEY_LENGTH]}"


def slugify(name: str) -> str:
    """A name without what shells and Snakemake read as their own, as a brace pattern has it."""
    return re.sub(r"[^\w.+@~-]+", "_", name)

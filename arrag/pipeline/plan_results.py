"""The results in the plan of a run: databases, indexes, adapters, samples and scores.

``arrag.pipeline.plan`` adds what people read. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from arrag.config.assets import asset_path, paths_in
from arrag.config.benchmarks import OwnMetric
from arrag.config.methods import CEILING_LABELS
from arrag.config.resolve import ResolvedMethod
from arrag.config.root import Config
from arrag.pipeline.artifact import Artifact, Inputs, options
from arrag.pipeline.corpora import corpus_parts, fingerprints_path
from arrag.pipeline.layout import (
    FEATURE_NETWORK,
    INFERENCE_INPUTS,
    MICRO,
    MICRO_ASSETS,
    MICRO_REFERENCE,
    SENTINEL_FILES,
    TRAINING_INPUTS,
    Layout,
)
from arrag.pipeline.reports import grid_methods
from arrag.utils.errors import ArragError

ASSETS = str(MICRO_ASSETS / "assets.npz")

# The names of the authors' two files, those of arrag.retrieval.faiss_index, which needs FAISS.
PUBLISHED = ("faiss_ivf_pq_opq.index", "next_codes.npy")
INDEX_KEY = ("published", "context", "key_hop", "border", "masked_distance")


class ResultPlan:
    """The artifacts below ``results``, by the path of the file that completes each."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layout = Layout(config)
        self.artifacts: dict[str, Artifact] = {}
        self.errors: dict[str, ArragError] = {}  # by the path or method that has no artifact

    def add_results(self) -> None:
        """Add what the methods of the configuration and of its grids make."""
        for method in [*self.config.methods, *self.config.grid_points]:
            self.attempt(method, self._add_method, method)
        for benchmark in self.config.benchmarks:
            self.attempt(benchmark, self._add_references, benchmark)
            for method in self._drawn_on(benchmark):
                self.attempt(f"{benchmark}/{method}", self._add_samples, method, benchmark)

    def attempt(self, name: str, add: Callable[..., None], *args: Any) -> None:
        """Add artifacts; keep the error if what they are made of is missing."""
        try:
            add(*args)
        except ArragError as error:
            self.errors[name] = error

    def add(self, path: str | Path, artifact: Artifact, method: str | None = None) -> None:
        """Add an artifact, unless another method makes the same."""
        self.artifacts.setdefault(str(path), replace(artifact, method=method))

    def _drawn_on(self, benchmark: str) -> list[str]:
        """The methods and ceilings whose samples of a benchmark a table or a grid shows."""
        names = list(self.config.row_labels(benchmark))
        for grid, settings in self.config.grids.items():
            if (settings.benchmark or self.config.main_benchmark) == benchmark:
                names += grid_methods(self.config, grid)
        return list(dict.fromkeys(names))

    # Inputs

    def made(self, path: Path | str) -> str:
        """The file or folder that a rule makes, or the user provides, to have ``path``."""
        return str(asset_path(path, self.config.assets) or path)

    def fetched(self, *settings: Any) -> Inputs:
        """What rules download or convert of the paths in some settings."""
        assets = self.config.assets
        paths = [path for block in settings for _, path in paths_in(block, assets)]
        found = [str(made) for path in paths if (made := asset_path(path, assets))]
        return {"fetched": list(dict.fromkeys(found))} if found else {}

    def sentinel(self, part: str, method: str) -> str:
        """The file that completes a part of the layout that a method needs."""
        return str(getattr(self.layout, part)(method) / SENTINEL_FILES[part])

    def drawing_inputs(self, method: str) -> tuple[Inputs, Inputs]:
        """What a method needs to draw: inputs, and what is given."""
        resolved = self.config.resolved(method)
        generator, retriever = resolved.generator, resolved.retrieval_settings
        given: Inputs = {"checkpoint": self.made(generator.checkpoint)}
        given |= self.fetched(generator, resolved.method)
        if named := getattr(generator, "named_paths", None):
            given["named"] = [self.made(path) for path in named.values()]
        parts = INFERENCE_INPUTS.get(getattr(retriever, "kind", None), ())
        inputs: Inputs = {part: self.sentinel(part, method) for part in parts}
        if resolved.method.is_trained_here:
            inputs["adapter"] = self.sentinel("trained_adapter", method)
        elif hasattr(retriever, "adapter") and not asset_path(
            retriever.adapter, self.config.assets
        ):
            given["adapter"] = f"{retriever.adapter}/config.json"
        return inputs, given

    # Databases, indexes, adapters

    def _add_method(self, method: str) -> None:
        """Add what a method retrieves from and what its adapter is trained on."""
        resolved = self.config.resolved(method)
        builders = {
            "codes": self._codes,
            "index": self._index,
            "image_index": self._image_index,
            "pairs": self._pairs,
            "neighbours": self._trained_on("neighbours", "pairs", "index"),
            "references": self._trained_on("references", "pairs", "image_index"),
            "trained_adapter": self._adapter,
        }
        for part, folder in self.layout.artifacts_for(method).items():
            path = str(folder / SENTINEL_FILES[part])
            if path not in self.artifacts:
                self.add(path, builders[part](method, resolved), method)

    def _codes(self, method: str, resolved: ResolvedMethod) -> Artifact:
        database = resolved.database
        if database.sources:
            stores = self._add_parts(method, resolved)
            return Artifact("codes", {"parts": stores}, {}, {"parts": _folders(stores)})
        return Artifact(
            "codes",
            _assets(database),
            {"tokenizer": self.made(resolved.tokenizer)} | self.fetched(database),
            {
                "source": _source(database),
                "tokenizer": str(resolved.tokenizer),
                "shard_size": database.shard_size,
                "options": options(
                    {
                        "images": database.images,
                        "exclude": list(database.exclude),
                        "module": getattr(resolved.generator, "module", None),
                    }
                ),
            },
        )

    def _add_parts(self, method: str, resolved: ResolvedMethod) -> list[str]:
        """Add lists, choices and stores of a database of several corpora; returns the stores."""
        database, tokenizer = resolved.database, resolved.tokenizer
        prints: Inputs = {}
        if database.exclude:
            prints = {"exclude": str(fingerprints_path(self.layout, database))}
            sources = [self.made(source) for source in database.exclude]
            about = {"sources": list(database.exclude)}
            self.add(prints["exclude"], Artifact("test-images", {}, {"sources": sources}, about))
        parts = corpus_parts(self.layout, method)
        choices = {str(part.choice): (part.sample, []) for part in parts}
        stores = []
        for part in parts:
            source = {"source": part.source, "seed": part.sample.seed}
            self.add(part.listed, Artifact("corpora", arguments=source))
            choices[str(part.choice)][1].append(str(part.listed))
            stores.append(str(part.store / SENTINEL_FILES["codes"]))
            arguments = {
                "source": part.source,
                "tokenizer": str(tokenizer),
                "shard_size": database.shard_size,
                "exclude": options(
                    prints | {"module": getattr(resolved.generator, "module", None)}
                ),
            }
            inputs: Inputs = {"choice": str(part.choice)} | prints
            given: Inputs = {"tokenizer": self.made(tokenizer)}
            self.add(stores[-1], Artifact("code-parts", inputs, given, arguments), method)
        for path, (sample, lists) in choices.items():
            arguments = {"seed": sample.seed, "images": options({"images": sample.images})}
            self.add(path, Artifact("corpora", {"lists": lists}, {}, arguments))
        return stores

    def _index(self, method: str, resolved: ResolvedMethod) -> Artifact:
        settings = resolved.index
        inputs: Inputs = {"codes": self.sentinel("codes", method)}
        if settings.published:
            inputs["published"] = [str(settings.published / name) for name in PUBLISHED]
        arguments = {
            "codes": str(self.layout.codes(method)),
            "mode": settings.mode,
            "key": options({name: getattr(settings, name) for name in INDEX_KEY}),
            "lists": options(settings.model_dump(include={"nprobe", "nlist"})),
        }
        return Artifact("index", inputs, {}, arguments)

    def _image_index(self, method: str, resolved: ResolvedMethod) -> Artifact:
        database = resolved.database
        return Artifact(
            "image-index",
            {"codes": self.sentinel("codes", method)} | _assets(database),
            self.fetched(resolved.generator, resolved.method),
            {
                "codes": str(self.layout.codes(method)),
                "source": _source(database),
                "images": options({"images": database.images}),
                "clip": str(resolved.retrieval_settings.clip),
            },
        )

    def _pairs(self, method: str, resolved: ResolvedMethod) -> Artifact:
        given: Inputs = {"tokenizer": self.made(resolved.generator.checkpoint)}
        given |= self.fetched(resolved.training)
        return Artifact("pairs", _assets(resolved.training), given)

    def _trained_on(self, part: str, *needs: str) -> Callable[[str, ResolvedMethod], Artifact]:
        def build(method: str, resolved: ResolvedMethod) -> Artifact:
            inputs: Inputs = {need: self.sentinel(need, method) for need in needs}
            count = self.config.resources.retrieve_parts if part == "neighbours" else 1
            folder = getattr(self.layout, part)(method)
            arguments = {"out": str(folder)}
            return Artifact(part, inputs, {}, arguments, parts=_marks(folder, count))

        return build

    def _adapter(self, method: str, resolved: ResolvedMethod) -> Artifact:
        needs = TRAINING_INPUTS[resolved.method.augment.kind]
        inputs: Inputs = {need: self.sentinel(need, method) for need in needs}
        given: Inputs = {"checkpoint": self.made(resolved.generator.checkpoint)}
        return Artifact("adapters", inputs, given)

    # Samples and scores

    def _add_samples(self, method: str, benchmark: str) -> None:
        folder, prompts = self.layout.samples(method, benchmark), self._prompts(benchmark)
        if method in CEILING_LABELS:
            checkpoint = self.made(self.config.generator_of()[1].checkpoint)
            given: Inputs = {"checkpoint": checkpoint, "prompts": prompts}
            sampled = Artifact("samples", {"assets": ASSETS}, given)
        else:
            inputs, given = self.drawing_inputs(method)
            parts = _marks(folder, self.config.resources.sample_parts.get(benchmark, 1))
            arguments = {
                "config_hash": self.config.config_hash(method, benchmark),
                "join": options({"join": bool(parts)}),
                "out": str(folder),
            }
            given["prompts"] = prompts
            sampled = Artifact("samples", inputs, given, arguments, parts=parts)
        self.add(folder / "run.json", sampled, method)
        for metric, path in self.layout.scores(method, benchmark).items():
            self.add(path, self._score(metric, str(folder / "run.json"), benchmark), method)

    def _prompts(self, benchmark: str) -> str:
        return self.made(self.config.benchmarks[benchmark].prompts)

    def _score(self, metric: str, run: str, benchmark: str) -> Artifact:
        judge, drawn = self.config.scorers, self.config.benchmarks[benchmark]
        if metric == "geneval":
            judges = {"detector": self.made(judge.detector), "color": self.made(judge.color)}
            return Artifact("scores", {"run": run}, {"prompts": self._prompts(benchmark)} | judges)
        if metric == "dpg":
            models = [self.made(path) for path in judge.question_models]
            return Artifact(
                "scores",
                {"run": run},
                {"questions": self._prompts(benchmark), "models": models},
                {
                    "judge": options(judge.question_options),
                    "rules": options(drawn.rules),
                    "images_per_prompt": drawn.images_per_prompt,
                },
            )
        settings = drawn.metrics.wanted[metric]
        inputs: Inputs = {"run": run}
        given = self.fetched(settings)
        reference = self.layout.reference(benchmark)
        if drawn.reference == MICRO_REFERENCE:
            inputs["reference"] = str(reference / "meta_data.json")
        if statistics := self.layout.statistics(benchmark, metric):
            inputs["statistics"] = str(statistics)
        self._add_network(settings, inputs, given)
        own = isinstance(settings, OwnMetric)
        if own:  # there are no statistics of the reference
            given |= self.fetched({"": drawn.reference})
        arguments = {
            "metric": f"distance {metric}" if own else metric,
            "reference": str(statistics or reference),
            "settings": options(settings.options if own else settings.model_dump()),
        }
        return Artifact("scores", inputs, given, arguments)

    def _add_network(self, settings: Any, inputs: Inputs, given: Inputs) -> None:
        """Add the feature network of a metric to what its command reads."""
        extractor = getattr(settings, "extractor", "")
        local = extractor and not asset_path(extractor, self.config.assets)
        if extractor.startswith("mobilenetv2:"):
            inputs["network"] = str(FEATURE_NETWORK / "manifest.json")
        elif local and Path(extractor).exists():
            given["network"] = extractor

    def _add_references(self, benchmark: str) -> None:
        """Add the images that a distribution is compared with, or their statistics."""
        drawn = self.config.benchmarks[benchmark]
        if drawn.kind != "distribution":
            return
        reference = self.layout.reference(benchmark)
        if drawn.reference == MICRO_REFERENCE:
            given: Inputs = {"prompts": self._prompts(benchmark)}
            self.add(reference / "meta_data.json", Artifact("reference", {"assets": ASSETS}, given))
        for metric, settings in drawn.metrics.wanted.items():
            if path := self.layout.statistics(benchmark, metric):
                inputs: Inputs = {}
                given = self.fetched(settings, {"": drawn.reference})
                self._add_network(settings, inputs, given)
                shown = options(settings.model_dump(exclude={"allow_rank_deficient"}))
                arguments = {"reference": str(reference), "settings": shown}
                self.add(path, Artifact("reference-statistics", inputs, given, arguments))


def _marks(folder: Path, count: int) -> list[str]:
    """The files that say that a part of a folder's work is done; none if one job does it all."""
    return [f"{folder}.parts/{i}-of-{count}" for i in range(1, count + 1)] if count > 1 else []


def _folders(files: list[str]) -> list[str]:
    return [str(Path(file).parent) for file in files]


def _assets(settings: Any) -> Inputs:
    """What must be there before the micro world can be drawn."""
    return {"assets": ASSETS} if settings.source == MICRO else {}


def _source(database: Any) -> str | list[str]:
    """The source of a database as the command line has it."""
    if database.sources:
        return [sample.source for sample in database.sources]
    return "micro:database" if database.source == MICRO else database.source

"""The plan of a run: every file that the workflow can make for a configuration.

``Plan`` maps the path of each artifact to what its rule needs: the inputs, and the arguments of its
command. A rule looks its output up by path; nothing is searched for when a rule is matched, and
nothing depends on what earlier runs left behind. Nothing here imports torch.

Start reading at ``Plan``; ``arrag.pipeline.plan_results`` has databases to scores, and this module
the tables, figures, ablations, the web page and the crate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from arrag.pipeline.artifact import Artifact
from arrag.pipeline.layout import INFERENCE_INPUTS, MICRO_REFERENCE, RESULTS, SENTINEL_FILES
from arrag.pipeline.plan_results import ResultPlan
from arrag.pipeline.reports import (
    FIGURES,
    TABLES,
    figure4_methods,
    figure5_methods,
    figure7_grids,
    find_method,
    get_grid,
    grid_methods,
    lacking_for,
    tables_of,
    timed_methods,
)
from arrag.utils.errors import ConfigError, UnknownNameError
from arrag.utils.registry import nearest

DRAWN = RESULTS / "figures"
ADAPTERS = "train_adapters"
"""The target that trains every adapter; no file."""


class Plan(ResultPlan, Mapping[str, Artifact]):
    """The artifacts of a configuration by path, planned when the first one is looked up.

    A method whose weights are missing has no artifacts, since their names hold the weights' digest.
    ``plan[path]`` then raises the error that says what is missing.
    """

    def __getitem__(self, path: str) -> Artifact:
        if path in self._planned:
            return self._planned[path]
        if path in self.errors:
            raise self.errors[path]
        missing = [self.errors[name] for name in self.config.methods if name in self.errors]
        raise UnknownNameError(
            f"no method of the configuration makes {path}",
            hint=str(missing[0]) if missing else nearest(path, self._planned),
        )

    def __contains__(self, path: object) -> bool:
        return path in self._planned

    def __iter__(self) -> Iterator[str]:
        return iter(self._planned)

    def __len__(self) -> int:
        return len(self._planned)

    def needed_for(self, targets: Iterable[str]) -> dict[str, Artifact]:
        """The artifacts that some targets are made from, themselves included; parts left out."""
        found: dict[str, Artifact] = {}
        waiting = deque(targets)
        while waiting:
            path = waiting.popleft()
            if path in self and path not in found:
                found[path] = self[path]
                waiting += self[path].paths(given=False)
        return found

    @cached_property
    def _planned(self) -> dict[str, Artifact]:
        self.add_results()
        for path, build, *args in self._reports():
            self.attempt(path, lambda p=path, b=build, a=args: self.add(p, b(*a)))
        return self.artifacts

    def _reports(self) -> Iterator[tuple]:
        """(path, what builds its artifact, arguments) of every report."""
        for table in TABLES:
            yield f"reports/{table}.md", self._table, table
        for name in self.config.grids:
            yield f"reports/ablation_{name}.md", self._ablation, name
        figures = (self._figure4, self._figure5, self._figure6, self._figure7)
        for name, build in zip(FIGURES, figures, strict=True):
            yield str(DRAWN / f"{name}.png"), self._figure, name, build
        yield "reports/figures", self._figures
        yield "reports/table4.md", self._table4
        yield "reports/samples.png", self._gallery
        yield "reports/index.html", self._page
        yield str(RESULTS / "crate"), self._crate
        yield ADAPTERS, self._adapters

    def _scores(self, methods: Iterable[str], benchmark: str | None) -> list[str]:
        return [
            str(path)
            for method in methods
            for path in self.layout.scores(method, benchmark).values()
        ]

    def _table(self, table: str) -> Artifact:
        config, kind = self.config, TABLES[table]
        benchmark = config.benchmark_of_kind(kind)
        if benchmark is None:
            raise ConfigError(
                f"{table} needs one of kind {kind}",
                field="benchmarks",
                hint="add one as in config/micro.yaml",
            )
        rows = [
            [name, m.label, m.baseline, m.paper_key]
            for name, m in config.methods_in(benchmark).items()
        ]
        about = {"rows": rows, "not_run": sorted(config.skipped.items()), "scale": config.scale}
        scores = self._scores(config.row_labels(benchmark), benchmark)
        return Artifact("table", {"scores": scores}, {}, about)

    def _table4(self) -> Artifact:
        """Table 4, and the timing run that it shows."""
        config, methods = self.config, timed_methods(self.config)
        timing = str(self.layout.timing(methods))
        inputs, given = self._drawing_inputs(methods)
        given.append(self.made(config.benchmark(config.timing.benchmark).prompts))
        self.add(timing, Artifact("timing", {"parts": inputs}, {"given": given}))
        about = {
            "rows": [[n, config.method(n).label, config.method(n).paper_key] for n in methods],
            "not_run": sorted(config.skipped.items()),
        }
        return Artifact("table", {"timing": timing}, {}, about)

    def _drawing_inputs(self, methods: list[str]) -> tuple[list[str], list[str]]:
        """All that some methods need to draw: inputs, and what is given."""
        needed = [Artifact("", *self.drawing_inputs(method)) for method in methods]
        inputs = [path for artifact in needed for path in artifact.paths(given=False)]
        given = [path for artifact in needed for path in artifact.paths(given=True)]
        return list(dict.fromkeys(inputs)), list(dict.fromkeys(given))

    def _ablation(self, name: str) -> Artifact:
        grid = get_grid(self.config, name)
        scores = self._scores(grid_methods(self.config, name), grid.benchmark)
        about = {"grid": grid.model_dump_json(), "scale": self.config.scale}
        return Artifact("ablation", {"scores": scores}, {}, about)

    def _runs(self, methods: Iterable[str]) -> list[str]:
        """What says that the main benchmark's samples of some methods are complete."""
        return [str(self.layout.samples(method) / "run.json") for method in methods]

    def _labels(self) -> list[list[str]]:
        return [[name, method.label] for name, method in self.config.methods_in().items()]

    def _shown(self) -> list[str]:
        """The rows of the gallery; reconstructions hardly differ from the real images."""
        return [name for name in self.config.row_labels() if name != "reconstructions"]

    def _gallery(self) -> Artifact:
        runs = self._runs(self._shown())
        return Artifact("gallery", {"runs": runs}, {}, {"labels": self._labels()})

    def _tables(self) -> list[str]:
        return [f"reports/{table}.md" for table in tables_of(self.config)]

    def _page(self) -> Artifact:
        """The page, and the databases of the methods whose retrieved patches it shows."""
        databases = {
            self.sentinel(part, name): None
            for name, method in self.config.methods_in().items()
            for part in INFERENCE_INPUTS.get(getattr(method.augment, "kind", None), ())
            if "index" in INFERENCE_INPUTS[method.augment.kind]
        }
        inputs = {"tables": self._tables(), "runs": self._runs(self._shown())}
        return Artifact(
            "page", inputs | {"databases": list(databases)}, {}, {"labels": self._labels()}
        )

    def _crate(self) -> Artifact:
        return Artifact("crate", {"tables": self._tables()})

    def _adapters(self) -> Artifact:
        """Every adapter that can be trained for a method of the configuration."""
        made = [self.layout.artifacts_for(method) for method in self.config.methods]
        folders = {parts["trained_adapter"] for parts in made if "trained_adapter" in parts}
        files = sorted(str(folder / SENTINEL_FILES["trained_adapter"]) for folder in folders)
        return Artifact("target", {"adapters": files})

    # Figures

    def _figure(self, name: str, build: Callable[[], Artifact]) -> Artifact:
        if lacks := lacking_for(self.config, name):
            raise ConfigError(lacks, field=name)
        return build()

    def _figures(self) -> Artifact:
        drawn = [
            str(DRAWN / f"{name}.png") for name in FIGURES if not lacking_for(self.config, name)
        ]
        return Artifact("figure", {"figures": drawn}, {}, {"scale": self.config.scale})

    def _figure4(self) -> Artifact:
        config, methods = self.config, figure4_methods(self.config)
        about = {
            "shown": [config.figures.prompts, config.figures.images],
            "labels": [config.method(name).label for name in methods],
        }
        return Artifact("figure", {"runs": self._runs(methods)}, {}, about)

    def _figure5(self) -> Artifact:
        config, methods = self.config, figure5_methods(self.config)
        inputs, given = self._drawing_inputs(methods)
        about = {
            "shown": config.figures.copying_prompts,
            "runs": [self.layout.run(name) for name in methods],
            "labels": [config.method(name).label for name in methods],
        }
        prompts = self.made(config.benchmark().prompts)
        return Artifact("figure", {"parts": inputs}, {"given": [*given, prompts]}, about)

    def _figure6(self) -> Artifact:
        """The index of DAiD, and the images that it is asked about."""
        config, method = self.config, find_method(self.config, "daid")
        benchmark = config.benchmark_of_kind("distribution")
        inputs = {
            "codes": self.sentinel("codes", method),
            "index": self.sentinel("index", method),
        }
        if config.benchmarks[benchmark].reference == MICRO_REFERENCE:
            inputs["reference"] = str(Path(self.layout.reference(benchmark), "meta_data.json"))
        about = {"shown": [config.figures.held_out, config.figures.k]}
        return Artifact("figure", inputs, {}, about)

    def _figure7(self) -> Artifact:
        config, grids = self.config, figure7_grids(self.config)
        labels = [config.method(config.grids[name].method).label for name in grids]
        reports = [f"reports/ablation_{name}.csv" for name in grids]
        return Artifact("figure", {"reports": reports}, {}, {"labels": labels})

"""How long each stage takes and how much disk it fills, before anything runs: orders of magnitude.

Every line says which rates it rests on. A stage whose result is there already is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from arrag.config.root import Config
from arrag.pipeline.doctor_costs import CODE_BYTES, Cost, Costs, Keys
from arrag.pipeline.doctor_machine import Machine
from arrag.pipeline.doctor_rates import Rates, known
from arrag.pipeline.doctor_sizes import codes_of, images_of, parameters_of, pixels_of, prompts_in
from arrag.pipeline.layout import LAST_FILES, Layout
from arrag.utils.errors import ArragError

BATCH = 8  # images whose patches are retrieved together: arrag/training/neighbours.py
SMALL = 300e6  # bytes of a checkpoint whose tokenizer is loaded to be measured


@dataclass
class Stage:
    """seconds: on this machine; bytes: on disk; basis: the rates that the seconds rest on."""

    name: str
    amount: str
    seconds: float
    bytes: float = 0.0
    basis: list[str] = field(default_factory=list)
    seconds_on_gpu: float | None = None  # if there is none here


class Estimator:
    """Stages of a configuration that are still to be run.

    coding: seconds to encode and to decode an image, by the folder of a checkpoint that was
    measured; it counts where there is no GPU.
    """

    def __init__(
        self,
        config: Config,
        machine: Machine,
        rates: Rates,
        coding: dict[str, tuple[float, float]] | None = None,
    ) -> None:
        self.config, self.layout = config, Layout(config)
        cores = min(machine.cores, config.resources.threads)
        self.costs = Costs(rates, machine.gpu is not None, cores)
        self.coding = {} if self.costs.gpu else coding or {}

    def stages(self) -> list[Stage]:
        """All of them, in the order of a run."""
        found = [*self._corpora(), *self._databases(), *self._training(), *self._benchmarks()]
        return [stage for stage in found if stage.seconds or stage.bytes]

    # What is still to be made

    def _done(self, part: str, method: str) -> bool:
        try:
            return (getattr(self.layout, part)(method) / LAST_FILES[part]).is_file()
        except ArragError:  # something it is made of is not there, so it is not either
            return False

    def _retrieving(self, part: str) -> dict[str, str]:
        """{folder: a method} of the folders of a part that are still to be made."""
        found: dict[str, str] = {}
        for method in self.config.methods:
            try:
                made = self.layout.made_for(method)
            except ArragError:  # its weights are not there: its results have no names yet
                continue
            if part in made and not self._done(part, method):
                found.setdefault(str(made[part]), method)
        return found

    def _sampled(self, method: str, benchmark: str) -> bool:
        try:
            return (self.layout.samples(method, benchmark) / "run.json").is_file()
        except ArragError:
            return False

    # Databases

    def _corpora(self) -> list[Stage]:
        wanted = {}
        for method in self._retrieving("codes").values():
            database = self.config.resolved(method).database
            for sample in database.sources or ():
                wanted[sample.source, sample.seed] = sample
        return [
            _stage(
                f"list {sample.name}",
                f"{sample.images or 0:,} images",
                self.costs.listing(sample.images or 0),
            )
            for sample in wanted.values()
        ]

    def _databases(self) -> list[Stage]:
        stages, seen = [], set()
        for folder, method in self._retrieving("codes").items():
            database = self.config.resolved(method).database
            tokenizer = self.layout.tokenizer(method)
            for sample in database.samples.values():  # databases share what they have in common
                if (tokenizer, str(sample)) in seen:
                    continue
                seen.add((tokenizer, str(sample)))
                name = f"encode {sample.name} for {tokenizer.rpartition('-')[0]}"
                cost = self.encoding(method, sample.images or 0)
                stages.append(_stage(name, f"{sample.images or 0:,} images", cost))
            if database.sources:
                images = images_of(self.config, method)
                cost = self.costs.joining(images, codes_of(self.config, method))
                stages.append(
                    _stage(f"join {folder.rpartition('/')[2]}", f"{images:,} images", cost)
                )
        for folder, method in self._retrieving("index").items():
            if self.config.resolved(method).index.mode != "ivf":
                continue  # nothing but the store is read
            positions, entries = self._entries(method)
            parts = self.costs.lists(entries, positions, self._keys(method))
            name = folder.rpartition("/")[2]
            stages += [_stage(f"{n} of {name}", f"{entries:,} patches", c) for n, c in parts]
        return stages

    def encoding(self, method: str, images: int) -> Cost:
        """Decoding, the comparison with test images and the tokenizer, one after the other.

        Beside a GPU the processor's part runs at the same time, and the longer of the two counts.
        """
        pixels, codes = pixels_of(self.config, method), codes_of(self.config, method)
        coded = self.costs.encoding(images, pixels, codes)
        checkpoint = str(self.config.generator_of(method)[1].checkpoint)
        if measured := self.coding.get(checkpoint):
            return Cost(images * measured[0], coded.bytes, ("measured: this tokenizer",))
        host = [self.costs.decoding(images)]
        if self.config.resolved(method).database.exclude:
            host.append(self.costs.guarding(images))
        waited = sum(cost.seconds for cost in host)
        seconds = max(waited, coded.seconds) if self.costs.gpu else waited + coded.seconds
        basis = (*coded.basis, *(name for cost in host for name in cost.basis))
        return Cost(seconds, coded.bytes, basis)

    def _entries(self, method: str) -> tuple[int, int]:
        """Patches of a method's database, and those of them that can be found."""
        codes, images = codes_of(self.config, method), images_of(self.config, method)
        side, index = round(codes**0.5), self.config.resolved(method).index
        inside = codes if index.border == "zero" else (side - 1) * (side - 2)  # hop 1, causal
        return images * codes, images * inside

    def _keys(self, method: str) -> Keys:
        return Keys(**known()["keys"].get(self.config.generator_of(method)[1].kind, {}))

    def _searching(self, method: str, queries: float, together: int) -> Cost:
        """What a method's queries take, so many of which are asked at once."""
        positions, entries = self._entries(method)
        index = self.config.resolved(method).index
        if index.mode == "ivf":
            return self.costs.probing(queries, entries, index.nprobe, self._keys(method))
        return self.costs.scanning(queries, positions, together)

    # Training

    def _training(self) -> list[Stage]:
        stages = []
        for method in self._retrieving("trained_adapter").values():
            if not self.config.methods[method].is_trained_here:
                continue
            training, codes = self.config.resolved(method).training, codes_of(self.config, method)
            queries = training.pairs * codes
            kind = self.config.methods[method].augment.kind
            if kind == "faid" and not self._done("neighbours", method):
                cost = self._searching(method, queries, BATCH * codes)
                stage = _stage(f"retrieve for {method}", f"{queries:,} queries", cost)
                stage.bytes = queries * training.faid.k * CODE_BYTES
                stages.append(stage)
            parameters = parameters_of(self.config, method)
            cost = self.costs.training(parameters, queries * training.epochs)
            stage = _stage(f"train {method}", f"{training.pairs:,} pairs", cost)
            stage.bytes = 0.2 * 4 * parameters
            stages.append(stage)
        return stages

    # Benchmarks

    def _benchmarks(self) -> list[Stage]:
        stages = []
        for name, drawn in self.config.benchmarks.items():
            images = prompts_in(self.config, name) * drawn.images_per_prompt
            for method in self.config.methods_in(name):
                if self._sampled(method, name):
                    continue
                each, basis = self.image_seconds(method)
                size = self.costs.rate("png_bytes") * pixels_of(self.config, method) * images
                about = f"{images:,} images"
                stages.append(Stage(f"draw {name} {method}", about, images * each, size, basis))
                stages.append(self._score(name, drawn.kind, images, method))
        return stages

    def image_seconds(self, method: str) -> tuple[float, list[str]]:
        """Seconds to draw one image, and what that rests on."""
        cost, decoding = self._drawing(method)
        seconds, basis = cost.seconds, list(cost.basis)
        augment = self.config.methods[method].augment
        if getattr(augment, "kind", "") == "faid":
            seconds, basis = seconds * self.costs.rate("faid_factor"), [*basis, "faid_factor"]
        costs = [decoding]
        if "index" in self.config.resolved(method).required_blocks:
            queries = codes_of(self.config, method)
            together = self.config.resources.batch_size or BATCH
            costs.append(self._searching(method, queries, together))
        seconds += sum(cost.seconds for cost in costs)
        return seconds, list(dict.fromkeys([*basis, *(n for cost in costs for n in cost.basis)]))

    def _drawing(self, method: str) -> tuple[Cost, Cost]:
        """What the forwards of an image take, and its decoding to pixels."""
        settings, costs = self.config.generator_of(method)[1], self.costs
        if known()["tokens"].get(settings.kind) is None:
            seconds, basis = costs.rate("pipeline_seconds"), ("pipeline_seconds",)
            if costs.gpu:
                return Cost(seconds, 0, basis), Cost(0)
            cost = costs.model(seconds * costs.rate("gpu_flops"))
            return Cost(cost.seconds, 0, basis + cost.basis), Cost(0)
        if costs.gpu and settings.kind != "showo":
            return Cost(costs.rate("raster_seconds"), 0, ("raster_seconds",)), Cost(0)
        forwards = codes_of(self.config, method) * (
            settings.steps if settings.kind == "showo" else 1
        )
        # Two FLOP a parameter and code, of a prompt and of none.
        drawn = costs.model(2 * 2 * parameters_of(self.config, method) * forwards)
        if measured := self.coding.get(str(settings.checkpoint)):
            return drawn, Cost(measured[1], 0, ("measured: this tokenizer",))
        decoded = costs.model(costs.rate("decode_flop") * pixels_of(self.config, method))
        return drawn, Cost(decoded.seconds, 0, ("decode_flop",))

    def _score(self, name: str, kind: str, images: int, method: str) -> Stage:
        which = {"geneval": "geneval_seconds", "dpg": "answer_seconds"}.get(
            kind, "distance_seconds"
        )
        each = self.costs.rate(which) * (14 if kind == "dpg" else 1)  # 13.8 questions a prompt
        factor = 1.0 if self.costs.gpu or self.config.scale == "micro" else 20.0
        basis = [which] + ([] if factor == 1.0 else ["assumed: 20 times longer without a GPU"])
        if self.config.scale == "micro":  # a judge of a million parameters, not of 70
            each, basis = each / 10, [*basis, "assumed: a tenth of it for the micro judges"]
        return Stage(
            f"score {name} {method}", f"{images:,} images", images * each * factor, 0, basis
        )


def _stage(name: str, amount: str, cost: Cost) -> Stage:
    return Stage(name, amount, cost.seconds, cost.bytes, list(cost.basis))

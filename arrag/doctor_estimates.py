"""How long each stage takes and how much disk it fills, before anything runs: orders of magnitude.

Every line says which rate it rests on and where that is from (doctor_known.yaml, or measured on
this machine a moment ago). A stage whose result is there already is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from arrag.config import Config
from arrag.doctor_machine import Machine, Speed
from arrag.errors import ArragError
from arrag.layout import LAST_FILES, Layout

CODE_BYTES = 2
LIST_BYTES = 14  # a patch in inverted lists: five codes and a number
SMALL = 300e6  # bytes of a checkpoint whose tokenizer is loaded to be measured
KNOWN = Path(__file__).with_name("doctor_known.yaml")


@lru_cache(maxsize=1)
def known() -> dict[str, Any]:
    """The table of assumptions."""
    return yaml.safe_load(KNOWN.read_text(encoding="utf-8"))


def rate(name: str) -> float:
    """An assumed rate."""
    return float(known()["rates"][name]["value"])


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

    machine, speed: of this machine; speed None: not measured, a core is then taken for 20 GFLOP/s.
    coding: seconds to encode and to decode an image, by the folder of a checkpoint that was
    measured.
    """

    def __init__(
        self,
        config: Config,
        machine: Machine,
        speed: Speed | None = None,
        coding: dict[str, tuple[float, float]] | None = None,
    ) -> None:
        self.coding = coding or {}
        self.config, self.machine, self.layout = config, machine, Layout(config)
        self.speed = speed or Speed(20e9, 20e6, 200e6)
        self.gpu = machine.gpu is not None
        cores = max(1, min(machine.cores, config.resources.threads))
        self.flops = rate("gpu_flops") if self.gpu else self.speed.flops * cores
        self.flops_basis = "gpu_flops" if self.gpu else "measured: FLOP/s of a core"
        self.scanned = rate("scan_entries") if self.gpu else self.speed.scanned * cores
        self.scan_basis = "scan_entries" if self.gpu else "measured: look-ups/s of a core"

    def stages(self) -> list[Stage]:
        """All of them, in the order of a run."""
        found = [*self._corpora(), *self._databases(), *self._training(), *self._benchmarks()]
        return [stage for stage in found if stage.seconds or stage.bytes]

    # What generators are

    def codes_of(self, method: str) -> int:
        """Codes of an image."""
        settings = self.config.generator_of(method)[1]
        if (sizes := sizes_of(settings.checkpoint)) is not None:
            return sizes[0]
        return int(known()["tokens"].get(settings.kind, 576))

    def pixels_of(self, method: str) -> int:
        """Pixels of an image."""
        settings = self.config.generator_of(method)[1]
        if (sizes := sizes_of(settings.checkpoint)) is not None:
            return sizes[1] ** 2
        usual = known()["pixels"].get(settings.kind, 512)
        return int(getattr(settings, "size", None) or usual) ** 2

    def parameters_of(self, method: str) -> float:
        """Parameters of a generator: of its weights' bytes, else as the paper prints them."""
        settings = self.config.generator_of(method)[1]
        if settings.checkpoint.is_dir():
            width = {"float64": 8, "bfloat16": 2, "float16": 2}.get(settings.dtype, 4)
            return sum(f.stat().st_size for f in settings.checkpoint.glob("*.safetensors")) / min(
                width, 4
            )
        return printed_parameters(self.config.method(method).paper_key) or 1e9

    def image_seconds(self, method: str) -> tuple[float, list[str]]:
        """Seconds to draw one image, and what that rests on."""
        kind = self.config.generator_of(method)[1].kind
        if known()["tokens"].get(kind) is None:
            seconds = rate("pipeline_seconds")
            if self.gpu:
                return seconds, ["pipeline_seconds"]
            return seconds * rate("gpu_flops") / self.flops, ["pipeline_seconds", self.flops_basis]
        augment = self.config.method(method).augment
        slower = rate("faid_factor") if getattr(augment, "kind", "") == "faid" else 1.0
        if self.gpu and kind != "showo":
            return slower * rate("raster_seconds"), ["raster_seconds", "faid_factor"]
        settings = self.config.generator_of(method)[1]
        forwards = self.codes_of(method) * (settings.steps if kind == "showo" else 1)
        seconds = 2 * 2 * self.parameters_of(method) * forwards / self.flops
        measured = None if self.gpu else self.coding.get(str(settings.checkpoint))
        if measured:
            return slower * seconds + measured[1], [self.flops_basis, "measured: decoding"]
        decoding = rate("decode_flop") * self.pixels_of(method) / self.flops
        return slower * seconds + decoding, [self.flops_basis, "decode_flop"]

    # Stages

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

    def _corpora(self) -> list[Stage]:
        wanted = {}
        for method in self._retrieving("codes").values():
            database = self.config.resolved(method).database
            for sample in database.sources or ():
                wanted[sample.source, sample.seed] = sample
        return [
            Stage(
                f"list {sample.name}",
                f"{sample.images or 0:,} images",
                (sample.images or 0) / rate("list_images"),
                16 * (sample.images or 0),
                ["list_images"],
            )
            for sample in wanted.values()
        ]

    def _databases(self) -> list[Stage]:
        stages, seen = [], set()
        for folder, method in self._retrieving("codes").items():
            database, tokenizer = self.config.resolved(method).database, Path(folder).parent.name
            for sample in database.samples.values():  # databases share what they have in common
                if (tokenizer, str(sample)) in seen:
                    continue
                seen.add((tokenizer, str(sample)))
                count, (seconds, basis) = sample.images or 0, self.encode_seconds(method)
                size = count * self.codes_of(method) * CODE_BYTES
                name = f"encode {sample.name} for {tokenizer.rpartition('-')[0]}"
                stages.append(Stage(name, f"{count:,} images", count * seconds, size, basis))
        for folder, method in self._retrieving("index").items():
            if self.config.resolved(method).index.mode != "ivf":
                continue  # nothing but the store is read
            entries = self.images_of(method) * self.codes_of(method)
            size = entries * LIST_BYTES
            seconds = entries / self.speed.scanned + size / self.speed.disk
            basis = ["measured: look-ups/s and bytes/s"]
            about = f"{entries:,} patches"
            stages.append(Stage(f"index {Path(folder).name}", about, seconds, size, basis))
        return stages

    def encode_seconds(self, method: str) -> tuple[float, list[str]]:
        """Seconds to encode one image, and what that rests on."""
        checkpoint = self.config.generator_of(method)[1].checkpoint
        if not self.gpu and (measured := self.coding.get(str(checkpoint))):
            return measured[0], ["measured: images/s of this tokenizer"]
        flop = rate("encode_flop") * self.pixels_of(method)
        return flop / self.flops, ["encode_flop", self.flops_basis]

    def images_of(self, method: str) -> int:
        """Images of a method's database; of one without a stated number, 0."""
        samples = self.config.resolved(method).database.samples.values()
        return sum(sample.images or 0 for sample in samples)

    def _training(self) -> list[Stage]:
        stages = []
        wanted = {
            folder: method
            for folder, method in self._retrieving("trained_adapter").items()
            if self.config.methods[method].is_trained_here
        }
        for method in wanted.values():
            training = self.config.resolved(method).training
            pairs, codes = training.pairs, self.codes_of(method)
            kind = self.config.methods[method].augment.kind
            if kind == "faid" and not self._done("neighbours", method):
                queries = pairs * codes
                entries = self.images_of(method) * codes
                stages.append(
                    Stage(
                        f"retrieve for {method}",
                        f"{queries:,} queries",
                        queries * entries / self.scanned,
                        queries * training.faid.k * CODE_BYTES,
                        [self.scan_basis],
                    )
                )
            flop = 6 * self.parameters_of(method) * pairs * training.epochs * codes
            about, basis = f"{pairs:,} pairs", [self.flops_basis]
            size = 0.2 * 4 * self.parameters_of(method)
            stages.append(Stage(f"train {method}", about, flop / self.flops, size, basis))
        return stages

    def _benchmarks(self) -> list[Stage]:
        stages = []
        for name, drawn in self.config.benchmarks.items():
            prompts = prompts_in(self.config, name)
            images = prompts * drawn.images_per_prompt
            for method in self.config.methods_in(name):
                seconds, basis = self.image_seconds(method)
                each = seconds + self.search_seconds(method)
                todo = not self._sampled(method, name)
                size = rate("png_bytes") * self.pixels_of(method) * images
                if todo:
                    about = f"{images:,} images"
                    stages.append(Stage(f"draw {name} {method}", about, images * each, size, basis))
                    stages.append(self._score(name, drawn.kind, images, prompts, method))
        return stages

    def search_seconds(self, method: str) -> float:
        """Seconds to search for all positions of one image; 0 for a method that retrieves none."""
        if "index" not in self.config.resolved(method).needs:
            return 0.0
        codes = self.codes_of(method)
        entries = self.images_of(method) * codes
        index = self.config.resolved(method).index
        share = 1.0
        if index.mode == "ivf":
            share = min(1.0, index.nprobe / max(1.0, 1.8 * entries**0.5))
        return codes * entries * share / self.scanned

    def _sampled(self, method: str, benchmark: str) -> bool:
        try:
            return (self.layout.samples(method, benchmark) / "run.json").is_file()
        except ArragError:
            return False

    def _score(self, name: str, kind: str, images: int, prompts: int, method: str) -> Stage:
        which = {"geneval": "geneval_seconds", "dpg": "answer_seconds"}.get(
            kind, "distance_seconds"
        )
        each = rate(which) * (14 if kind == "dpg" else 1)  # DPG-Bench asks 13.8 questions a prompt
        factor = 1.0 if self.gpu or self.config.scale == "micro" else 20.0
        basis = [which] + ([] if factor == 1.0 else ["assumed: 20 times longer without a GPU"])
        if self.config.scale == "micro":  # a judge of a million parameters, not of 70
            each, basis = each / 10, [*basis, "assumed: a tenth of it for the micro judges"]
        return Stage(
            f"score {name} {method}", f"{images:,} images", images * each * factor, 0, basis
        )


def printed_parameters(key: str | None) -> float | None:
    """How many parameters the paper's tables print for a row: 1e9 for ``1.0B``; None if none."""
    from arrag.report.paper import paper_tables

    for table in paper_tables().values():
        row = table.get("rows", {}).get(key) if isinstance(table, dict) else None
        if row and row.get("params"):
            return float(row["params"].removesuffix("B")) * 1e9
    return None


def sizes_of(checkpoint: Path) -> tuple[int, int] | None:
    """Codes of an image and its side in pixels, from a checkpoint's settings; None if not there."""
    try:
        raw = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if raw.get("num_vq_tokens"):
        return int(raw["num_vq_tokens"]), 16 * round(raw["num_vq_tokens"] ** 0.5)
    vision = raw.get("vision_config", {})
    size = vision.get("image_size")
    if size is None:
        return None
    down = 2 ** (len(raw.get("vq_config", {}).get("channel_multiplier", (1,) * 5)) - 1)
    return (size // down) ** 2, size


def prompts_in(config: Config, benchmark: str) -> int:
    """Prompts of a benchmark; as many as it is known to have when its file is not there yet."""
    from arrag.prompt_sets import load_prompt_set

    drawn = config.benchmarks[benchmark]
    if drawn.prompts.is_file():
        return len(load_prompt_set(drawn))
    usual = {"geneval": 553, "dpg": 1065, "distribution": 30_000}[drawn.kind]
    made = config.prepare.get(str(drawn.prompts))
    return -(-usual // made.every) if made is not None and made.kind == "subset" else usual

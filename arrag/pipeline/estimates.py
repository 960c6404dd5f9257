"""How long a run takes and how much disk it fills: orders of magnitude, from ``doctor.yaml``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from arrag.config.methods import CEILING_LABELS
from arrag.config.paper import paper_tables
from arrag.config.root import Config
from arrag.pipeline.plan import Plan
from arrag.pipeline.reports import tables_of

CODE_BYTES = 2
NAME_BYTES = 40  # of an image in a store
PNG_BYTES = 1.7  # a pixel; a photograph
TRAINING_FLOP = 6  # a parameter and code
KEY_NUMBERS, LISTS = 32, 1.8  # of a key of Janus; lists of an index: 1.8 √entries
PROBED = 18  # codes of a search of inverted lists: 18 √entries, of 32 lists
SLOWER_SCORE = 20  # times, without a GPU; the micro judges take a tenth
PROMPTS = {"geneval": 553, "dpg": 1065, "distribution": 30_000}  # of a file that is not there yet
LEVELS = (1,) * 5  # of a tokenizer, each half as large as the one before


@dataclass
class Stage:
    """What is left of one kind of work: its amount, seconds here and on one GPU, bytes on disk."""

    name: str
    amount: str
    seconds: float
    seconds_on_gpu: float
    bytes: float = 0.0


@lru_cache(maxsize=1)
def constants() -> dict[str, Any]:
    """The table of rates, and what is known of repositories and generators."""
    return yaml.safe_load(Path(__file__).with_name("doctor.yaml").read_text(encoding="utf-8"))


def download(size: float) -> Stage:
    """Fetching so many bytes."""
    seconds = size / constants()["rates"]["download"]["gpu"]
    return Stage("download", f"{size / 1e9:,.0f} GB", seconds, seconds, size)


def estimate(plan: Plan, gpu: bool, cores: int) -> list[Stage]:
    """What the tables of a configuration still need, in the order of a run.

    Args:
        plan: The plan; what lies on the disk already is left out.
        gpu: Whether this machine has one.
        cores: Cores that a job uses here.
    """
    targets = [f"reports/{table}.md" for table in tables_of(plan.config)]
    found: dict[str, Stage] = {}
    works: dict[str, _Work] = {}
    order = (
        "corpora",
        "codes",
        "code-parts",
        "index",
        "neighbours",
        "adapters",
        "samples",
        "scores",
    )
    left = [
        (path, artifact)
        for path, artifact in plan.needed_for(targets).items()
        if artifact.kind in order and not Path(path).exists()
    ]
    for path, artifact in sorted(left, key=lambda item: order.index(item[1].kind)):
        if artifact.method in (None, *CEILING_LABELS):
            continue
        if artifact.method not in works:
            works[artifact.method] = _Work(plan, artifact.method, gpu, cores)
        work = works[artifact.method]
        name, images, here, on_gpu, size = work.of(artifact.kind, Path(path))
        stage = found.setdefault(name, Stage(name, "", 0.0, 0.0))
        total = images + int(stage.amount.partition(" ")[0].replace(",", "") or 0)
        stage.amount = f"{total:,} images"
        stage.seconds += here
        stage.seconds_on_gpu += on_gpu
        stage.bytes += size
    return list(found.values())


class _Work:
    """What a method's artifacts take."""

    def __init__(self, plan: Plan, method: str, gpu: bool, cores: int) -> None:
        self.config, self.method, self.gpu, self.cores = plan.config, method, gpu, max(1, cores)
        self.resolved = plan.config.resolved(method)
        self.codes, self.side = image_size(self.resolved.generator)
        self.parameters = parameters_of(plan.config, method)

    def of(self, kind: str, path: Path) -> tuple[str, int, float, float, float]:
        """(name, images, seconds here, seconds on a GPU, bytes) of an artifact."""
        if kind in ("codes", "code-parts"):
            return self._encoding(kind, path)
        if kind == "index":
            return (f"index {path.parent.name}", self.images, *self._indexing())
        if kind in ("neighbours", "adapters"):
            pairs, codes = self.resolved.training.pairs, self.codes
            if kind == "neighbours":
                seconds = self._searching(pairs * codes)
                return (f"retrieve for {self.method}", pairs, *seconds, 20.0 * pairs * codes)
            flop = TRAINING_FLOP * self.parameters * pairs * codes * self.resolved.training.epochs
            return (f"train {self.method}", pairs, *self._times("compute", flop), self.parameters)
        benchmark = path.parts[2]
        drawn = self.config.benchmarks[benchmark]
        images = prompts_in(self.config, benchmark) * drawn.images_per_prompt
        if kind == "samples":
            size = PNG_BYTES * self.side**2 * images
            return (f"draw {benchmark} {self.method}", images, *self._drawing(images), size)
        each = constants()["seconds"].get(drawn.kind, constants()["seconds"]["distance"])["value"]
        each *= 0.1 if self.config.scale == "micro" else 1
        slower = 1 if self.gpu or self.config.scale == "micro" else SLOWER_SCORE
        name = f"score {benchmark} {self.method}"
        return name, images, images * each * slower, images * each, 0.0

    @property
    def images(self) -> int:
        """Of the database; 0 for one without a stated number."""
        return sum(sample.images or 0 for sample in self.resolved.database.samples.values())

    def _times(self, rate: str, amount: float) -> tuple[float, float]:
        """Seconds here and on a GPU for so much work at a rate."""
        table = constants()["rates"][rate]
        on_gpu = amount / table["gpu"]
        return (on_gpu if self.gpu else amount / table["core"] / self.cores), on_gpu

    def _encoding(self, kind: str, path: Path) -> tuple[str, int, float, float, float]:
        if kind == "codes" and self.resolved.database.sources:
            return f"join {path.parent.name}", self.images, 0.0, 0.0, 0.0
        images = self.images if kind == "codes" else self.resolved.database.images_per_job
        size = images * (self.codes * CODE_BYTES + NAME_BYTES)
        corpus, tokenizer = path.parts[3].partition("-")[0], path.parts[2].rpartition("-")[0]
        seconds = self._times("encode", images * self.side**2)
        return (f"encode {corpus} for {tokenizer}", images, *seconds, size)

    def _indexing(self) -> tuple[float, float, float]:
        entries = self.images * self.codes
        if self.resolved.index.mode != "ivf":
            return 0.0, 0.0, 0.0  # an exact scan reads the store
        seconds = self._times("lists", 2 * LISTS * KEY_NUMBERS * entries**1.5)
        return *seconds, 14.0 * entries

    def _searching(self, queries: float) -> tuple[float, float]:
        entries = self.images * self.codes
        if self.resolved.index.mode == "ivf":
            return self._times("probe", queries * PROBED * entries**0.5)
        return self._times("scan", queries * entries)

    def _drawing(self, images: int) -> tuple[float, float]:
        generator, seconds = self.resolved.generator, constants()["seconds"]
        if generator.kind not in constants()["generators"]:
            on_gpu = images * seconds["pipeline"]["value"]
            flop = on_gpu * constants()["rates"]["compute"]["gpu"]
        else:
            on_gpu = images * seconds["raster"]["value"]
            steps = generator.steps if generator.kind == "showo" else 1
            flop = 4.0 * self.parameters * self.codes * steps * images  # of a prompt and of none
        here = on_gpu if self.gpu else self._times("compute", flop)[0]
        if "index" in self.resolved.required_blocks:
            search = self._searching(images * self.codes)
            here, on_gpu = here + search[0], on_gpu + search[1]
        return here, on_gpu


def image_size(generator: Any) -> tuple[int, int]:
    """Codes of an image and its side in pixels, from the checkpoint, else as is usual."""
    folder = generator.checkpoint
    raw = _settings(folder)
    if codes := raw.get("num_vq_tokens"):
        from arrag.tokenizers.magvit2 import FOLDER

        levels = _settings(folder / FOLDER).get("encoder_multipliers", LEVELS)
        return int(codes), 2 ** (len(levels) - 1) * round(codes**0.5)
    if size := raw.get("vision_config", {}).get("image_size"):
        levels = raw.get("vq_config", {}).get("channel_multiplier", LEVELS)
        return (size // 2 ** (len(levels) - 1)) ** 2, size
    usual = constants()["generators"].get(generator.kind, {"codes": 576, "side": 512})
    return usual["codes"], int(getattr(generator, "size", None) or usual["side"])


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def parameters_of(config: Config, method: str) -> float:
    """Parameters of a generator: by its weights' bytes, else as the paper prints them."""
    generator = config.generator_of(method)[1]
    if generator.checkpoint.is_dir():
        width = 2 if generator.dtype in ("bfloat16", "float16") else 4
        return sum(f.stat().st_size for f in generator.checkpoint.glob("*.safetensors")) / width
    for table in paper_tables().values():
        rows = table.get("rows", {}) if isinstance(table, dict) else {}
        row = rows.get(config.method(method).paper_key)
        if row and row.get("params"):
            return float(row["params"].removesuffix("B")) * 1e9
    return 1e9


def prompts_in(config: Config, benchmark: str) -> int:
    """Prompts of a benchmark; as many as it is known to have when its file is not there yet."""
    from arrag.data.prompts import load_prompt_set

    drawn = config.benchmarks[benchmark]
    if drawn.prompts.is_file():
        return len(load_prompt_set(drawn))
    made = config.assets.get(str(drawn.prompts))
    every = made.every if made is not None and made.kind == "subset" else 1
    return -(-PROMPTS[drawn.kind] // every)


def lines_of(stages: list[Stage], on_gpu: bool) -> Iterator[str]:
    """The stages in columns, and their sum. on_gpu: with the times on one GPU."""
    total = Stage(
        "all, one after the other",
        "",
        sum(stage.seconds for stage in stages),
        sum(stage.seconds_on_gpu for stage in stages),
        sum(stage.bytes for stage in stages),
    )
    rows = [("stage", "amount", "disk", "time here", "on one GPU")]
    rows += [
        (s.name, s.amount, in_bytes(s.bytes), duration(s.seconds), duration(s.seconds_on_gpu))
        for s in [*stages, total]
    ]
    rows = [row if on_gpu else row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def duration(seconds: float) -> str:
    """``3.2 h`` and the like."""
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"


def in_bytes(count: float) -> str:
    """``3.2 GB`` and the like; "" for nothing."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return "" if count == 0 else f"{count / 1e3:,.0f} kB"

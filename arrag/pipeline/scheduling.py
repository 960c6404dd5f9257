"""What one job of a stage asks of a scheduler: memory, time, GPUs. Orders of magnitude, on purpose.

The workflow's rules name their stage and nothing else. A profile overrides a rule with
``set-resources``. No torch here: the workflow reads this at every start.
"""

from __future__ import annotations

from dataclasses import dataclass

from arrag.config.root import Config

MARGIN = 2.0  # an estimate is good to a factor of a few
LONGEST = 2880  # minutes: sites seldom allow more, and a job that runs out goes on where it was


@dataclass(frozen=True)
class Ask:
    """mem_mb: megabytes; minutes: at most, beside what is estimated; gpus: None if none at all."""

    mem_mb: int
    minutes: int
    gpus: int | None = None


# Micro: the largest job takes 1.2 GB, and snakemake beside it 0.2 GB. Paper: nothing of it was
# measured. The codes of 13.6 million images are 16 GB, which a search reads, and the pickles of
# Flan-T5-XL 11 GB, which a conversion holds twice; models are in a GPU's memory.
STAGES: dict[str, dict[str, Ask]] = {
    "micro": {
        "convert": Ask(2_000, 60),
        "list": Ask(2_000, 60),
        "encode": Ask(2_000, 60),
        "index": Ask(2_000, 60),
        "search": Ask(2_000, 120),
        "train": Ask(3_000, 360, gpus=0),
        "draw": Ask(2_000, 180),
        "score": Ask(2_000, 60),
        "report": Ask(2_000, 60),
    },
    "paper": {
        "convert": Ask(48_000, 240),
        "list": Ask(16_000, 240),
        "encode": Ask(48_000, 60, gpus=1),
        "index": Ask(64_000, 480, gpus=1),
        "search": Ask(64_000, 1440, gpus=1),
        "train": Ask(96_000, 1440, gpus=1),
        "draw": Ask(64_000, 60, gpus=1),
        "score": Ask(32_000, 240, gpus=1),
        "report": Ask(8_000, 60),
    },
}


def memory(ask: Ask, attempt: int) -> int:
    """Megabytes of an attempt, from 1: a job that had too little gets more."""
    return ask.mem_mb * attempt


def minutes(ask: Ask, seconds: float, attempt: int) -> int:
    """Minutes of an attempt, from 1, of a job that is estimated to take ``seconds``."""
    return min(LONGEST, round(attempt * (ask.minutes + MARGIN * seconds / 60)))


def drawing_seconds(config: Config, method: str, benchmark: str) -> float:
    """Seconds to draw a benchmark with a method on a GPU, as ``arrag doctor`` estimates them."""
    from arrag.pipeline.doctor_sizes import prompts_in

    images = prompts_in(config, benchmark) * config.benchmarks[benchmark].images_per_prompt
    return images * _doctor(config).image_seconds(method)[0]


def encoding_seconds(config: Config, method: str, images: int | None = None) -> float:
    """Seconds to encode a method's database, or so many images of it, on a GPU."""
    from arrag.pipeline.doctor_sizes import images_of

    return _doctor(config).encoding(method, images or images_of(config, method)).seconds


def _doctor(config: Config):
    from arrag.pipeline.doctor_estimates import Estimator
    from arrag.pipeline.doctor_machine import Machine
    from arrag.pipeline.doctor_rates import assumed

    machine = Machine(config.resources.threads, 0, 0, gpu="any", gpu_memory=0)
    return Estimator(config, machine, assumed())

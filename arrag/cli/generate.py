"""``arrag generate``: images for prompts, or a method's samples of a whole benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from arrag.cli.common import DEFAULT_CONFIG, Count, PartOf, Seed
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.utils.errors import UsageError


@Parameter(name="*")
@dataclass
class Artifacts:
    """What a method reads; each defaults to where the workflow has it."""

    codes: Path | None = None
    "Token store."
    index: Path | None = None
    "Patch index."
    image_index: Path | None = None
    "Image index."
    adapter: Path | None = None
    "Adapter; by default the method's own."


def generate(
    *prompts: str,
    method: str,
    config: Path = DEFAULT_CONFIG,
    out: Path | None = None,
    benchmark: str | None = None,
    seed: Seed | None = None,
    num_images: Count | None = None,
    guidance_scale: float | None = None,
    batch_size: Count | None = None,
    part: PartOf = None,
    join: bool = False,
    assets: Path = MICRO_ASSETS,
    artifacts: Artifacts | None = None,
) -> dict[str, Any]:
    """Draw images for prompts, or with --benchmark all samples of a method; resumes after a kill.

    Example: arrag generate "a photo of a dog" --method daid --seed 0 --out dog.png

    Example: arrag generate --benchmark geneval --method daid --config config/micro.yaml

    Args:
        prompts: What to draw.
        method: A method of the configuration; with --benchmark also real or reconstructions.
        config: Configuration file.
        out: A .png file, numbered if there are several images; with --benchmark a folder, by
            default where the workflow has it.
        benchmark: A benchmark of the configuration.
        seed: Random seed (0); a benchmark takes the configuration's.
        num_images: Images per prompt (1); a benchmark takes the configuration's.
        guidance_scale: Instead of the configuration's; not with --benchmark.
        batch_size: Images at a time.
        part: With --benchmark: draw the I-th of N parts only.
        join: With --benchmark: complete what all parts have drawn.
        assets: Pictures of the synthetic dataset, for real and reconstructions.
    """
    artifacts = artifacts or Artifacts()
    if benchmark is not None:
        alone = {"PROMPT": prompts, "--seed": seed, "--num-images": num_images}
        alone |= {"--guidance-scale": guidance_scale}
        if given := [name for name, value in alone.items() if value not in (None, ())]:
            raise UsageError("not with --benchmark", field=given[0], hint="leave one of them out")
        if part and join:
            raise UsageError("not with --join", field="--part", hint="leave one of them out")
        from arrag.pipeline.generate import generate_benchmark

        return generate_benchmark(
            config, method, benchmark, out,
            given=vars(artifacts), batch_size=batch_size, part=part, join=join, assets=assets,
        )  # fmt: skip
    if part or join:
        raise UsageError("not without --benchmark", field="--part, --join", hint="leave it out")
    if not prompts:
        raise UsageError("missing", field="PROMPT", hint="give prompts, or --benchmark")
    if blank := [text for text in prompts if not text.strip()]:
        raise UsageError(f"found {blank[0]!r}", field="PROMPT", hint="say what to draw")
    if out is None or out.suffix.lower() != ".png":
        raise UsageError(f"found {out}", field="--out", hint="give a name that ends in .png")
    from arrag.pipeline.generate import generate_prompts

    return generate_prompts(
        config, method, list(prompts), out, given=vars(artifacts), seed=seed or 0,
        num_images=num_images or 1, guidance_scale=guidance_scale, batch_size=batch_size,
    )  # fmt: skip

"""From a configured method and prompts to images: a few for a person, or a whole benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arrag.config.root import Config
from arrag.data.prompts import load_prompt_set
from arrag.methods.generator import ImageGenerator, TokenGenerator
from arrag.methods.registry import NO_ARTIFACTS, ArtifactPaths, open_method
from arrag.methods.sample_folder import (
    PARTIAL,
    Job,
    SampleFolder,
    check_sample_folder,
    image_path,
    is_whole,
)
from arrag.utils.batching import CPU_BATCH_SIZE, batched_by_memory, length_bucket
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_file
from arrag.utils.shards import JobPart


def generate_images(
    config: Config,
    method: str,
    prompts: list[str],
    *,
    seed: int,
    samples_per_prompt: int = 1,
    paths: ArtifactPaths = NO_ARTIFACTS,
    batch_size: int | None = None,
) -> list[np.ndarray]:
    """Generate ``samples_per_prompt`` images of each prompt.

    Args:
        config: The configuration.
        method: Name of one of its methods.
        prompts: What to generate.
        seed: Of all images.
        samples_per_prompt: Number of images of a prompt.
        paths: Artifacts that the method needs.
        batch_size: See ``arrag.utils.batching.batched_by_memory``.

    Returns:
        uint8 [S, S, 3] images, prompt by prompt.
    """
    generator = open_method(config, method, paths)
    generator.check_prompts(prompts, samples_per_prompt)
    jobs = [(prompt, i) for prompt in prompts for i in range(samples_per_prompt)]
    images: list[np.ndarray] = []
    with tqdm(total=len(jobs), desc=method, unit="image") as bar:
        generate = lambda batch: generator.generate(*zip(*batch, strict=True), seed)  # noqa: E731
        for batch, generated in batched_by_memory(generate, jobs, batch_size):
            images += list(generated)
            bar.update(len(batch))
    return images


def sample_benchmark(
    config: Config,
    method: str,
    out: str | Path,
    *,
    benchmark: str | None = None,
    paths: ArtifactPaths = NO_ARTIFACTS,
    batch_size: int | None = None,
    progress: bool = True,
    part: JobPart | None = None,
) -> dict[str, Any]:
    """Generate every image of a benchmark into a folder, see ``arrag.methods.sample_folder``.

    After a kill only missing or damaged images are generated; images of other settings are removed
    first. Prompts of similar length are generated together.

    Args:
        config: The configuration.
        method: Name of one of its methods.
        out: The folder.
        benchmark: Name of a benchmark of the configuration; None is the main one.
        paths: Artifacts that the method needs.
        batch_size: See ``arrag.utils.batching.batched_by_memory``.
        progress: Show a progress bar.
        part: Generate only this part, while other jobs generate the others into the same folder;
            :func:`merge_parts` then completes it. A part consists of whole batches, so that the
            batches are those of a single job.

    Returns:
        The contents of run.json.

    Raises:
        OutputError: The folder holds something that is not a sample.
        MismatchError: Another part was begun with other settings.
    """
    out = Path(out)
    check_sample_folder(out)
    block = config.benchmark(benchmark)
    prompts = load_prompt_set(block)
    texts = [prompt["prompt"] for prompt in prompts]
    generator = open_method(config, method, paths)
    generator.check_prompts(texts, block.images_per_prompt)
    run = {
        **_settings_of(config, method, benchmark, prompts),
        "weights": generator.weights,
        "parameters": generator.num_parameters,
        "index": generator.index,
    }
    if truncated := generator.truncated_prompts(texts):
        run["prompts_cut_short"] = truncated
    jobs = _jobs(len(prompts), block.images_per_prompt)
    if part:
        size = batch_size or CPU_BATCH_SIZE
        batches = [jobs[at : at + size] for at in range(0, len(jobs), size)]
        jobs = [job for batch in part.slice(batches) for job in batch]
    folder = SampleFolder(out, run, prompts, shared=part is not None)
    missing = folder.missing(jobs)
    missing.sort(key=lambda job: length_bucket(texts[job[0]]))
    with tqdm(
        total=len(jobs),
        initial=len(jobs) - len(missing),
        disable=not progress,
        desc=f"{method} {part}" if part else method,
        unit="image",
    ) as bar:

        def generate(batch: Sequence[Job]) -> tuple[np.ndarray, Sequence[np.ndarray | None]]:
            some, samples = [texts[i] for i, _ in batch], [k for _, k in batch]
            return _with_codes(generator, some, samples, config.seed)

        for batch, (images, codes) in batched_by_memory(generate, missing, batch_size):
            for job, image, grid in zip(batch, images, codes, strict=True):
                folder.save(job, image, grid)
            bar.update(len(batch))
    found = ((i, k, generator.retrieved_images(texts[i], k)) for i, k in jobs)
    folder.save_retrieved(found, part)
    return run if part else folder.finish()


def merge_parts(
    config: Config, method: str, out: str | Path, benchmark: str | None
) -> dict[str, Any] | None:
    """Complete a folder whose parts are all generated, as a single job leaves it.

    The method is not loaded: each part checked that it has the weights of the partial run.

    Returns:
        The contents of run.json. None, with nothing written, if an image is missing, or if the
        folder is of other settings, as far as they are known without loading the method;
        ``sample_benchmark`` then does what is left to do.
    """
    out, block = Path(out), config.benchmark(benchmark)
    prompts = load_prompt_set(block)
    if not (out / PARTIAL).is_file():
        return None
    run = read_json(out / PARTIAL)
    known = _settings_of(config, method, benchmark, prompts)
    if known != {field: run.get(field) for field in known}:
        return None
    jobs = _jobs(len(prompts), block.images_per_prompt)
    if not all(is_whole(image_path(out, *job)) for job in jobs):
        return None
    folder = SampleFolder(out, run, prompts)
    folder.missing(jobs)  # writes prompts that are damaged
    return folder.finish()


def _settings_of(
    config: Config, method: str, benchmark: str | None, prompts: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a run depends on and is known before the method is loaded."""
    block = config.benchmark(benchmark)
    return {
        "method": method,
        "config_hash": config.config_hash(method, benchmark),
        "seed": config.seed,
        "prompt_set_sha256": sha256_file(block.prompts),
        "images_per_prompt": block.images_per_prompt,
        "prompts": len(prompts),
    }


def _jobs(prompts: int, samples: int) -> list[Job]:
    return [(i, k) for i in range(prompts) for k in range(samples)]


def _with_codes(
    generator: ImageGenerator, prompts: Sequence[str], samples: Sequence[int], seed: int
) -> tuple[np.ndarray, Sequence[np.ndarray | None]]:
    """The images, and of each the image tokens [H, W] that it is decoded from, if it has any."""
    if not isinstance(generator, TokenGenerator):
        return generator.generate(prompts, samples, seed), [None] * len(prompts)
    codes = generator.generate_codes(prompts, samples, seed)
    return generator.image_tokenizer.decode(codes), list(codes.cpu().numpy())

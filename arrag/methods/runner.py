"""From a configured method and prompts to PNG files."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from arrag.config.root import Config
from arrag.data.prompts import load_prompt_set
from arrag.data.sample_dir import codes_chunk, image_size, read_metadata
from arrag.methods.build import ArtifactPaths
from arrag.methods.generator import NO_SOURCES, ImageGenerator, TokenGenerator, open_method
from arrag.methods.retrieved_images import join_records, record_name, record_retrieved
from arrag.utils.batching import CPU_BATCH_SIZE, batched_by_memory, length_bucket
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json, write_text
from arrag.utils.hashing import sha256_file
from arrag.utils.resource_errors import disk_space
from arrag.utils.shards import JobPart

PACKAGES = ("arrag", "torch", "transformers", "diffusers", "numpy", "numba", "pillow")


def generate_images(
    config: Config,
    method: str,
    prompts: list[str],
    *,
    seed: int,
    samples_per_prompt: int = 1,
    paths: ArtifactPaths = NO_SOURCES,
    batch_size: int | None = None,
) -> list[np.ndarray]:
    """Draw ``samples_per_prompt`` images of each prompt: uint8 [S, S, 3], prompt by prompt.

    ``batch_size``: see ``arrag.utils.batching.batched_by_memory``.
    """
    sampler = open_method(config, method, paths)
    sampler.check(prompts, samples_per_prompt)
    jobs = [(p, i) for p in prompts for i in range(samples_per_prompt)]
    images: list[np.ndarray] = []
    with tqdm(total=len(jobs), desc=method, unit="image") as bar:
        draw = lambda batch: sampler.generate(*zip(*batch, strict=True), seed)  # noqa: E731
        for batch, drawn in batched_by_memory(draw, jobs, batch_size):
            images += list(drawn)
            bar.update(len(batch))
    return images


def sample_benchmark(
    config: Config,
    method: str,
    out: str | Path,
    *,
    benchmark: str | None = None,
    paths: ArtifactPaths = NO_SOURCES,
    batch_size: int | None = None,
    progress: bool = True,
    part: JobPart | None = None,
) -> dict:
    """Draw every image of a benchmark in GenEval's layout below ``out``; ``run.json`` is last.

    ``benchmark`` is a name of the configuration, None the main one. Goes on after a kill with
    the images that are missing or damaged; images of other settings are removed first. Returns the
    contents of run.json. ``batch_size``: see ``arrag.utils.batching.batched_by_memory``; prompts of
    like length are drawn together.

    ``part``: draw only that part, while other jobs draw the others into the same folder;
    run.json is left to ``arrag.methods.sample_parts.complete``. Parts are of whole batches, so that
    batches are those of a single job. Images of other settings are then an ArragError.
    """
    out = Path(out)
    drawn = config.benchmark(benchmark)
    prompts = load_prompt_set(drawn)
    sampler = open_method(config, method, paths)
    texts = [prompt["prompt"] for prompt in prompts]
    sampler.check(texts, drawn.images_per_prompt)
    run = {
        **expected_run(config, method, benchmark, prompts),
        "weights": sampler.weights,
        "parameters": sampler.parameters,
        "index": sampler.index,
    }
    if truncated_prompts := sampler.truncated_prompts(texts):
        run["prompts_cut_short"] = truncated_prompts
    wanted = [(i, k) for i in range(len(prompts)) for k in range(drawn.images_per_prompt)]
    if part:
        size = batch_size or CPU_BATCH_SIZE
        batches = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        wanted = [job for batch in part.slice(batches) for job in batch]
    prepare(out, run, prompts, {i for i, _ in wanted} if part else None)
    jobs = [job for job in wanted if not is_whole(image_path(out, *job))]
    jobs.sort(key=lambda job: length_bucket(texts[job[0]]))
    about = {"desc": f"{method} {part}" if part else method, "unit": "image"}
    with tqdm(
        total=len(wanted), initial=len(wanted) - len(jobs), disable=not progress, **about
    ) as bar:
        draw = lambda batch: _drawn(  # noqa: E731
            sampler, [texts[i] for i, _ in batch], [k for _, k in batch], config.seed
        )
        for batch, (images, codes) in batched_by_memory(draw, jobs, batch_size):
            for job, image, grid in zip(batch, images, codes, strict=True):
                save_png(image, image_path(out, *job), grid)
            bar.update(len(batch))
    found = ((*job, sampler.retrieved(texts[job[0]], job[1])) for job in wanted)
    record_retrieved(out / record_name(part), found)
    if part:
        return run
    join_records(out)
    return finish(out, run)


def expected_run(
    config: Config, method: str, benchmark: str | None, prompts: list[dict]
) -> dict[str, Any]:
    """What run.json says that is known before the method is loaded."""
    drawn = config.benchmark(benchmark)
    return {
        "method": method,
        "config_hash": config.config_hash(method, benchmark),
        "seed": config.seed,
        "prompt_set_sha256": sha256_file(drawn.prompts),
        "images_per_prompt": drawn.images_per_prompt,
        "prompts": len(prompts),
    }


def _drawn(
    sampler: ImageGenerator, prompts: Sequence[str], samples: Sequence[int], seed: int
) -> tuple[np.ndarray, Sequence[np.ndarray | None]]:
    """The images, and the codes [H, W] of each if the generator has codes."""
    if not isinstance(sampler, TokenGenerator):
        return sampler.generate(prompts, samples, seed), [None] * len(prompts)
    codes = sampler.generate_codes(prompts, samples, seed)
    return sampler.tokenizer.decode(codes), list(codes.cpu().numpy())


def image_path(out: Path, prompt: int, sample: int) -> Path:
    """Where GenEval's layout has an image."""
    return out / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def is_whole(path: Path) -> bool:
    """Whether an image is there and undamaged: one that a fault of the disk cut is drawn again."""
    return path.is_file() and image_size(path) is not None


def prepare(
    out: Path, run: dict, prompts: list[dict], numbers: Iterable[int] | None = None
) -> None:
    """Make the prompt folders of ``out``; start afresh when it holds images of another run.

    ``numbers``: of the prompts to make folders for, while other jobs make the others; images of
    another run, which those jobs may be drawing, are then an ArragError. Another is raised when
    ``out`` holds something that no run made: that is not ours to remove.
    """
    begun = out / "begun.json"
    if out.exists() and any(out.iterdir()):
        if not begun.is_file():
            raise ArragError(f"{out}: holds files that are no samples; name an empty folder")
        if read_json(begun) != run:
            if numbers is not None:
                raise ArragError(
                    f"{begun}: is of images of other settings or weights; delete {out} and draw "
                    "all parts again"
                )
            _remove_samples(out)
    if not begun.is_file():
        _begin(out, run)
    for i in range(len(prompts)) if numbers is None else sorted(numbers):
        folder = out / f"{i:05d}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        line = json.dumps(prompts[i], ensure_ascii=False) + "\n"
        if read_metadata(folder / "metadata.jsonl") != prompts[i]:
            write_text(folder / "metadata.jsonl", line)


def _remove_samples(out: Path) -> None:
    """Remove a folder of samples; raises ArragError if anything else is in it."""
    written = re.compile(r"\d{5}|(begun|run)\.json|retrieved.*|\..*")
    for path in out.iterdir():
        if not written.fullmatch(path.name):
            raise ArragError(f"{path}: is in a folder of samples, but is none; move it elsewhere")
    shutil.rmtree(out)


def _begin(out: Path, run: dict) -> None:
    """Make ``out`` with begun.json in it, in one step: other parts may do the same just now."""
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"prefix": f".{out.name}.", "suffix": ".tmp", "dir": out.parent}
    with tempfile.TemporaryDirectory(**about) as holder:
        made = Path(holder) / out.name
        made.mkdir()
        write_json(made / "begun.json", run)
        with suppress(OSError):  # there is one that is not empty
            os.rename(made, out)
    if read_json(out / "begun.json") != run:
        raise ArragError(f"{out}: another job has just begun other samples there; run this again")


def package_versions() -> dict[str, str]:
    """Versions of what an image depends on."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def finish(out: Path, run: dict) -> dict:
    """Write run.json, which says that the samples are complete."""
    versions = package_versions()
    write_json(out / "run.json", {**run, "versions": versions})
    return run


def save_png(image: np.ndarray, path: Path, codes: np.ndarray | None = None) -> None:
    """Write a PNG under a temporary name, then rename; ``codes`` [H, W] go into it as a text."""
    partial = path.with_name(f".{path.name}.tmp")
    info = None if codes is None else codes_chunk(codes)
    with disk_space(path):
        Image.fromarray(image).save(partial, format="PNG", pnginfo=info)
        os.replace(partial, path)

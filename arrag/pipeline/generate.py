"""Draw with a configured method: find what it reads, draw, save, record.

The commands and the reports share these functions, so that an image drawn again is the same image.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from arrag.config.base import Model
from arrag.config.methods import CEILING_LABELS
from arrag.config.root import Config, load_config
from arrag.pipeline.layout import INFERENCE_INPUTS, SENTINEL_FILES, Layout
from arrag.pipeline.provenance import sample_inputs, with_known_digests
from arrag.pipeline.records import write_record
from arrag.pipeline.reports import timed_methods
from arrag.utils.errors import MissingError, UsageError
from arrag.utils.files import write_json
from arrag.utils.locks import output_lock
from arrag.utils.outputs import atomic_path

if TYPE_CHECKING:
    import numpy as np

    from arrag.methods.generator import ImageGenerator
    from arrag.methods.registry import ArtifactPaths
    from arrag.utils.shards import JobPart


def find_artifacts(
    config: Config, method: str, path: Path, given: Mapping[str, Path | None] | None = None
) -> ArtifactPaths:
    """Find the folders that a method reads.

    Args:
        config: The configuration.
        method: A method of it.
        path: The configuration's file, for messages.
        given: Folders by part (``codes``, ``index``, ``image_index``, ``adapter``) to use
            instead of the workflow's.

    Raises:
        MissingError: A folder is not complete; the hint has the command that makes it.
    """
    from arrag.methods.registry import ArtifactPaths

    given = {**(given or {})}
    given["trained_adapter"] = given.pop("adapter", None)
    retriever = config.resolved(method).retrieval_settings
    layout, found = Layout(config), {}
    wanted = {
        part: lambda part=part: getattr(layout, part)(method)
        for part in INFERENCE_INPUTS.get(getattr(retriever, "kind", None), ())
    }
    if hasattr(retriever, "adapter"):
        wanted["trained_adapter"] = lambda: layout.adapter(method)
    for part, usual in wanted.items():
        found[part] = folder = given.get(part) or usual()
        if not (folder / SENTINEL_FILES[part]).is_file():
            option = {"trained_adapter": "adapter"}.get(part, part).replace("_", "-")
            raise MissingError(
                f"method '{method}' needs it and it does not exist",
                path=folder / SENTINEL_FILES[part],
                hint=f"make it with `snakemake --cores all {usual() / SENTINEL_FILES[part]} "
                f"--configfile {path}`, or name another with --{option}",
            )
    return ArtifactPaths(
        store=found.get("codes"),
        index=found.get("index"),
        image_index=found.get("image_index"),
        adapter=found.get("trained_adapter"),
    )


def open_configured(config: Config, method: str, path: Path) -> ImageGenerator:
    """Load a method with what it reads where the workflow has it."""
    from arrag.methods.registry import open_method

    return open_method(config, method, find_artifacts(config, method, path))


def generate_prompts(
    path: Path,
    method: str,
    prompts: list[str],
    out: Path,
    *,
    given: Mapping[str, Path | None],
    seed: int,
    num_images: int,
    guidance_scale: float | None,
    batch_size: int | None,
) -> dict[str, Any]:
    """Draw ``num_images`` images of each prompt and save them as PNG files.

    Returns:
        The written paths.
    """
    from arrag.methods.runner import generate_images

    config = load_config(path)
    if guidance_scale is not None:
        generator, settings = config.generator_of(method)
        changed = _changed(settings, {"guidance_scale": guidance_scale})
        config = config.model_copy(update={"generators": {**config.generators, generator: changed}})
    images = generate_images(
        config,
        method,
        prompts,
        seed=seed,
        samples_per_prompt=num_images,
        paths=find_artifacts(config, method, path, given),
        batch_size=batch_size or config.resources.batch_size,
    )
    return {"images": [str(written) for written in _save(images, out)]}


def _changed(settings: Model, changed: Mapping[str, Any]) -> Any:
    """Return settings with some fields changed, validated like those of a configuration."""
    try:
        return type(settings).model_validate(settings.model_dump() | changed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(first["msg"], field=option, hint="see --help") from None


def _save(images: list[np.ndarray], out: Path) -> list[Path]:
    from PIL import Image

    numbers = [""] if len(images) == 1 else [f"-{i:04d}" for i in range(len(images))]
    paths = [out.with_name(f"{out.stem}{number}{out.suffix}") for number in numbers]
    for path, image in zip(paths, images, strict=True):
        with atomic_path(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
    return paths


def generate_benchmark(
    path: Path,
    method: str,
    benchmark: str,
    out: Path | None,
    *,
    given: Mapping[str, Path | None],
    batch_size: int | None,
    part: JobPart | None,
    join: bool,
    assets: Path,
) -> dict[str, Any]:
    """Draw all samples of a benchmark; ``run.json`` is written last, then the record.

    Args:
        path: Configuration file.
        method: A method of it, or ``real`` or ``reconstructions``.
        benchmark: A benchmark of it.
        out: Folder; None is where the workflow has it.
        given: As for ``find_artifacts``.
        batch_size: Images at a time; None is the configuration's.
        part: Draw only this part, and leave ``run.json`` to ``join``.
        join: Complete what all parts have drawn.
        assets: Pictures of the synthetic dataset.

    Returns:
        The folder and the contents of ``run.json``.
    """
    config = load_config(path)
    layout = Layout(config)
    if out is None and any(given.values()):
        hint = "samples from other artifacts need a folder of their own"
        raise UsageError("missing", field="--out", hint=hint)
    out = out or layout.samples(method, benchmark)
    with nullcontext() if part else output_lock(out):
        run, read = _generate_samples(
            config, path, method, benchmark, out,
            given=given, batch_size=batch_size, part=part, join=join, assets=assets,
        )  # fmt: skip
        if not part:
            made_of = with_known_digests(sample_inputs(layout, method, benchmark, read), run)
            write_record(out, made_of=made_of)
    return {"samples": out, **run}


def _generate_samples(
    config: Config,
    path: Path,
    method: str,
    benchmark: str,
    out: Path,
    *,
    given: Mapping[str, Path | None],
    batch_size: int | None,
    part: JobPart | None,
    join: bool,
    assets: Path,
) -> tuple[dict[str, Any], dict[str, Path | None]]:
    """Draw the samples; returns the contents of ``run.json`` and what was read, by part."""
    if method in CEILING_LABELS:
        if part:
            raise UsageError(f"'{method}' is made by one job", field="--part", hint="leave it out")
        from arrag.methods import ceiling

        write = {"real": ceiling.write_real, "reconstructions": ceiling.write_reconstructions}
        run = write[method](config, out, assets, benchmark)
        read: dict[str, Path | None] = {"assets": assets}
    else:
        from arrag.methods.runner import merge_parts, sample_benchmark

        paths = find_artifacts(config, method, path, given)
        run = join and merge_parts(config, method, out, benchmark)
        run = run or sample_benchmark(
            config,
            method,
            out,
            benchmark=benchmark,
            paths=paths,
            batch_size=batch_size or config.resources.batch_size,
            part=part,
        )
        read = {**vars(paths), "codes": paths.store}
        read.pop("store")
    return run, read


def time_configured(
    path: Path, out: Path, given: Mapping[str, Any], batch_size: int | None
) -> dict[str, Any]:
    """Time every row of Table 4 in one run and write the measurements.

    Args:
        path: Configuration file.
        out: JSON file to write.
        given: Fields of the block ``timing`` to use instead of the configuration's.
        batch_size: The batch to time; None looks for the best.

    Returns:
        Mean seconds per image by row, at batch 1 and at the best batch.
    """
    from arrag.data.prompts import load_prompt_set
    from arrag.methods.timing import time_methods

    config = load_config(path)
    changed = {name: value for name, value in given.items() if value is not None}
    settings = _changed(config.timing, changed)
    methods = settings.methods or timed_methods(config)
    for name in methods:
        config.method(name)
    block = config.benchmark(settings.benchmark or config.main_benchmark)
    prompts = [prompt["prompt"] for prompt in load_prompt_set(block)]
    generators = {name: open_configured(config, name, path) for name in methods}
    timing = time_methods(config, generators, prompts, settings, batch_size)
    write_json(out, timing)
    write_record(out)
    seconds = {
        key: {
            name: sum(run["seconds"]) / len(run["seconds"]) / run["images"]
            for name, run in row["runs"].items()
        }
        for key, row in timing["rows"].items()
    }
    return {"timing": out, "seconds_per_image": seconds}

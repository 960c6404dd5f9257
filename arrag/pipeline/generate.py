"""Draw with a configured method: find what it reads, draw, save, record.

The commands and the reports share these functions, so that an image drawn again is the same image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.config.methods import CEILING_LABELS
from arrag.config.root import Config, load_config
from arrag.pipeline.drawn_with import drawn_with, with_digests
from arrag.pipeline.layout import LAST_FILES, RETRIEVES, Layout
from arrag.pipeline.records import write_record
from arrag.utils.errors import MissingError, OutputError, UsageError
from arrag.utils.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

    from arrag.methods.build import ArtifactPaths
    from arrag.methods.generator import ImageGenerator
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
    from arrag.methods.build import ArtifactPaths

    given = {**(given or {})}
    given["trained_adapter"] = given.pop("adapter", None)
    retriever = config.resolved(method).retrieval_settings
    layout, found = Layout(config), {}
    wanted = {
        part: lambda part=part: getattr(layout, part)(method)
        for part in RETRIEVES.get(getattr(retriever, "kind", None), ())
    }
    if hasattr(retriever, "adapter"):
        wanted["trained_adapter"] = lambda: layout.adapter(method)
    for part, usual in wanted.items():
        found[part] = folder = given.get(part) or usual()
        if not (folder / LAST_FILES[part]).is_file():
            option = {"trained_adapter": "adapter"}.get(part, part).replace("_", "-")
            raise MissingError(
                f"method '{method}' needs it and it does not exist",
                path=folder / LAST_FILES[part],
                hint=f"make it with `snakemake --cores all {usual() / LAST_FILES[part]} "
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
    from arrag.methods.generator import open_method

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
        changed = settings.model_copy(update={"guidance_scale": guidance_scale})
        config = config.model_copy(update={"generators": {**config.generators, generator: changed}})
    images = generate_images(
        config,
        method,
        prompts,
        seed=seed,
        samples_per_prompt=num_images,
        sources=find_artifacts(config, method, path, given),
        batch_size=batch_size or config.resources.batch_size,
    )
    return {"images": [str(written) for written in _save(images, out)]}


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
    _check_samples_folder(out)
    out = out or layout.samples(method, benchmark)
    if method in CEILING_LABELS:
        if part:
            raise UsageError(f"'{method}' is made by one job", field="--part", hint="leave it out")
        from arrag.methods import ceiling

        write = {"real": ceiling.write_real, "reconstructions": ceiling.write_reconstructions}
        run = write[method](config, out, assets, benchmark)
        read: dict[str, Path | None] = {"assets": assets}
    else:
        from arrag.methods.runner import sample_benchmark
        from arrag.methods.sample_parts import complete

        sources = find_artifacts(config, method, path, given)
        run = join and complete(config, method, out, benchmark)
        run = run or sample_benchmark(
            config,
            method,
            out,
            benchmark=benchmark,
            sources=sources,
            batch_size=batch_size or config.resources.batch_size,
            part=part,
        )
        read = {"codes": sources.store, **vars(sources)}
        read.pop("store")
    if not part:
        made_of = with_digests(drawn_with(layout, method, benchmark, read), run)
        write_record(out, made_of=made_of)
    return {"samples": out, **run}


def _check_samples_folder(out: Path | None) -> None:
    """Raise OutputError if ``out`` contains anything but samples, which drawing may remove."""
    # In this order: another part may begin the folder between the two looks.
    if out is None or not out.exists() or (out / "begun.json").is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise OutputError("contains other files than samples", path=out, hint="name a new folder")

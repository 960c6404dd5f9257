"""Folders of generated images, written by one job or by several, and continued after a kill.

    run.partial.json                 settings and weights, written before the first image
    00000/metadata.jsonl             prompt 0
    00000/samples/0000.png ...       its images, whole or absent, with their image tokens
    retrieved.jsonl                  the whole images that samples were conditioned on, if any
    run.json                         written last; its presence says that the folder is complete

The layout is GenEval's; :mod:`arrag.data.sample_dir` reads it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arrag.data.sample_dir import codes_chunk, image_size, read_metadata
from arrag.methods.retrieved_images import RetrievedImages, merge_retrieved, write_retrieved
from arrag.utils.errors import OutputError
from arrag.utils.files import write_text
from arrag.utils.outputs import is_temporary
from arrag.utils.resource_errors import disk_space
from arrag.utils.shards import JobPart, ShardWriter

PARTIAL, FINAL = "run.partial.json", "run.json"
OWN = ("[0-9][0-9][0-9][0-9][0-9]", "retrieved*.jsonl")
PACKAGES = ("arrag", "torch", "transformers", "diffusers", "numpy", "numba", "pillow")
Job = tuple[int, int]
"""Number of the prompt, number of the sample."""


class SampleFolder:
    """Write the images of a run.

    Args:
        path: The folder; made if need be. If it holds images of other settings, a single job
            removes them.
        run: Everything that the images depend on.
        prompts: The prompts, as they are written beside their images.
        shared: Whether other jobs write other images into the folder at the same time. Images of
            other settings, which those jobs may be writing, are then an error.

    Raises:
        OutputError: The folder holds something that is not a sample; nothing was removed.
        MismatchError: A shared folder was begun with other settings.
    """

    def __init__(
        self,
        path: Path,
        run: dict[str, Any],
        prompts: list[dict[str, Any]],
        *,
        shared: bool = False,
    ) -> None:
        check_sample_folder(path)
        self.path, self.run, self.prompts = path, run, prompts
        self._writer = ShardWriter(
            path, run, own=OWN, partial=PARTIAL, final=FINAL, restart=not shared
        )

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs without an undamaged image; the folders of all their prompts are made."""
        jobs = list(jobs)
        for prompt in sorted({prompt for prompt, _ in jobs}):
            folder = self.path / f"{prompt:05d}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            if read_metadata(folder / "metadata.jsonl") != self.prompts[prompt]:
                line = json.dumps(self.prompts[prompt], ensure_ascii=False) + "\n"
                write_text(folder / "metadata.jsonl", line)
        return [job for job in jobs if not is_whole(image_path(self.path, *job))]

    def save(self, job: Job, image: np.ndarray, codes: np.ndarray | None = None) -> None:
        """Write the image of a job, uint8 [H, W, 3], with its image tokens [h, w]."""
        save_png(image, image_path(self.path, *job), codes)

    def save_retrieved(
        self, found: Iterable[tuple[int, int, RetrievedImages | None]], part: JobPart | None = None
    ) -> None:
        """Write what samples retrieved: number of the prompt, of the sample, and the images."""
        write_retrieved(self.path, found, part)

    def finish(self) -> dict[str, Any]:
        """Write run.json, which says that the samples are complete, and return the run."""
        merge_retrieved(self.path)
        self._writer.finish({**self.run, "versions": package_versions()})
        return self.run


def check_sample_folder(path: Path) -> None:
    """Raise OutputError if the folder holds something, but no samples."""
    # In this order: another job may begin the folder in between.
    if not path.exists() or (path / PARTIAL).is_file() or (path / FINAL).is_file():
        return
    if not path.is_dir() or not all(is_temporary(file) for file in path.iterdir()):
        raise OutputError(
            "holds something other than samples", path=path, hint="name an empty folder"
        )


def image_path(folder: Path, prompt: int, sample: int) -> Path:
    """The path of an image in GenEval's layout."""
    return folder / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def is_whole(path: Path) -> bool:
    """Whether an image is there and undamaged; a fault of the disk may have truncated it."""
    return path.is_file() and image_size(path) is not None


def save_png(image: np.ndarray, path: Path, codes: np.ndarray | None = None) -> None:
    """Write a PNG, whole or not at all; ``codes`` [H, W] are stored in it as a text chunk."""
    partial = path.with_name(f".{path.name}.tmp")
    info = None if codes is None else codes_chunk(codes)
    with disk_space(path):
        Image.fromarray(image).save(partial, format="PNG", pnginfo=info)
        os.replace(partial, path)


def package_versions() -> dict[str, str]:
    """Versions of the packages that an image depends on."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}

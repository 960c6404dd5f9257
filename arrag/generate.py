"""From a configured method and prompts to PNG files."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from arrag.backbones.janus import load_janus
from arrag.backbones.showo_checkpoint import load_showo
from arrag.baselines.retrieved import Retrieved, join_records, record_name, record_retrieved
from arrag.batching import ON_CPU, bucket, in_batches
from arrag.codec import Codec, load_codec
from arrag.config import Config
from arrag.decode import decode_masked, decode_raster, uniforms
from arrag.devices import default_device
from arrag.errors import ArragError
from arrag.files import disk_space, read_json, sha256_file, tree_digest, write_json, write_text
from arrag.methods import Sources, equip
from arrag.metrics.samples import image_size, read_metadata
from arrag.parts import Part
from arrag.prompt_sets import load_prompt_set
from arrag.sample_codes import codes_chunk

NO_SOURCES = Sources()
PACKAGES = ("arrag", "torch", "transformers", "diffusers", "numpy", "numba", "pillow")


class Drawer(Protocol):
    """A method ready to draw.

    weights: digests of all that was loaded, by its role; parameters: their number; index: digest of
    what is retrieved from, None if nothing is.
    """

    weights: dict[str, str]
    parameters: int
    index: str | None

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """ArragError unless ``samples`` images of each prompt can be drawn."""

    def overlong(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the generator reads only the beginning."""

    def retrieved(self, prompt: str, sample: int) -> Retrieved | None:
        """The whole images that an image is drawn with; None if it is drawn with none."""

    def draw(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """One image for each pair of prompt and sample number: uint8 [B, S, S, 3]."""


class Kind(Protocol):
    """What the ``kind`` of a generator stands for."""

    def open(self, config: Config, method: str, sources: Sources) -> Drawer:
        """Load a method whose generator is of this kind."""


@dataclass(frozen=True)
class CodeKind:
    """A generator of codes: how it is loaded and which loop draws with it.

    shape: of an image's random numbers, given the settings and the number of codes. The other
    settings of the kind are the loop's keyword arguments.
    """

    load: Callable[..., Any]
    decode: Callable[..., torch.Tensor]
    shape: Callable[[Any, int], tuple[int, ...]]

    def open(self, config: Config, method: str, sources: Sources) -> Sampler:
        """Load generator, codec and what the method adds."""
        return Sampler(config, method, sources)


class PipelineKind:
    """A pipeline of diffusers, alone or with images that it retrieves."""

    def open(self, config: Config, method: str, sources: Sources) -> Drawer:
        """Load it; only here, since diffusers takes seconds to import."""
        from arrag.baselines.drawers import open_pipeline

        return open_pipeline(config, method, sources)


def _one_each(settings: Any, count: int) -> tuple[int, ...]:
    return (count,)


def _two_a_step(settings: Any, count: int) -> tuple[int, ...]:
    return (settings.steps, 2, count)


def _later(module: str, loader: str) -> Callable[..., Any]:
    """A loader whose libraries are imported only when it is called."""
    return lambda *args: getattr(import_module(f"arrag.backbones.{module}"), loader)(*args)


KINDS: dict[str, Kind] = {
    "janus": CodeKind(load_janus, decode_raster, _one_each),
    "showo": CodeKind(load_showo, decode_masked, _two_a_step),
    "llamagen": CodeKind(_later("llamagen", "load_llamagen"), decode_raster, _one_each),
    "emu3": CodeKind(_later("emu3", "load_emu3"), decode_raster, _one_each),
    "amused": CodeKind(_later("amused", "load_amused"), decode_masked, _two_a_step),
    "diffusers": PipelineKind(),
    "rdm": PipelineKind(),
    "imagerag": PipelineKind(),
}


def open_method(config: Config, method: str, sources: Sources = NO_SOURCES) -> Drawer:
    """Load a method; ArragError when something it needs is missing or of another generator."""
    return KINDS[config.generator_of(method)[1].kind].open(config, method, sources)


class Sampler:
    """A method of a generator of codes, ready to draw: a ``Drawer``.

    Raises ArragError when something it needs is missing or belongs to another generator.
    """

    def __init__(self, config: Config, method: str, sources: Sources = NO_SOURCES):
        self.settings = settings = config.generator_of(method)[1]
        self.kind: CodeKind = KINDS[settings.kind]
        device = default_device()
        backbone = self.kind.load(settings.checkpoint, settings.dtype, device)
        self.codec: Codec = load_codec(settings.checkpoint, device)
        equipped = equip(config, method, backbone, self.codec.digest, sources)
        self.backbone, self.augment = equipped.backbone, equipped.augment
        self.index = equipped.index
        self.parameters = self.backbone.parameters + equipped.parameters
        self.weights = {
            "backbone": tree_digest(settings.checkpoint),
            "tokenizer": self.codec.digest,
            **(equipped.weights or {}),
        }

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """Any prompt can be drawn."""

    def retrieved(self, prompt: str, sample: int) -> Retrieved | None:
        """The reference of RA-CM3; other methods retrieve patches, or nothing."""
        found = getattr(self.backbone, "retrieved", None)
        return found(prompt) if found else None

    def overlong(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the backbone reads only the beginning; most read all of any."""
        cut = getattr(self.backbone, "overlong", None)
        return cut(prompts) if cut else []

    def draw(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """One image for each pair of prompt and sample number: uint8 [B, S, S, 3]."""
        return self.codec.decode(self.draw_codes(prompts, samples, seed))

    def draw_codes(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> torch.Tensor:
        """The same as codes: int64 [B, H, W]."""
        settings = self.settings
        shape = self.kind.shape(settings, self.backbone.grid[0] * self.backbone.grid[1])
        pairs = zip(prompts, samples, strict=True)
        draws = [uniforms(seed, prompt, sample, math.prod(shape)) for prompt, sample in pairs]
        return self.kind.decode(
            self.backbone,
            prompts,
            np.stack(draws).reshape(-1, *shape),
            augment=self.augment,
            **settings.model_dump(exclude={"kind", "checkpoint", "dtype"}),
        )


def generate_images(
    config: Config,
    method: str,
    prompts: list[str],
    *,
    seed: int,
    samples_per_prompt: int = 1,
    sources: Sources = NO_SOURCES,
    batch_size: int | None = None,
) -> list[np.ndarray]:
    """Draw ``samples_per_prompt`` images of each prompt: uint8 [S, S, 3], prompt by prompt.

    ``batch_size``: see ``arrag.batching.in_batches``.
    """
    sampler = open_method(config, method, sources)
    sampler.check(prompts, samples_per_prompt)
    jobs = [(p, i) for p in prompts for i in range(samples_per_prompt)]
    images: list[np.ndarray] = []
    with tqdm(total=len(jobs), desc=method, unit="image") as bar:
        draw = lambda batch: sampler.draw(*zip(*batch, strict=True), seed)  # noqa: E731
        for batch, drawn in in_batches(draw, jobs, batch_size):
            images += list(drawn)
            bar.update(len(batch))
    return images


def sample_benchmark(
    config: Config,
    method: str,
    out: str | Path,
    *,
    benchmark: str | None = None,
    sources: Sources = NO_SOURCES,
    batch_size: int | None = None,
    progress: bool = True,
    part: Part | None = None,
) -> dict:
    """Draw every image of a benchmark in GenEval's layout below ``out``; ``run.json`` is last.

    ``benchmark`` is a name of the configuration, None the main one. Goes on after a kill with
    the images that are missing or damaged; images of other settings are removed first. Returns the
    contents of run.json. ``batch_size``: see ``arrag.batching.in_batches``; prompts of like length
    are drawn together.

    ``part``: draw only that part, while other jobs draw the others into the same folder; run.json
    is left to ``arrag.sample_parts.complete``. Parts are of whole batches, so that batches are
    those of a single job. Images of other settings are then an ArragError.
    """
    out = Path(out)
    drawn = config.benchmark(benchmark)
    prompts = load_prompt_set(drawn)
    sampler = open_method(config, method, sources)
    texts = [prompt["prompt"] for prompt in prompts]
    sampler.check(texts, drawn.images_per_prompt)
    run = {
        **known_run(config, method, benchmark, prompts),
        "weights": sampler.weights,
        "parameters": sampler.parameters,
        "index": sampler.index,
    }
    if overlong := sampler.overlong(texts):
        run["prompts_cut_short"] = overlong
    wanted = [(i, k) for i in range(len(prompts)) for k in range(drawn.images_per_prompt)]
    if part:
        size = batch_size or ON_CPU
        batches = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        wanted = [job for batch in part.share(batches) for job in batch]
    prepare(out, run, prompts, {i for i, _ in wanted} if part else None)
    jobs = [job for job in wanted if not is_whole(image_path(out, *job))]
    jobs.sort(key=lambda job: bucket(texts[job[0]]))
    about = {"desc": f"{method} {part}" if part else method, "unit": "image"}
    with tqdm(
        total=len(wanted), initial=len(wanted) - len(jobs), disable=not progress, **about
    ) as bar:
        draw = lambda batch: _drawn(  # noqa: E731
            sampler, [texts[i] for i, _ in batch], [k for _, k in batch], config.seed
        )
        for batch, (images, codes) in in_batches(draw, jobs, batch_size):
            for job, image, grid in zip(batch, images, codes, strict=True):
                save_png(image, image_path(out, *job), grid)
            bar.update(len(batch))
    found = ((*job, sampler.retrieved(texts[job[0]], job[1])) for job in wanted)
    record_retrieved(out / record_name(part), found)
    if part:
        return run
    join_records(out)
    return finish(out, run)


def known_run(
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
    sampler: Drawer, prompts: Sequence[str], samples: Sequence[int], seed: int
) -> tuple[np.ndarray, Sequence[np.ndarray | None]]:
    """Images as of ``Drawer.draw``, and the codes [H, W] of each if the generator has codes."""
    if not isinstance(sampler, Sampler):
        return sampler.draw(prompts, samples, seed), [None] * len(prompts)
    codes = sampler.draw_codes(prompts, samples, seed)
    return sampler.codec.decode(codes), list(codes.cpu().numpy())


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
            shutil.rmtree(out)
    if not begun.is_file():
        _begin(out, run)
    for i in range(len(prompts)) if numbers is None else sorted(numbers):
        folder = out / f"{i:05d}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        line = json.dumps(prompts[i], ensure_ascii=False) + "\n"
        if read_metadata(folder / "metadata.jsonl") != prompts[i]:
            write_text(folder / "metadata.jsonl", line)


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


def finish(out: Path, run: dict) -> dict:
    """Write run.json, which says that the samples are complete."""
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    write_json(out / "run.json", {**run, "versions": versions})
    return run


def save_png(image: np.ndarray, path: Path, codes: np.ndarray | None = None) -> None:
    """Write a PNG under a temporary name, then rename; ``codes`` [H, W] go into it as a text."""
    partial = path.with_name(f".{path.name}.tmp")
    info = None if codes is None else codes_chunk(codes)
    with disk_space(path):
        Image.fromarray(image).save(partial, format="PNG", pnginfo=info)
        os.replace(partial, path)

"""The two rows that bound the scores from above: real scenes, and their reconstructions.

Also the reference images that a distribution of samples is compared with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from arrag.config.root import Config
from arrag.data.micro.prompts import metadata_of
from arrag.data.micro.world import World
from arrag.data.prompts import load_captions, load_prompt_set
from arrag.methods.sample_folder import SampleFolder, save_png
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.errors import FormatError
from arrag.utils.files import read_json, write_json
from arrag.utils.hashing import sha256_file, sha256_json
from arrag.utils.outputs import atomic_path


def write_real(
    config: Config, out: str | Path, assets: str | Path, benchmark: str | None = None
) -> dict:
    """Write scenes of the reference split that show a benchmark's prompts, as samples."""
    return _write(config, Path(out), assets, benchmark, None)


def write_reconstructions(
    config: Config, out: str | Path, assets: str | Path, benchmark: str | None = None
) -> dict:
    """Write the same scenes, encoded and decoded by the first generator's image tokenizer."""
    image_tokenizer = load_tokenizer(config.generator_of()[1].checkpoint)
    return _write(config, Path(out), assets, benchmark, image_tokenizer)


def _write(
    config: Config,
    out: Path,
    assets: str | Path,
    benchmark: str | None,
    image_tokenizer: ImageTokenizer | None,
) -> dict:
    block = config.benchmark(benchmark)
    prompts = load_prompt_set(block)
    shown = [metadata_of(prompt["prompt"]) for prompt in prompts]
    world = World(assets, "reference")
    count = block.images_per_prompt
    run = {
        "method": "reconstructions" if image_tokenizer else "real",
        "seed": config.seed,
        "prompt_set_sha256": sha256_file(block.prompts),
        "weights": {"tokenizer": image_tokenizer.digest} if image_tokenizer else {},
        "assets": read_json(Path(assets) / "manifest.json")["content_sha256"],
        "index": None,
        "images_per_prompt": count,
        "prompts": len(prompts),
    }
    run["config_hash"] = sha256_json(run)
    folder = SampleFolder(out, run, prompts)
    for i, metadata in enumerate(tqdm(shown, desc=run["method"], unit="prompt")):
        missing = folder.missing((i, k) for k in range(count))
        if not missing:
            continue
        # The seed numbers the variants, so another seed shows other scenes.
        scenes = [world.scene_for(metadata, config.seed * count + k) for k in range(count)]
        images = np.stack([scene.image for scene in scenes])
        if image_tokenizer:
            images = image_tokenizer.decode(image_tokenizer.encode(images))
        for job in missing:
            folder.save(job, images[job[1]])
    return folder.finish()


def write_reference(prompts: str | Path, out: str | Path, assets: str | Path) -> int:
    """Render the scenes that a caption file describes, as the reference of a distribution.

    Args:
        prompts: JSON lines of ``arrag.data.micro.prompts.caption_lines``; each names its scene.
        out: Folder to write, completely or not at all: ``{category}/{id}.png``, and
            ``meta_data.json`` in MJHQ-30K's format.
        assets: The micro world's pictures.

    Returns:
        Number of images.

    Raises:
        FormatError: A line names no scene, or one that it does not describe.
    """
    lines = load_captions(prompts)
    if missing := [line for line in lines if not {"id", "category", "scene"} <= line.keys()]:
        raise FormatError(
            f"{len(missing)} lines lack id, category or scene, first {missing[0]}",
            path=prompts,
            hint="only captions of `arrag micro prompts` have scenes; name a folder of images",
        )
    world = World(assets, "reference")
    with atomic_path(out) as folder:
        for line in tqdm(lines, desc="reference", unit="image"):
            scene = world.scene(line["scene"], line["category"])
            if scene.caption != line["prompt"]:
                raise FormatError(
                    f"found {line['prompt']!r}, but scene {line['scene']} shows {scene.caption!r}",
                    path=prompts,
                    field=line["id"],
                    hint="write the file again with `arrag micro prompts`",
                )
            path = folder / line["category"] / f"{line['id']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(scene.image, path)
        entries = {line["id"]: {k: line[k] for k in ("category", "prompt")} for line in lines}
        write_json(folder / "meta_data.json", entries)
    return len(lines)

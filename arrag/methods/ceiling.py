"""The two rows no method can be expected to beat: real scenes, and their reconstructions.

Also the scenes that a distribution of images is compared with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from arrag.config.root import Config
from arrag.data.micro.prompts import metadata_of
from arrag.data.micro.world import World
from arrag.data.prompts import load_captions, load_prompt_set
from arrag.methods.runner import finish, image_path, is_whole, prepare, save_png
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json
from arrag.utils.hashing import sha256_file, sha256_json
from arrag.utils.outputs import atomic_path


def write_real(
    config: Config, out: str | Path, assets: str | Path, benchmark: str | None = None
) -> dict:
    """Scenes of the reference split that show a benchmark's prompts, as samples below ``out``."""
    return _write(config, Path(out), assets, benchmark, tokenizer=None)


def write_reconstructions(
    config: Config, out: str | Path, assets: str | Path, benchmark: str | None = None
) -> dict:
    """The same scenes, encoded and decoded by the first generator's tokenizer."""
    tokenizer = load_tokenizer(config.generator_of()[1].checkpoint)
    return _write(config, Path(out), assets, benchmark, tokenizer)


def _write(config: Config, out: Path, assets: str | Path, benchmark: str | None, tokenizer) -> dict:
    drawn = config.benchmark(benchmark)
    prompts = load_prompt_set(drawn)
    shown = [metadata_of(prompt["prompt"]) for prompt in prompts]
    world = World(assets, "reference")
    count = drawn.images_per_prompt
    run = {
        "method": "reconstructions" if tokenizer else "real",
        "seed": config.seed,
        "prompt_set_sha256": sha256_file(drawn.prompts),
        "weights": {"tokenizer": tokenizer.digest} if tokenizer else {},
        "assets": read_json(Path(assets) / "manifest.json")["content_sha256"],
        "index": None,
        "images_per_prompt": count,
        "prompts": len(prompts),
    }
    run["config_hash"] = sha256_json(run)
    prepare(out, run, prompts)
    for i, metadata in enumerate(tqdm(shown, desc=run["method"], unit="prompt")):
        missing = [k for k in range(count) if not is_whole(image_path(out, i, k))]
        if not missing:
            continue
        # The seed numbers the variants, so another seed shows other scenes.
        scenes = [world.scene_for(metadata, config.seed * count + k) for k in range(count)]
        images = np.stack([scene.image for scene in scenes])
        if tokenizer:
            images = tokenizer.decode(tokenizer.encode(images))
        for k in missing:
            save_png(images[k], image_path(out, i, k))
    return finish(out, run)


def write_reference(prompts: str | Path, out: str | Path, assets: str | Path) -> int:
    """Render the scenes that a caption file describes: ``out/{category}/{id}.png``.

    ``prompts`` comes from ``arrag.data.micro.prompts.caption_lines``: each line names its scene.
    ``meta_data.json`` beside the folders is in MJHQ-30K's format. All or nothing; returns how many.
    """
    lines = load_captions(prompts)
    if missing := [line for line in lines if not {"id", "category", "scene"} <= line.keys()]:
        raise ArragError(
            f"{prompts}: {len(missing)} lines lack id, category or scene, first {missing[0]}; "
            "only captions of `workflow/scripts/micro/prompts.py` have scenes, name a folder of images instead"
        )
    world = World(assets, "reference")
    with atomic_path(out) as folder:
        for line in tqdm(lines, desc="reference", unit="image"):
            scene = world.scene(line["scene"], line["category"])
            if scene.caption != line["prompt"]:
                raise ArragError(
                    f"{prompts}: {line['id']} is {line['prompt']!r}, but scene {line['scene']} "
                    f"shows {scene.caption!r}; write the file again with `workflow/scripts/micro/prompts.py`"
                )
            path = folder / line["category"] / f"{line['id']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(scene.image, path)
        entries = {line["id"]: {k: line[k] for k in ("category", "prompt")} for line in lines}
        write_json(folder / "meta_data.json", entries)
    return len(lines)

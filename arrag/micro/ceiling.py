"""The two rows no method can be expected to beat: real scenes, and their reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from arrag.codec import load_codec
from arrag.config import Config
from arrag.files import read_json, sha256_file, sha256_json
from arrag.generate import finish, image_path, prepare, save_png
from arrag.metrics.samples import load_prompts
from arrag.micro.world import World


def write_real(config: Config, out: str | Path, assets: str | Path) -> dict:
    """Scenes of the reference split that show the benchmark's prompts, as samples below ``out``."""
    return _write(config, Path(out), assets, codec=None)


def write_reconstructions(config: Config, out: str | Path, assets: str | Path) -> dict:
    """The same scenes, encoded and decoded by the tokenizer."""
    return _write(config, Path(out), assets, codec=load_codec(config.backbone.checkpoint))


def _write(config: Config, out: Path, assets: str | Path, codec) -> dict:
    prompts = load_prompts(config.benchmark.prompts)
    world = World(assets, "reference")
    count = config.benchmark.images_per_prompt
    run = {
        "method": "reconstructions" if codec else "real",
        "seed": config.seed,
        "prompt_set_sha256": sha256_file(config.benchmark.prompts),
        "weights": {"tokenizer": codec.digest} if codec else {},
        "assets": read_json(Path(assets) / "manifest.json")["content_sha256"],
        "index": None,
        "images_per_prompt": count,
        "prompts": len(prompts),
    }
    run["config_hash"] = sha256_json(run)
    prepare(out, run, prompts)
    for i, prompt in enumerate(tqdm(prompts, desc=run["method"], unit="prompt")):
        # The seed numbers the variants, so another seed shows other scenes.
        scenes = [world.scene_for(prompt, config.seed * count + k) for k in range(count)]
        images = np.stack([scene.image for scene in scenes])
        if codec:
            images = codec.decode(codec.encode(images))
        for k, image in enumerate(images):
            save_png(image, image_path(out, i, k))
    return finish(out, run)

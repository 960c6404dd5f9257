"""Train the micro open_clip model that names the colour of a cut-out object.

Contrastive, on the crops the judge will see (object on grey, in both sprite styles, half of them
reconstructions) against GenEval's three colour templates.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import training_data as data
from safetensors.torch import save_file

from arrag.data.micro.world import CLASSES, COLORS, World
from arrag.metrics.color import TEMPLATES, object_crop
from arrag.training import loop
from arrag.utils.outputs import atomic_path

BATCH = 64
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 32, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic", "resize_mode": "squash",
    },
}  # fmt: skip


def build() -> tuple[torch.nn.Module, object]:
    """A freshly initialised model and its text tokenizer."""
    config = CONFIG["model_cfg"]
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    return model, open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])


def crops_of(scene, image: np.ndarray, rng: random.Random):
    """Pairs (crop, colour, class) of a scene's coloured objects, masks and boxes a little off."""
    for item in scene.objects:
        if item.color is not None:
            shift = [rng.randint(-1, 1) for _ in range(2)]
            mask = np.roll(item.mask, shift, axis=(0, 1))
            box = tuple(v + rng.uniform(-1, 1) for v in item.box)
            yield object_crop(image, mask, box), item.color, item.label


def train(assets: Path, image_tokenizer, out: Path, work_dir: Path, steps: int) -> None:
    """Train for ``steps`` batches of crops; write an open_clip directory to ``out``."""
    worlds = [World(assets, split) for split in ("training", "database")]
    model, tokenizer = build()
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=32, **CONFIG["preprocess_cfg"]), is_train=False
    )
    texts = [t.format(color=c, name=n) for n in CLASSES for c in COLORS for t in TEMPLATES]
    tokens = {text: tokens for text, tokens in zip(texts, tokenizer(texts), strict=True)}
    model.train()

    def loss_of_step(step: int) -> torch.Tensor:
        rng = random.Random(step)
        world = worlds[step % 2]
        tasks = ("colors", "color_attr")
        batch = [world.scene(step * BATCH + i, tasks[i % 2]) for i in range(BATCH)]
        images = data.images_of(batch)
        half = BATCH // 2
        images[:half] = image_tokenizer.decode(image_tokenizer.encode(images[:half]))
        crops = [c for s, i in zip(batch, images, strict=True) for c in crops_of(s, i, rng)]
        pixels = torch.stack([transform(crop) for crop, _, _ in crops])
        template = TEMPLATES[step % len(TEMPLATES)]
        captions = [template.format(color=c, name=n) for _, c, n in crops]
        distinct = sorted(set(captions))
        target = torch.tensor([distinct.index(caption) for caption in captions])
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(model.encode_text(torch.stack([tokens[t] for t in distinct])), dim=-1)
        return F.cross_entropy(model.logit_scale.exp() * image @ text.T, target)

    loop.train(
        model,
        [{"params": model.parameters()}],
        loss_of_step,
        steps=steps,
        peak=1e-3,
        work_dir=work_dir,
        train_config={"what": "clip", "batch": BATCH},
        warmup=50,
    )
    with atomic_path(out) as partial:
        partial.mkdir()
        (partial / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
        state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(state, partial / "open_clip_model.safetensors")

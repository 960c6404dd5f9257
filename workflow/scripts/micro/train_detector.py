"""Train the micro detector on composites of both sprite styles and on their reconstructions.

The judge may know the held-out style: it has to name what a model draws in either. It never sees
the reference split, whose backgrounds are new to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import training_data as data
from torch import nn

from arrag.data.micro.world import CLASSES, Scene, World
from arrag.metrics.detectors.micro import build_detector, save_detector
from arrag.training import loop

BATCH = 16


class _Judge(nn.Module):
    """Gives the state dict of a Mask R-CNN to the loop."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def target_of(scene: Scene) -> dict[str, torch.Tensor]:
    """Boxes [n, 4] (pixels), labels [n] (1-based), masks [n, 48, 48] of a scene."""
    return {
        "boxes": torch.tensor([o.box for o in scene.objects], dtype=torch.float32),
        "labels": torch.tensor([CLASSES.index(o.label) + 1 for o in scene.objects]),
        "masks": torch.from_numpy(np.stack([o.mask for o in scene.objects]).astype(np.uint8)),
    }


def train(assets: Path, image_tokenizer, out: Path, work_dir: Path, steps: int) -> None:
    """Train for ``steps`` batches, a third of each through ``image_tokenizer``; write ``out``."""
    worlds = [World(assets, split) for split in ("training", "database")]
    torch.manual_seed(0)
    model = build_detector(len(CLASSES))
    judge = _Judge(model).train()

    def loss_of_step(step: int) -> torch.Tensor:
        # Mask R-CNN samples its proposals at random: tie that to the step as well.
        torch.manual_seed(step)
        batch = data.scenes(worlds[step % 2], step, BATCH)
        images = data.images_of(batch)
        third = BATCH // 3
        images[:third] = image_tokenizer.decode(image_tokenizer.encode(images[:third]))
        if step % 3 == 0:
            images = data.jitter(images, step)
        tensors = list(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        return sum(model(tensors, [target_of(scene) for scene in batch]).values())

    loop.train(
        judge,
        [{"params": judge.parameters()}],
        loss_of_step,
        steps=steps,
        peak=1e-3,
        work_dir=work_dir,
        train_config={"what": "detector", "batch": BATCH},
        warmup=100,
        weight_decay=1e-3,
    )
    save_detector(model, list(CLASSES), out)

"""Batches of the training split for the training scripts, drawn from the step number alone."""

from __future__ import annotations

import numpy as np

from arrag.data.micro.world import Scene, World

VALIDATION = 1_000_000_000  # scene numbers from here on are never trained on


def scenes(world: World, step: int, batch: int) -> list[Scene]:
    """The ``batch`` scenes of training step ``step``."""
    return [world.scene(step * batch + i) for i in range(batch)]


def validation_scenes(world: World, count: int) -> list[Scene]:
    """The first ``count`` scenes kept for validation."""
    return [world.scene(VALIDATION + i) for i in range(count)]


def images_of(batch: list[Scene]) -> np.ndarray:
    """uint8 [B, 48, 48, 3]."""
    return np.stack([scene.image for scene in batch])


def jitter(images: np.ndarray, seed: int) -> np.ndarray:
    """Change contrast, brightness and tint of each image (uint8 [B, S, S, 3]) at random.

    Teaches the tokenizer tones that the few training backgrounds do not have.
    """
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.6, 1.3, (len(images), 1, 1, 1)) * rng.uniform(
        0.85, 1.15, (len(images), 1, 1, 3)
    )
    shift = rng.uniform(-40, 40, (len(images), 1, 1, 1))
    return np.clip((images - 128.0) * gain + 128 + shift, 0, 255).astype(np.uint8)

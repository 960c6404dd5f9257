"""Mask2Former as GenEval's detector: transformers' network, mmdetection's processing.

Pre- and post-processing follow mmdetection 2.x, which produced GenEval's published numbers, not the
image processor of transformers: that one resizes to a multiple of 32 and so changes the aspect
ratio, and its instance post-processing keeps one class a query.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from arrag.metrics.types import GENEVAL_NAMES, Box, Detection
from arrag.utils.checkpoint import load_pretrained, loading
from arrag.utils.device import default_device
from arrag.utils.hashing import tree_digest

# mmdetection 2.x, mask2former_*_lsj_8x2_50e_coco, test pipeline: keep-ratio resize, pad, normalise.
SHORT_SIDE, LONG_SIDE = 800, 1333  # pixels
SIZE_DIVISOR = 32  # pixels
PAD_VALUE = 128.0  # grey level 0-255, padded before normalisation
MEAN = (123.675, 116.28, 103.53)  # RGB, 0-255
STD = (58.395, 57.12, 57.375)
TOP_CLASS_SCORES = 100  # over query x class, an image


class Mask2FormerDetector:
    """transformers' Mask2Former with mmdetection's pre- and post-processing."""

    def __init__(self, model: torch.nn.Module, classes: list[str], name: str, digest: str) -> None:
        self.model, self.classes, self.name, self.digest = model, classes, name, digest

    @classmethod
    def load(cls, path: str | Path) -> Mask2FormerDetector:
        """Load a local transformers checkpoint; no network is used."""
        from transformers import Mask2FormerForUniversalSegmentation

        with loading(path, "a Mask2Former of transformers"):
            model = load_pretrained(
                Mask2FormerForUniversalSegmentation, Path(path), "float32", leave_out=("",)
            )
        model = model.eval().to(default_device())
        labels = model.config.id2label
        names = [labels[i] for i in range(len(labels))]
        classes = [GENEVAL_NAMES.get(name, name) for name in names]
        return cls(model, classes, f"mask2former:{Path(path).name}", tree_digest(path))

    @torch.inference_mode()
    def detect(self, images: list[np.ndarray]) -> list[list[Detection]]:
        """Detections of uint8 RGB images [H, W, 3]; at most 100 an image, empty masks left out."""
        # Images are batched by size only, so the padding never depends on the other images.
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            groups[image.shape].append(i)
        found: list[list[Detection]] = [[] for _ in images]
        for (height, width, _), members in groups.items():
            batch = torch.from_numpy(np.stack([images[i] for i in members])).to(self.model.device)
            pixels, resized = preprocess(batch)
            output = self.model(pixel_values=pixels)
            for i, class_logits, mask_logits in zip(
                members, output.class_queries_logits, output.masks_queries_logits, strict=True
            ):
                masks = _to_image(mask_logits, pixels.shape[-2:], resized, (height, width))
                found[i] = instances(class_logits, masks, self.classes)
        return found


def preprocess(batch: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Resize to 1333 x 800 keeping the ratio, pad to a multiple of 32, normalise.

    The resize is bilinear without antialias, rounded to whole grey levels (OpenCV's, to about one
    level).

    Args:
        batch: uint8 [B, H, W, 3].

    Returns:
        float32 [B, 3, H', W'], and the (height, width) before padding.
    """
    height, width = batch.shape[1:3]
    scale = min(LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    resized = int(height * scale + 0.5), int(width * scale + 0.5)
    pixels = batch.permute(0, 3, 1, 2).float()  # [B, 3, H, W]
    pixels = F.interpolate(pixels, size=resized, mode="bilinear", align_corners=False)
    pixels = pixels.round().clamp(0, 255)
    below, right = (-resized[0] % SIZE_DIVISOR, -resized[1] % SIZE_DIVISOR)
    pixels = F.pad(pixels, (0, right, 0, below), value=PAD_VALUE)
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(STD, device=pixels.device)[:, None, None]
    return (pixels - mean) / std, resized


def _to_image(
    mask_logits: torch.Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
) -> torch.Tensor:
    """Mask logits [Q, h, w] of the network -> [Q, H, W] of the original image."""
    logits = F.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)
    logits = logits[..., : resized[0], : resized[1]]
    return F.interpolate(logits, size=original, mode="bilinear", align_corners=False)[0]


def instances(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, classes: list[str]
) -> list[Detection]:
    """The 100 best (query, class) pairs as detections.

    The score is the class probability times the mean mask probability inside mask > 0; an empty
    mask, whose score is 0, is left out.

    Args:
        class_logits: [Q, C+1]; the last class is background.
        mask_logits: [Q, H, W] at image size.
        classes: Names of the C classes.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]  # [Q, C]
    scores, flat = probabilities.flatten().topk(min(TOP_CLASS_SCORES, probabilities.numel()))
    query, label = flat // len(classes), flat % len(classes)
    used, where = query.unique(return_inverse=True)
    masks = mask_logits[used] > 0  # [U, H, W]
    inside = (mask_logits[used].sigmoid() * masks).flatten(1).sum(1)
    quality = inside / (masks.flatten(1).sum(1) + 1e-6)  # the official divisor's epsilon
    scores = (scores * quality[where]).tolist()
    arrays = masks.cpu().numpy()
    boxes = [mask_box(mask) for mask in arrays]
    return [
        Detection(classes[c], score, boxes[u], arrays[u])
        for c, score, u in zip(label.tolist(), scores, where.tolist(), strict=True)
        if arrays[u].any()
    ]


def mask_box(mask: np.ndarray) -> Box:
    """Tight box (x0, y0, x1, y1) of a bool mask [H, W]; x1, y1 exclusive; zeros when empty."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(xs):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))

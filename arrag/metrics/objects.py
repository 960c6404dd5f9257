"""What detectors find and colour classifiers take; nothing here is slow to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

# COCO's class names as checkpoints spell them -> as GenEval's prompts spell them.
GENEVAL_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 exclusive


@dataclass(frozen=True)
class Detection:
    """One found object: class name, score in [0, 1], box, and its mask over the whole image.

    ``box`` is (x0, y0, x1, y1) in float pixels, x1 and y1 exclusive; ``mask`` is bool [H, W].
    """

    label: str
    score: float
    box: Box
    mask: np.ndarray


class Detector(Protocol):
    """What a judge needs of a detector. The result of an image never depends on the others."""

    name: str
    digest: str
    classes: list[str]

    def detect(self, images: list[np.ndarray]) -> list[list[Detection]]:
        """Detections of each uint8 RGB image [H, W, 3], in no particular order."""
        ...


class Colors(Protocol):
    """What a verdict needs of a colour classifier (arrag.metrics.color.ColorClassifier)."""

    name: str
    digest: str

    def classify(self, image: np.ndarray, mask: np.ndarray, box: Box, class_name: str) -> str:
        """One of COLORS for the object under ``mask`` (bool [H, W]) in ``box``."""
        ...

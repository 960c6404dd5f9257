"""Data types that detectors, colour classifiers and feature extractors share; light to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from arrag.data.questions import listed
from arrag.metrics.preprocess import Preprocess
from arrag.utils.device import default_device
from arrag.utils.errors import ArragError, MismatchError
from arrag.utils.hashing import sha256_json

if TYPE_CHECKING:
    import torch

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
Gaps = dict[str, list[str]]  # kind of what is missing or superfluous -> names


def refuse_gaps(
    gaps: Gaps,
    path: str | Path,
    allow_partial: bool,
    remedy: str,
    error: type[ArragError] = MismatchError,
) -> None:
    """Raise ``error`` for the first gap unless ``allow_partial``."""
    for kind, names in gaps.items():
        if not allow_partial:
            hint = f"{remedy}, or pass --allow-partial to have it stated in the score"
            raise error(f"{kind}: {listed(names)}", path=path, hint=hint)


@dataclass(frozen=True)
class Detection:
    """One detected object: class name, score in [0, 1], box, and bool mask [H, W] of the image."""

    label: str
    score: float
    box: Box
    mask: np.ndarray


class Detector(Protocol):
    """An object detector. The detections of an image never depend on the other images."""

    name: str
    digest: str
    classes: list[str]

    def detect(self, images: list[np.ndarray]) -> list[list[Detection]]:
        """Detections of each uint8 RGB image [H, W, 3], in no particular order."""
        ...


class ColorNamer(Protocol):
    """A colour classifier, such as ``arrag.metrics.color.ColorClassifier``."""

    name: str
    digest: str

    def classify(self, image: np.ndarray, mask: np.ndarray, box: Box, class_name: str) -> str:
        """One of GenEval's colours for the object under ``mask`` (bool [H, W]) in ``box``."""
        ...


Network = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass
class Extractor:
    """A network that maps images to feature vectors.

    Attributes:
        name: Shown in scores and in a table's column.
        digest: Identifies the weights.
        preprocess: Applied to each image first.
        load: Returns the network: preprocessed float32 [B, 3, S, S] -> features [B, d].
    """

    name: str
    digest: str
    preprocess: Preprocess
    load: Callable[[], Network] = field(repr=False)
    _network: Network | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        """What a score states about the extractor."""
        return {
            "extractor": self.name,
            "extractor_digest": self.digest,
            "preparation": self.preprocess.identity,
        }

    @property
    def key(self) -> str:
        """Hex digest of ``identity``; the feature cache is keyed by it."""
        return sha256_json(self.identity)

    def __call__(self, preprocessed: list[np.ndarray]) -> np.ndarray:
        """Features float32 [B, d] of preprocessed images [3, S, S]."""
        import torch

        if self._network is None:
            self._network = self.load()
        device = torch.device(default_device())
        with torch.inference_mode():
            features = self._network(torch.from_numpy(np.stack(preprocessed)).to(device))
            return features.flatten(1).float().cpu().numpy()

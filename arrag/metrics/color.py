"""GenEval's colour classifier: open_clip zero-shot over ten colours (djghosh13/geneval)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from arrag.data.clip import OpenClip
from arrag.data.prompts import COLORS
from arrag.metrics.types import Box

TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKDROP = "#999"  # of the pixels outside the mask


class ColorClassifier:
    """Names the colour of one object, in float32. GenEval's own is ("ViT-L-14", "openai").

    Args:
        model: A folder with open_clip_config.json and weights; with ``pretrained`` the name of an
            open_clip model.
        pretrained: Tag or file of the weights of a named model.

    Raises:
        ArragError: The model or its weights cannot be read.
    """

    def __init__(self, model: str | Path, pretrained: str | None = None) -> None:
        self.clip = OpenClip(model, pretrained)
        self.name, self.digest = self.clip.name, self.clip.digest
        self._text: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def classify(self, image: np.ndarray, mask: np.ndarray, box: Box, class_name: str) -> str:
        """One of COLORS for the object under ``mask`` (bool [H, W]) in ``box`` (float pixels).

        ``image`` is uint8 RGB [H, W, 3]; ``class_name`` goes into the text templates.
        """
        crop = object_crop(image, mask, box)
        feature = self.clip.encode_images([crop])  # [1, d]
        return COLORS[int((feature @ self.text_embeddings(class_name).T).argmax())]

    @torch.inference_mode()
    def text_embeddings(self, class_name: str) -> torch.Tensor:
        """Unit text embedding of each colour of ``class_name``, float32 [10, d]; cached."""
        if class_name not in self._text:
            texts = [t.format(color=c, name=class_name) for c in COLORS for t in TEMPLATES]
            each = self.clip.encode_texts(texts)  # [30, d]
            mean = each.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1)  # [10, d]
            self._text[class_name] = F.normalize(mean, dim=-1)
        return self._text[class_name]


def object_crop(image: np.ndarray, mask: np.ndarray, box: Box) -> Image.Image:
    """The object on a #999 backdrop, cut to its box (rounded to pixels, at least 1 x 1)."""
    picture = Image.fromarray(image)
    backdrop = Image.new("RGB", picture.size, BACKDROP)
    picture = Image.composite(picture, backdrop, Image.fromarray(mask))
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    return picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))

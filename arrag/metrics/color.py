"""GenEval's colour classifier: open_clip zero-shot over ten colours (djghosh13/geneval)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from arrag.errors import ArragError
from arrag.files import tree_digest

# GenEval's ten colours, in its order: the argmax runs over them.
COLORS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKDROP = "#999"  # what stands in for the pixels outside the mask


class ColorClassifier:
    """Names the colour of one object. GenEval's own model is ("ViT-L-14", "openai").

    ``model`` is a local directory holding open_clip_config.json and its weights when ``pretrained``
    is None, else the name of an open_clip model whose weights are the tag or file ``pretrained``.
    Runs in float32. Raises ArragError when the model or its weights cannot be read.
    """

    def __init__(self, model: str | Path, pretrained: str | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        source = str(model) if pretrained else f"local-dir:{model}"
        try:
            self.model, self.transform = open_clip.create_model_from_pretrained(
                source,
                pretrained,
                device=self.device,
                force_quick_gelu=_quick_gelu(source, pretrained),
            )
            self.tokenizer = open_clip.get_tokenizer(source)
        except Exception as error:  # open_clip, safetensors and the hub raise a dozen types here
            raise ArragError(
                f"{model}: the open_clip model cannot be read ({error}); give a directory with "
                "open_clip_config.json and open_clip_model.safetensors, or a name and its tag"
            ) from error
        self.model.eval()
        self.name = (
            f"{Path(model).name}:{Path(pretrained).name}" if pretrained else Path(model).name
        )
        self.digest = _state_digest(self.model) if pretrained else tree_digest(model)
        self._text: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def classify(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        box: tuple[float, float, float, float],
        class_name: str,
    ) -> str:
        """One of COLORS for the object under ``mask`` (bool [H, W]) in ``box`` (float pixels).

        ``image`` is uint8 RGB [H, W, 3]; ``class_name`` goes into the text templates.
        """
        crop = object_crop(image, mask, box)
        pixels = self.transform(crop)[None].to(self.device)  # [1, 3, S, S]
        feature = F.normalize(self.model.encode_image(pixels), dim=-1)  # [1, d]
        return COLORS[int((feature @ self.text_embeddings(class_name).T).argmax())]

    @torch.inference_mode()
    def text_embeddings(self, class_name: str) -> torch.Tensor:
        """Unit text embedding of each colour of ``class_name``, float32 [10, d]; cached."""
        if class_name not in self._text:
            texts = [t.format(color=c, name=class_name) for c in COLORS for t in TEMPLATES]
            tokens = self.tokenizer(texts).to(self.device)
            each = F.normalize(self.model.encode_text(tokens), dim=-1)  # [30, d]
            mean = each.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1)  # [10, d]
            self._text[class_name] = F.normalize(mean, dim=-1)
        return self._text[class_name]


def object_crop(
    image: np.ndarray, mask: np.ndarray, box: tuple[float, float, float, float]
) -> Image.Image:
    """The object on a #999 backdrop, cut to its box (rounded to pixels, at least 1 x 1)."""
    picture = Image.fromarray(image)
    backdrop = Image.new("RGB", picture.size, BACKDROP)
    picture = Image.composite(picture, backdrop, Image.fromarray(mask))
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    return picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))


def _quick_gelu(name: str, tag: str | None) -> bool:
    """Whether the weights of ``tag`` were trained with QuickGELU.

    open_clip 3 builds plain GELU for ("ViT-L-14", "openai") and only warns; GenEval's open_clip 2
    used QuickGELU there, as OpenAI did.
    """
    return bool(tag and open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))


def _state_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

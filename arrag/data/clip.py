"""open_clip models: images and texts to unit vectors of one space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from arrag.utils.device import default_device
from arrag.utils.errors import FormatError
from arrag.utils.hashing import tree_digest


class OpenClip:
    """An open_clip model in evaluation mode, float32.

    Args:
        model: A directory with open_clip_config.json and the weights; with ``pretrained``, the name
            of an open_clip model.
        pretrained: Tag or file of the weights of a named model.

    Attributes:
        image_size: Pixels a side.
        name, digest: Of the weights.

    Raises:
        FormatError: The model or its weights cannot be read.
    """

    def __init__(self, model: str | Path, pretrained: str | None = None) -> None:
        self.device = torch.device(default_device())
        source = str(model) if pretrained else f"local-dir:{model}"
        try:
            self.model, self.transform = open_clip.create_model_from_pretrained(
                source,
                pretrained,
                device=self.device,
                force_quick_gelu=quick_gelu(source, pretrained),
            )
            self.tokenizer = open_clip.get_tokenizer(source)
        except Exception as error:  # open_clip, safetensors and the hub raise a dozen types here
            raise FormatError(
                f"the open_clip model cannot be read ({error})",
                path=model,
                hint="give a directory with open_clip_config.json and open_clip_model.safetensors, "
                "or a name and its tag",
            ) from error
        self.model.eval()
        self.name = (
            f"{Path(model).name}:{Path(pretrained).name}" if pretrained else Path(model).name
        )
        self.digest = _state_digest(self.model) if pretrained else tree_digest(model)
        size = self.model.visual.image_size
        self.image_size: int = size if isinstance(size, int) else size[0]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
        """Encode PIL images or uint8 [H, W, 3] of any size to unit float32 [B, d]."""
        pictures = [Image.fromarray(i) if isinstance(i, np.ndarray) else i for i in images]
        pixels = torch.stack([self.transform(p) for p in pictures]).to(self.device)
        return F.normalize(self.model.encode_image(pixels), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts to unit float32 [B, d]."""
        return F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)), dim=-1)


def quick_gelu(name: str, tag: str | None) -> bool:
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

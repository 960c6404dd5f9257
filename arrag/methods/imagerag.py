"""ImageRAG (arXiv 2502.09411) on SDXL with an IP-Adapter, on diffusers.

A judge is shown what SDXL alone draws and says what to look for if something is missing. The image
of the database nearest to that caption is then shown to the adapter, and the prompt names it. Of
the authors' pipeline for SDXL this keeps: one caption, one reference, the words of the prompt. Two
things differ: GPT-4o is replaced (``judge``), and the reference is the picture that the tokenizer
makes of the stored codes, since the database keeps nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from arrag.config.generators import ImageRag
from arrag.data.clip import OpenClip
from arrag.methods.diffusion import KINDS, Diffusion, load_pipeline
from arrag.methods.pipeline_folder import first_line, load_model, read_index
from arrag.methods.retrieval_gate import RetrievalGate
from arrag.methods.retrieved_images import ImageRetriever, RetrievedImages
from arrag.retrieval.image_index import ImageIndex
from arrag.tokenizers.base import ImageTokenizer
from arrag.utils.errors import ArragError

NAME = "StableDiffusionXLPipeline"
# One at a time: diffusers would show all references of a batch to each of its images.
KIND = KINDS[NAME]._replace(alone=True)


class ImageRagPipeline(Diffusion):
    """ImageRAG ready to draw.

    index: of the database's images; clip: the model it was made with; image_tokenizer: what
    encoded the database.
    """

    def __init__(
        self,
        pipeline: Any,
        settings: ImageRag,
        judge: RetrievalGate,
        index: ImageIndex,
        clip: OpenClip,
        image_tokenizer: ImageTokenizer,
    ) -> None:
        super().__init__(pipeline, KIND, settings)
        if index.store.tokenizer_digest != image_tokenizer.digest:
            raise ArragError(
                f"{index.store.path}: its tokenizer is {index.store.tokenizer_digest}, that of "
                f"{settings.tokenizer} is {image_tokenizer.digest}; name the one that encoded "
                "the database"
            )
        self.judge, self.tokenizer = judge, image_tokenizer
        self._retrieve = ImageRetriever(index, clip, 1)

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """ArragError unless the judge can say something of each image."""
        self.judge.check(prompts, samples)

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which, as they are told to the pipeline, no encoder reads all."""
        return [
            p for p in prompts if super(ImageRagPipeline, self).truncated_prompts(self._texts(p))
        ]

    def _texts(self, prompt: str) -> list[str]:
        captions = self.judge.captions(prompt)
        return [prompt if caption is None else self.told(prompt, caption) for caption in captions]

    def told(self, prompt: str, caption: str) -> str:
        """The prompt of an image whose reference shows ``caption``."""
        return self.settings.prompt.replace("{caption}", caption).replace("{prompt}", prompt)

    def retrieved(self, prompt: str, sample: int) -> RetrievedImages | None:
        """The reference of an image; None if it is drawn without."""
        caption = self.judge.caption(prompt, sample)
        return None if caption is None else self._retrieve(caption)

    def reference(self, found: RetrievedImages) -> Image.Image:
        """The picture of a retrieved image."""
        grids = self._retrieve.index.store.grids(np.array(found.images))
        return Image.fromarray(self.tokenizer.decode(torch.from_numpy(grids.astype(np.int64)))[0])

    def condition(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """What the pipeline is told of one image: its prompt and its reference.

        Without a reference the adapter weighs nothing: the image is that of SDXL alone.
        """
        (prompt,), (sample,) = prompts, samples
        found = self.retrieved(prompt, sample)
        self.pipeline.set_ip_adapter_scale(self.settings.ip_adapter_scale if found else 0.0)
        text = self.told(prompt, found.query) if found else prompt
        picture = self.reference(found) if found else Image.new("RGB", (self.size, self.size))
        return {**super().condition([text], [sample]), "ip_adapter_image": picture}


def load_imagerag(
    settings: ImageRag,
    judge: RetrievalGate,
    index: ImageIndex,
    clip: OpenClip,
    image_tokenizer: ImageTokenizer,
    device: str | None = None,
) -> ImageRagPipeline:
    """Load SDXL, the adapter and its image encoder; ArragError names what is wrong with them."""
    listed = read_index(settings.checkpoint, (NAME,))
    encoder = _image_encoder(settings.image_encoder, getattr(torch, settings.dtype))
    side = encoder.config.image_size
    pipeline = load_pipeline(
        settings,
        listed,
        KIND,
        device,
        image_encoder=encoder,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
    )
    _add_adapter(pipeline, settings.ip_adapter)
    return ImageRagPipeline(pipeline, settings, judge, index, clip, image_tokenizer)


def _image_encoder(folder: Path, dtype: torch.dtype) -> Any:
    if not (folder / "config.json").is_file():
        raise ArragError(
            f"image_encoder: no {folder / 'config.json'}; give the folder of the CLIP vision model "
            "that the adapter was made for"
        )
    return load_model(CLIPVisionModelWithProjection, folder, dtype)


def _add_adapter(pipeline: Any, file: Path) -> None:
    if file.suffix != ".safetensors" or not file.is_file():
        raise ArragError(
            f"ip_adapter: found {file}; it must be the adapter's .safetensors file, and be there"
        )
    try:
        pipeline.load_ip_adapter(
            str(file.parent),
            subfolder="",
            weight_name=file.name,
            image_encoder_folder=None,
            local_files_only=True,
        )
    except Exception as error:  # a key or a shape that the denoiser has not, or a damaged file
        raise ArragError(
            f"{file}: is no IP-Adapter for this SDXL ({type(error).__name__}: "
            f"{first_line(error)}); fetch it again, or name one made for SDXL"
        ) from error

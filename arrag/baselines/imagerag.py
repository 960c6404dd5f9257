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
from diffusers.models.embeddings import ImageProjection
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from arrag.baselines.diffusion import KINDS, Diffusion, load_pipeline
from arrag.baselines.judge import Judge
from arrag.baselines.pipeline_folder import first_line, load_model, read_index
from arrag.baselines.retrieved import Retrieved, retrieve
from arrag.clip import OpenClip
from arrag.codec import Codec
from arrag.config_pipelines import ImageRag
from arrag.errors import ArragError
from arrag.image_index import ImageIndex

NAME = "StableDiffusionXLPipeline"


class ImageRagPipeline(Diffusion):
    """ImageRAG ready to draw.

    index: of the database's images; clip: the model it was made with; codec: the tokenizer that
    encoded the database.
    """

    def __init__(
        self,
        pipeline: Any,
        settings: ImageRag,
        judge: Judge,
        index: ImageIndex,
        clip: OpenClip,
        codec: Codec,
    ) -> None:
        super().__init__(pipeline, KINDS[NAME], settings)
        if index.store.tokenizer_digest != codec.digest:
            raise ArragError(
                f"{index.store.path}: its tokenizer is {index.store.tokenizer_digest}, that of "
                f"{settings.tokenizer} is {codec.digest}; name the one that encoded the database"
            )
        self.judge, self.index, self.clip, self.codec = judge, index, clip, codec
        self.guided = settings.guidance_scale > 1

    def overlong(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which, as they are told to the pipeline, no encoder reads all."""
        return [p for p in prompts if super(ImageRagPipeline, self).overlong(self._texts(p))]

    def _texts(self, prompt: str) -> list[str]:
        captions = self.judge.captions(prompt)
        return [prompt if caption is None else self.told(prompt, caption) for caption in captions]

    def told(self, prompt: str, caption: str) -> str:
        """The prompt of an image whose reference shows ``caption``."""
        return self.settings.prompt.replace("{caption}", caption).replace("{prompt}", prompt)

    def retrieved(self, prompt: str, sample: int) -> Retrieved | None:
        """The reference of an image; None if it is drawn without."""
        caption = self.judge.caption(prompt, sample)
        return None if caption is None else retrieve(self.index, self.clip, caption, 1)

    def reference(self, found: Retrieved) -> Image.Image:
        """The picture of a retrieved image."""
        codes = torch.from_numpy(self.index.store.grids(np.array(found.images)).astype(np.int64))
        return Image.fromarray(self.codec.decode(codes)[0])

    def pixels(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """As of any pipeline; images without a reference are those of SDXL alone."""
        jobs = list(zip(prompts, samples, strict=True))
        referring = np.array([self.judge.caption(*job) is not None for job in jobs])
        images = np.empty((len(jobs), self.size, self.size, 3), np.float32)
        # The adapter's weight is one for a whole batch.
        for weight, chosen in ((self.settings.ip_adapter_scale, referring), (0.0, ~referring)):
            if chosen.any():
                which = np.flatnonzero(chosen)
                self.pipeline.set_ip_adapter_scale(weight)
                few = [jobs[i] for i in which]
                images[which] = super().pixels(*zip(*few, strict=True), seed)
        return images

    def condition(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """The prompts, and what the image encoder sees of the references."""
        texts, seen = [], []
        for prompt, sample in zip(prompts, samples, strict=True):
            found = self.retrieved(prompt, sample)
            texts.append(prompt if found is None else self.told(prompt, found.query))
            picture = None if found is None else self.reference(found)
            seen.append(self._seen(picture))
        shown, blank = (torch.cat(part)[:, None] for part in zip(*seen, strict=True))  # [B, 1, ...]
        # Given as pictures, those of a batch would count as several references of each image.
        both = torch.cat([blank, shown]) if self.guided else shown
        return {**super().condition(texts, samples), "ip_adapter_image_embeds": [both]}

    def _seen(self, picture: Image.Image | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a picture and of none: [1, d], or [1, n, d] for adapters of the plus kind."""
        projection = self.denoiser.encoder_hid_proj.image_projection_layers[0]
        plus = not isinstance(projection, ImageProjection)
        side = self.pipeline.image_encoder.config.image_size
        picture = picture or Image.new("RGB", (side, side))
        return self.pipeline.encode_image(picture, self.device, 1, plus)


def load_imagerag(
    settings: ImageRag,
    judge: Judge,
    index: ImageIndex,
    clip: OpenClip,
    codec: Codec,
    device: str | None = None,
) -> ImageRagPipeline:
    """Load SDXL, the adapter and its image encoder; ArragError names what is wrong with them."""
    listed = read_index(settings.checkpoint, (NAME,))
    encoder = _image_encoder(settings.image_encoder, getattr(torch, settings.dtype))
    side = encoder.config.image_size
    pipeline = load_pipeline(
        settings,
        listed,
        KINDS[NAME],
        device,
        image_encoder=encoder,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
    )
    _add_adapter(pipeline, settings.ip_adapter)
    return ImageRagPipeline(pipeline, settings, judge, index, clip, codec)


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

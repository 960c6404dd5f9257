"""ImageRAG (arXiv 2502.09411) on SDXL with an IP-Adapter, on diffusers.

A vision-language model is shown what SDXL alone generates, and says what is missing. The image of
the database nearest to that caption conditions the adapter, and the prompt mentions it. Of the
authors' pipeline for SDXL this keeps: one caption, one reference, the words of the prompt. Two
things differ: GPT-4o is replaced (``retrieval_gate``), and the reference is decoded from the stored
image tokens, since the database keeps nothing else.
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
from arrag.methods.diffusion import PIPELINES, DiffusionGenerator, load_spec
from arrag.methods.pipeline_folder import HINT, load_model, read_class
from arrag.methods.registry import MethodContext
from arrag.methods.retrieval_gate import RetrievalGate, open_gate
from arrag.methods.retrieved_images import ImageRetriever, RetrievedImages
from arrag.retrieval.image_index import ImageIndex
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.checkpoint import loading
from arrag.utils.device import default_device
from arrag.utils.errors import ConfigError, MismatchError
from arrag.utils.hashing import sha256_file, tree_digest

NAME = "StableDiffusionXLPipeline"
# One at a time: diffusers would show all references of a batch to each of its images.
SPEC = PIPELINES[NAME]._replace(one_by_one=True)


class ImageRagGenerator(DiffusionGenerator):
    """ImageRAG ready to generate.

    Args:
        pipeline: SDXL with the IP-Adapter.
        settings: The ``generators`` entry of the configuration.
        gate: Decides which images get a reference, and what it should show.
        index: Of the database's images.
        clip: The model that the index was made with.
        image_tokenizer: The one that encoded the database.

    Raises:
        MismatchError: The database was encoded with another image tokenizer.
    """

    def __init__(
        self,
        pipeline: Any,
        settings: ImageRag,
        gate: RetrievalGate,
        index: ImageIndex,
        clip: OpenClip,
        image_tokenizer: ImageTokenizer,
    ) -> None:
        weights = {
            "clip": clip.digest,
            "tokenizer": image_tokenizer.digest,
            "ip_adapter": sha256_file(settings.ip_adapter),
            "image_encoder": tree_digest(settings.image_encoder),
            "judge": f"{gate.label}: {gate.digest}" if gate.digest else gate.label,
        }
        super().__init__(pipeline, SPEC, settings, weights, index.store.digest)
        if index.store.tokenizer_digest != image_tokenizer.digest:
            raise MismatchError(
                f"its tokenizer is {index.store.tokenizer_digest}, that of {settings.tokenizer} is "
                f"{image_tokenizer.digest}",
                path=index.store.path,
                hint="name the one that encoded the database",
            )
        self.gate, self.image_tokenizer = gate, image_tokenizer
        self._retrieve = ImageRetriever(index, clip, 1)

    def check_prompts(self, prompts: Sequence[str], samples: int) -> None:
        """Raise ArragError unless the gate can decide about each image."""
        self.gate.check_prompts(prompts, samples)

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are truncated for every encoder, as they are given to the pipeline."""
        truncated = super().truncated_prompts
        return [prompt for prompt in prompts if truncated(self._texts(prompt))]

    def _texts(self, prompt: str) -> list[str]:
        captions = self.gate.captions(prompt)
        return [prompt if c is None else self.prompt_with(prompt, c) for c in captions]

    def prompt_with(self, prompt: str, caption: str) -> str:
        """The prompt of an image whose reference shows ``caption``."""
        return self.settings.prompt.replace("{caption}", caption).replace("{prompt}", prompt)

    def retrieved_images(self, prompt: str, sample: int) -> RetrievedImages | None:
        """The reference of an image; None if it is generated without."""
        caption = self.gate.caption(prompt, sample)
        return None if caption is None else self._retrieve(caption)

    def reference(self, found: RetrievedImages) -> Image.Image:
        """Decode the image of the database that was retrieved."""
        grids = self._retrieve.index.store.grids(np.array(found.images))
        codes = torch.from_numpy(grids.astype(np.int64))
        return Image.fromarray(self.image_tokenizer.decode(codes)[0])

    def conditioning(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """The prompt and the reference of one image.

        Without a reference the adapter has scale 0, and the image is that of SDXL alone.
        """
        (prompt,), (sample,) = prompts, samples
        found = self.retrieved_images(prompt, sample)
        self.pipeline.set_ip_adapter_scale(self.settings.ip_adapter_scale if found else 0.0)
        text = self.prompt_with(prompt, found.query) if found else prompt
        picture = self.reference(found) if found else Image.new("RGB", (self.size, self.size))
        return {**super().conditioning([text], [sample]), "ip_adapter_image": picture}


def load_imagerag(
    settings: ImageRag,
    gate: RetrievalGate,
    index: ImageIndex,
    clip: OpenClip,
    image_tokenizer: ImageTokenizer,
    device: str | None = None,
) -> ImageRagGenerator:
    """Load SDXL, the adapter and its image encoder.

    Raises:
        ArragError: One of them is missing, damaged, or not made for the others.
    """
    read_class(settings.checkpoint, (NAME,))
    encoder = load_model(CLIPVisionModelWithProjection, settings.image_encoder, settings.dtype)
    side = encoder.config.image_size
    processor = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    parts = {"image_encoder": encoder, "feature_extractor": processor}
    pipeline = load_spec(settings, SPEC, device, **parts)
    _add_ip_adapter(pipeline, settings.ip_adapter)
    return ImageRagGenerator(pipeline, settings, gate, index, clip, image_tokenizer)


def build_imagerag(context: MethodContext) -> ImageRagGenerator:
    """Load ImageRAG as a method, with the database that it retrieves from."""
    settings = context.settings
    index, clip = context.open_image_index()
    image_tokenizer = load_tokenizer(settings.tokenizer, default_device())
    return load_imagerag(settings, open_gate(settings.judge), index, clip, image_tokenizer)


def _add_ip_adapter(pipeline: Any, file: Path) -> None:
    if file.suffix != ".safetensors" or not file.is_file():
        raise ConfigError(
            f"found {file}", field="ip_adapter", hint="name the adapter's .safetensors file"
        )
    with loading(file, "an IP-Adapter for this SDXL", HINT):
        pipeline.load_ip_adapter(
            str(file.parent),
            subfolder="",
            weight_name=file.name,
            image_encoder_folder=None,
            local_files_only=True,
        )

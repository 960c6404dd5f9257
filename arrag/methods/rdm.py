"""Retrieval-augmented diffusion models (RDM, arXiv 2204.11824) on diffusers.

A latent diffusion model whose cross-attention sees CLIP features only: the prompt's, and those of
the k images of the database nearest to it. As in the authors' sampling script, the unconditional
rows of guidance see zeros. Two things differ: neighbours are the whole images of the image index,
where theirs are also crops; and the database is the configuration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from arrag.config.generators import Rdm
from arrag.data.clip import OpenClip
from arrag.methods.diffusion import DiffusionGenerator, PipelineSpec, load_spec
from arrag.methods.pipeline_folder import read_class
from arrag.methods.registry import MethodContext
from arrag.methods.retrieved_images import ImageRetriever, RetrievedImages
from arrag.retrieval.image_index import ImageIndex
from arrag.utils.errors import MismatchError

# Stable Diffusion's loop fits, given the features instead of a prompt. The folder's own CLIP, in
# transformers' format, is not used: texts and images must be of the model of the index.
SPEC = PipelineSpec(
    "StableDiffusionPipeline", "unet", {},
    overrides={
        "text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None,
        "image_encoder": None, "requires_safety_checker": False,
    },
    negative=False,
)  # fmt: skip
NAMES = ("RDMPipeline", "StableDiffusionPipeline")


class RdmGenerator(DiffusionGenerator):
    """An RDM ready to generate.

    Args:
        pipeline: Its denoiser, decoder and scheduler.
        settings: The ``generators`` entry of the configuration.
        index: Of the database's images.
        clip: The model that the index was made with, and the denoiser was trained with.

    Raises:
        MismatchError: The denoiser was trained with another CLIP model.
    """

    def __init__(self, pipeline: Any, settings: Rdm, index: ImageIndex, clip: OpenClip) -> None:
        super().__init__(pipeline, SPEC, settings, {"clip": clip.digest}, index.store.digest)
        self.clip, self._retrieve = clip, ImageRetriever(index, clip, settings.k)
        wanted, found = self.denoiser.config.cross_attention_dim, index.features.shape[1]
        if wanted != found:
            raise MismatchError(
                f"attends to features of {wanted} numbers, those of {clip.name} have {found}",
                path=settings.checkpoint,
                hint="set `clip` to the model it was trained with",
            )

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the CLIP text encoder reads only the beginning."""
        tokenizer = self.clip.tokenizer
        encode, limit = getattr(tokenizer, "encode", None), tokenizer.context_length
        return [p for p in prompts if encode and len(encode(p)) + 2 > limit]  # with start and end

    def retrieved_images(self, prompt: str, sample: int) -> RetrievedImages:
        """The images that a prompt retrieves, the same for all its samples."""
        return self._retrieve(prompt)

    def context(self, prompt: str) -> torch.Tensor:
        """Unit features of the prompt and of its neighbours: float32 [1 + k, d]."""
        images = self._retrieve(prompt).images
        near = torch.from_numpy(np.asarray(self._retrieve.index.features[images]))  # [k, d]
        return torch.cat([self.clip.encode_texts([prompt]).cpu(), near])

    def conditioning(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """The context of each prompt, and zeros for guidance: [B, 1 + k, d]."""
        context = torch.stack([self.context(prompt) for prompt in prompts])
        context = context.to(self.device, self.denoiser.dtype)
        return {"prompt_embeds": context, "negative_prompt_embeds": torch.zeros_like(context)}

    @torch.inference_mode()
    def _call(self, jobs: Sequence[tuple[str, int]], seed: int, output_type: str = "np") -> Any:
        """Decoded here: the pipeline would pass a generator, which a VQ model does not take."""
        vae = self.pipeline.vae
        latents = super()._call(jobs, seed, "latent")
        images = vae.decode(latents / vae.config.scaling_factor).sample  # [B, 3, S, S]
        return (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()


def load_rdm(
    settings: Rdm, index: ImageIndex, clip: OpenClip, device: str | None = None
) -> RdmGenerator:
    """Load a folder with ``unet``, ``vae`` and ``scheduler``.

    Raises:
        ArragError: The folder is of another pipeline, incomplete or damaged.
    """
    read_class(settings.checkpoint, NAMES)
    return RdmGenerator(load_spec(settings, SPEC, device), settings, index, clip)


def build_rdm(context: MethodContext) -> RdmGenerator:
    """Load an RDM as a method, with the database that it retrieves from."""
    return load_rdm(context.settings, *context.open_image_index())

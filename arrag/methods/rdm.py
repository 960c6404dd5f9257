"""Retrieval-augmented diffusion models (RDM, arXiv 2204.11824) on diffusers.

A latent diffusion model whose cross-attention sees CLIP features alone: the prompt's, and those of
the k images of the database nearest to it. As in the authors' sampling script the unconditional
row of guidance sees zeros. Two things differ: neighbours are whole images, as they stand in the
image index, where theirs are also crops; and the database is the configuration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from arrag.config.generators import Rdm
from arrag.data.clip import OpenClip
from arrag.methods.diffusion import Diffusion, Kind, load_pipeline
from arrag.methods.pipeline_folder import read_index
from arrag.methods.retrieved_images import ImageRetriever, RetrievedImages
from arrag.retrieval.image_index import ImageIndex
from arrag.utils.errors import ArragError

# Stable Diffusion's loop fits: what it is told is the context instead of a prompt. The folder's own
# CLIP, in transformers' format, is not used: text and images must be of the model of the index.
KIND = Kind(
    "StableDiffusionPipeline", "unet", {},
    given={
        "text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None,
        "image_encoder": None, "requires_safety_checker": False,
    },
    negative=False,
)  # fmt: skip
NAMES = ("RDMPipeline", "StableDiffusionPipeline")
PARTS = ("unet", "vae", "scheduler")  # all that is read of the folder


class RdmPipeline(Diffusion):
    """An RDM ready to draw.

    index: of the database's images; clip: the model it was made with, which is the one that the
    denoiser was trained with.
    """

    def __init__(self, pipeline: Any, settings: Rdm, index: ImageIndex, clip: OpenClip) -> None:
        super().__init__(pipeline, KIND, settings)
        self.clip, self._retrieve = clip, ImageRetriever(index, clip, settings.k)
        wanted, found = self.denoiser.config.cross_attention_dim, index.features.shape[1]
        if wanted != found:
            raise ArragError(
                f"rdm: {settings.checkpoint} attends to features of {wanted} numbers, those of "
                f"{clip.name} have {found}; set `clip` to the model it was trained with"
            )

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the CLIP text encoder reads only the beginning."""
        tokenizer = self.clip.tokenizer
        encode, limit = getattr(tokenizer, "encode", None), tokenizer.context_length
        return [p for p in prompts if encode and len(encode(p)) + 2 > limit]  # with start and end

    def retrieved(self, prompt: str, sample: int) -> RetrievedImages:
        """The images that a prompt retrieves, for any sample."""
        return self._retrieve(prompt)

    def context(self, prompt: str) -> torch.Tensor:
        """Unit features of the prompt and of its neighbours: float32 [1 + k, d]."""
        images = self._retrieve(prompt).images
        near = torch.from_numpy(np.asarray(self._retrieve.index.features[images]))  # [k, d]
        return torch.cat([self.clip.encode_texts([prompt]).cpu(), near])

    def condition(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """The context of each prompt, and zeros for guidance: [B, 1 + k, d]."""
        seen = torch.stack([self.context(prompt) for prompt in prompts])
        seen = seen.to(self.device, self.denoiser.dtype)
        return {"prompt_embeds": seen, "negative_prompt_embeds": torch.zeros_like(seen)}

    @torch.inference_mode()
    def _call(self, jobs: Sequence[tuple[str, int]], seed: int, output_type: str = "np") -> Any:
        """Decoded here, since a VQ model takes no generator, which the pipeline would pass."""
        vae = self.pipeline.vae
        latents = super()._call(jobs, seed, "latent")
        images = vae.decode(latents / vae.config.scaling_factor).sample  # [B, 3, S, S]
        return (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()


def load_rdm(
    settings: Rdm, index: ImageIndex, clip: OpenClip, device: str | None = None
) -> RdmPipeline:
    """Load a folder with `unet`, `vae` and `scheduler`; ArragError names what is wrong with it."""
    index_of_parts = read_index(settings.checkpoint, NAMES)
    listed = {name: index_of_parts[name] for name in PARTS if name in index_of_parts}
    pipeline = load_pipeline(settings, listed, KIND, device)
    return RdmPipeline(pipeline, settings, index, clip)

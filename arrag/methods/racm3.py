"""A replica of RA-CM3 on the generator at hand (AR-RAG, appendix B.1).

The caption's CLIP feature retrieves one image of the database by cosine; its codes, embedded by
the generator, are put before the prompt. The generator is fine-tuned on such sequences. The
unconditional row of guidance has pads in the place of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from arrag.data.clip import OpenClip
from arrag.methods.retrieved_images import ImageRetriever, RetrievedImages
from arrag.retrieval.image_index import ImageIndex
from arrag.utils.errors import ArragError


class RetrievalPrefixBackbone:
    """A backbone whose prompts are preceded by the image that they retrieve.

    index: over ``index.store``, whose codes are the generator's; clip: the model it was made with.
    All else is the backbone's own.
    """

    def __init__(self, backbone: Any, index: ImageIndex, clip: OpenClip) -> None:
        if index.store.grid != backbone.grid:
            raise ArragError(
                f"racm3: the database's grids are {list(index.store.grid)}, the generator's "
                f"{list(backbone.grid)}; use a database made with the generator's tokenizer"
            )
        self._backbone, self._retrieve = backbone, ImageRetriever(index, clip, 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def retrieved(self, prompt: str) -> RetrievedImages:
        """The image that a prompt retrieves."""
        return self._retrieve(prompt)

    def start(self, prompts: list[str], guidance_scale: float) -> Any:
        """The backbone's state of B prompts, each with its reference before it."""
        images = np.array([self._retrieve(prompt).images[0] for prompt in prompts])  # [B]
        grids = self._retrieve.index.store.grids(images)
        codes = torch.from_numpy(grids.astype(np.int64)).flatten(1)
        prefix = self._backbone.embed_codes(codes.to(self._backbone.device))  # [B, N, D]
        return self._backbone.start(prompts, guidance_scale, prefix=prefix)

"""A replica of RA-CM3 on the generator at hand (AR-RAG, appendix B.1).

The caption's CLIP feature retrieves one image of the database by cosine similarity; its image
tokens, embedded by the generator, precede the prompt. The generator is fine-tuned on such
sequences. The unconditional rows of guidance have padding in place of both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from arrag.data.clip import OpenClip
from arrag.methods.adapter_folder import load_finetuned
from arrag.methods.generator import TokenGenerator
from arrag.methods.registry import MethodContext
from arrag.methods.retrieved_images import ImageRetriever
from arrag.retrieval.image_index import ImageIndex
from arrag.utils.errors import MismatchError

HINT = "use a database made with the generator's tokenizer"


class RetrievalPrefixBackbone:
    """A backbone whose prompts are preceded by the image that they retrieve.

    All other attributes are the backbone's own.

    Args:
        backbone: The generator's model; its ``start`` takes a ``prefix``.
        index: Of the images in ``index.store``, whose codes are the generator's.
        clip: The model that the index was made with.

    Raises:
        MismatchError: The database has another grid than the generator.
    """

    def __init__(self, backbone: Any, index: ImageIndex, clip: OpenClip) -> None:
        if index.store.grid != backbone.grid:
            raise MismatchError(
                f"the database's grids are {list(index.store.grid)}, the generator's "
                f"{list(backbone.grid)}",
                path=index.store.path,
                field="grid",
                hint=HINT,
            )
        self._backbone, self.retriever = backbone, ImageRetriever(index, clip, k=1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def start(self, prompts: list[str], guidance_scale: float) -> Any:
        """Encode B prompts, each with its reference image before it."""
        images = np.array([self.retriever(prompt).images[0] for prompt in prompts])  # [B]
        grids = self.retriever.index.store.grids(images)
        codes = torch.from_numpy(grids.astype(np.int64)).flatten(1)
        prefix = self._backbone.embed_codes(codes.to(self._backbone.device))  # [B, N, D]
        return self._backbone.start(prompts, guidance_scale, prefix=prefix)


def build_racm3(context: MethodContext) -> TokenGenerator:
    """Load a fine-tuned generator that sees a retrieved image before each prompt."""
    generator = load_finetuned(context)
    index, clip = context.open_image_index()
    ours = generator.image_tokenizer.digest
    if index.store.tokenizer_digest != ours:
        raise MismatchError(
            f"found {index.store.tokenizer_digest}, the generator's is {ours}",
            path=index.store.path,
            field="tokenizer_digest",
            hint=HINT,
        )
    backbone = RetrievalPrefixBackbone(generator.backbone, index, clip)
    return replace(
        generator,
        backbone=backbone,
        weights=generator.weights | {"clip": clip.digest},
        index=index.store.digest,
        image_retriever=backbone.retriever,
    )

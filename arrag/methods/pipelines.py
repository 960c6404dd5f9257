"""A configured pipeline as ``arrag.methods.runner`` draws with it: loaded, and what it retrieves
from."""

from __future__ import annotations

from arrag.config.root import Config
from arrag.data.clip import OpenClip
from arrag.data.token_store import TokenStore
from arrag.methods.build import ArtifactPaths
from arrag.methods.diffusion import Diffusion, load_diffusion
from arrag.methods.imagerag import load_imagerag
from arrag.methods.rdm import load_rdm
from arrag.methods.retrieval_gate import open_gate
from arrag.retrieval.image_index import ImageIndex
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.device import default_device
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file, tree_digest


def open_pipeline(config: Config, method: str, paths: ArtifactPaths) -> Diffusion:
    """Load the pipeline of a method, and what it retrieves from.

    Raises ArragError for a source that is missing, or was made with another tokenizer or model.
    """
    settings = config.generator_of(method)[1]
    if settings.kind == "diffusers":
        pipeline = load_diffusion(settings)
        pipeline.weights = {"backbone": tree_digest(settings.checkpoint)}
        return pipeline
    if paths.store is None or paths.image_index is None:
        raise ArragError(f"method '{method}' retrieves: give its store and its image index")
    store, clip = TokenStore.open(paths.store), OpenClip(settings.clip)
    index = ImageIndex(paths.image_index, store, clip.digest)
    weights = {"backbone": tree_digest(settings.checkpoint), "clip": clip.digest}
    if settings.kind == "rdm":
        pipeline = load_rdm(settings, index, clip)
    else:
        judge = open_gate(settings.judge)
        image_tokenizer = load_tokenizer(settings.tokenizer, default_device())
        pipeline = load_imagerag(settings, judge, index, clip, image_tokenizer)
        weights |= {
            "tokenizer": image_tokenizer.digest,
            "ip_adapter": sha256_file(settings.ip_adapter),
            "image_encoder": tree_digest(settings.image_encoder),
            "judge": f"{judge.label}: {judge.digest}" if judge.digest else judge.label,
        }
    pipeline.weights, pipeline.index = weights, store.digest
    return pipeline

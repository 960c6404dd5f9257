"""A small database of the built-in world and its images' index, for what retrieves whole images."""

from typing import NamedTuple

import pytest

from arrag.data.clip import OpenClip
from arrag.data.encode import encode_source
from arrag.data.token_store import TokenStore
from arrag.retrieval.image_index import ImageIndex, build_image_index
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer

IMAGES = 16


class Retriever(NamedTuple):
    """What a pipeline retrieves with."""

    index: ImageIndex
    clip: OpenClip
    tokenizer: ImageTokenizer


@pytest.fixture(scope="module")
def retriever(root, micro_janus, assets, tmp_path_factory):
    """The shipped retriever on images that the shipped tokenizer encoded."""
    path = tmp_path_factory.mktemp("database")
    encode_source("micro:database", micro_janus, path / "codes", limit=IMAGES, assets=assets)
    store = TokenStore.open(path / "codes")
    clip = OpenClip(root / "checkpoints" / "micro-retriever")
    build_image_index(store, "micro:database", clip, path / "i", limit=IMAGES, assets=assets)
    return Retriever(ImageIndex(path / "i", store, clip.digest), clip, load_tokenizer(micro_janus))

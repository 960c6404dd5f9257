"""What the captions of RA-CM3's training pairs retrieve."""

import numpy as np
import pytest

from arrag.data.clip import OpenClip
from arrag.data.encode import encode_source
from arrag.data.token_store import TokenStore
from arrag.retrieval.image_index import ImageIndex, build_image_index
from arrag.training.references import References, retrieve_references
from arrag.utils.errors import ArragError

IMAGES = 30  # of the database, as those of the pairs


@pytest.fixture(scope="module")
def clip(root):
    return OpenClip(root / "checkpoints" / "micro-retriever")


@pytest.fixture(scope="module")
def images(tmp_path_factory, micro_janus, assets, clip):
    """The index of a small database's images."""
    folder = tmp_path_factory.mktemp("racm3")
    encode_source("micro:database", micro_janus, folder / "codes", limit=IMAGES, assets=assets)
    store = TokenStore.open(folder / "codes")
    build_image_index(store, "micro:database", clip, folder / "i", limit=IMAGES, assets=assets)
    return ImageIndex(folder / "i", store, clip.digest)


def test_a_reference_is_the_nearest_other_image(pairs, images, clip, tmp_path):
    retrieve_references(pairs, images, clip, tmp_path / "out")
    references = References(tmp_path / "out", pairs, images)
    grids = images.store.grids(np.arange(IMAGES))
    for pair in range(len(pairs.captions)):
        text = clip.encode_texts([pairs.captions[pair]])[0].numpy()
        own = pairs.store.grids(np.array([pair]))[0]
        order = np.argsort(-(images.features @ text), kind="stable")
        wanted = next(i for i in order if not np.array_equal(grids[i], own))
        found = references.codes(np.array([pair]))
        assert np.array_equal(found[0].numpy(), grids[wanted].reshape(-1))
    tempted = [
        int(images.search(clip.encode_texts([pairs.captions[i]]), 1)[1]) == i for i in pairs.train
    ]
    assert any(tempted)  # else the exclusion is not tried


def test_references_of_something_else_are_refused(pairs, images, clip, tmp_path):
    retrieve_references(pairs, images, clip, tmp_path / "out")
    other = type("Other", (), {"digest": "other"})
    with pytest.raises(ArragError):
        References(tmp_path / "out", other, images)


def test_a_database_of_the_image_alone(pairs, images, clip, tmp_path, micro_janus, assets):
    encode_source("micro:database", micro_janus, tmp_path / "codes", limit=1, assets=assets)
    store = TokenStore.open(tmp_path / "codes")
    build_image_index(store, "micro:database", clip, tmp_path / "i", limit=1, assets=assets)
    alone = ImageIndex(tmp_path / "i", store, clip.digest)
    with pytest.raises(ArragError):
        retrieve_references(pairs, alone, clip, tmp_path / "out")

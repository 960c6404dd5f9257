"""The replica of RA-CM3: which image is retrieved, and what it does to the sequence."""

import numpy as np
import pytest
import torch

from arrag.backbones.janus import JanusBackbone
from arrag.data.clip import OpenClip
from arrag.data.encode import encode_source
from arrag.data.micro.world import World
from arrag.data.token_store import TokenStore
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.methods.racm3 import RetrievalPrefixBackbone
from arrag.retrieval.image_index import ImageIndex, build_image_index
from arrag.utils.errors import MismatchError

IMAGES = 40
PROMPTS = [
    "a photo of a dog",
    "a photo of a red car left of a blue umbrella",
    "a photo of two cups",
]


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


@pytest.fixture
def backbone(micro_janus):
    return JanusBackbone.load(micro_janus, "float64")


def test_the_retriever_finds_what_a_caption_says(clip, assets):
    world = World(assets, "reference")  # backgrounds it has never seen
    scenes = [world.scene(i, task) for i in range(20) for task in ("single_object", "two_object")]
    image = clip.encode_images([scene.image for scene in scenes])
    nearest = (clip.encode_texts([scene.caption for scene in scenes]) @ image.T).argmax(1)

    def classes(scene):
        return sorted(item["class"] for item in scene.metadata["include"])

    same = [classes(s) == classes(scenes[i]) for s, i in zip(scenes, nearest, strict=True)]
    assert np.mean(same) > 0.8


def test_the_sequence_with_a_reference(backbone, images, clip):
    """Reference, prompt; in the unconditional rows pads: as long, and the same for any prompt."""
    with_reference = RetrievalPrefixBackbone(backbone, images, clip)
    state = with_reference.start(PROMPTS, 2.0)
    bare = backbone.start(PROMPTS, 2.0)
    size = 144
    assert state.inputs.shape[1] == bare.inputs.shape[1] + size == state.mask.shape[1]
    assert (state.mask[:, :size] == 1).all()
    assert torch.equal(state.inputs[:, size:], bare.inputs)
    assert torch.equal(state.mask[:, size:], bare.mask)
    nearest = images.search(clip.encode_texts(PROMPTS), 1)[1][:, 0].numpy()
    assert [with_reference.retriever(p).images for p in PROMPTS] == nearest[:, None].tolist()
    codes = torch.from_numpy(images.store.grids(nearest).astype(np.int64)).flatten(1)
    assert torch.equal(state.inputs[:3, :size], backbone.embed_codes(codes))
    pad = backbone.model.get_input_embeddings()(torch.tensor(backbone.pad))
    assert (state.inputs[3:, :size] == pad).all()


def test_a_prefix_of_no_length_changes_nothing(backbone):
    nothing = torch.zeros(3, 0, 256, dtype=torch.float64)
    codes = torch.randint(1024, (3, 144), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = backbone.teacher_forced(PROMPTS, codes, nothing)
        assert torch.equal(ours, backbone.teacher_forced(PROMPTS, codes))
        states = [backbone.start(PROMPTS, 2.0, prefix) for prefix in (None, nothing)]
        assert torch.equal(*(backbone.logits(state, None) for state in states))


def test_teacher_forced_equals_step_by_step(backbone, images, clip):
    with_reference = RetrievalPrefixBackbone(backbone, images, clip)
    codes = torch.randint(1024, (3, 144), generator=torch.Generator().manual_seed(0))
    nearest = images.search(clip.encode_texts(PROMPTS), 1)[1][:, 0].numpy()
    grids = torch.from_numpy(images.store.grids(nearest).astype(np.int64)).flatten(1)
    with torch.inference_mode():
        forced = backbone.teacher_forced(PROMPTS, codes, backbone.embed_codes(grids))
        state = with_reference.start(PROMPTS, 1.0)  # guidance 1: the conditional rows alone
        for position in range(12):
            previous = codes[:, position - 1] if position else None
            step = with_reference.logits(state, previous)
            assert (step - forced[:, position]).abs().max() < 1e-10


def test_an_image_does_not_depend_on_its_batch(backbone, images, clip):
    backbone.grid = (1, 12)  # one row is enough, and fast
    images.store.grid, grid = backbone.grid, images.store.grid
    try:
        with_reference = RetrievalPrefixBackbone(backbone, images, clip)
    finally:
        images.store.grid = grid
    draws = np.stack([seeded_uniforms(0, prompt, 0, 12) for prompt in PROMPTS])
    together = decode_raster(with_reference, PROMPTS, draws, guidance_scale=2.0)
    alone = [
        decode_raster(with_reference, [p], d[None], guidance_scale=2.0)
        for p, d in zip(PROMPTS, draws, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    bare = decode_raster(backbone, PROMPTS, draws, guidance_scale=2.0)
    assert not torch.equal(together, bare)  # the reference is looked at


def test_a_database_of_another_grid(backbone, images, clip):
    backbone.grid = (24, 24)
    with pytest.raises(MismatchError) as error:
        RetrievalPrefixBackbone(backbone, images, clip)
    assert error.value.field == "grid" and error.value.hint

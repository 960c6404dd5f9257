"""The raster loop against transformers' own, and what an image may depend on."""

import numpy as np
import pytest
import torch
from patch_database import make_patch_index

from arrag.backbones.janus import JanusBackbone
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, sample_codes, seeded_uniforms
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer

PROMPTS = [
    "a photo of a dog",
    "a photo of a red dog and a blue car",
    "a photo of two apples",
    "a photo of a car left of a cup",
]


@pytest.fixture(scope="module")
def backbone(tiny_janus):
    return JanusBackbone.load(tiny_janus, "float64")


@pytest.fixture(scope="module")
def patch_index(tiny_janus, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_janus)
    grids = np.random.default_rng(0).integers(0, 1024, (20, 12, 12))
    folder = tmp_path_factory.mktemp("database")
    return make_patch_index(folder, grids, tokenizer.codebook.numpy(), Neighborhood("causal"))


@pytest.fixture(scope="module")
def vanilla(backbone):
    return decode(backbone, PROMPTS, [0] * 4)


def decode(backbone, prompts, samples, **more):
    noise = [seeded_uniforms(0, p, s, 144) for p, s in zip(prompts, samples, strict=True)]
    return decode_raster(backbone, prompts, np.stack(noise), guidance_scale=3.0, **more)


@pytest.mark.parametrize("checkpoint", ["tiny_janus", "micro_janus"])
def test_greedy_equals_transformers_token_for_token(checkpoint, request):
    ours = JanusBackbone.load(request.getfixturevalue(checkpoint), "float64")
    mine = decode_raster(ours, PROMPTS[1:2], None, guidance_scale=3.0)
    text = f"<|User|>: {PROMPTS[1]}\n\n<|Assistant|>:<begin_of_image>"
    theirs = ours.model.generate(
        **ours.tokenizer(text, return_tensors="pt", return_token_type_ids=False),
        generation_mode="image",
        guidance_scale=3.0,
        do_sample=False,
    )
    assert torch.equal(mine.flatten(1), theirs)


@pytest.mark.parametrize("augmented", [False, True])
def test_an_image_does_not_depend_on_its_batch(backbone, patch_index, vanilla, augmented):
    more = {"augmentation": DAiD(patch_index, k=5, lam=0.5, tau=0.1)} if augmented else {}
    prompts, samples = [*PROMPTS[::-1], PROMPTS[0]], [0, 0, 0, 0, 1]
    together = decode(backbone, prompts, samples, **more)
    assert torch.equal(decode(backbone, PROMPTS[1:2], [0], **more)[0], together[2])
    assert torch.equal(together[:4].flip(0), vanilla) != augmented
    assert not torch.equal(together[3], together[4])  # another sample is another image


@pytest.mark.parametrize("augmented", [False, True])
def test_threads_change_no_code(micro_janus, backbone, patch_index, augmented):
    """With two threads, DAiD's search runs beside the forward."""
    model = backbone if augmented else JanusBackbone.load(micro_janus, "float64")
    before, codes = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            daid = DAiD(patch_index, k=5, lam=0.5, tau=0.1) if augmented else None
            codes.append(decode(model, PROMPTS[:1], [0], augmentation=daid))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*codes)


def test_weight_0_is_the_bare_model_bit_for_bit(backbone, patch_index, vanilla):
    daid = DAiD(patch_index, k=5, lam=0.0, tau=0.1)
    assert torch.equal(decode(backbone, PROMPTS, [0] * 4, augmentation=daid), vanilla)


def test_weight_1_samples_only_retrieved_codes(backbone, patch_index):
    seen = []

    class Recorder(DAiD):
        def on_probs(self, probs, codes, known, positions):
            found = patch_index.search(codes, known, positions, 5)
            seen.append((int(positions), found.codes[:, 0]))
            return super().on_probs(probs, codes, known, positions)

    recorder = Recorder(patch_index, k=5, lam=1.0, tau=0.1)
    codes = decode(backbone, PROMPTS, [0] * 4, augmentation=recorder).flatten(1)
    retrieved = [(t, c) for t, c in seen if (c >= 0).all()]
    assert len(retrieved) == 11 * 10  # the border rule leaves the first row and both sides out
    for position, candidates in retrieved:
        assert (codes[:, position, None] == candidates).any(1).all()


def test_uniforms_belong_to_seed_prompt_and_sample():
    first = seeded_uniforms(0, "a photo of a dog", 0, 144)
    assert np.array_equal(first[:10], seeded_uniforms(0, "a photo of a dog", 0, 10))
    assert 0 <= first.min() and first.max() < 1
    for other in [(1, PROMPTS[0], 0), (0, PROMPTS[1], 0), (0, PROMPTS[0], 1)]:
        assert not np.array_equal(first, seeded_uniforms(*other, 144))


def test_sampling_inverts_the_cumulative_distribution():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(6, 1)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.999999, 1 - 1e-17], dtype=torch.float64)
    assert sample_codes(probs, u).tolist() == [1, 1, 3, 3, 3, 3]
    probs = torch.softmax(torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), -1)
    u = torch.from_numpy((np.arange(100_000) + 0.5) / 100_000)
    counts = torch.bincount(sample_codes(probs.expand(len(u), -1), u), minlength=8)
    assert torch.allclose(counts / len(u), probs[0], atol=2e-5)

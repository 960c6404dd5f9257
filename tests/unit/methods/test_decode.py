"""The decoding loop against transformers' own, and what an image may depend on."""

import numpy as np
import pytest
import torch

from arrag.backbones.janus import JanusBackbone
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, sample_codes, seeded_uniforms
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError

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
    from arrag.tokenizers.base import load_tokenizer

    folder = tmp_path_factory.mktemp("database")
    tokenizer = load_tokenizer(tiny_janus)
    grids = np.random.default_rng(0).integers(0, 1024, (20, 12, 12)).astype(np.uint16)
    with StoreWriter(
        folder / "codes", tokenizer_digest=tokenizer.digest, grid=(12, 12),
        codebook=tokenizer.codebook.numpy(), source="random", shard_size=8,
    ) as writer:  # fmt: skip
        writer.add([str(i) for i in range(20)], grids)
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), mode="exact")
    return open_index(folder / "index", store, tokenizer.digest)


def draws(prompts, samples, seed=0):
    return np.stack(
        [seeded_uniforms(seed, p, s, 144) for p, s in zip(prompts, samples, strict=True)]
    )


def decode(backbone, prompts, samples, **more):
    return decode_raster(backbone, prompts, draws(prompts, samples), guidance_scale=3.0, **more)


@pytest.mark.parametrize("checkpoint", ["tiny_janus", "micro_janus"])
def test_greedy_equals_transformers_token_for_token(checkpoint, request):
    ours = JanusBackbone.load(request.getfixturevalue(checkpoint), "float64")
    for prompt in PROMPTS[1:2]:
        mine = decode_raster(ours, [prompt], None, guidance_scale=3.0)
        text = f"<|User|>: {prompt}\n\n<|Assistant|>:<begin_of_image>"
        theirs = ours.model.generate(
            **ours.tokenizer(text, return_tensors="pt", return_token_type_ids=False),
            generation_mode="image",
            guidance_scale=3.0,
            do_sample=False,
        )
        assert torch.equal(mine.flatten(1), theirs)


def test_batch_of_mixed_lengths_equals_single_images(backbone):
    prompts, samples = PROMPTS * 2, [0] * 4 + [1] * 4
    together = decode(backbone, prompts, samples)
    for i in (0, 5):
        alone = decode(backbone, [prompts[i]], [samples[i]])
        assert torch.equal(alone[0], together[i])
    backwards = decode(backbone, prompts[::-1], samples[::-1])
    assert torch.equal(backwards.flip(0), together)
    assert not torch.equal(together[0], together[4])  # another sample is another image


def test_threads_change_no_code(micro_janus):
    shipped, before = JanusBackbone.load(micro_janus, "float64"), torch.get_num_threads()
    codes = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            codes.append(decode(shipped, PROMPTS, [0] * 4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*codes)


def test_a_search_beside_the_forward_changes_no_code(backbone, patch_index):
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2):  # with two, retrieval runs while the model does
            torch.set_num_threads(threads)
            daid = DAiD(patch_index, k=5, lam=0.5, tau=0.1)
            drawn.append(decode(backbone, PROMPTS[:1], [0], augmentation=daid))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


def test_weight_zero_is_vanilla_bit_for_bit(backbone, patch_index):
    vanilla = decode(backbone, PROMPTS, [0] * 4)
    nothing = decode(
        backbone, PROMPTS, [0] * 4, augmentation=DAiD(patch_index, k=5, lam=0.0, tau=0.1)
    )
    assert torch.equal(vanilla, nothing)


def test_weight_one_draws_only_retrieved_codes(backbone, patch_index):
    seen = []

    class Watched(DAiD):
        def on_probs(self, probs, codes, known, positions):
            found = patch_index.search(codes, known, positions, 5)
            seen.append((int(positions), found.codes[:, 0]))
            return super().on_probs(probs, codes, known, positions)

    augment = Watched(patch_index, k=5, lam=1.0, tau=0.1)
    codes = decode(backbone, PROMPTS, [0] * 4, augmentation=augment).flatten(1)
    augmented = [(t, c) for t, c in seen if (c >= 0).all()]
    assert len(augmented) == 11 * 10  # the border rule leaves the first row and both sides out
    for position, candidates in augmented:
        assert (codes[:, position, None] == candidates).any(1).all()


def test_augmented_batch_equals_single_images(backbone, patch_index):
    augment = DAiD(patch_index, k=5, lam=0.5, tau=0.1)
    together = decode(backbone, PROMPTS, [0] * 4, augmentation=augment)
    for i in (1,):
        assert torch.equal(
            decode(backbone, [PROMPTS[i]], [0], augmentation=augment)[0], together[i]
        )


def test_uniforms_belong_to_seed_prompt_and_sample():
    first = seeded_uniforms(0, "a photo of a dog", 0, 144)
    assert np.array_equal(first[:10], seeded_uniforms(0, "a photo of a dog", 0, 10))
    for other in [
        (1, "a photo of a dog", 0),
        (0, "a photo of a cat", 0),
        (0, "a photo of a dog", 1),
    ]:
        assert not np.array_equal(first, seeded_uniforms(*other, 144))
    assert 0 <= first.min() and first.max() < 1


def test_sampling_inverts_the_cumulative_distribution():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(6, 1)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.999999, 1 - 1e-17], dtype=torch.float64)
    assert sample_codes(probs, u).tolist() == [1, 1, 3, 3, 3, 3]


def test_sampling_frequencies():
    probs = torch.softmax(torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), -1)
    u = torch.from_numpy((np.arange(100_000) + 0.5) / 100_000)
    counts = torch.bincount(sample_codes(probs.expand(len(u), -1), u), minlength=8)
    assert torch.allclose(counts / len(u), probs[0], atol=2e-5)


def test_unknown_words_and_empty_prompts(micro_janus):
    shipped = JanusBackbone.load(micro_janus)
    with pytest.raises(ArragError, match="does not know 'dragon'.*dog"):
        shipped.start(["a photo of a dragon"], 3.0)
    with pytest.raises(ArragError, match="empty"):
        shipped.start(["  "], 3.0)


def test_missing_and_truncated_checkpoints(tiny_janus, tmp_path):
    import shutil

    with pytest.raises(ArragError, match="no config.json"):
        JanusBackbone.load(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_janus, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50_000])
    with pytest.raises(ArragError, match="cannot be read as a Janus checkpoint"):
        JanusBackbone.load(broken)

"""Masked decoding against a plain schedule, and what an image may depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrag.backbones.showo import ShowoBackbone
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.augmentation import Augmentation
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_masked, num_masked, seeded_uniforms
from arrag.methods.faid.adapter import FAiD, FAiDAugmentation, FaidSettings
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer

PROMPTS = ["a photo of a dog", "a photo of a red dog and a blue car", "a photo of two apples"]
STEPS, N = 6, 144


@pytest.fixture(scope="module")
def backbone(tiny_showo):
    return ShowoBackbone.load(tiny_showo, "float64")


@pytest.fixture(scope="module")
def vanilla(backbone):
    return decode(backbone, PROMPTS, [0] * 3)


@pytest.fixture(scope="module")
def make_index(tiny_showo, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_showo)

    def make(grids, mode):
        folder = tmp_path_factory.mktemp("database")
        with StoreWriter(
            folder / "codes", tokenizer_digest=tokenizer.digest, grid=(12, 12),
            codebook=tokenizer.codebook.numpy(), source="made", shard_size=8,
        ) as writer:  # fmt: skip
            writer.add([str(i) for i in range(len(grids))], np.asarray(grids, np.uint16))
        store = TokenStore.open(folder / "codes")
        around = Neighborhood("full", border="zero")
        build_index(store, folder / "index", neighborhood=around, mode=mode, progress=False)
        return open_index(folder / "index", store, tokenizer.digest)

    return make


@pytest.fixture(scope="module")
def index(make_index):
    return make_index(np.random.default_rng(0).integers(0, 1024, (20, 12, 12)), "hamming")


def draws(prompts, samples, steps=STEPS):
    pairs = zip(prompts, samples, strict=True)
    return np.stack(
        [seeded_uniforms(0, p, s, steps * 2 * N).reshape(steps, 2, N) for p, s in pairs]
    )


def decode(backbone, prompts, samples, steps=STEPS, **more):
    numbers = draws(prompts, samples, steps)
    return decode_masked(backbone, prompts, numbers, guidance_scale=2.0, steps=steps, **more)


def plain(backbone, prompt, u, steps, guidance, choice):
    """One image by the formulas, one number at a time; dense forwards without a cache.

    u: [steps, 2, N], or None for the most likely codes and no noise.
    """
    codes, known = torch.zeros(N, dtype=torch.long), torch.zeros(N, dtype=torch.bool)
    ids, mask = backbone.tokenize([prompt])
    empty = backbone.unconditional_ids(ids, mask)
    for s in range(steps):
        with torch.no_grad():
            c = backbone.teacher_forced((ids, mask), codes[None], known[None])[0]
            n = backbone.teacher_forced(empty, codes[None], known[None])[0]
        probs = torch.softmax((1 + guidance) * c - guidance * n, -1).numpy()
        ratio = (s + 1) / steps
        choice = choice * (1 - ratio)
        confidence = {}
        for t in range(N):
            if known[t]:
                continue
            total = np.cumsum(probs[t])
            code = int(probs[t].argmax())
            if u is not None:
                code = int(np.searchsorted(total, u[s, 0, t] * total[-1], side="right"))
            codes[t] = code
            noise = 0.0 if u is None else -math.log(-math.log(u[s, 1, t]))
            confidence[t] = math.log(probs[t, code]) + choice * noise
        unknown = int((~known).sum())
        share = float(torch.cos(torch.tensor(ratio) * math.pi / 2))  # float32, as the original
        left = max(1, min(unknown - 1, math.floor(N * share)))
        worst = sorted(confidence, key=lambda t: (confidence[t], t))[:left]
        known[:] = True
        known[worst] = False
    return codes.view(12, 12)


def test_equals_a_plain_implementation(backbone, vanilla):
    u = draws(PROMPTS, [0] * 3)
    assert torch.equal(vanilla[1], plain(backbone, PROMPTS[1], u[1], STEPS, 2.0, 1.0))
    got = decode(backbone, PROMPTS[:1], [1], steps=5, choice_temperature=4.5)
    u = draws(PROMPTS[:1], [1], 5)[0]
    assert torch.equal(got[0], plain(backbone, PROMPTS[0], u, 5, 2.0, 4.5))


def test_greedy_equals_dense_forwards(backbone):
    got = decode_masked(backbone, PROMPTS[:2], None, guidance_scale=3.0, steps=4)
    for i in range(2):
        assert torch.equal(got[i], plain(backbone, PROMPTS[i], None, 4, 3.0, 0.0))


@given(st.integers(1, 1200), st.integers(1, 80))
def test_the_number_of_unknown_codes(count, steps):
    unknown, seen = count, []
    for step in range(steps):
        before, unknown = unknown, num_masked(step, steps, count, unknown)
        assert unknown == 1 or unknown < before
        assert unknown <= max(1, count * math.cos(math.pi / 2 * (step + 1) / steps))
        seen.append(unknown)
    assert seen[-1] == 1 and seen == sorted(seen, reverse=True)


def test_show_o_s_fifty_steps():
    unknown, seen = 256, []
    for step in range(50):
        unknown = num_masked(step, 50, 256, unknown)
        seen.append(unknown)
    # At first one code is settled in a step; 256 cos(pi / 2 r) takes over.
    assert seen[:3] == [255, 254, 253] and seen[24] == 181 and seen[-2:] == [8, 1]


def test_batch_of_mixed_lengths_equals_single_images(backbone, vanilla):
    together = decode(backbone, PROMPTS[::-1] + PROMPTS[:1], [0, 0, 0, 1])
    assert torch.equal(together[:3].flip(0), vanilla)
    assert torch.equal(decode(backbone, PROMPTS[1:2], [0])[0], vanilla[1])
    assert not torch.equal(together[3], vanilla[0])  # another sample is another image


@pytest.mark.parametrize("steps", [1, 2, 150])
def test_few_and_many_steps_fill_the_grid(backbone, steps):
    codes = decode_masked(backbone, PROMPTS[:1], None, guidance_scale=0.0, steps=steps)
    assert codes.shape == (1, 12, 12) and 0 <= codes.min() and codes.max() < 1024


def test_weight_zero_is_vanilla_bit_for_bit(backbone, vanilla, index):
    nothing = decode(backbone, PROMPTS, [0] * 3, augmentation=DAiD(index, k=5, lam=0.0, tau=4.0))
    assert torch.equal(vanilla, nothing)


class Watched(DAiD):
    """DAiD that keeps what it is called with."""

    def on_step_start(self, codes, known, positions):
        self.calls = getattr(self, "calls", [])
        self.calls.append(["before", known.sum(dim=(1, 2)).tolist(), len(positions)])

    def on_probs(self, probs, codes, known, positions):
        merged = super().on_probs(probs, codes, known, positions)
        found = self.index.search(codes, known, positions, self.k)
        self.calls[-1][0] = "both"
        self.last = (positions, found.codes, known)
        return merged


def test_retrieval_takes_part_in_the_second_half_everywhere(backbone, index):
    augment = Watched(index, k=5, lam=1.0, tau=4.0)
    codes = decode(backbone, PROMPTS, [0] * 3, augmentation=augment).flatten(1)
    # One call before the prompt is run, then one a step.
    assert [call[0] for call in augment.calls] == ["before"] * 4 + ["both"] * 3
    assert [call[2] for call in augment.calls] == [0] * 4 + [N] * 3
    counts = [[N - still] * 3 for still in (144, 139, 124, 101, 71, 37)]
    assert [call[1] for call in augment.calls[1:]] == counts
    positions, found, known = augment.last
    for i in range(3):
        for p, candidates in zip(positions.tolist(), found[i], strict=True):
            if not known[i].flatten()[p]:
                assert codes[i, p] in candidates


def test_augmented_batch_equals_single_images(backbone, index, vanilla):
    augment = DAiD(index, k=5, lam=0.5, tau=4.0)
    together = decode(backbone, PROMPTS, [0] * 3, augmentation=augment)
    assert not torch.equal(together, vanilla)
    assert torch.equal(decode(backbone, PROMPTS[2:], [0], augmentation=augment)[0], together[2])


class Certain(Augmentation):
    """Code 7 for sure at the last position."""

    def on_probs(self, probs, codes, known, positions):
        probs = probs.clone()
        probs[:, positions == N - 1] = torch.eye(probs.shape[-1], dtype=probs.dtype)[7]
        self.settled = getattr(self, "settled", []) + [known.flatten(1)[:, N - 1]]
        return probs


def test_confidence_is_of_the_merged_distribution(backbone):
    augment, steps = Certain(), 4
    codes = decode(backbone, PROMPTS, [0] * 3, steps, augmentation=augment, choice_temperature=0.0)
    third, fourth = augment.settled
    assert fourth.all() and not third.all()  # sure in the third step, so known in the fourth
    assert (codes[~third, -1, -1] == 7).all()


def test_a_database_with_the_very_image_finds_it(vanilla, make_index):
    others = np.random.default_rng(1).integers(0, 1024, (9, 12, 12))
    grids = np.concatenate([others, vanilla.numpy()])
    everywhere, known = torch.arange(N), torch.ones(3, 12, 12, dtype=torch.bool)
    found = [make_index(grids, mode).search(vanilla, known, everywhere, 4)
             for mode in ("exact", "hamming")]  # fmt: skip
    for one, two in zip(vars(found[0]).values(), vars(found[1]).values(), strict=True):
        assert torch.equal(one, two)
    assert (found[0].distances[..., 0] == 0).all()
    nearest = found[0].distances == 0
    assert ((found[0].codes == vanilla.flatten(1)[..., None]) & nearest).any(-1).all()


@pytest.fixture(scope="module")
def settings():
    return FaidSettings(modules=2, hops=(1,), k=3, context="full")


def test_an_adapter_of_zeros_is_vanilla_bit_for_bit(backbone, vanilla, index, settings):
    torch.manual_seed(0)
    adapter = FAiD(
        backbone.hidden_size, len(backbone.decoder_layers), settings, init_gain=0.0
    ).double()
    with adapter.attached(backbone):
        same = decode(backbone, PROMPTS, [0] * 3, augmentation=FAiDAugmentation(adapter, index))
    assert torch.equal(same, vanilla)


def test_adapter_s_images_depend_on_no_other_image(backbone, vanilla, index, settings):
    torch.manual_seed(0)
    adapter = FAiD(backbone.hidden_size, len(backbone.decoder_layers), settings).double()
    augment = FAiDAugmentation(adapter, index)
    with adapter.attached(backbone):
        together = decode(backbone, PROMPTS, [0] * 3, augmentation=augment)
        alone = decode(backbone, PROMPTS[1:2], [0], augmentation=augment)  # after another batch
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together, vanilla)

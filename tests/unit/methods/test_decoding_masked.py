"""The masked loop against a plain implementation, and what an image may depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patch_database import make_patch_index

from arrag.backbones.showo import ShowoBackbone
from arrag.methods.augmentation import Augmentation
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_masked, num_masked, seeded_uniforms
from arrag.methods.faid.adapter import FAiD, FAiDAugmentation, FaidSettings
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
    book, around = load_tokenizer(tiny_showo).codebook.numpy(), Neighborhood("full", border="zero")
    return lambda grids: make_patch_index(tmp_path_factory.mktemp("database"), grids, book, around)


@pytest.fixture(scope="module")
def index(make_index):
    return make_index(np.random.default_rng(0).integers(0, 1024, (20, 12, 12)))


def noise_of(prompts, samples, steps=STEPS):
    pairs = zip(prompts, samples, strict=True)
    flat = np.stack([seeded_uniforms(0, p, s, steps * 2 * N) for p, s in pairs])
    return flat.reshape(-1, steps, 2, N)


def decode(backbone, prompts, samples, steps=STEPS, **more):
    noise = noise_of(prompts, samples, steps)
    return decode_masked(backbone, prompts, noise, guidance_scale=2.0, steps=steps, **more)


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
        masked = int((~known).sum())
        share = float(torch.cos(torch.tensor(ratio) * math.pi / 2))  # float32, as the original
        left = max(1, min(masked - 1, math.floor(N * share)))
        worst = sorted(confidence, key=lambda t: (confidence[t], t))[:left]
        known[:] = True
        known[worst] = False
    return codes.view(12, 12)


def test_equals_a_plain_implementation(backbone, vanilla):
    u = noise_of(PROMPTS, [0] * 3)
    assert torch.equal(vanilla[1], plain(backbone, PROMPTS[1], u[1], STEPS, 2.0, 1.0))
    got = decode(backbone, PROMPTS[:1], [1], steps=5, choice_temperature=4.5)
    u = noise_of(PROMPTS[:1], [1], 5)[0]
    assert torch.equal(got[0], plain(backbone, PROMPTS[0], u, 5, 2.0, 4.5))
    greedy = decode_masked(backbone, PROMPTS[:1], None, guidance_scale=3.0, steps=4)
    assert torch.equal(greedy[0], plain(backbone, PROMPTS[0], None, 4, 3.0, 0.0))


@given(st.integers(1, 1200), st.integers(1, 80))
def test_the_number_of_masked_codes(count, steps):
    masked, seen = count, []
    for step in range(steps):
        before, masked = masked, num_masked(step, steps, count, masked)
        assert masked == 1 or masked < before
        assert masked <= max(1, count * math.cos(math.pi / 2 * (step + 1) / steps))
        seen.append(masked)
    assert seen[-1] == 1 and seen == sorted(seen, reverse=True)


def test_the_fifty_steps_of_show_o():
    masked, seen = 256, []
    for step in range(50):
        masked = num_masked(step, 50, 256, masked)
        seen.append(masked)
    # At first one code is settled in a step; 256 cos(pi / 2 r) takes over.
    assert seen[:3] == [255, 254, 253] and seen[24] == 181 and seen[-2:] == [8, 1]


@pytest.mark.parametrize("steps", [1, 150])
def test_few_and_many_steps_fill_the_grid(backbone, steps):
    codes = decode_masked(backbone, PROMPTS[:1], None, guidance_scale=0.0, steps=steps)
    assert codes.shape == (1, 12, 12) and 0 <= codes.min() and codes.max() < 1024


@pytest.mark.parametrize("augmented", [False, True])
def test_an_image_does_not_depend_on_its_batch(backbone, index, vanilla, augmented):
    more = {"augmentation": DAiD(index, k=5, lam=0.5, tau=4.0)} if augmented else {}
    together = decode(backbone, [*PROMPTS[::-1], PROMPTS[0]], [0, 0, 0, 1], **more)
    assert torch.equal(decode(backbone, PROMPTS[1:2], [0], **more)[0], together[1])
    assert torch.equal(together[:3].flip(0), vanilla) != augmented
    assert not torch.equal(together[2], together[3])  # another sample is another image


def test_weight_0_is_the_bare_model_bit_for_bit(backbone, vanilla, index):
    daid = DAiD(index, k=5, lam=0.0, tau=4.0)
    assert torch.equal(decode(backbone, PROMPTS, [0] * 3, augmentation=daid), vanilla)


class Recorder(DAiD):
    """DAiD that keeps what it is called with."""

    def on_step_start(self, codes, known, positions):
        self.calls = getattr(self, "calls", [])
        self.calls.append(["start", known.sum(dim=(1, 2)).tolist(), len(positions)])

    def on_probs(self, probs, codes, known, positions):
        merged = super().on_probs(probs, codes, known, positions)
        found = self.index.search(codes, known, positions, self.k)
        self.calls[-1][0] = "both"
        self.last = (positions, found.codes, known)
        return merged


def test_retrieval_takes_part_in_the_second_half_at_all_positions(backbone, index):
    recorder = Recorder(index, k=5, lam=1.0, tau=4.0)
    codes = decode(backbone, PROMPTS, [0] * 3, augmentation=recorder).flatten(1)
    # One call before the prompt is run, then one a step.
    assert [call[0] for call in recorder.calls] == ["start"] * 4 + ["both"] * 3
    assert [call[2] for call in recorder.calls] == [0] * 4 + [N] * 3
    counts = [[N - masked] * 3 for masked in (144, 139, 124, 101, 71, 37)]
    assert [call[1] for call in recorder.calls[1:]] == counts
    positions, found, known = recorder.last
    for i in range(3):
        for p, candidates in zip(positions.tolist(), found[i], strict=True):
            assert known[i].flatten()[p] or codes[i, p] in candidates


class Certain(Augmentation):
    """Code 7 for sure at the last position."""

    def on_probs(self, probs, codes, known, positions):
        probs = probs.clone()
        probs[:, positions == N - 1] = torch.eye(probs.shape[-1], dtype=probs.dtype)[7]
        self.settled = [*getattr(self, "settled", []), known.flatten(1)[:, N - 1]]
        return probs


def test_confidence_is_of_the_merged_distribution(backbone):
    certain, steps = Certain(), 4
    codes = decode(backbone, PROMPTS, [0] * 3, steps, augmentation=certain, choice_temperature=0.0)
    third, fourth = certain.settled
    assert fourth.all() and not third.all()  # sure in the third step, so known in the fourth
    assert (codes[~third, -1, -1] == 7).all()


def test_a_database_with_the_very_image_finds_it(vanilla, make_index):
    others = np.random.default_rng(1).integers(0, 1024, (9, 12, 12))
    index, known = make_index(np.concatenate([others, vanilla.numpy()])), torch.ones(3, 12, 12)
    found = index.search(vanilla, known.bool(), torch.arange(N), 4)
    nearest = found.distances == 0
    assert nearest[..., 0].all()
    assert ((found.codes == vanilla.flatten(1)[..., None]) & nearest).any(-1).all()


@pytest.mark.parametrize("init_gain", [0.0, 1.0])
def test_an_adapter_in_the_full_context(backbone, vanilla, index, init_gain):
    """Gain 0 is the bare model bit for bit; otherwise an image depends on no other image."""
    torch.manual_seed(0)
    settings = FaidSettings(modules=2, hops=(1,), k=3, context="full")
    layers = len(backbone.decoder_layers)
    adapter = FAiD(backbone.hidden_size, layers, settings, init_gain).double()
    augmentation = FAiDAugmentation(adapter, index)
    with adapter.attached(backbone):
        together = decode(backbone, PROMPTS, [0] * 3, augmentation=augmentation)
        alone = decode(backbone, PROMPTS[1:2], [0], augmentation=augmentation)
    assert torch.equal(alone[0], together[1])
    assert torch.equal(together, vanilla) == (init_gain == 0.0)

"""Retrievals found again from a finished image: the same as while it was drawn."""

import math

import numpy as np
import pytest
import torch

from arrag.backbones.janus import JanusBackbone
from arrag.backbones.showo import ShowoBackbone
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.augmentation import Augmentation
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_masked, decode_raster, seeded_uniforms
from arrag.report.attribution import Blend, attribute_patches
from arrag.report.replay import RecordingAugmentation
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import UsageError

PROMPT = "a photo of a dog"


def make_index(folder, tokenizer, neighborhood, images=20):
    """A database of random codes of few kinds, so that repeats of a code are retrieved too."""
    grids = np.random.default_rng(0).integers(0, 40, (images, *tokenizer.grid))
    with StoreWriter(
        folder / "store",
        tokenizer_digest=tokenizer.digest,
        grid=tokenizer.grid,
        codebook=tokenizer.codebook,
        source="random",
        shard_size=100,
    ) as writer:
        writer.add([f"image {i}" for i in range(images)], grids)
    store = TokenStore.open(folder / "store")
    build_index(store, folder / "index", neighborhood=neighborhood, progress=False)
    return open_index(folder / "index", store)


class Recorder(Augmentation):
    """DAiD that keeps what it asked for and what it was given, by position."""

    def __init__(self, daid):
        self.daid, self.found, self.known = daid, [], []

    def on_probs(self, probs, codes, known, positions):
        found = self.daid.index.search(codes, known, positions, self.daid.k)
        self.found.append((known.clone(), positions.tolist(), found))
        return self.daid.on_probs(probs, codes, known, positions)


def test_raster_order(tiny_janus, tmp_path):
    backbone, tokenizer = JanusBackbone.load(tiny_janus, "float64"), load_tokenizer(tiny_janus)
    index = make_index(tmp_path, tokenizer, Neighborhood("causal"))
    recorder = Recorder(DAiD(index, k=12, lam=0.9, tau=0.2))
    height, width = tokenizer.grid
    draws = seeded_uniforms(0, PROMPT, 0, height * width)[None]
    codes = decode_raster(backbone, [PROMPT], draws, guidance_scale=1.0, augmentation=recorder)[0]
    origins = attribute_patches(codes.numpy(), index, k=12, shown=5, blend=Blend(0.9, 0.2))
    inside = [r * width + c for r in range(1, height) for c in range(1, width - 1)]
    assert origins.positions.tolist() == inside  # border "skip": nothing is retrieved at the edge
    for row, position in enumerate(inside):
        _, at, found = recorder.found[position]
        assert at == [position]
        assert origins.drawn[row] == codes.flatten()[position]
        for ours, theirs in (
            (origins.distances, found.distances),
            (origins.codes, found.codes),
            (origins.entries, found.entries),
        ):
            assert np.array_equal(ours[row], theirs[0, 0, :5].numpy())
        assert origins.agreeing[row] == (found.codes[0, 0] == origins.drawn[row]).sum()


def test_weights_add_up_to_the_blended_distribution(tiny_janus, tmp_path):
    tokenizer = load_tokenizer(tiny_janus)
    index = make_index(tmp_path, tokenizer, Neighborhood("causal"))
    codes = np.random.default_rng(1).integers(0, 40, tokenizer.grid)
    for dedupe in ("nearest", "none"):
        origins = attribute_patches(codes, index, k=30, shown=30, blend=Blend(0.5, 0.3, dedupe))
        assert np.allclose(origins.weights.sum(1), 1, atol=1e-5)
        assert any(len(set(row)) < 30 for row in origins.codes)  # some code comes twice
        for row in range(0, len(origins.positions), 7):
            by_code = {}
            for slot, code in enumerate(origins.codes[row]):
                if dedupe == "none" or code not in origins.codes[row][:slot]:
                    weight = math.exp(-origins.distances[row, slot] / 0.3)
                    by_code[code] = by_code.get(code, 0) + weight
                    assert origins.weights[row, slot] > 0
                else:
                    assert origins.weights[row, slot] == 0
            whole = sum(by_code.values())
            expected = by_code.get(origins.drawn[row], 0) / whole
            assert origins.drawn_weight[row] == pytest.approx(expected, abs=1e-5)
            first = math.exp(-origins.distances[row, 0] / 0.3) / whole
            assert origins.weights[row, 0] == pytest.approx(first, abs=1e-5)


def test_other_orders_need_the_order(tiny_showo, tmp_path):
    backbone, tokenizer = ShowoBackbone.load(tiny_showo, "float64"), load_tokenizer(tiny_showo)
    index = make_index(tmp_path, tokenizer, Neighborhood("full", border="zero"), images=5)
    recorder = Recorder(DAiD(index, k=4, lam=0.5, tau=0.2))
    height, width = tokenizer.grid
    steps, count = 6, height * width
    draws = seeded_uniforms(0, PROMPT, 0, steps * 2 * count).reshape(1, steps, 2, count)
    watched = RecordingAugmentation(recorder)
    codes = decode_masked(
        backbone, [PROMPT], draws, guidance_scale=1.0, steps=steps, augmentation=watched
    )[0]
    order = watched.order()[0]  # [H, W]
    expected = torch.full((height, width), steps // 2 - 1)  # retrieval is in the last half
    for step, (known, _, _) in reversed(list(enumerate(recorder.found))):
        expected[known[0]] = step - 1  # known when it began: settled before
    assert torch.equal(order, expected) and (order == -1).any()
    origins = attribute_patches(codes.numpy(), index, 4, 4, order=order.numpy())
    assert origins.weights is None and len(origins.positions) == (order >= 0).sum()
    for row, position in enumerate(origins.positions):
        step = int(order.flatten()[position])
        _, at, found = recorder.found[step]
        slot = at.index(position)
        assert np.array_equal(origins.entries[row], found.entries[0, slot].numpy())
        assert np.array_equal(origins.distances[row], found.distances[0, slot].numpy())
    with pytest.raises(UsageError):
        attribute_patches(codes.numpy(), index, 4, 4)

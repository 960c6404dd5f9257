"""The code of the documentation's pages runs and does what they say."""

import re

import numpy as np
import pytest
import torch
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood

SIDE, COLOURS = 6, 20


@pytest.fixture(scope="module")
def example(root):
    """The names that docs/add-your-own-backbone.md defines."""
    page = (root / "docs" / "add-your-own-backbone.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) < 60
    names = {}
    exec(compile(code, "add-your-own-backbone.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def backbone(example):
    torch.manual_seed(0)
    config = ImageGPTConfig(
        vocab_size=COLOURS + 1, n_positions=SIDE * SIDE, n_embd=32, n_layer=2, n_head=2,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    model = ImageGPTForCausalImageModeling(config).double()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return example["ImageGptBackbone"](model)


def test_greedy_equals_transformers_token_for_token(backbone):
    mine = decode_raster(backbone, [""], None, guidance_scale=1.0).flatten(1)
    start = torch.full((1, 1), COLOURS)
    theirs = backbone.model.generate(
        input_ids=start, max_new_tokens=SIDE * SIDE, do_sample=False, eos_token_id=None
    )
    assert torch.equal(mine, theirs[:, 1:])
    assert len(mine.unique()) > 2


def test_images_are_their_own_and_retrieval_plugs_in(example, backbone, tmp_path):
    colours = torch.rand(COLOURS, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokenizer = example["ColourTokenizer"](colours, SIDE, "by hand")
    draws = np.stack([seeded_uniforms(0, "", i, SIDE * SIDE) for i in range(3)])
    images = decode_raster(backbone, [""] * 3, draws, guidance_scale=1.0)
    assert torch.equal(tokenizer.encode(tokenizer.decode(images)), images)
    alone = decode_raster(backbone, [""], draws[2:], guidance_scale=1.0)
    assert torch.equal(alone[0], images[2])
    with StoreWriter(
        tmp_path / "codes", tokenizer_digest=tokenizer.digest, grid=tokenizer.grid,
        codebook=colours.numpy(), source="drawn", shard_size=9,
    ) as writer:  # fmt: skip
        writer.add(["a", "b"], images[:2].numpy().astype(np.uint16))
    store = TokenStore.open(tmp_path / "codes")
    build_index(store, tmp_path / "index", neighborhood=Neighborhood("causal"), progress=False)
    index = open_index(tmp_path / "index", store, tokenizer.digest)
    for lam, same in ((0.0, True), (1.0, False)):
        daid = DAiD(index, k=2, lam=lam, tau=0.1)
        got = decode_raster(backbone, [""] * 3, draws, guidance_scale=1.0, augmentation=daid)
        assert torch.equal(got[2], images[2]) == same
    known = torch.ones_like(images, dtype=torch.bool)
    inside = Neighborhood("causal").valid_positions(SIDE, SIDE).flatten().nonzero()[:, 0]
    found = index.search(images[:2], known[:2], inside, 1)
    assert (found.distances == 0).all()

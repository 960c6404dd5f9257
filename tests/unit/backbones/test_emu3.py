"""Emu3: codes alone in our loop, against transformers' generation with row ends and guidance."""

import pytest
import torch
from tiny_backbones import CODES, SIDE, N, emu3_parts

from arrag.backbones.base import TokenSpan
from arrag.backbones.emu3 import BOI, BOS, CODE, IMAGE, NEGATIVE, POSITIVE, ROW_END, Emu3Backbone
from arrag.methods.decoding import decode_raster
from arrag.tokenizers.vq import emu3_grid_side

PROMPTS = ["a photo of a dog", "two red cats and a bus"]


@pytest.fixture(scope="module")
def backbone():
    model, tokenizer = emu3_parts()
    return Emu3Backbone(model.double(), tokenizer)


def allowed(words):
    """What the public code lets follow: codes, and after each row its end."""
    codes = [words[CODE.format(code)] for code in range(CODES)]

    def after(batch, ids):
        start = (ids == words[IMAGE]).nonzero()[0, 0] + 1
        return [words[ROW_END]] if (len(ids) - start) % (SIDE + 1) == SIDE else codes

    return after


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_greedy_equals_transformers_token_for_token(backbone, guidance):
    words = backbone.tokenizer.get_vocab()
    mine = decode_raster(backbone, PROMPTS, None, guidance_scale=guidance)
    for i, prompt in enumerate(PROMPTS):
        pair = (prompt + POSITIVE, NEGATIVE)
        texts = [f"{BOS}{text}{BOI}{SIDE}*{SIDE}{IMAGE}" for text in pair]
        ids, negative = (backbone.tokenizer(t, return_tensors="pt").input_ids for t in texts)
        theirs = backbone.model.generate(
            ids, negative_prompt_ids=negative, guidance_scale=guidance, do_sample=False,
            max_new_tokens=SIDE * (SIDE + 1), prefix_allowed_tokens_fn=allowed(words),
        )[0, ids.shape[1] :]  # fmt: skip
        rows = theirs.view(SIDE, SIDE + 1)
        assert (rows[:, -1] == words[ROW_END]).all()
        codes = rows[:, :-1] - words[CODE.format(0)]
        assert torch.equal(mine[i], codes)
    assert len(mine.unique()) > 3


def test_indices_leave_out_the_row_ends():
    span = TokenSpan(index=5, position=0, count=9, row_length=4)
    assert span.indices == [5, 6, 7, 8, 10, 11, 12, 13, 15]
    assert TokenSpan(5, 3, 3, row_length=4).indices == [5, 7, 8]
    assert TokenSpan(5, 3, 3).indices == slice(5, 8)


def test_spans_say_where_the_codes_are(backbone):
    codes = torch.randint(0, CODES, (2, N), generator=torch.Generator().manual_seed(0))
    layer, seen = backbone.decoder_layers[0], []

    def look(module, args, kwargs, output):
        rows, held, targets = backbone.spans
        inputs = layer.input_layernorm(backbone.embed_codes(codes))[:, : N - 1]
        seen.append(torch.equal(kwargs["hidden_states"][:rows, held.indices], inputs))
        ends = layer.input_layernorm(backbone._row_end(2))
        seen.append(torch.equal(kwargs["hidden_states"][:, targets.indices][:, SIDE::SIDE],
                                ends.expand(-1, SIDE - 1, -1)))  # fmt: skip

    hook = layer.self_attn.register_forward_hook(look, with_kwargs=True)
    try:
        backbone.teacher_forced(PROMPTS, codes)
    finally:
        hook.remove()
    assert seen == [True, True]


def test_the_published_grid_and_size():
    """BAAI/Emu3-Gen: 8 B in the paper; images of 720 pixels, 90 x 90 codes and row ends."""
    from transformers import Emu3Config, Emu3ForConditionalGeneration

    words = {CODE.format(code): 151854 + code for code in range(32768)} | {ROW_END: 151846}
    config = Emu3Config(vocabulary_map=words, text_config={}, vq_config={})
    with torch.device("meta"):
        model = Emu3ForConditionalGeneration(config)
    backbone = Emu3Backbone(model, None)
    assert backbone.grid == (90, 90) and backbone.codebook_size == 32768
    assert backbone.image_tokens == 90 * 91
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    layer = attention + 3 * 4096 * 14336 + 2 * 4096
    assert backbone.num_parameters == 32 * layer + 2 * 184622 * 4096 + 4096
    vq = {"channel_multiplier": [1, 2, 2, 4]}
    assert emu3_grid_side({"vq_config": vq, "image_area": 512**2}) == 64

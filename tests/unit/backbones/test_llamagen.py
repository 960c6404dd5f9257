"""LlamaGen against a plain forward from its tensors alone, its text, sizes and published files."""

import argparse
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_backbones import (
    CODES,
    GPT,
    SIDE,
    N,
    llamagen_weights,
    published_vq,
    write_llamagen,
    write_t5,
)
from transformers import AutoTokenizer, T5EncoderModel

from arrag.backbones.convert import convert_checkpoint
from arrag.backbones.llamagen.captions import clean_caption
from arrag.backbones.llamagen.gpt import Gpt, GptConfig
from arrag.backbones.llamagen.model import LlamaGenBackbone
from arrag.methods.augmentation import Augmentation
from arrag.methods.decoding import decode_raster, probabilities, seeded_uniforms
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import FormatError, MismatchError, UsageError

PROMPTS = ["a photo of a dog", "two red cats and a bus"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llamagen") / "checkpoint"
    write_llamagen(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(checkpoint):
    return LlamaGenBackbone.load(checkpoint, "float64")


def normed(x, weight):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def turned(x, place):
    """One position's heads [heads, d]: pairs as complex numbers, turned by row and by column."""
    if place < GPT.text_length:
        return torch.zeros_like(x)
    row, column = divmod(place - GPT.text_length, SIDE)
    pairs = torch.view_as_complex(x.reshape(len(x), -1, 2))  # [heads, d / 2]
    quarter = pairs.shape[1] // 2
    angles = [row / 10000 ** (k / quarter) for k in range(quarter)]
    angles += [column / 10000 ** (k / quarter) for k in range(quarter)]
    turn = torch.polar(torch.ones(len(angles)), torch.tensor(angles))
    return torch.view_as_real(pairs * turn.to(pairs)).reshape(x.shape)


def dense(state, features, mask, codes):
    """Logits of the next code after ``codes``: one position at a time, no cache, no masks.

    features: [T, width] of one row; mask: [T], which of them are looked at.
    """
    w = {name: value.double() for name, value in state.items()}
    hidden = torch.nn.functional.gelu(features @ w["cls_embedding.cap_proj.fc1.weight"].T,
                                      approximate="tanh")  # fmt: skip
    text = hidden @ w["cls_embedding.cap_proj.fc2.weight"].T
    x = torch.cat([text, w["tok_embeddings.weight"][codes]])
    seen = [bool(m) for m in mask] + [True] * len(codes)
    for n in range(GPT.layers):
        layer = f"layers.{n}."
        h = normed(x, w[layer + "attention_norm.weight"])
        q, k, v = (h @ w[layer + "attention.wqkv.weight"].T).chunk(3, -1)
        q, k, v = (part.view(len(x), GPT.heads, -1) for part in (q, k, v))
        out = []
        for i in range(len(x)):
            keys = [j for j in range(i + 1) if seen[j] or j == i]
            scores = torch.stack([(turned(q[i], i) * turned(k[j], j)).sum(-1) for j in keys])
            weights = (scores / math.sqrt(q.shape[-1])).softmax(0)  # [keys, heads]
            out.append((weights[..., None] * v[keys]).sum(0).flatten())
        x = x + torch.stack(out) @ w[layer + "attention.wo.weight"].T
        h = normed(x, w[layer + "ffn_norm.weight"])
        gate = torch.nn.functional.silu(h @ w[layer + "feed_forward.w1.weight"].T)
        inner = gate * (h @ w[layer + "feed_forward.w3.weight"].T)
        x = x + inner @ w[layer + "feed_forward.w2.weight"].T
    return normed(x[-1], w["norm.weight"]) @ w["output.weight"].T


def test_logits_equal_a_plain_forward_with_guidance(backbone):
    state = llamagen_weights()
    features, mask = backbone.tokenize(PROMPTS)
    empty = state["cls_embedding.uncond_embedding"].double()
    codes = torch.randint(0, CODES, (2, N), generator=torch.Generator().manual_seed(1))
    decoding, previous = backbone.start(PROMPTS, 7.5), None
    for t in range(10):
        got = backbone.logits(decoding, previous)
        previous = codes[:, t]
        if t in (0, 1, 9):  # the second row of the grid is reached
            c = dense(state, features[1], mask[1], codes[1, :t])
            u = dense(state, empty, mask[1], codes[1, :t])  # the prompt's places are hidden
            assert torch.allclose(got[1], u + 7.5 * (c - u), atol=1e-9)
    assert got.std() > 0.5 and not mask[:, 0].any()


def test_text_is_encoded_as_the_library_does_and_stands_on_the_right(backbone, checkpoint):
    encoder = T5EncoderModel.from_pretrained(checkpoint / "t5", dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "t5")
    features, mask = backbone.tokenize(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            wanted = encoder(ids).last_hidden_state[0]
        assert mask[i].tolist() == [0] * (64 - ids.shape[1]) + [1] * ids.shape[1]
        assert torch.allclose(features[i, -ids.shape[1] :], wanted, atol=1e-7)
        assert (features[i, : -ids.shape[1]] == 0).all()


CLEANED = {
    "A photo of a Bench": "a photo of a bench",
    "A cat -- on http://a.com/b?c=1 a mat...": "a cat - on ?c=1 a mat",
    "a <b>bold</b> &amp; red “dog” (8k)": 'a bold red "dog" 8k',
    "one-two-three-four-five": "one two three four five",
    "a dog.png 1920x1080 @me #12 你好 caf\u00e9": "a café",
    "  spaces \n\t and lines ": "spaces and lines",
}
"""By the public code of LlamaGen (language/t5.py)."""


def test_captions_are_cleaned():
    assert {caption: clean_caption(caption) for caption in CLEANED} == CLEANED


def test_a_prompt_of_which_nothing_is_left_is_refused(backbone):
    with pytest.raises(UsageError):
        backbone.start(["你好"], 2.0)


def test_the_published_names_shapes_and_size():
    """XL as in the public code's GPT_XL: "775M" there, of the class-conditional one."""
    with torch.device("meta"):
        model = Gpt(GptConfig())
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["cls_embedding.uncond_embedding"] == (120, 2048)
    assert shapes["cls_embedding.cap_proj.fc1.weight"] == (1280, 2048)
    assert shapes["layers.35.attention.wqkv.weight"] == (3840, 1280)
    assert shapes["layers.0.feed_forward.w2.weight"] == (1280, 3584)
    assert shapes["tok_embeddings.weight"] == shapes["output.weight"] == (16384, 1280)
    assert len(shapes) == 36 * 7 + 6
    layer = 4 * 1280**2 + 3 * 1280 * 3584 + 2 * 1280
    body = 36 * layer + 2 * 16384 * 1280 + 1280
    text = 2048 * 1280 + 1280**2 + 120 * 2048
    for grid in (16, 32):  # stage 1 and 2 differ in nothing else
        with torch.device("meta"):
            backbone = LlamaGenBackbone(Gpt(GptConfig(grid=grid)), None)
        assert backbone.grid == (grid, grid) and len(backbone.decoder_layers) == 36
        assert backbone.num_parameters == body + text == 777_923_840
    assert round((body + 1001 * 1280) / 1e6) == 775


def test_top_k_leaves_the_most_likely():
    logits = torch.tensor([[3.0, 1.0, 2.0, 1.0, 0.0]])
    probs = probabilities(logits, 2.0, 2)
    assert torch.equal(probs > 0, torch.tensor([[True, False, True, False, False]]))
    assert torch.allclose(probs[0, [0, 2]], torch.softmax(torch.tensor([1.5, 1.0]), 0))
    assert (probabilities(logits, 1.0, 3) > 0).sum() == 4  # equal ones are in together
    whole = torch.softmax(logits, -1)
    for k in (None, 5, 1000):
        assert torch.equal(probabilities(logits, 1.0, k), whole)


def test_top_k_is_of_the_model_alone(backbone):
    """For k = 1 the most likely code is drawn; what an augmentation merges in is not cut."""

    class Certain(Augmentation):
        def on_probs(self, probs, codes, known, positions):
            assert ((probs > 0).sum(-1) == 1).all()
            return torch.eye(CODES, dtype=probs.dtype)[7].expand_as(probs)

    draws = np.stack([seeded_uniforms(0, p, 0, N) for p in PROMPTS])
    greedy = decode_raster(backbone, PROMPTS, None, guidance_scale=2.0)
    drawn = decode_raster(backbone, PROMPTS, draws, guidance_scale=2.0, top_k=1)
    assert torch.equal(drawn, greedy)
    certain = decode_raster(
        backbone, PROMPTS, draws, guidance_scale=2.0, top_k=1, augmentation=Certain()
    )
    assert (certain == 7).all()


@pytest.fixture
def published(tmp_path):
    """The two files as published: the weights beside what else a training saves."""
    gpt, vq = tmp_path / "t2i.pt", tmp_path / "vq.pt"
    about = {"args": argparse.Namespace(gpt_model="GPT-XL"), "steps": 5}
    torch.save({"model": llamagen_weights(), **about}, gpt)
    used = {"quantize.codebook_used": torch.zeros(65536)}
    torch.save({"model": {**published_vq(), **used}, **about}, vq)
    return gpt, vq


def test_published_files_become_a_checkpoint(published, checkpoint, tmp_path):
    gpt, vq = published
    out = tmp_path / "out"
    convert_checkpoint("llamagen", gpt, out, tokenizer=vq, image_size=16 * SIDE)
    config = json.loads((out / "config.json").read_text())
    assert config["grid"] == SIDE and config["layers"] == 4 and config["heads"] == 1
    config["heads"] = 2  # of the tiny model; the published ones' are 64 wide
    (out / "config.json").write_text(json.dumps(config))
    write_t5(out / "t5")
    converted, wanted = (LlamaGenBackbone.load(f, "float64") for f in (out, checkpoint))
    codes = torch.randint(0, CODES, (1, N), generator=torch.Generator().manual_seed(1))
    got = converted.teacher_forced(PROMPTS[:1], codes)
    assert torch.equal(got, wanted.teacher_forced(PROMPTS[:1], codes))
    assert load_tokenizer(out).digest == load_tokenizer(checkpoint).digest
    names = load_file(out / "model.safetensors").keys()
    assert names == llamagen_weights().keys()


REFUSED = {
    "missing": (0, lambda s: s.pop("layers.2.attention.wo.weight"), MismatchError),
    "no language model": (0, lambda s: s.pop("cls_embedding.uncond_embedding"), FormatError),
    "no image tokenizer": (1, lambda s: s.pop("encoder.conv_in.weight"), FormatError),
    "no weights": (1, lambda s: s.clear(), FormatError),
}


@pytest.mark.parametrize("which, change, error", REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused(published, tmp_path, which, change, error):
    path = published[which]
    holder = torch.load(path, weights_only=False)
    change(holder["model"])
    torch.save(holder, path)
    gpt, vq = published
    out = tmp_path / "out"
    with pytest.raises(error) as caught:
        convert_checkpoint("llamagen", gpt, out, tokenizer=vq, image_size=96)
    assert caught.value.path == path and caught.value.hint and not out.exists()

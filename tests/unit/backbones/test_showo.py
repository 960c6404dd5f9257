"""Show-o against dense forwards written out, and checkpoints that are refused."""

import json
import shutil

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, PhiForCausalLM

from arrag.backbones.showo import ShowoBackbone
from arrag.backbones.showo_checkpoint import Vocabulary
from arrag.utils.errors import FormatError, MismatchError, UsageError

PROMPTS = ["a photo of a dog", "a photo of a red dog and a blue car", "two apples"]


@pytest.fixture(scope="module")
def backbone(tiny_showo):
    return ShowoBackbone.load(tiny_showo, "float64")


@pytest.fixture(scope="module")
def half_done():
    """Codes of three images, about half of them known."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1024, (3, 12, 12), generator=generator)
    return codes, torch.rand(3, 12, 12, generator=generator) < 0.5


def test_the_published_model_s_ids_and_size():
    ids = Vocabulary(text=50295, codes=8192)
    found = {token: ids.marker(token) for token in ("[PAD]", "<|soi|>", "<|eoi|>", "<|t2i|>")}
    assert found == {"[PAD]": 50295, "<|soi|>": 50296, "<|eoi|>": 50297, "<|t2i|>": 50300}
    assert (ids.first_code, ids.mask, ids.size) == (50305, 58497, 58498)
    phi = PhiConfig(  # microsoft/phi-1_5
        vocab_size=58498, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24,
        num_attention_heads=32, partial_rotary_factor=0.5, qk_layernorm=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = PhiForCausalLM(phi)
    attention = 4 * (2048 * 2048 + 2048) + 2 * 2 * 64
    mlp = 2 * 2048 * 8192 + 8192 + 2048
    layers = 24 * (attention + mlp + 2 * 2048)
    total = layers + 2 * 58498 * 2048 + 58498 + 2 * 2048
    backbone = ShowoBackbone(model, None, ids, tokens=1024)
    assert backbone.num_parameters == total == 1_448_176_770
    assert backbone.grid == (32, 32) and len(backbone.decoder_layers) == 24
    smaller = ShowoBackbone(model, None, ids, tokens=256)  # showlab/show-o, 256 pixels
    assert smaller.grid == (16, 16) and smaller.num_parameters == total


def dense(backbone, prompt, codes, known):
    """Logits of one image by one forward over the whole sequence, everything spelt out."""
    words = backbone.vocabulary
    tokenizer = backbone.tokenizer
    text = [] if prompt is None else tokenizer(prompt, add_special_tokens=False).input_ids
    row = [words.marker("<|t2i|>"), tokenizer.bos_token_id, *text, tokenizer.eos_token_id]
    pads = backbone.text_length - len(row)
    row = [words.marker("[PAD]")] * pads + row + [words.marker("<|soi|>")]
    for code, is_known in zip(codes.flatten().tolist(), known.flatten().tolist(), strict=True):
        row.append(words.first_code + code if is_known else words.mask)
    row.append(words.marker("<|eoi|>"))
    seen = torch.zeros(len(row), len(row), dtype=torch.bool)
    for i in range(len(row)):
        for j in range(len(row)):
            image = i >= backbone.text_length
            seen[i, j] = (j >= pads and (image or j <= i)) or i == j
    bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e30)
    with torch.no_grad():
        out = backbone.model(
            input_ids=torch.tensor([row]), attention_mask=bias[None, None], use_cache=False
        )
    first = backbone.text_length + 1
    return out.logits[0, first : first + codes.numel(), words.first_code : words.mask]


def test_logits_equal_dense_forwards_with_guidance(backbone, half_done):
    codes, known = half_done
    state = backbone.start(PROMPTS, 2.5)
    everywhere = torch.arange(144)
    backbone.logits(state, codes.flip(0), known.flip(0), everywhere)  # leaves nothing behind
    got = backbone.logits(state, codes, known, everywhere)
    some = backbone.logits(state, codes, known, torch.tensor([3, 100]))
    for i, prompt in enumerate(PROMPTS):
        c = dense(backbone, prompt, codes[i], known[i])
        u = dense(backbone, None, codes[i], known[i])
        want = 3.5 * c - 2.5 * u
        assert torch.allclose(got[i], want, atol=1e-9)
        assert torch.allclose(some[i], want[[3, 100]], atol=1e-9)
    assert want.std() > 1  # else nothing was compared
    state = backbone.start(PROMPTS, 0.0)
    assert len(state.mask) == 3  # without guidance there is no second row
    assert torch.allclose(backbone.logits(state, codes, known, everywhere)[2], c, atol=1e-9)


def test_teacher_forced_is_the_same_and_differentiable(backbone, half_done):
    codes, known = half_done
    logits = backbone.teacher_forced(PROMPTS, codes, known)
    assert torch.allclose(logits[2], dense(backbone, PROMPTS[2], codes[2], known[2]), atol=1e-9)
    dropped = backbone.unconditional_ids(*backbone.tokenize(PROMPTS))
    dropped = backbone.teacher_forced(dropped, codes.flatten(1), known.flatten(1))
    assert torch.allclose(dropped[0], dense(backbone, None, codes[0], known[0]), atol=1e-9)
    weight = backbone.model.lm_head.weight.requires_grad_()
    try:
        backbone.teacher_forced(PROMPTS, codes, known).sum().backward()
        assert weight.grad.abs().sum() > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_spans_say_where_the_codes_are(backbone, half_done):
    codes, known = half_done
    state = backbone.start(PROMPTS, 2.0)
    layer, seen = backbone.decoder_layers[0], []

    def look(module, args, kwargs, output):
        rows, inputs, targets = backbone.spans
        assert inputs == targets
        states = kwargs["hidden_states"][:rows, inputs.index : inputs.index + inputs.count]
        want = layer.input_layernorm(backbone.embed_codes(codes)).flatten(1, 2)
        seen.append(torch.equal(states[known.flatten(1)], want[known.flatten(1)]))

    hook = layer.self_attn.register_forward_hook(look, with_kwargs=True)
    try:
        backbone.logits(state, codes, known, torch.arange(144))
        backbone.teacher_forced(PROMPTS, codes, known)
    finally:
        hook.remove()
    assert seen == [True, True]


def copy(tiny_showo, tmp_path, **config):
    """A copy of the checkpoint with other values in its config.json."""
    path = tmp_path / "copy"
    shutil.copytree(tiny_showo, path)
    old = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(old | config))
    return path


def test_only_the_variant_that_understands_by_clip_has_its_projector(tiny_showo, tmp_path):
    path = copy(tiny_showo, tmp_path)
    state = load_file(path / "model.safetensors") | {"mm_projector.0.weight": torch.ones(1)}
    save_file(state, path / "model.safetensors")
    with pytest.raises(MismatchError):
        ShowoBackbone.load(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"w_clip_vit": True}))
    loaded = ShowoBackbone.load(path)
    assert torch.equal(loaded.model.lm_head.bias, state["showo.lm_head.bias"].float())


def test_configurations_that_contradict_themselves(tiny_showo, tmp_path):
    path = copy(tiny_showo, tmp_path) / "config.json"
    whole = json.loads(path.read_text())
    wrong = {"vocab_size": 1000, "mask_token_id": 3, "num_vq_tokens": 143}
    for field, value in (wrong | {"codebook_size": "many", "_class_name": "Other"}).items():
        path.write_text(json.dumps(whole | {field: value}))
        with refused(FormatError, path=path, field=field):
            ShowoBackbone.load(path.parent)


def test_a_text_tokenizer_of_another_size_is_refused(tiny_showo, tmp_path):
    sizes = {"llm_vocab_size": 50, "vocab_size": 1085, "mask_token_id": 1084}
    with pytest.raises(MismatchError):
        ShowoBackbone.load(copy(tiny_showo, tmp_path, **sizes))


def test_words_that_a_tokenizer_of_whole_words_lacks(backbone):
    with pytest.raises(UsageError) as caught:
        backbone.tokenize(["a photo of a dragon"])
    assert "dragon" in str(caught.value) and "dog" in caught.value.hint

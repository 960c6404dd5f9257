"""Show-o against dense forwards written out, its prompts, and checkpoints that are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from arrag.backbones.showo import ShowoBackbone
from arrag.backbones.showo_checkpoint import Vocabulary
from arrag.config.root import load_config
from arrag.data.encode import encode_source
from arrag.data.token_store import TokenStore
from arrag.methods.registry import ArtifactPaths, open_method
from arrag.methods.runner import sample_benchmark
from arrag.retrieval.index import build_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError
from arrag.utils.files import write_text

PROMPTS = ["a photo of a dog", "a photo of a red dog and a blue car", "two apples"]
END = "<|endoftext|>"


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


def test_without_guidance_there_is_no_second_row(backbone, half_done):
    codes, known = half_done
    state = backbone.start(PROMPTS, 0.0)
    assert len(state.mask) == 3
    got = backbone.logits(state, codes, known, torch.arange(144))
    assert torch.allclose(got[1], dense(backbone, PROMPTS[1], codes[1], known[1]), atol=1e-9)


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


def test_slots_say_where_the_codes_are(backbone, half_done):
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


def byte_level(folder):
    """A tokenizer of phi's kind: byte-level BPE, one token that begins, ends and is unknown."""
    core = Tokenizer(models.BPE(unk_token=END))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    core.train_from_iterator(["a photo of a dog and a cat"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@pytest.fixture(scope="module")
def with_bytes(tiny_showo, tmp_path_factory):
    """The tiny model behind a byte-level tokenizer."""
    path = tmp_path_factory.mktemp("bytes") / "showo"
    shutil.copytree(tiny_showo, path)
    text = byte_level(path / "llm")
    config = json.loads((path / "config.json").read_text())
    old, size = config["vocab_size"], Vocabulary(text, 1024).size
    config |= {"llm_vocab_size": text, "vocab_size": size, "mask_token_id": size - 1}
    config["max_text_length"] = 40
    (path / "config.json").write_text(json.dumps(config))
    state = load_file(path / "model.safetensors")
    for name, value in state.items():
        if value.shape[0] == old:
            state[name] = torch.randn(size, *value.shape[1:]).half()
    save_file(state, path / "model.safetensors")
    return ShowoBackbone.load(path)


@pytest.mark.parametrize("prompt", ["a dog\nand\ta cat", "🐕 on 🛹", "כלב אדום", "a  dog [PAD"])
def test_any_text_is_read(with_bytes, prompt):
    ids, mask = with_bytes.tokenize([prompt])
    words = with_bytes.vocabulary
    row = ids[0, mask[0]].tolist()
    assert row[0] == words.marker("<|t2i|>") and row[1] == row[-1] == 0
    assert with_bytes.tokenizer.decode(row[2:-1]) == prompt[: len(prompt)]
    assert (ids[~mask] == words.marker("[PAD]")).all() and max(row[1:]) < words.text
    assert with_bytes.start([prompt], 1.0).mask.shape == (2, 41)


def test_a_long_prompt_loses_its_end_and_that_is_said(with_bytes):
    prompt = "a very long tale of a dog" * 5
    with pytest.warns(UserWarning, match="longer than the 38 tokens.*left out"):
        ids, mask = with_bytes.tokenize([prompt])
    whole = with_bytes.tokenizer(prompt, add_special_tokens=False).input_ids
    assert ids[0].tolist() == [with_bytes.vocabulary.marker("<|t2i|>"), 0, *whole[:38], 0]
    assert mask.all()
    assert with_bytes.truncated_prompts(["a dog", prompt]) == [prompt]


def test_prompts_that_are_refused(with_bytes, backbone):
    for prompt in ("a dog <|soi|>", "[PAD]", f"a {END} dog"):
        with pytest.raises(ArragError, match="is a marker of the model and no text"):
            with_bytes.tokenize([prompt])
    with pytest.raises(ArragError, match="does not know 'dragon'.*dog"):
        backbone.tokenize(["a photo of a dragon"])
    for model in (with_bytes, backbone):
        with pytest.raises(ArragError, match="empty"):
            model.tokenize([" \n"])


def copy(tiny_showo, tmp_path, config=None, weights=None):
    """A changed copy of the checkpoint: other config values, another state."""
    path = tmp_path / "copy"
    shutil.copytree(tiny_showo, path)
    old = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(old | (config or {})))
    state = load_file(path / "model.safetensors")
    if weights:
        weights(state)
        save_file(state, path / "model.safetensors")
    return path


FIRST = "showo.model.layers.0.self_attn."
WEIGHTS = {
    "missing": (lambda s: s.pop(FIRST + "q_layernorm.bias"), f"missing: {FIRST}q_layernorm.bias"),
    "extra": (lambda s: s.update(other=torch.ones(1)), "not expected: other"),
    "shape": (
        lambda s: s.update({"showo.lm_head.bias": torch.ones(9)}),
        r"showo.lm_head.bias is \[9\], expected \[1092\]",
    ),
    "understanding": (
        lambda s: s.update({"mm_projector.0.weight": torch.ones(1)}),
        "not expected: mm_projector.0.weight",
    ),
}


@pytest.mark.parametrize("change, message", WEIGHTS.values(), ids=WEIGHTS)
def test_other_weights_are_refused_by_name(tiny_showo, tmp_path, change, message):
    with pytest.raises(ArragError, match=message):
        ShowoBackbone.load(copy(tiny_showo, tmp_path, weights=change))


def test_the_variant_that_understands_by_clip_loads(tiny_showo, tmp_path, backbone):
    change = WEIGHTS["understanding"][0]
    other = ShowoBackbone.load(copy(tiny_showo, tmp_path, {"w_clip_vit": True}, change), "float64")
    assert torch.equal(other.model.lm_head.weight, backbone.model.lm_head.weight)


CONFIGS = {
    "vocabulary": ({"vocab_size": 1000}, "vocab_size is 1000, but llm_vocab_size 57 and"),
    "mask": ({"mask_token_id": 3}, "mask_token_id is 3, but .* make it 1091"),
    "grid": ({"num_vq_tokens": 143}, "num_vq_tokens is 143, no square number"),
    "class": ({"_class_name": "Other"}, "_class_name is 'Other', expected 'Showo'"),
    "text": (
        {"llm_vocab_size": 50, "vocab_size": 1085, "mask_token_id": 1084},
        r"ids are not the checkpoint's|of another shape",
    ),
}


@pytest.mark.parametrize("change, message", CONFIGS.values(), ids=CONFIGS)
def test_configurations_that_contradict_themselves(tiny_showo, tmp_path, change, message):
    with pytest.raises(ArragError, match=message):
        ShowoBackbone.load(copy(tiny_showo, tmp_path, change))


def test_another_text_tokenizer_is_refused(tiny_showo, tmp_path):
    path = copy(tiny_showo, tmp_path)
    size = byte_level(path / "llm")
    with pytest.raises(ArragError, match=rf"\[PAD\] is {size}, expected 57.*<\|lvg\|>"):
        ShowoBackbone.load(path)
    (path / "llm/tokenizer.json").write_text("{")
    with pytest.raises(ArragError, match="no tokenizer that can be read"):
        ShowoBackbone.load(path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_showo, root):
    """A configuration of two prompts over the tiny model, with a database of random images."""
    folder = tmp_path_factory.mktemp("settings")
    line = '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "%s"}\n'
    write_text(folder / "prompts.jsonl", line % "a photo of a dog" + line % "a photo of a cup")
    document = yaml.safe_load((root / "config" / "micro-ci.yaml").read_text())
    document["generators"] = {"showo": {
        "kind": "showo", "checkpoint": str(tiny_showo), "guidance_scale": 1.0, "steps": 4,
    }}  # fmt: skip
    document["index"] = {"mode": "hamming"}
    document["benchmarks"]["geneval"]["prompts"] = str(folder / "prompts.jsonl")
    document["methods"] = {name: document["methods"][name] for name in ("vanilla", "daid")}
    document.pop("training", None)
    document |= {"grids": {}, "figures": {}}
    write_text(folder / "config.yaml", yaml.safe_dump(document))
    return folder / "config.yaml"


def test_from_configuration_to_images(settings, tiny_showo, assets, tmp_path):
    config = load_config(settings)
    encode_source("micro:database", tiny_showo, tmp_path / "codes", limit=10, assets=assets)
    index = config.resolved("daid").index
    around = Neighborhood(index.context, border=index.border)
    store = TokenStore.open(tmp_path / "codes")
    build_index(store, tmp_path / "index", neighborhood=around, mode="hamming", progress=False)
    sources = ArtifactPaths(store=tmp_path / "codes", index=tmp_path / "index")
    run = sample_benchmark(config, "daid", tmp_path / "daid", paths=sources, progress=False)
    assert run["parameters"] == ShowoBackbone.load(tiny_showo).num_parameters
    assert len(list((tmp_path / "daid").rglob("*.png"))) == 4
    sampler = open_method(config, "vanilla")
    image = sampler.generate(["a photo of a dog"], [0], config.seed)
    assert image.shape == (1, 48, 48, 3) and image.dtype == np.uint8


def test_what_is_not_made_for_it_is_refused(settings, tmp_path):
    document = yaml.safe_load(settings.read_text())
    document["methods"]["daid"]["augment"] = {"kind": "racm3", "clip": "c", "adapter": "a"}
    write_text(tmp_path / "config.yaml", yaml.safe_dump(document))
    with pytest.raises(ArragError, match="a showo generator takes daid, faid, finetune"):
        load_config(tmp_path / "config.yaml")

"""Official Janus checkpoints to transformers' format: names there and back, sizes, refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_backbones import HIDDEN, LAYERS, SIDE, VQ, N, janus_parts
from transformers import JanusForConditionalGeneration

from arrag.backbones.convert import convert_checkpoint
from arrag.backbones.convert.janus import from_official, janus_config, official_name
from arrag.backbones.janus import JanusBackbone
from arrag.methods.decoding import decode_raster
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import FormatError, MismatchError

PROJECTOR = {"cls": "MlpProjector", "params": {"projector_type": "mlp_gelu", "depth": 2}}


def official_config(text, vision, vq, width):
    """``config.json`` as deepseek-ai's repositories have it."""
    return {
        "model_type": "multi_modality",
        "language_config": {"model_type": "llama", **text},
        "vision_config": {"cls": "CLIPVisionTower", "params": vision},
        "aligner_config": {
            **PROJECTOR, "params": {**PROJECTOR["params"], "input_dim": 1024, "n_embed": width},
        },
        "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": 16384, **vq}},
        "gen_aligner_config": {
            **PROJECTOR, "params": {**PROJECTOR["params"], "input_dim": 8, "n_embed": width},
        },
        "gen_head_config": {
            "cls": "vision_head",
            "params": {"image_token_embed": width, "image_token_size": 16384, "n_embed": width},
        },
    }  # fmt: skip


def published():
    """The configuration of deepseek-ai/Janus-Pro-1B."""
    vision = {
        "image_size": 384, "model_name": "siglip_large_patch16_384", "select_feature": "same",
        "select_layer": -1,
    }  # fmt: skip
    text = {
        "vocab_size": 102400, "max_position_embeddings": 16384, "dtype": "bfloat16",
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16,
    }  # fmt: skip
    return official_config(text, vision, {"n_embed": 8}, 2048)


def to_official(model):
    """The weights of transformers' model as the official files hold them, written the plain way."""
    state, out = model.state_dict(), {}
    for name, value in state.items():
        theirs, part = official_name(name)
        if theirs.endswith("pos_embed"):
            value = value[None]
        if part is None:
            out[theirs] = value.clone()
    for n in range(model.config.vision_config.num_hidden_layers):
        for kind in ("weight", "bias"):
            ours = f"model.vision_model.encoder.layers.{n}.self_attn.%s_proj.{kind}"
            parts = [state[ours % letter] for letter in "qkv"]
            out[f"vision_model.vision_tower.blocks.{n}.attn.qkv.{kind}"] = torch.cat(parts)
    out["vision_model.vision_tower.attn_pool.latent"] = torch.ones(1, 1, 8)
    out["gen_vision_model.quantize.codebook_used"] = torch.zeros(65536)
    return out


@pytest.fixture(scope="module")
def model_and_tokenizer():
    return janus_parts()


@pytest.fixture
def official(model_and_tokenizer, tmp_path):
    """A tiny official folder."""
    model, tokenizer = model_and_tokenizer
    folder = tmp_path / "official"
    folder.mkdir()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 48,
        "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 6000,
    }  # fmt: skip
    vision = {
        "image_size": 2 * SIDE, "patch_size": 2, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "mlp_ratio": 1.0, "num_image_tokens": N,
    }  # fmt: skip
    vq = {k: v for k, v in VQ.items() if k not in ("num_embeddings", "embed_dim")}
    sizes = {**vq, "image_token_size": VQ["num_embeddings"], "n_embed": VQ["embed_dim"]}
    config = official_config(text, vision, sizes, HIDDEN)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    torch.save(to_official(model), folder / "pytorch_model.bin")
    return folder


def test_names_there_and_back(model_and_tokenizer):
    model, _ = model_and_tokenizer
    state = to_official(model)
    back = from_official(model, state, "somewhere")
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    for name in (  # as in deepseek-ai/Janus-Pro-1B
        "vision_model.vision_tower.patch_embed.proj.weight",
        "vision_model.vision_tower.blocks.0.mlp.fc1.weight",
        "aligner.layers.0.weight", "aligner.layers.2.bias",
        "gen_vision_model.encoder.conv_blocks.0.res.0.norm1.weight",
        "gen_vision_model.quantize.embedding.weight",
        "gen_aligner.layers.2.weight", "gen_embed.weight",
        "gen_head.output_mlp_projector.weight", "gen_head.vision_head.bias",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    ):  # fmt: skip
        assert name in state


def test_a_converted_checkpoint_generates_the_same(model_and_tokenizer, official, tmp_path):
    out = tmp_path / "out"
    convert_checkpoint("janus", official, out)
    got, wanted = JanusBackbone.load(out, "float64"), JanusBackbone(*model_and_tokenizer)
    prompts = ["a photo of a dog", "כלב on a 🛹"]
    for mine, theirs in zip(got.tokenize(prompts), wanted.tokenize(prompts), strict=True):
        assert torch.equal(mine, theirs)
    assert (got.boi, got.pad) == (wanted.boi, wanted.pad)
    codes = decode_raster(got, prompts, None, guidance_scale=5.0)
    wanted.model.double()
    try:
        assert torch.equal(codes, decode_raster(wanted, prompts, None, guidance_scale=5.0))
    finally:
        wanted.model.float()
    assert load_tokenizer(out).grid == (SIDE, SIDE)
    # The head of texts is not the embedding: both come from the file.
    state = load_file(out / "model.safetensors")
    assert not torch.equal(
        state["lm_head.weight"], state["model.language_model.embed_tokens.weight"]
    )
    assert torch.equal(got.model.lm_head.weight.float(), state["lm_head.weight"])


def test_other_weights_are_refused(official, tmp_path):
    file = official / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "gen_head.b": torch.ones(1)}, file)
    with pytest.raises(MismatchError) as caught:
        convert_checkpoint("janus", file, tmp_path / "out")
    assert caught.value.path == file and not (tmp_path / "out").exists()


def test_other_folders_are_refused(official, tmp_path):
    tokenizer = (official / "tokenizer.json").read_text()
    (official / "tokenizer.json").write_text(tokenizer.replace("<begin_of_image>", "<boi>"))
    for file in ("tokenizer.json", "config.json"):
        with pytest.raises(FormatError) as caught:
            convert_checkpoint("janus", official, tmp_path / "out")
        assert caught.value.path == official / file
        (official / "config.json").write_text('{"model_type": "llama"}')


def test_the_published_sizes():
    """Every weight of Janus-Pro-1B, counted from the configuration of its repository.

    The official file holds 2.09 B (4.18 GB at two bytes each), the pooling head of the vision tower
    included, which transformers' class does not have.
    """
    config = janus_config(published(), "config.json")
    config.tie_word_embeddings = False
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
    width, inner, layers = 2048, 5632, 24
    embedding = 102400 * width
    language = layers * (4 * width**2 + 3 * width * inner + 2 * width) + width + embedding
    head = width * width + width + 16384 * width + 16384
    aligner = 8 * width + width + width * width + width
    generation = head + aligner + 16384 * 8
    tower = 24 * (12 * 1024**2 + 13 * 1024) + 2 * 1024 + 576 * 1024 + 3 * 256 * 1024 + 1024
    tower += 1024 * width + width + width * width + width  # and its aligner
    tokenizer = sum(p.numel() for p in model.model.vqmodel.parameters())
    assert tokenizer == 71_883_403  # "72M" in LlamaGen's README
    total = sum(p.numel() for p in model.parameters())
    assert total == language + embedding + generation + tower + tokenizer
    assert total == 2_076_636_811
    assert round((total + 12 * 1024**2 + 12 * 1024) / 1e7) == 209

    class Tokens:
        pad_token_id = 0
        convert_tokens_to_ids = staticmethod(lambda name: 1)

    backbone = JanusBackbone(model, Tokens())
    assert backbone.num_parameters == language + generation
    assert backbone.grid == (24, 24) and len(backbone.decoder_layers) == layers

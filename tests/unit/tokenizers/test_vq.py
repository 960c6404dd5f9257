"""Tokenizers of LlamaGen, aMUSEd and Emu3: the nearest row as each original means it, by hand."""

import numpy as np
import pytest
import torch
from tiny_backbones import CODES, SIDE, VQ, published_vq, write_amused, write_emu3, write_llamagen
from transformers import Emu3ForConditionalGeneration, JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

import arrag.tokenizers
from arrag.tokenizers import base
from arrag.tokenizers.base import load_tokenizer
from arrag.tokenizers.janus_vq import from_published, published_name
from arrag.utils.errors import FormatError
from arrag.utils.files import write_json

PLACES = [(0, 0, 0), (1, 3, 4), (2, 5, 5)]


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)


def pixels(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255  # [0, 1]


def nearest(latent, rows, place):
    """The row nearest in L2, written the obvious way."""
    b, r, c = place
    return int(((rows.double() - latent[b, :, r, c].double()) ** 2).sum(1).argmin())


def check(tokenizer, pictures, latent, rows):
    codes = tokenizer.encode(pictures)
    assert codes.shape == (3, SIDE, SIDE) and len(codes.unique()) > 3
    for place in PLACES:
        assert codes[place] == nearest(latent, rows, place)
    return codes


@torch.no_grad()
def test_llamagen_normalises_rows_and_latents(pictures, tmp_path):
    write_llamagen(tmp_path / "c")
    tokenizer, state = load_tokenizer(tmp_path / "c"), published_vq()
    model = JanusVQVAE(JanusVQVAEConfig(**VQ, num_patches=SIDE))
    model.load_state_dict(from_published(model, state, tmp_path))
    rows = state["quantize.embedding.weight"]
    assert rows.norm(dim=1).max() / rows.norm(dim=1).min() > 5  # else the test could not tell
    latent = model.quant_conv(model.encoder(pixels(pictures) * 2 - 1))
    latent = latent / latent.norm(dim=1, keepdim=True)
    unit = rows / rows.norm(dim=1, keepdim=True)
    codes = check(tokenizer, pictures, latent, unit)
    assert torch.allclose(tokenizer.codebook, unit)
    assert any(codes[place] != nearest(latent, rows, place) for place in np.ndindex(3, SIDE, SIDE))
    seen = model.decode(codes[:1].flatten(1))[0].clamp(-1, 1)
    wanted = ((seen + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(tokenizer.decode(codes[:1])[0], wanted)


def test_the_published_names():
    """As in FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py; 72M parameters."""
    with torch.device("meta"):
        model = JanusVQVAE(JanusVQVAEConfig())
    state = {published_name(name): tuple(v.shape) for name, v in model.state_dict().items()}
    for name, shape in {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.conv_blocks.2.res.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.conv_blocks.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.conv_blocks.4.attn.1.q.weight": (512, 512, 1, 1),
        "encoder.mid.1.proj_out.bias": (512,),
        "decoder.conv_blocks.0.attn.2.norm.weight": (512,),
        "decoder.conv_blocks.1.upsample.conv.weight": (256, 256, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "quantize.embedding.weight": (16384, 8),
        "post_quant_conv.bias": (256,),
    }.items():
        assert state[name] == shape
    assert not any("down" in n.split(".")[1] or ".block" in n for n in state)
    assert sum(v.numel() for v in model.state_dict().values()) == 71_883_403


@torch.no_grad()
def test_amused_takes_the_codebook_as_it_is(pictures, tmp_path):
    from diffusers import VQModel

    write_amused(tmp_path / "c")
    tokenizer, model = load_tokenizer(tmp_path / "c"), VQModel.from_pretrained(tmp_path / "c/vqvae")
    rows = model.quantize.embedding.weight
    codes = check(tokenizer, pictures, model.encode(pixels(pictures)).latents, rows)
    shape = (1, SIDE, SIDE, 4)  # as the pipeline calls it
    seen = model.decode(codes[:1], force_not_quantize=True, shape=shape).sample[0].clip(0, 1)
    wanted = (seen * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    off = tokenizer.decode(codes[:1])[0].astype(int) - wanted
    assert np.abs(off).max() <= 1 and (off == 0).mean() > 0.99


@torch.no_grad()
def test_emu3_takes_the_codebook_as_it_is(pictures, tmp_path):
    write_emu3(tmp_path / "c")
    tokenizer = load_tokenizer(tmp_path / "c")
    model = Emu3ForConditionalGeneration.from_pretrained(tmp_path / "c").eval().model.vqmodel
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.5, 0.3, 0.2]))
    x = (pixels(pictures[:1]) - mean) / std
    frames = x[:, None].repeat(1, 4, 1, 1, 1)  # a video of one image
    latent = model.quant_conv(model.encoder(frames).permute(0, 2, 1, 3, 4))[:, :, 0]  # [1, d, H, W]
    codes = tokenizer.encode(pictures)
    rows = model.quantize.embedding.weight
    for place in [(0, 0, 0), (0, 3, 4), (0, 5, 5)]:
        assert codes[place] == nearest(latent, rows, place)
    seen = (model.decode(codes[:1])[0] * std + mean).clip(0, 1)
    off = tokenizer.decode(codes[:1])[0] / 255 - seen.permute(1, 2, 0).numpy()
    assert np.abs(off).max() < 0.6 / 255
    assert tokenizer.codebook.shape == (CODES, 4)


def test_kinds_that_are_not_known(tmp_path):
    write_json(tmp_path / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    with pytest.raises(FormatError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.path.name == "model_index.json" and caught.value.hint


def test_the_public_names_are_those_of_the_module():
    assert set(arrag.tokenizers.__all__) <= set(dir(base))
    assert arrag.tokenizers.load_tokenizer is load_tokenizer

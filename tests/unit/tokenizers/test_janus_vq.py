"""The tokenizer of Janus: the original quantiser, by brute force and in closed form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fit_codebook import CONSTANT, PatchCoder, set_linear_encoder, to_patches

from arrag.backbones import micro
from arrag.data.micro.world import World
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import MismatchError


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)


def test_encode_normalises_codebook_and_latents(tiny_janus, pictures):
    """Nearest row by L2 after normalising both, written the obvious way."""
    from transformers import JanusForConditionalGeneration

    model = JanusForConditionalGeneration.from_pretrained(tiny_janus, dtype=torch.float32)
    vq = model.model.vqmodel
    norms = vq.quantize.embedding.weight.norm(dim=1)
    assert norms.max() / norms.min() > 1.5  # else the test could not tell
    with torch.no_grad():
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
        latents = vq.quant_conv(vq.encoder(x)).permute(0, 2, 3, 1).double()
    rows = vq.quantize.embedding.weight.detach().double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    codes = load_tokenizer(tiny_janus).encode(pictures)
    for b, r, c in [(0, 0, 0), (1, 5, 7), (2, 11, 11), (2, 3, 0)]:
        z = latents[b, r, c] / latents[b, r, c].norm()
        assert codes[b, r, c] == int(((rows - z) ** 2).sum(1).argmin())


def test_decode_is_the_library_s(tiny_janus):
    from transformers import JanusForConditionalGeneration

    model = JanusForConditionalGeneration.from_pretrained(tiny_janus, dtype=torch.float32).eval()
    codes = torch.randint(0, micro.CODES, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # [B, S, S, 3] in [-1, 1]
        pixels = torch.cat([model.decode_image_tokens(c.flatten(1)) for c in codes.split(1)])
    expected = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert np.array_equal(load_tokenizer(tiny_janus).decode(codes), expected)


def test_an_image_does_not_depend_on_its_batch(micro_janus, assets):
    tokenizer = load_tokenizer(micro_janus)
    world = World(assets, "reference")
    images = np.stack([world.scene(i).image for i in range(12)])
    codes = tokenizer.encode(images)
    decoded = tokenizer.decode(codes)
    for i in (0, 11):
        assert torch.equal(tokenizer.encode(images[i : i + 1])[0], codes[i])
        assert np.array_equal(tokenizer.decode(codes[i : i + 1])[0], decoded[i])


def test_closed_form_encoder_computes_the_projection(pictures):
    generator = torch.Generator().manual_seed(3)
    coder = PatchCoder(
        torch.randn(7, 48, generator=generator) * 0.3,
        torch.randn(7, generator=generator),
        F.normalize(torch.randn(micro.CODES, 8, generator=generator), dim=1),
    )
    vq = micro.build_janus(seed=0)[0].model.vqmodel.eval()
    set_linear_encoder(vq, coder)
    with torch.no_grad():
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
        latents = vq.quant_conv(vq.encoder(x)).permute(0, 2, 3, 1).reshape(-1, 8)
    patches = to_patches(pictures)
    # Raster order of patches, and of pixels within one, written out for one patch.
    row, col = 4, 9
    block = pictures[1, row * 4 : row * 4 + 4, col * 4 : col * 4 + 4].reshape(-1) / 127.5 - 1
    assert np.allclose(patches[144 + row * 12 + col], block, atol=1e-6)
    exact = patches @ coder.projection.T + coder.bias
    assert torch.allclose(latents[:, :7], exact, atol=1e-3)
    assert torch.allclose(latents[:, 7], torch.tensor(CONSTANT), atol=1e-3)
    agree = (coder.encode(pictures).flatten() == (latents @ coder.codebook.T).argmax(1)).float()
    assert agree.mean() > 0.99


def test_images_of_another_size_are_refused(tiny_janus):
    with pytest.raises(MismatchError):
        load_tokenizer(tiny_janus).encode(np.zeros((1, 32, 32, 3), np.uint8))


def test_digest_is_the_tokenizer_s_alone(tiny_janus, tmp_path):
    from transformers import JanusForConditionalGeneration

    model, tokenizer = micro.build_janus(seed=5)
    same = JanusForConditionalGeneration.from_pretrained(tiny_janus, dtype=torch.float32)
    model.model.vqmodel.load_state_dict(same.model.vqmodel.state_dict())
    micro.save_janus(model, tokenizer, tmp_path / "other-lm")
    assert load_tokenizer(tmp_path / "other-lm").digest == load_tokenizer(tiny_janus).digest
    other, _ = micro.build_janus(seed=5)
    micro.save_janus(other, tokenizer, tmp_path / "other-vq")
    assert load_tokenizer(tmp_path / "other-vq").digest != load_tokenizer(tiny_janus).digest

"""The micro Show-o's training: bits in closed form, the masking noise, a loss that falls."""

import math

import fit_signs as signs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import train_masked_lm as masked_lm
import training_data as data
from fit_codebook import to_patches
from safetensors.torch import save_file

from arrag.backbones import micro
from arrag.backbones.showo import ShowoBackbone
from arrag.data.micro.world import World
from arrag.tokenizers.base import load_tokenizer
from arrag.tokenizers.magvit2 import Magvit
from arrag.training.masked import random_known


@pytest.fixture(scope="module")
def pictures(assets):
    return data.images_of(data.scenes(World(assets, "training"), 0, 40))


def test_the_network_computes_the_signs(pictures):
    generator = torch.Generator().manual_seed(3)
    bits = micro.SHOWO_TOKENIZER.bits
    coder = signs.SignCoder(
        torch.randn(bits, 48, generator=generator) * 0.3, torch.randn(bits, generator=generator)
    )
    model = Magvit(micro.SHOWO_TOKENIZER).eval()
    signs.set_signs(model, coder)
    x = torch.from_numpy(pictures[:4]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = model.encoder(x).permute(0, 2, 3, 1).reshape(-1, bits)
    exact = to_patches(pictures[:4]) @ coder.projection.T + coder.bias
    assert torch.allclose(latents, exact, atol=2e-3)
    # A code by hand: the bits of one patch, most significant first.
    image, row, col = 2, 4, 9
    signed = exact[image * 144 + row * 12 + col] > 0
    code = int("".join(str(int(bit)) for bit in signed), 2)
    assert coder.encode(pictures[:4])[image, row, col] == code


def test_fitted_bits_say_more_than_random_ones(pictures):
    """Mean of a code's patches against the patches: what the bits alone keep."""

    def error(coder):
        patches, codes = to_patches(pictures), coder.encode(pictures).flatten()
        total = torch.zeros(64, 48).index_add_(0, codes, patches)
        count = torch.bincount(codes, minlength=64).clamp(min=1)[:, None]
        return F.mse_loss((total / count)[codes], patches).item()

    fitted = signs.fit(pictures, bits=6, seed=0, steps=150)
    assert torch.equal(fitted.projection, fitted.projection.half().float())
    torch.manual_seed(0)
    chance = signs.SignCoder(torch.randn(6, 48), torch.zeros(6))
    assert error(fitted) < 0.6 * error(chance)


def test_noise_leaves_the_cosine_s_share_unknown():
    known = random_known(4000, 144, torch.Generator().manual_seed(0))
    unknown = (~known).sum(1)
    assert unknown.min() >= 1 and unknown.max() == 144
    assert unknown.double().mean() / 144 == pytest.approx(2 / math.pi, abs=0.01)
    assert (~known).double().mean(0).std() < 0.02  # no position is favoured
    share = np.sort(unknown.numpy() / 144)
    want = np.sort(np.cos(np.pi / 2 * (np.arange(4000) + 0.5) / 4000))
    assert np.abs(share - want).max() < 0.03


@pytest.fixture(scope="module")
def backbone():
    return masked_lm.build_backbone(seed=0)


def test_the_loss_is_of_unknown_codes_alone_and_falls(backbone, assets):
    model = masked_lm.Masked(backbone).train()
    scenes = data.scenes(World(assets, "training"), 0, 4)
    generator = torch.Generator().manual_seed(0)
    coder = signs.SignCoder(torch.randn(12, 48, generator=generator), torch.zeros(12))
    ids, mask, codes, known = masked_lm.batch_of(scenes, backbone, coder, 5, drop=0.0)
    with torch.no_grad():
        logits = backbone.teacher_forced((ids, mask), codes, known)
        by_hand = F.cross_entropy(logits[~known], codes[~known])
        assert model(ids, mask, codes, known).item() == pytest.approx(by_hand.item(), rel=1e-5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(8):
        loss = model(ids, mask, codes, known)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 1


def test_dropped_prompts_are_the_unconditional_rows(backbone, assets):
    scenes = data.scenes(World(assets, "training"), 0, 8)
    coder = signs.SignCoder(torch.randn(12, 48), torch.zeros(12))
    ids, mask, _, _ = masked_lm.batch_of(scenes, backbone, coder, 0, drop=1.0)
    empty, seen = backbone.unconditional_ids(ids, mask)
    assert torch.equal(ids, empty) and torch.equal(mask, seen)
    assert mask.sum(1).tolist() == [3] * 8  # [t2i], [bos], [eos]


def test_parts_join_into_a_checkpoint(tmp_path):
    model, _ = micro.build_showo(seed=4)
    torch.manual_seed(4)
    tokenizer = Magvit(micro.SHOWO_TOKENIZER)
    save_file(model.state_dict(), tmp_path / "lm.safetensors")
    save_file(tokenizer.state_dict(), tmp_path / "decoder.safetensors")
    out = tmp_path / "showo"
    masked_lm.assemble(tmp_path / "lm.safetensors", tmp_path / "decoder.safetensors", out)
    loaded = ShowoBackbone.load(out)
    assert torch.equal(loaded.model.lm_head.weight, model.lm_head.weight.half().float())
    assert load_tokenizer(out).grid == loaded.grid == (12, 12)

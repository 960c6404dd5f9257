"""MAGVIT-v2: published names and sizes, a plain second implementation, codes as bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from safetensors.torch import load_file, save_file

from arrag.tokenizers.base import load_tokenizer
from arrag.tokenizers.magvit2 import Magvit, MagvitConfig, codebook, read_config
from arrag.utils.errors import ArragError, FormatError


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)


def test_names_and_shapes_are_the_published_ones():
    config = read_config({"_class_name": "MAGVITv2", "_version": "0.0.1"}, Path("config.json"))
    with torch.device("meta"):
        state = Magvit(config).state_dict()
    shapes = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.3.downsample.conv.weight": (512, 512, 3, 3),
        "encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        "encoder.quant_conv.weight": (13, 13, 1, 1),
        "decoder.post_quant_conv.bias": (13,),
        "decoder.up.4.block.2.norm1.weight": (512,),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "quantize.embedding": (8192, 13),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    for side, blocks in (("encoder.down", (4, 3, 4, 3, 4)), ("decoder.up", (4, 4, 3, 4, 3))):
        for i, count in enumerate(blocks):
            found = {k.split(".")[4] for k in state if k.startswith(f"{side}.{i}.block.")}
            assert len(found) == count
    assert not any("down.4.downsample" in k or "up.0.upsample" in k for k in state)
    assert sum(v.numel() for k, v in state.items() if "quantize" not in k) == 95_387_004


def reference(state, part, x, levels):
    """Encoder or decoder from its tensors alone: layer by layer, attention as two products."""

    def conv(name, x, **more):
        weight = state[f"{name}.weight"]
        more.setdefault("padding", weight.shape[-1] // 2)
        return F.conv2d(x, weight, state[f"{name}.bias"], **more)

    def normed(name, x):
        grouped = x.reshape(len(x), 32, -1)
        mean, var = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
        flat = ((grouped - mean) / (var + 1e-6).sqrt()).reshape(x.shape)
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        return flat * scale[:, None, None] + shift[:, None, None]

    def active(name, x):
        y = normed(name, x)
        return y * torch.sigmoid(y)

    def block(name, x):
        h = conv(f"{name}.conv1", active(f"{name}.norm1", x))
        h = conv(f"{name}.conv2", active(f"{name}.norm2", h))
        short = f"{name}.nin_shortcut"
        return h + (conv(short, x) if f"{short}.weight" in state else x)

    def middle(x):
        x = block(f"{part}.mid.block_1", x)
        h = normed(f"{part}.mid.attn_1.norm", x)
        q, k, v = (conv(f"{part}.mid.attn_1.{n}", h).flatten(2) for n in "qkv")  # [B, C, N]
        weights = torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5
        h = torch.einsum("bij,bcj->bci", weights.softmax(-1), v).reshape(x.shape)
        return block(f"{part}.mid.block_2", x + conv(f"{part}.mid.attn_1.proj_out", h))

    def blocks(name, x):
        i = 0
        while f"{name}.block.{i}.conv1.weight" in state:
            x = block(f"{name}.block.{i}", x)
            i += 1
        return x

    if part == "encoder":
        x = conv("encoder.conv_in", x)
        for i in range(levels):
            x = blocks(f"encoder.down.{i}", x)
            if i < levels - 1:
                x = F.pad(x, (0, 1, 0, 1))
                x = conv(f"encoder.down.{i}.downsample.conv", x, stride=2, padding=0)
        x = conv("encoder.conv_out", active("encoder.norm_out", middle(x)))
        return conv("encoder.quant_conv", x)
    x = middle(conv("decoder.conv_in", conv("decoder.post_quant_conv", x)))
    for i in reversed(range(levels)):
        x = blocks(f"decoder.up.{i}", x)
        if i:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(f"decoder.up.{i}.upsample.conv", x)
    return conv("decoder.conv_out", active("decoder.norm_out", x))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_forward_equals_a_plain_one(part):
    config = MagvitConfig(32, 13, (1, 2, 2), (2, 1, 1), (1, 1, 2), (1, 2, 1))
    torch.manual_seed(0)
    model = Magvit(config).double()
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases away from 1 and 0
            weight.add_(torch.randn_like(weight) * 0.1)
    x = torch.randn(2, *((3, 16, 16) if part == "encoder" else (13, 4, 4)), dtype=torch.float64)
    with torch.no_grad():
        want = reference(model.state_dict(), part, x, levels=3)
        got = getattr(model, part)(x)
    assert got.shape == ((2, 13, 4, 4) if part == "encoder" else (2, 3, 16, 16))
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-10)


def test_a_code_is_its_bits_most_significant_first():
    book = codebook(13)
    for code in (0, 1, 4096, 5000, 8191):
        assert "".join("1" if x > 0 else "0" for x in book[code]) == f"{code:013b}"
    assert book.abs().eq(1).all()
    quantize = Magvit(MagvitConfig(32, 5, (1,), (1,), (1,), (1,))).quantize
    latent = torch.tensor([0.3, -2.0, 1e-9, 0.0, 5.0]).view(1, 5, 1, 1)
    assert quantize(latent).tolist() == [[[0b10101]]]
    # Among sign vectors the nearest one is the one of equal signs.
    latents = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(latents, codebook(5)).argmin(1)
    assert torch.equal(quantize(latents[:, :, None, None]).flatten(), nearest)


def test_the_tokenizer_of_a_checkpoint(tiny_showo, pictures):
    tokenizer = load_tokenizer(tiny_showo)
    assert tokenizer.grid == (12, 12) and tokenizer.image_size == 48
    assert torch.equal(tokenizer.codebook, codebook(10))
    codes = tokenizer.encode(pictures)
    assert codes.dtype == torch.int64 and codes.shape == (3, 12, 12)
    assert 0 <= codes.min() and codes.max() < 1024 and len(codes.unique()) > 20
    decoded = tokenizer.decode(codes)
    assert decoded.dtype == np.uint8 and decoded.shape == pictures.shape
    assert torch.equal(tokenizer.encode(pictures[1:2])[0], codes[1])
    assert np.array_equal(tokenizer.decode(codes[2:])[0], decoded[2])
    # Distances between vectors are four times the bits that differ.
    a, b = codes.flatten()[:100], codes.flatten()[100:200]
    bits = [bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True)]
    squared = ((tokenizer.codebook[a] - tokenizer.codebook[b]) ** 2).sum(1)
    assert squared.tolist() == [4 * n for n in bits]


def test_one_tokenizer_serves_both_sizes_of_show_o(tiny_showo, tmp_path):
    shutil.copytree(tiny_showo, tmp_path / "large")
    config = json.loads((tmp_path / "large/config.json").read_text())
    (tmp_path / "large/config.json").write_text(json.dumps(config | {"num_vq_tokens": 576}))
    large, small = load_tokenizer(tmp_path / "large"), load_tokenizer(tiny_showo)
    assert large.grid == (24, 24) and large.image_size == 96
    assert large.digest == small.digest == load_tokenizer(tiny_showo / "magvitv2").digest


@pytest.fixture
def copy(tiny_showo, tmp_path):
    """A copy of the checkpoint, to be changed."""
    return shutil.copytree(tiny_showo, tmp_path / "copy")


def test_other_weights_are_refused(copy):
    file = copy / "magvitv2/model.safetensors"
    whole = load_file(file)
    flipped = whole["quantize.embedding"].flip(1).contiguous()
    for change in ({"a": torch.ones(1)}, {"quantize.embedding": flipped}):
        save_file(whole | change, file)
        with pytest.raises(ArragError):
            load_tokenizer(copy)


def test_sizes_that_contradict_each_other(copy):
    path = copy / "magvitv2/config.json"
    config = json.loads(path.read_text())
    for wrong in ({"channels": 48}, {"encoder_blocks": [1, 1]}):
        path.write_text(json.dumps(config | wrong))
        with refused(FormatError, path=path):
            load_tokenizer(copy)


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pytorch_files_load_without_running_code(tiny_showo, copy, tmp_path):
    file = copy / "magvitv2/model.safetensors"
    pickled = file.with_name("pytorch_model.bin")
    torch.save(load_file(file), pickled)
    file.unlink()
    assert load_tokenizer(copy).digest == load_tokenizer(tiny_showo).digest
    torch.save({"a": Trap(tmp_path / "made")}, pickled)
    for content in (pickled.read_bytes(), b"PK no such file"):
        pickled.write_bytes(content)
        with refused(FormatError, path=pickled):
            load_tokenizer(copy)
    assert not (tmp_path / "made").exists()

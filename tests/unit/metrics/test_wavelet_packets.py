"""Wavelet packets and FWD against ptwt, PyWavelets and the upstream figure; streaming."""

import numpy as np
import ptwt
import pytest
import pywt
import torch
from refusals import refused
from scipy.linalg import sqrtm

from arrag.metrics import pixel_buffer as module
from arrag.metrics.bootstrap import image_weights
from arrag.metrics.pixel_buffer import PixelArray, PixelBuffer
from arrag.metrics.wavelet_packets import (
    ImagePackets,
    PacketTransform,
    StoredPackets,
    fwd,
    natural_order,
)
from arrag.utils.errors import FormatError, MismatchError, UnknownNameError, UsageError


def pictures(seed, n, height=32, width=32):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def spooled(images):
    spool = PixelBuffer()
    for i, image in enumerate(images):
        spool.add(f"{i}.png", image)
    return spool


def upstream_packets(images, wavelet, level):
    """[P, n, C h w] as PyTorch-FWD has them: its transform on [n, C, H, W] in [0, 1], float64."""
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    tree = ptwt.WaveletPacket2D(x, pywt.Wavelet(wavelet), maxlevel=level)
    nodes = torch.stack([tree[node] for node in tree.get_natural_order(level)])
    return nodes.flatten(2).numpy()


def upstream_fwd(a, b, wavelet, level):
    """Mean over packets of the distance with scipy's matrix square root."""
    distances = []
    for x, y in zip(*(upstream_packets(z, wavelet, level) for z in (a, b)), strict=True):
        s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        root = np.trace(sqrtm(s1 @ s2)).real
        distances.append(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s1 + s2) - 2 * root)
    return np.mean(distances)


@pytest.mark.parametrize(
    ("wavelet", "level", "shape"),
    [
        ("haar", 2, (32, 32)),
        ("haar", 4, (48, 32)),
        ("sym5", 2, (64, 48)),
        ("haar", 3, (20, 22)),
        ("haar", 4, (75, 45)),
    ],
)
def test_packets_are_ptwts_and_pywavelets(wavelet, level, shape):
    images = pictures(0, 3, *shape)
    packets = PacketTransform(wavelet, level, *shape)
    theirs = upstream_packets(images, wavelet, level)
    assert theirs.shape == (4**level, 3, packets.dim)
    for given in (images, images.astype(np.float64)):
        rows = [packets.row_of(given, row) / 255 for row in range(2**level)]
        ours = np.stack([rows[row][column] for row, column in natural_order(level)])
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    tree = pywt.WaveletPacket2D(images[0, ..., 1] / 255, wavelet, "reflect", level)
    nodes = [n.path for n in tree.get_level(level, "natural")]
    for node, packet in zip(nodes, ours, strict=True):
        np.testing.assert_allclose(packet[0].reshape(3, -1)[1], tree[node].data.ravel(), atol=1e-12)


def test_constants_have_a_closed_form():
    """At 256 px and level 4 the mean of 256 packets is 768 d²: only the first packet is not 0."""
    quarter, most = (np.full((3, 256, 256, 3), v) for v in (0.25, 0.75))
    packets = PacketTransform("haar", 4, 256, 256)
    value, _ = fwd(*(ImagePackets(PixelArray(v), packets) for v in (quarter, most)))
    assert value == pytest.approx(192, abs=1e-6)


@pytest.mark.parametrize(
    ("wavelet", "n", "side"), [("haar", 60, 16), ("haar", 7, 16), ("db2", 9, 12)]
)
def test_value_is_upstreams(wavelet, n, side):
    a, b = pictures(1, n, side, side), pictures(2, n + 3, side, side) // 2
    packets = PacketTransform(wavelet, 2, side, side)
    value, _ = fwd(ImagePackets(spooled(a), packets), ImagePackets(spooled(b), packets))
    assert value == pytest.approx(upstream_fwd(a, b, wavelet, 2), rel=1e-5)


def test_streaming_in_small_blocks_changes_nothing(monkeypatch):
    images = pictures(3, 60, 16, 16)
    packets = PacketTransform("haar", 2, 16, 16)
    theirs = upstream_packets(images, "haar", 2)
    whole = ImagePackets(spooled(images), packets).covariances(1)
    monkeypatch.setattr(module, "BLOCK_BYTES", 5 * images[0].size)
    monkeypatch.setattr(module, "IN_MEMORY", 7 * images[0].size)  # the rest goes to a file
    small = ImagePackets(spooled(images), packets)
    assert [len(b) for b in small.pixels.blocks()] == [5] * 12
    np.testing.assert_allclose(small.covariances(1), whole, atol=1e-12)
    place = {at: i for i, at in enumerate(natural_order(2))}
    for column, covariance in enumerate(whole):
        x = theirs[place[1, column]]
        np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), atol=1e-12)
        np.testing.assert_allclose(small.means(1)[column], x.mean(0), atol=1e-12)


def test_stored_moments_stand_in_upstreams_order():
    images, others = pictures(4, 60, 16, 16), pictures(5, 70, 16, 16)
    packets = PacketTransform("haar", 2, 16, 16)
    x = upstream_packets(others, "haar", 2)
    stored = StoredPackets(x.mean(1), np.stack([np.cov(p, rowvar=False) for p in x]), 70)
    ours = ImagePackets(spooled(images), packets)
    direct, _ = fwd(ours, ImagePackets(spooled(others), packets))
    assert fwd(ours, stored)[0] == pytest.approx(direct, rel=1e-9)
    with refused(FormatError):
        StoredPackets(x.mean(1)[:15], stored.covariances[:15], 70)
    with refused(MismatchError):
        fwd(ImagePackets(spooled(images), PacketTransform("haar", 1, 16, 16)), stored)


def test_resamples_are_the_value_of_the_repeated_images():
    images, others = pictures(6, 20, 8, 8), pictures(7, 30, 8, 8)
    packets = PacketTransform("haar", 2, 8, 8)
    reference = ImagePackets(spooled(others), packets)
    weights = image_weights(20, 2)
    _, values = fwd(ImagePackets(spooled(images), packets), reference, weights)
    for w, value in zip(weights.astype(int), values, strict=True):
        repeated = ImagePackets(spooled(np.repeat(images, w, axis=0)), packets)
        assert value == pytest.approx(fwd(repeated, reference)[0], rel=1e-6)


def test_bad_input():
    pixels = spooled(pictures(0, 1, 16, 16))
    with refused(MismatchError, path="odd.png"):
        pixels.add("odd.png", pictures(0, 1, 16, 20)[0])
    with refused(UsageError):  # one image has no covariance
        ImagePackets(pixels, PacketTransform("haar", 2, 16, 16))
    with refused(UnknownNameError, field="wavelet"):
        PacketTransform("hair", 2, 16, 16)
    with refused(UsageError, field="level"):
        PacketTransform("haar", 5, 16, 16)
    with refused(FormatError):
        PixelArray(np.full((2, 8, 8, 3), 2.0))

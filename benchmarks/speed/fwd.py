"""FWD's statistics and distance, streamed, compared with an implementation that keeps all features.

    python benchmarks/speed/fwd.py --json [--images 2000]

The other implementation does what PyTorch-FWD does: ptwt's packets of all images at once, their
covariances, scipy's matrix square root for every packet. It is timed on fewer images and packets
and scaled up (its cost is linear in both); the streamed run is timed whole, peak memory included.
All times are CPU time, so that load on the machine does not change the ratio: run it with
OMP_NUM_THREADS=1. Takes about five minutes on one free core at the default size.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, n: int, pixels: int, seed: int) -> Path:
    """PNGs whose spectrum falls with frequency, as photographs' does."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    decay = 1 / (1 + np.add.outer(np.arange(pixels) ** 2, np.arange(pixels) ** 2)) ** 0.6
    for i in range(n):
        noise = np.fft.irfft2((np.fft.rfft2(rng.normal(size=(3, pixels, pixels))) *
                               decay[:, : pixels // 2 + 1]), s=(pixels, pixels))  # fmt: skip
        scaled = 127 + 60 * noise / noise.std() + rng.normal(0, 4, noise.shape)
        image = scaled.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(image).save(folder / f"{i:05d}.png", compress_level=1)
    return folder


def plain(folder: Path, images: int, packets: int) -> dict[str, float]:
    """Seconds an image for reading and transform, seconds a packet for moments and distance."""
    import ptwt
    import pywt
    import torch
    from scipy.linalg import sqrtm

    begun = time.process_time()
    pixels = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.iterdir())[:images]]
    kept = []
    for start in range(0, images, 128):
        batch = torch.from_numpy(np.stack(pixels[start : start + 128]))
        x = batch.permute(0, 3, 1, 2).double() / 255
        tree = ptwt.WaveletPacket2D(x, pywt.Wavelet("haar"), maxlevel=4)
        kept.append(torch.stack([tree[node] for node in tree.get_natural_order(4)], dim=1))
    features = torch.cat(kept).transpose(0, 1).flatten(2)  # [P, n, d]
    transform = (time.process_time() - begun) / images
    begun = time.process_time()
    covariances = [torch.cov(features[p].T).numpy() for p in range(packets)]
    moments = (time.process_time() - begun) / packets / images  # linear in images
    # The timed images may be fewer than dimensions, which no square root likes.
    rng = np.random.default_rng(0)
    full = [np.cov(rng.normal(size=(1000, c.shape[0])), rowvar=False) + c for c in covariances]
    begun = time.process_time()
    for covariance in full:
        sqrtm(covariance @ full[0])
    return {
        "transform_per_image": transform,
        "moments_per_image_and_packet": moments,
        "distance_per_packet": (time.process_time() - begun) / packets,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--plain-images", type=int, default=128)
    parser.add_argument("--plain-packets", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = [draw(Path(folder) / s, args.images, args.pixels, i) for i, s in enumerate("ab")]
        result = measure(sides, args)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def measure(sides: list[Path], args: argparse.Namespace) -> dict[str, float]:
    """Our run first: the peak memory is of the process so far."""
    from arrag.metrics.base import ScoreOptions
    from arrag.metrics.fwd import FWD

    begun = time.process_time()
    found = FWD().score(*sides, ScoreOptions(resamples=0))
    ours = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    each = plain(sides[0], args.plain_images, args.plain_packets)
    packets = found.packets
    theirs = 2 * args.images * each["transform_per_image"]
    theirs += 2 * args.images * packets * each["moments_per_image_and_packet"]
    statistics = theirs
    theirs += packets * each["distance_per_packet"]
    return {
        "images_a_side": args.images,
        "value": found.value,
        "streamed_cpu_seconds": round(ours, 1),
        "streamed_peak_gib": round(peak, 2),
        "plain_cpu_seconds_scaled_up": round(theirs, 1),
        "of_which_statistics": round(statistics, 1),
        "plain_feature_gib": round(2 * args.images * 3 * args.pixels**2 * 8 / 2**30, 1),
        "times_faster": round(theirs / ours, 2),
    }


if __name__ == "__main__":
    main()

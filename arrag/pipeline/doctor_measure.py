"""Short measurements of the machine at hand, with the code that the stages run; seconds in all.

What a core does is measured in CPU time, so that other work on the machine blurs it less. The data
are small and made up, and stay in the processor's caches: long runs are slower rather than faster.
The first measurement after an installation also compiles the scans, which does not count.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from arrag.pipeline.doctor_rates import Rate, assumed
from arrag.utils.hashing import sha256_file
from arrag.utils.resource_errors import disk_space

if TYPE_CHECKING:
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.keys import KeyExtractor

SECONDS = 0.25  # of a measurement, at least
MEGABYTES = 64  # of the file that is written, read and hashed
PHOTOGRAPH, SIDE = (512, 384), 384  # pixels of a source's image, and of a tokenizer's
TEST_IMAGES = 30_000
GRID, CODES, DIMENSION, K = (24, 24), 16384, 8, 50
IMAGES, LISTS, PROBED, QUERIES = 2000, 128, 16, 16
MANY_LISTS = 4096
GROUPS, BLOCK = 256, 6  # codes come in groups, and a square of so many patches has one group
SMALL_SIDE = 64  # pixels, of what a processor encodes: a thirty-sixth of an image


def measure(results: Path) -> dict[str, Rate]:
    """All rates that can be measured here, by name; results: the disk that results go to."""
    import torch

    results.mkdir(parents=True, exist_ok=True)
    found = {"core_flops": _products()}
    with disk_space(results), tempfile.TemporaryDirectory(dir=results, prefix=".measured-") as name:
        folder = Path(name)
        found |= _disk(folder / "file") | _images(folder / "images.tar") | _retrieval(folder)
    cuda = torch.cuda.is_available()
    found["encode_gpu" if cuda else "encode_core"] = _encoding("cuda" if cuda else "cpu")
    rates = assumed()
    return {
        name: Rate(value, rates[name].unit, f"measured here: {how}", True)
        for name, (value, how) in found.items()
    }


def measure_coding(checkpoint: Path) -> tuple[float, float]:
    """Seconds to encode and to decode one image with a checkpoint's tokenizer."""
    import torch

    from arrag.tokenizers.base import load_tokenizer

    tokenizer = load_tokenizer(checkpoint)
    images = np.zeros((4, tokenizer.image_size, tokenizer.image_size, 3), np.uint8)
    codes = torch.zeros(4, *tokenizer.grid, dtype=torch.int64)
    encoded = 4 * per_second(lambda: tokenizer.encode(images))
    return 1 / encoded, 1 / (4 * per_second(lambda: tokenizer.decode(codes)))


def per_second(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """How often a second ``work`` can be done, after a first time that does not count."""
    work()
    began, count = clock(), 0
    while (passed := clock() - began) < SECONDS:
        work()
        count += 1
    return count / passed


Measured = tuple[float, str]
"""A value and how it was measured."""


def _products() -> Measured:
    import torch

    matrix = torch.randn(1024, 1024)
    with _one_thread():
        return 2 * 1024**3 * per_second(lambda: matrix @ matrix), "products of 1024 x 1024, float32"


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _disk(path: Path) -> dict[str, Measured]:
    """Bytes/s written until they are on the disk, read once they are out of memory, and hashed."""
    data, size = os.urandom(1 << 20), MEGABYTES << 20
    began = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(MEGABYTES):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = size / (time.perf_counter() - began)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    path.read_bytes()
    read = size / (time.perf_counter() - began)
    hashed = size * per_second(lambda: sha256_file(path))
    about = f"{MEGABYTES} MiB"
    return {
        "disk_write": (written, f"{about} in one file, until on the disk"),
        "disk_read": (read, f"{about} asked out of memory first; the host may still hold them"),
        "hash_bytes": (hashed, f"SHA-256 of {about} in memory"),
    }


def _images(tar: Path) -> dict[str, Measured]:
    """Images/s whose headers are listed, that are decoded and resized, and compared."""
    from arrag.data.decontamination import Decontaminator
    from arrag.data.fingerprint import fingerprint
    from arrag.data.images import decode, open_rgb
    from arrag.data.sources import open_source

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    jpeg = io.BytesIO()
    coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
    with tarfile.open(tar, "w") as file:
        for i in range(1000):
            member = tarfile.TarInfo(f"{i:05d}.jpg")
            member.size = len(jpeg.getvalue())
            file.addfile(member, io.BytesIO(jpeg.getvalue()))
    listed = 1000 * per_second(lambda: sum(1 for _ in open_source(str(tar), None, None)))
    decoded = per_second(lambda: decode("", jpeg.getvalue(), SIDE))
    image = open_rgb(jpeg.getvalue())
    tests = Decontaminator(
        [""] * TEST_IMAGES, [fingerprint(image)] * TEST_IMAGES, [0] * TEST_IMAGES
    )
    other = fingerprint(image.rotate(90))
    guarded = per_second(lambda: (fingerprint(image), tests.match(other)))
    kilobytes = len(jpeg.getvalue()) / 1000
    about = f"JPEG of {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]}"
    return {
        "list_images": (listed, f"headers of a tar of 1000 files of {kilobytes:.0f} kB, in memory"),
        "decode_images": (decoded, f"{about} to {SIDE} x {SIDE}"),
        "guard_images": (guarded, f"{about}, beside {TEST_IMAGES} test images"),
    }


def _retrieval(folder: Path) -> dict[str, Measured]:
    """Entries/s of an exact scan, of inverted lists and of their layout; FLOP/s of assignment."""
    import torch

    from arrag.retrieval.faiss_index import nearest_centroid, one_thread
    from arrag.retrieval.index import build_index, open_index
    from arrag.retrieval.keys import KeyExtractor
    from arrag.retrieval.neighborhood import Neighborhood

    store, asked = made_up_store(folder / "store")
    around = Neighborhood("causal")
    extractor = KeyExtractor(store, around)
    entries = len(store) * len(extractor.positions)
    keys = torch.from_numpy(
        extractor.keys(asked)[:, len(extractor.positions) // 2].astype(np.int64)
    )
    scanned = {}
    for mode, options in (("exact", {}), ("ivf", {"nlist": LISTS, "nprobe": PROBED})):
        build_index(store, folder / mode, neighborhood=around, mode=mode, progress=False, **options)
        index = open_index(folder / mode, store)
        # Again and again the same queries: their tables of distances are made once.
        scanned[mode] = QUERIES * per_second(partial(index.search_keys, keys, K))
    nearest, vectors = nearest_centroid(index._nearby), extractor.vectors(extractor.keys(asked))
    with one_thread():
        assigned = (
            per_second(lambda: nearest(vectors)) * len(vectors) * 2 * LISTS * vectors.shape[1]
        )
    about = f"{entries / 1e6:.1f} million made-up patches, {QUERIES} queries, {K} nearest"
    return {
        "scan_core": (scanned["exact"] * entries, about),
        "scan_lists": (scanned["ivf"] * entries * PROBED / LISTS, f"{about}, in {PROBED} lists"),
        "assign_flops": (assigned, f"{len(vectors)} patches to {LISTS} centroids, FAISS"),
        "layout_entries": (_layout(extractor, folder), f"the same patches to {MANY_LISTS} lists"),
    }


def made_up_store(path: Path) -> tuple[TokenStore, np.ndarray]:
    """A store of made-up codes, and grids of other images of that kind, uint16 [QUERIES, H, W].

    Codes come in groups of near ones, and neighbours mostly share one: about one entry in a hundred
    is near a query, as in photographs (docs/retrieval.md). Codes drawn one by one have no near
    entries, and a scan is thirty times slower.
    """
    from arrag.data.token_store import StoreWriter, TokenStore

    rng = np.random.default_rng(0)
    each = CODES // GROUPS
    groups = np.repeat(rng.normal(size=(GROUPS, DIMENSION)), each, axis=0)
    codebook = (groups + 0.1 * rng.normal(size=groups.shape)).astype(np.float32)
    blocks = rng.integers(0, GROUPS, (IMAGES + QUERIES, *(side // BLOCK for side in GRID)))
    of = blocks.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    grids = (of * each + rng.integers(0, each, of.shape)).astype(np.uint16)
    with StoreWriter(
        path, tokenizer_digest="made up", grid=GRID, codebook=codebook, source="", shard_size=IMAGES
    ) as writer:
        writer.add([str(i) for i in range(IMAGES)], grids[:IMAGES])
    return TokenStore.open(path), grids[IMAGES:]


def _layout(extractor: KeyExtractor, folder: Path) -> float:
    """Entries/s that are written to random ones of many lists."""
    from arrag.retrieval.ivf import allocated, fill

    entries, width = len(extractor.store) * len(extractor.positions), extractor.around.shape[1] + 1
    assigned = np.random.default_rng(0).integers(0, MANY_LISTS, entries).astype(np.uint32)
    sizes = np.bincount(assigned, minlength=MANY_LISTS)
    lists = allocated(folder / "lists.npy", np.dtype(np.uint16), (entries, width))
    ids = allocated(folder / "ids.npy", np.dtype(np.uint32), (entries,))
    return entries * per_second(
        lambda: fill(extractor, assigned, np.cumsum(sizes) - sizes, 0, lists, ids, progress=False)
    )


def _encoding(device: str) -> Measured:
    """Pixels/s of a tokenizer of Janus's size; its weights are all alike, which costs the same."""
    import torch
    from transformers import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    from arrag.tokenizers.janus_vq import JanusVqTokenizer

    side, batch = (SMALL_SIDE, 1) if device == "cpu" else (SIDE, 16)
    with torch.device("meta"):
        model = JanusVQVAE(JanusVQVAEConfig(num_patches=side // 16))
    model = model.to_empty(device=device)
    for weights in model.parameters():
        weights.data.fill_(0.01)
    tokenizer = JanusVqTokenizer(model, side, "none")
    images = np.zeros((batch, side, side, 3), np.uint8)
    clock = time.process_time if device == "cpu" else time.perf_counter
    with _one_thread():
        done = per_second(lambda: tokenizer.encode(images).cpu(), clock)
    about = f"a tokenizer of Janus's size, without its weights, {batch} x {side} x {side} pixels"
    return done * batch * side * side, f"{about}, {device}"

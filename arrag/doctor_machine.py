"""What a machine has: cores, memory, disk, an accelerator, packages; and how fast it is."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from arrag.files import disk_space

DISK_BYTES = 64 << 20
SCAN_ENTRIES = 1 << 20
SECONDS = 0.5  # of a measurement


@dataclass(frozen=True)
class Machine:
    """cores: usable by this process; memory, gpu_memory, disk (free): bytes; gpu: its name."""

    cores: int
    memory: int
    disk: int
    gpu: str | None
    gpu_memory: int


@dataclass(frozen=True)
class Speed:
    """Measured now, in a second or two: FLOP/s and looked-up codes/s of one core, bytes/s."""

    flops: float
    scanned: float
    disk: float


def look(results: Path) -> Machine:
    """What this machine has; disk: where results are written."""
    import psutil
    import torch

    there = next(p for p in (results.absolute(), *results.absolute().parents) if p.exists())
    gpu, gpu_memory = None, 0
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        gpu, gpu_memory = about.name, about.total_memory
    return Machine(
        len(os.sched_getaffinity(0)),
        psutil.virtual_memory().total,
        shutil.disk_usage(there).free,
        gpu,
        gpu_memory,
    )


def measure(results: Path) -> Speed:
    """Matrix products as a network has them, a scan's table look-ups, and a file's writing."""
    import torch

    matrix = torch.randn(1024, 1024)
    flops = 2 * 1024**3 * _repeats(lambda: matrix @ matrix)
    codes = np.random.default_rng(0).integers(0, 16384, (4, SCAN_ENTRIES)).astype(np.uint16)
    tables = np.random.default_rng(0).random((4, 16384), np.float32)
    # The project's compiled scan does the same look-ups; NumPy is a lower bound for it.
    scanned = SCAN_ENTRIES * _repeats(lambda: sum(t[c] for t, c in zip(tables, codes, strict=True)))
    return Speed(flops, scanned, _disk(results))


def measure_coding(checkpoint: Path) -> tuple[float, float]:
    """Seconds to encode and to decode one image with a checkpoint's tokenizer."""
    import torch

    from arrag.codec import load_codec

    codec = load_codec(checkpoint)
    images = np.zeros((4, codec.image_size, codec.image_size, 3), np.uint8)
    codes = torch.zeros(4, *codec.grid, dtype=torch.int64)
    encoded = 4 * _repeats(lambda: codec.encode(images))
    return 1 / encoded, 1 / (4 * _repeats(lambda: codec.decode(codes)))


def _repeats(work) -> float:
    """How often a second ``work`` can be done."""
    work()
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        work()
        count += 1
    return count / passed


def _disk(results: Path) -> float:
    """Bytes/s written to where results go, until they are on the disk."""
    results.mkdir(parents=True, exist_ok=True)
    data = os.urandom(1 << 20)
    with disk_space(results), tempfile.TemporaryFile(dir=results) as file:
        began = time.perf_counter()
        for _ in range(DISK_BYTES >> 20):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return DISK_BYTES / (time.perf_counter() - began)


def wrong_packages(also: Collection[str] = ()) -> list[str]:
    """What is not installed, or in another version than the project asks for, as sentences.

    also: packages of extras that are needed as well.
    """
    try:
        asked = [Requirement(text) for text in requires("arrag") or ()]
    except PackageNotFoundError:
        return ["arrag is not installed; `pip install -e .` in its folder"]
    usual = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    named = {r.name for r in usual}
    usual += [Requirement(name) for name in sorted(also) if name not in named]
    if not _found("faiss-cpu") and not _found("faiss-gpu"):
        usual.append(Requirement("faiss-cpu"))
    wrong = []
    for requirement in usual:
        found = _found(requirement.name)
        if found is None:
            wrong.append(f"{requirement} is missing; `pip install '{requirement}'`")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}; wanted {requirement.specifier}")
    return wrong


def _found(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

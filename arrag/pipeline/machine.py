"""What a machine has: cores, memory, disk, an accelerator, packages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Machine:
    """cores: usable by this process; memory, gpu_memory, disk (free): bytes; gpu: its name."""

    cores: int
    memory: int
    disk: int
    gpu: str | None
    gpu_memory: int


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

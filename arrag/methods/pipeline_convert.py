"""Folders in diffusers' format whose weights are pickles: the same with safetensors.

The published LDM and RDM are of 2022 and hold nothing else. Only tensors are read of a pickle.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from arrag.methods.pipeline_folder import INDEX
from arrag.utils.checkpoint import read_file
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.outputs import atomic_path, remove_output
from arrag.utils.resource_errors import disk_space

WEIGHTS = re.compile(r"(diffusion_)?pytorch_model(-\d+-of-\d+)?\.bin")
"""Files of weights; others are of another precision, or of what training keeps beside them."""


def convert_pipeline(folder: str | Path, out: str | Path) -> dict[str, Any]:
    """Write ``folder`` to ``out`` with its pickled weights as safetensors.

    Settings and tokenizers are copied; parts that have safetensors keep those. Raises ArragError
    for a folder that holds no pipeline, a damaged file, or one that holds more than tensors.
    """
    folder, out = Path(folder), Path(out)
    read_json(folder / INDEX)
    if out.exists():
        raise ArragError(f"{out}: is there already; name a new folder")
    converted = []
    with disk_space(out), atomic_path(out) as path:
        shutil.copytree(folder, path, ignore=_unwanted)
        for part in sorted(p for p in folder.iterdir() if p.is_dir()):
            files = [file for file in part.glob("*.bin") if WEIGHTS.fullmatch(file.name)]
            if files and not any(part.glob("*.safetensors")):
                _convert(part, sorted(files), path / part.name)
                converted.append(part.name)
    if not converted:
        remove_output(out)
        raise ArragError(f"{folder}: has no pickled weights to convert; use it as it is")
    return {"out": out, "converted": converted}


def _unwanted(folder: str, names: list[str]) -> list[str]:
    """Of a directory's names, those not to copy: pickles of any kind, and hidden folders."""
    ends = (".bin", ".ckpt", ".pt", ".msgpack", ".bin.index.json")
    return [name for name in names if name.endswith(ends) or name.startswith(".")]


def _convert(part: Path, files: list[Path], out: Path) -> None:
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format)
        for file in files
        for name, value in read_file(file).items()
    }
    of_diffusers = files[0].name.startswith("diffusion_")
    name = "diffusion_pytorch_model" if of_diffusers else "model"  # as each library calls it
    save_file(tensors, out / f"{name}.safetensors", {"format": "pt"})

"""Folders in diffusers' format: loaded completely or not at all, and converted from pickles.

Only local files and safetensors are read, since a pickle runs what its author wrote. diffusers and
transformers fill what a file lacks with random numbers and warn; here that is an error.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from arrag.utils.checkpoint import SHOWN, loading, read_file
from arrag.utils.device import default_device
from arrag.utils.errors import FormatError, MissingError, OutputError
from arrag.utils.files import read_json
from arrag.utils.outputs import atomic_path, remove_output
from arrag.utils.resource_errors import disk_space

INDEX = "model_index.json"
HINT = "download that folder again"
LIBRARIES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "latent_diffusion": "diffusers.pipelines.latent_diffusion",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}
"""Where the classes of components come from, by the name in the index; none from the folder."""

VOCABULARIES = (
    ("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",),
    ("tokenizer.model",),
)  # fmt: skip
"""Files that a tokenizer's vocabulary may be in: all of one of these."""

PICKLED_WEIGHTS = re.compile(r"(diffusion_)?pytorch_model(-\d+-of-\d+)?\.bin")
"""Files of weights; other pickles are of another precision, or of a training's state."""


def read_class(folder: Path, names: Collection[str]) -> str:
    """Read which pipeline a folder holds. Raises ArragError unless it is one of ``names``."""
    index = read_json(folder / INDEX)
    found = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(found, str) or found not in names:
        raise FormatError(
            f"found {found!r}, expected one of {', '.join(names)}",
            path=folder / INDEX,
            field="_class_name",
            hint="give the folder of such a pipeline",
        )
    return found


def load_pipeline(
    folder: Path, class_name: str, dtype: str, device: str | None = None, **overrides: Any
) -> Any:
    """Load a pipeline of diffusers with all of its weights.

    Args:
        folder: Contains ``model_index.json`` and a folder for each component.
        class_name: The class of diffusers; the folder may name another that has the same parts.
        dtype: Name of the torch dtype of all models.
        device: None is the accelerator if there is one.
        **overrides: Components and options that replace the folder's, which are then not read.

    Raises:
        ArragError: A component is missing or damaged, lacks a weight, has no safetensors, or its
            class is of a library that is not among ``LIBRARIES``.
    """
    # diffusers warns of every truncated prompt, and of components that are left out.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    index, pipeline = read_json(folder / INDEX), getattr(diffusers, class_name)
    read_here = inspect.signature(pipeline.__init__).parameters.keys() - overrides.keys()
    models = {}
    for name in sorted(read_here & index.keys()):
        if isinstance(index[name], list) and None not in index[name]:
            kind = _class_of(folder, name, index[name])
            if issubclass(kind, torch.nn.Module):
                models[name] = load_model(kind, folder / name, dtype)
            elif "Tokenizer" in kind.__name__:
                check_vocabulary(folder / name)
    with loading(folder, f"a {class_name}", HINT):
        return pipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **models, **overrides
        ).to(device or default_device())


def _class_of(folder: Path, name: str, entry: list) -> type:
    library, kind = entry if len(entry) == 2 else (None, None)
    if library not in LIBRARIES:
        raise FormatError(
            f"found a class of {library!r}; only classes of {', '.join(LIBRARIES)} are loaded",
            path=folder / INDEX,
            field=name,
        )
    found = getattr(import_module(LIBRARIES[library]), str(kind), None)
    if not isinstance(found, type):
        raise FormatError(
            f"found {kind!r}, which is no class of the installed {library}",
            path=folder / INDEX,
            field=name,
            hint="install the version it was saved with",
        )
    return found


def load_model(kind: Any, folder: Path, dtype: str) -> torch.nn.Module:
    """Load a model of diffusers or transformers, in evaluation mode and without gradients.

    Raises:
        ArragError: The folder is missing or damaged, has no safetensors, or lacks a weight.
    """
    if not (folder / "config.json").is_file():
        raise MissingError(
            f"no such file, the settings of a {kind.__name__}",
            path=folder / "config.json",
            hint=HINT,
        )
    check_safetensors(folder)
    with loading(folder, f"a {kind.__name__}", HINT):
        model, report = kind.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:
        raise FormatError(
            f"{len(lost)} weights of {kind.__name__} are missing or of another shape "
            f"({', '.join(lost[:SHOWN])})",
            path=folder,
            hint=HINT,
        )
    return model.eval().requires_grad_(False)


def check_vocabulary(folder: Path) -> None:
    """Raise ArragError unless a tokenizer's folder has a vocabulary that can be read.

    Without one, transformers makes a tokenizer that knows no word, and every prompt is the same.
    """
    there = [files for files in VOCABULARIES if all((folder / file).is_file() for file in files)]
    if not there:
        wanted = ", ".join(" with ".join(files) for files in VOCABULARIES)
        raise MissingError(f"contains no vocabulary ({wanted})", path=folder, hint=HINT)
    if there[0][0].endswith(".model") and find_spec("sentencepiece") is None:
        raise MissingError(
            "is read with sentencepiece, which is not installed",
            path=folder / there[0][0],
            hint="run `pip install sentencepiece protobuf`",
        )


def check_safetensors(folder: Path) -> None:
    """Raise ArragError, naming the file, unless a model's folder has weights in safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(p for end in ("bin", "ckpt", "msgpack") for p in folder.glob(f"*.{end}"))
    if pickled:
        raise FormatError(
            "the weights are there as a pickle only, which can run code",
            path=pickled[0],
            hint="convert the whole folder with `arrag convert pipeline`",
        )
    raise MissingError("contains no .safetensors file", path=folder, hint=HINT)


def convert_pipeline(folder: str | Path, out: str | Path) -> dict[str, Any]:
    """Copy a pipeline's folder, its pickled weights as safetensors.

    The published LDM and RDM are of 2022 and hold nothing but pickles. Settings and tokenizers are
    copied; components that have safetensors keep those. Only tensors are read of a pickle.

    Returns:
        The new folder, and the names of the converted components.

    Raises:
        ArragError: The folder holds no pipeline, a damaged file, or a pickle of more than tensors.
    """
    folder, out = Path(folder), Path(out)
    read_json(folder / INDEX)
    if out.exists():
        raise OutputError("is there already", path=out, hint="name a new folder")
    converted = []
    with disk_space(out), atomic_path(out) as path:
        shutil.copytree(folder, path, ignore=_pickles)
        for part in sorted(p for p in folder.iterdir() if p.is_dir()):
            files = [file for file in part.glob("*.bin") if PICKLED_WEIGHTS.fullmatch(file.name)]
            if files and not any(part.glob("*.safetensors")):
                _convert(sorted(files), path / part.name)
                converted.append(part.name)
    if not converted:
        remove_output(out)
        raise FormatError("has no pickled weights to convert", path=folder, hint="use it as it is")
    return {"out": out, "converted": converted}


def _pickles(folder: str, names: list[str]) -> list[str]:
    """Of a directory's names, those not to copy: pickles of any kind, and hidden folders."""
    ends = (".bin", ".ckpt", ".pt", ".msgpack", ".bin.index.json")
    return [name for name in names if name.endswith(ends) or name.startswith(".")]


def _convert(files: list[Path], out: Path) -> None:
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format)
        for file in files
        for name, value in read_file(file).items()
    }
    of_diffusers = files[0].name.startswith("diffusion_")
    name = "diffusion_pytorch_model" if of_diffusers else "model"  # as each library calls it
    save_file(tensors, out / f"{name}.safetensors", {"format": "pt"})

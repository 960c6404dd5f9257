"""A folder in diffusers' format: which pipeline it holds, whether all of it is there, its models.

Only local files, only safetensors: a pickled file runs what its author wrote. diffusers fills what
a file lacks with random numbers and warns; here that is an error.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from arrag.utils.checkpoint import SHOWN
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json

INDEX = "model_index.json"
LIBRARIES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "latent_diffusion": "diffusers.pipelines.latent_diffusion",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}
"""Where the classes of components come from, by the name in the index; none from the folder."""

SETTINGS = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "TokenizerFast": "tokenizer_config.json",
    "ImageProcessor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
}
"""The file that a component without weights must have, by the end of its class's name."""

VOCABULARIES = (
    ("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",),
    ("tokenizer.model",),
)  # fmt: skip
"""Files that a tokenizer's vocabulary may be in: all of one of these."""


def read_index(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The folder's model_index.json; ArragError unless its pipeline is one of ``names``."""
    index = read_json(folder / INDEX)
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found not in names:
        raise ArragError(
            f"{folder / INDEX}: _class_name is {found!r}, expected one of {', '.join(names)}; give "
            "the folder of such a pipeline"
        )
    return index


def load_parts(
    folder: Path, index: dict[str, Any], dtype: torch.dtype, unused: Collection[str] = ()
) -> dict[str, Any]:
    """What a pipeline is made of, by name: models, tokenizers, schedulers, and options.

    unused: parts that are not read and need not be there. Raises ArragError for a part that is
    missing or damaged, has no safetensors, or whose class is of no library we load from.
    """
    parts = {}
    for name, value in index.items():
        if name.startswith("_") or name in unused:
            continue
        if not isinstance(value, list) or len(value) != 2:
            parts[name] = value  # an option
        elif value[0] is None:
            parts[name] = None  # left out on purpose
        else:
            parts[name] = _load(folder, name, *value, dtype)
    return parts


def _load(folder: Path, name: str, library: str, kind: str, dtype: torch.dtype) -> Any:
    if library not in LIBRARIES:
        raise ArragError(
            f"{folder / INDEX}: {name} is {kind!r} of {library!r}; only classes of "
            f"{', '.join(LIBRARIES)} are loaded"
        )
    found = getattr(import_module(LIBRARIES[library]), kind, None)
    if found is None:
        raise ArragError(
            f"{folder / INDEX}: {name} is {kind!r}, no class of the installed {library}; correct "
            "that file or install the version it was saved with"
        )
    wanted = next((file for end, file in SETTINGS.items() if kind.endswith(end)), None)
    settings = folder / name / (wanted or "config.json")
    if not settings.is_file():
        raise ArragError(
            f"{settings}: missing, but {folder / INDEX} lists {name} ({kind}); fetch that folder "
            "again"
        )
    if wanted is None:
        return load_model(found, folder / name, dtype)
    if "Tokenizer" in kind:
        check_vocabulary(folder / name)
    try:
        return found.from_pretrained(folder / name, local_files_only=True)
    except Exception as error:  # the libraries raise a dozen types
        raise _unreadable(folder / name, kind, error) from error


def check_vocabulary(part: Path) -> None:
    """Raise ArragError unless a tokenizer's folder has a vocabulary that can be read.

    Without one transformers makes a tokenizer that knows no word, and every prompt is the same.
    """
    there = [files for files in VOCABULARIES if all((part / file).is_file() for file in files)]
    if not there:
        wanted = ", ".join(" with ".join(files) for files in VOCABULARIES)
        raise ArragError(f"{part}: holds no vocabulary ({wanted}); fetch that folder again")
    if there[0][0].endswith(".model") and find_spec("sentencepiece") is None:
        raise ArragError(
            f"{part / there[0][0]}: is read with sentencepiece, which is not installed; run "
            "`pip install sentencepiece protobuf`"
        )


def check_safetensors(part: Path) -> None:
    """Raise ArragError, naming the file, unless a model's folder has weights in safetensors."""
    if any(part.glob("*.safetensors")):
        return
    pickled = sorted([*part.glob("*.bin"), *part.glob("*.ckpt"), *part.glob("*.msgpack")])
    if pickled:
        raise ArragError(
            f"{pickled[0]}: the weights are there as a pickle alone, which can run code; convert "
            "the whole folder with `arrag convert pipeline`"
        )
    raise ArragError(f"{part}: holds no .safetensors file; fetch that folder again")


def load_model(kind: Any, part: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A model of its folder, in evaluation mode; ArragError if a weight is missing or odd."""
    check_safetensors(part)
    try:
        model, info = kind.from_pretrained(
            part, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # diffusers, transformers, safetensors and json raise a dozen types
        raise _unreadable(part, kind.__name__, error) from error
    lost = [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]
    if lost:
        shown = ", ".join(str(key) for key in sorted(lost, key=str)[:SHOWN])
        raise ArragError(
            f"{part}: {len(lost)} weights of {kind.__name__} are missing or of another shape "
            f"({shown}); fetch that folder again"
        )
    return model.eval().requires_grad_(False)


def _unreadable(part: Path, kind: str, error: Exception) -> ArragError:
    return ArragError(
        f"{part}: cannot be read as {kind} ({first_line(error)}); fetch that folder again"
    )


def first_line(error: Exception) -> str:
    """What an exception says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

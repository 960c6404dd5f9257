"""Tensors of a checkpoint folder: read, checked by name and shape, digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from arrag.utils.errors import ArragError, FormatError, MismatchError, MissingError
from arrag.utils.readers import short_message
from arrag.utils.resource_errors import is_out_of_memory

SHOWN = 5
"""Keys named in an error; a wrong checkpoint has thousands."""


@contextmanager
def loading(path: str | Path, what: str, hint: str = "download its files again") -> Iterator[None]:
    """Turn whatever a library raises at a file it cannot load into a FormatError.

    transformers, diffusers, torch and safetensors raise a dozen types at damaged files. An
    ArragError passes through.

    Args:
        path: The file or folder that is loaded.
        what: What it should be: "a Janus checkpoint".
        hint: What the user can do.
    """
    try:
        yield
    except ArragError:
        raise
    except Exception as error:
        if is_out_of_memory(error):  # the file is not at fault
            raise
        message = f"cannot be read as {what} ({short_message(error)})"
        raise FormatError(message, path=path, hint=hint) from error


def read_tensors(checkpoint: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a folder whose name starts with ``prefix``, without it.

    Reads its ``*.safetensors``, or its ``*.bin`` (PyTorch files, tensors only) if there are none;
    or one such file. Raises ArragError for a folder without either and for a damaged file.
    """
    files = sorted(checkpoint.glob("*.safetensors")) or sorted(checkpoint.glob("*.bin"))
    if checkpoint.is_file():
        files = [checkpoint]
    if not files:
        raise MissingError(
            "has no .safetensors and no .bin file",
            path=checkpoint,
            hint="download the checkpoint again",
        )
    return {name: value for file in files for name, value in read_file(file, prefix).items()}


def read_file(file: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The same of one file; ArragError if it is damaged, or a pickle of more than tensors."""
    read = _read_safetensors if file.suffix == ".safetensors" else _read_bin
    with loading(file, "tensors"):
        return read(file, prefix)


def _read_safetensors(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    with safe_open(file, "pt") as handle:
        names = [name for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name[len(prefix) :]: handle.get_tensor(name) for name in names}


def _read_bin(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ValueError("no names with tensors")
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def check_weights(model: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    """Raise ArragError, naming the keys, unless ``state`` has ``model``'s names and shapes."""
    check_tensors(model.state_dict(), state, where)


def check_tensors(
    wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], where: Path
) -> None:
    """Raise ArragError, naming the keys, unless ``state`` has ``wanted``'s names and shapes."""
    shapes = [
        f"{name} is {list(state[name].shape)}, expected {list(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    parts = {
        "missing": [name for name in wanted if name not in state],
        "not expected": [name for name in state if name not in wanted],
        "of another shape": shapes,
    }
    _refuse(where, parts)


def _refuse(where: Path, parts: dict[str, list[str]]) -> None:
    found = "; ".join(f"{what}: {_some(names)}" for what, names in parts.items() if names)
    if found:
        raise MismatchError(
            f"the weights do not fit its config.json ({found})",
            path=where,
            hint="download both again",
        )


def load_weights(model: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    """Copy ``state`` into ``model`` after :func:`check_weights`."""
    check_weights(model, state, where)
    model.load_state_dict(state)


def load_assigned(
    build: Any, state: Mapping[str, torch.Tensor], where: Path, dtype: str
) -> nn.Module:
    """The module that ``build()`` gives with the weights ``state``, in ``dtype``.

    Nothing is drawn at random only to be replaced; for modules whose tensors are all in their
    state. Raises ArragError as :func:`check_weights` does.
    """
    with torch.device("meta"):
        model = build()
    check_weights(model, state, where)
    kind = getattr(torch, dtype)
    cast = {k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(cast, assign=True)
    return model


def load_pretrained(
    model_class: Any, checkpoint: Path, dtype: str, leave_out: tuple[str, ...] = ()
) -> nn.Module:
    """``model_class.from_pretrained`` of transformers, which only warns of keys that do not fit.

    Args:
        model_class: A model class of transformers.
        checkpoint: The folder.
        dtype: Name of the dtype.
        leave_out: Prefixes of keys in the checkpoint that the model does not have.

    Raises:
        MissingError: The folder has no config.json.
        MismatchError: Keys or shapes differ from the model's; they are named.
    """
    config = Path(checkpoint) / "config.json"
    if not config.is_file():
        hint = "download the checkpoint, or correct the path"
        raise MissingError("no such file", path=config, hint=hint)
    model, report = model_class.from_pretrained(
        checkpoint,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    shapes = [
        f"{name} is {list(found)}, expected {list(wanted)}"
        for name, found, wanted in sorted(report["mismatched_keys"])
    ]
    _refuse(
        checkpoint,
        {
            "missing": sorted(report["missing_keys"]),
            "not expected": [
                name for name in sorted(report["unexpected_keys"]) if not name.startswith(leave_out)
            ],
            "of another shape": shapes,
        },
    )
    return model


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 of names, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

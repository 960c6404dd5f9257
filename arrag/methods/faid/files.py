"""The file of a FAiD adapter: weights, and what they are, in one .safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from arrag.utils.errors import ArragError
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import parse_json, short_message

FORMAT = 1


def write_weights(
    path: str | Path,
    weights: dict[str, torch.Tensor],
    about: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write weights as ``dtype`` with their description; ArragError if one does not fit."""
    cast = {name: w.detach().to("cpu", dtype).contiguous() for name, w in weights.items()}
    if bad := [name for name, w in cast.items() if not torch.isfinite(w).all()]:
        raise ArragError(f"{path}: {bad[0]} is not finite as {dtype}; the training diverged")
    with atomic_path(path) as partial:
        save_file(cast, partial, metadata={"faid": json.dumps({"format": FORMAT, **about})})


def check_weights(
    path: str | Path, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> None:
    """Raise ArragError, naming the weights, unless ``found`` has the names and shapes wanted."""
    shapes = [
        f"{name} is {list(found[name].shape)}, wanted {list(wanted[name].shape)}"
        for name in found.keys() & wanted.keys()
        if found[name].shape != wanted[name].shape
    ]
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(shapes),
    }
    if any(faults.values()):
        named = "; ".join(f"{what}: {', '.join(some)}" for what, some in faults.items() if some)
        raise ArragError(f"{path}: its weights are not the adapter's ({named}); restore the file")


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and weights of an adapter's file; ArragError if it is none, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ArragError(
            f"{path}: no such file; make it with `arrag train adapter faid`, or correct it"
        )
    try:
        with safe_open(path, "pt") as file:
            about = parse_json((file.metadata() or {}).get("faid", "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise ArragError(
            f"{path}: truncated or damaged ({short_message(error)}); restore it"
        ) from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise ArragError(
            f"{path}: not a FAiD adapter of format {FORMAT} (found {found!r}); use "
            "an adapter.safetensors made by `arrag train adapter faid` or `arrag convert faid`"
        )
    return about, weights

"""What fine-tuning changed in a generator, as a folder beside the generator's own checkpoint.

    config.json           what it is, of which backbone, and what it was trained with
    delta.safetensors     changes of the backbone's weights; may be missing
    adapter.safetensors   the FAiD modules, if it has any

A weight ``w`` is either replaced (``w``), or added to by a product of two thin matrices
(``w.lora_a`` [r, in], ``w.lora_b`` [out, r], the factor alpha / r included).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from arrag.utils.checkpoint import read_file
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json

FORMAT = 1
KINDS = ("finetune", "faid", "racm3")
CONFIG, DELTA, MODULES = "config.json", "delta.safetensors", "adapter.safetensors"
LOG = "log.jsonl"
LORA_A, LORA_B = ".lora_a", ".lora_b"


def read_adapter(folder: str | Path, kind: str, backbone_digest: str) -> dict[str, Any]:
    """The folder's ``config.json``; ArragError unless it is of this kind and this backbone."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ArragError(
            f"{folder}: no {CONFIG} there; the micro adapters come with the repository, others are "
            "made by `arrag train` or `arrag convert faid`"
        )
    config = read_json(path, {})
    for field, ours in {"format": FORMAT, "kind": kind, "backbone": backbone_digest}.items():
        if config.get(field) != ours:
            raise ArragError(
                f"{path}: {field} is {config.get(field)!r}, but {ours!r} is in use; use an adapter "
                "of this kind that was trained on this backbone"
            )
    return config


def save_delta(
    path: Path, delta: dict[str, torch.Tensor], dtype: torch.dtype = torch.float16
) -> None:
    """Write changes, in half precision by default: the micro checkpoints have no more."""
    half = {name: value.detach().to("cpu", dtype).contiguous() for name, value in delta.items()}
    if bad := [name for name, value in half.items() if not torch.isfinite(value).all()]:
        raise ArragError(f"{path}: {bad[0]} does not fit half precision; the training diverged")
    save_file(half, path)


def save_config(folder: Path, kind: str, backbone_digest: str, about: dict[str, Any]) -> None:
    """Write ``config.json``."""
    write_json(
        folder / CONFIG, {"format": FORMAT, "kind": kind, "backbone": backbone_digest, **about}
    )


@torch.no_grad()
def merge_delta(path: Path, model: nn.Module) -> None:
    """Change the weights of ``model`` as the file says.

    Raises ArragError when the file is damaged, or names or shapes are not the model's; the model
    is then as it was.
    """
    delta = read_file(path)
    weights = dict(model.named_parameters())
    changed = {}
    for name in sorted({n.removesuffix(LORA_A).removesuffix(LORA_B) for n in delta}):
        if name not in weights:
            raise ArragError(f"{path}: changes {name}, which the backbone does not have")
        weight = weights[name]
        new = _changed(path, name, weight, delta)
        if new.shape != weight.shape:
            raise ArragError(
                f"{path}: {name} is {list(new.shape)}, the backbone's is {list(weight.shape)}; "
                "use an adapter of this backbone"
            )
        changed[name] = new
    for name, new in changed.items():
        weights[name].copy_(new)


def _changed(
    path: Path, name: str, weight: torch.Tensor, delta: dict[str, torch.Tensor]
) -> torch.Tensor:
    if name in delta:
        return delta[name].to(weight)
    try:
        thin = [delta[name + suffix].to(weight) for suffix in (LORA_B, LORA_A)]
        return weight + thin[0] @ thin[1]
    except (KeyError, RuntimeError) as error:
        raise ArragError(
            f"{path}: {name} needs {LORA_A} [r, in] and {LORA_B} [out, r] ({error}); restore it"
        ) from None

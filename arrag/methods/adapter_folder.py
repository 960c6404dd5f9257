"""What fine-tuning changed in a generator, as a folder apart from the generator's checkpoint.

    config.json           kind of adapter, digest of the backbone, and how it was trained
    delta.safetensors     changes of the backbone's weights; absent if there are none
    adapter.safetensors   the FAiD modules, if it has any

A weight ``w`` is either replaced (``w``), or a product of two low-rank matrices is added to it
(``w.lora_a`` [r, in] and ``w.lora_b`` [out, r], with the factor alpha / r included).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from arrag.methods.generator import TokenGenerator
from arrag.methods.registry import MethodContext
from arrag.utils.checkpoint import read_file
from arrag.utils.errors import FormatError, MismatchError, MissingError
from arrag.utils.files import read_model, write_json
from arrag.utils.hashing import tree_digest

FORMAT = 1
CONFIG, DELTA, MODULES = "config.json", "delta.safetensors", "adapter.safetensors"
LOG = "log.jsonl"
LORA_A, LORA_B = ".lora_a", ".lora_b"


def load_finetuned(context: MethodContext) -> TokenGenerator:
    """Load the generator with the changes that a method's adapter makes to its weights.

    Raises:
        ArragError: The adapter is missing, damaged, or of another kind or backbone.
    """
    generator = context.load_backbone()
    folder = adapter_folder(context)
    read_adapter(folder, context.settings.kind, generator.weights["backbone"])
    if (folder / DELTA).is_file():
        merge_delta(folder / DELTA, generator.backbone.model)
    return replace(generator, weights=generator.weights | {"adapter": tree_digest(folder)})


def adapter_folder(context: MethodContext) -> Path:
    """The folder of a method's adapter. Raises MissingError if none is named."""
    folder = context.paths.adapter or context.settings.adapter
    if folder is None:
        raise MissingError(
            f"method '{context.name}' names no adapter",
            field="adapter",
            hint="name the folder of the one that `training` makes",
        )
    return folder


def read_adapter(folder: str | Path, kind: str, backbone_digest: str) -> dict[str, Any]:
    """Read the folder's ``config.json``.

    Raises:
        MissingError: There is none.
        MismatchError: The adapter is of another kind or backbone.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise MissingError(
            "no such file",
            path=path,
            hint="the micro adapters come with the repository, others are made by `arrag train` "
            "or `arrag faid import`",
        )
    config = read_model(path, dict[str, Any])
    for field, ours in {"format": FORMAT, "kind": kind, "backbone": backbone_digest}.items():
        if config.get(field) != ours:
            raise MismatchError(
                f"found {config.get(field)!r}, but {ours!r} is in use",
                path=path,
                field=field,
                hint="use an adapter of this kind that was trained on this backbone",
            )
    return config


def save_config(folder: Path, kind: str, backbone_digest: str, about: dict[str, Any]) -> None:
    """Write ``config.json``, with further fields ``about`` the training."""
    write_json(
        folder / CONFIG, {"format": FORMAT, "kind": kind, "backbone": backbone_digest, **about}
    )


def cast_finite(
    path: Path, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Cast weights to ``dtype`` for a file. Raises FormatError if one is not finite then."""
    cast = {name: w.detach().to("cpu", dtype).contiguous() for name, w in weights.items()}
    if bad := [name for name, weight in cast.items() if not torch.isfinite(weight).all()]:
        raise FormatError(
            f"not finite as {dtype}", path=path, field=bad[0], hint="the training diverged"
        )
    return cast


def save_delta(
    path: Path, delta: dict[str, torch.Tensor], dtype: torch.dtype = torch.float16
) -> None:
    """Write changes of weights, by default in the half precision of the micro checkpoints."""
    save_file(cast_finite(path, delta, dtype), path)


@torch.no_grad()
def merge_delta(path: Path, model: nn.Module) -> None:
    """Change the weights of ``model`` in place as the file says.

    Raises:
        ArragError: The file is damaged, or its names or shapes are not the model's; the model is
            then as it was.
    """
    delta = read_file(path)
    weights = dict(model.named_parameters())
    changed = {}
    for name in changed_weights(delta):
        if name not in weights:
            raise _not_this_backbone(path, name, "the backbone has no such weight")
        new = _changed(path, name, weights[name], delta)
        if new.shape != weights[name].shape:
            shapes = f"is {list(new.shape)}, the backbone's is {list(weights[name].shape)}"
            raise _not_this_backbone(path, name, shapes)
        changed[name] = new
    for name, new in changed.items():
        weights[name].copy_(new)


def changed_weights(delta: Mapping[str, torch.Tensor]) -> list[str]:
    """The sorted names of the weights that a delta changes."""
    return sorted({name.removesuffix(LORA_A).removesuffix(LORA_B) for name in delta})


def _changed(
    path: Path, name: str, weight: torch.Tensor, delta: dict[str, torch.Tensor]
) -> torch.Tensor:
    if name in delta:
        return delta[name].to(weight)
    try:
        up, down = (delta[name + suffix].to(weight) for suffix in (LORA_B, LORA_A))
        return weight + up @ down
    except (KeyError, RuntimeError) as error:
        raise FormatError(
            f"needs {LORA_A} [r, in] and {LORA_B} [out, r] ({error})",
            path=path,
            field=name,
            hint="restore the file",
        ) from None


def _not_this_backbone(path: Path, name: str, message: str) -> MismatchError:
    return MismatchError(message, path=path, field=name, hint="use an adapter of this backbone")

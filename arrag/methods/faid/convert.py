"""Import the authors' published FAiD checkpoint (``jingyq1/arrag_faid``) as an adapter folder.

Their file is a whole Janus-Pro under its first names, with the modules inside its decoder layers;
LoRA may be merged already or not. Ours keeps the modules apart, and of the generator only what
their training changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from arrag.backbones.janus import JanusBackbone
from arrag.methods.adapter_folder import DELTA, LORA_A, LORA_B, MODULES, save_config, save_delta
from arrag.methods.faid.adapter import FAiD, FaidSettings
from arrag.methods.faid.files import check_weights
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file, tree_digest
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import short_message

RENAMED = (
    (r"^language_model\.base_model\.model\.", "language_model."),  # peft, not merged
    (r"^language_model\.model\.", "model.language_model."),
    (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"^gen_head\.", "model.generation_head."),
    (r"^gen_embed\.", "model.generation_embeddings."),
    (r"^gen_aligner\.layers\.0\.", "model.generation_aligner.fc1."),
    (r"^gen_aligner\.layers\.2\.", "model.generation_aligner.hidden_layers.0."),
    (r"\.base_layer\.", "."),
    (r"\.lora_([AB])(?:\.\w+)?\.weight$", r".weight.lora_\1"),
)
"""Their names to those of transformers, applied in turn."""

MODULE = re.compile(r"^model\.language_model\.layers\.(\d+)\.(blender|retrieval_layernorm)\.(.+)$")
UNUSED = ("vision_model.", "aligner.", "gen_vision_model.", "language_model.lm_head.")
TRAINED = re.compile(r"\.self_attn\.[qv]_proj\.|\.generation_head\.")
FOREIGN = 0.05
"""Relative distance from which a weight that training leaves alone is another model's; half
precision is off by 0.004."""


def import_faid(
    source: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    k: int = 10,
    absent: str = "zero",
    lora_alpha: float = 256.0,
) -> dict[str, Any]:
    """Write the adapter folder ``out`` for the Janus ``checkpoint``; returns what was found.

    source: their .safetensors or .bin, or a folder of such. absent: see
    :class:`~arrag.methods.faid.module.FaidSettings`; "zero" is how they train, "compat_infer" how
    they
    draw. lora_alpha: of LoRA weights that are not merged (theirs: 256 at rank 128). Raises
    ArragError for a file that is damaged, lacks a weight, has an unknown or mis-shaped one, or
    belongs to another generator.
    """
    files = _files(Path(source))
    weights = {_renamed(name): value for name, value in _tensors(files)}
    backbone = JanusBackbone.load(checkpoint)
    adapter = _adapter(Path(source), weights, backbone, k, absent)
    delta = _delta(Path(source), weights, backbone, lora_alpha)
    dtype = adapter.dtype
    digest = tree_digest(checkpoint)
    about = {
        "imported": {file.name: sha256_file(file) for file in files},
        "settings": {"hops": list(adapter.settings.hops), "k": k, "absent": absent},
        "layers": [int(layer) for layer in adapter.blocks],
        "changed": len({name.removesuffix(LORA_A).removesuffix(LORA_B) for name in delta}),
    }
    with atomic_path(out) as folder:
        folder.mkdir()
        adapter.save(folder / MODULES, dtype, backbone_digest=digest)
        if delta:
            save_delta(folder / DELTA, delta, dtype)
        save_config(folder, "faid", digest, about)
    return about


def _files(source: Path) -> list[Path]:
    """The weight files of a file or folder."""
    if source.is_file():
        return [source]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if found := sorted(source.glob(pattern)):
            return found
    raise ArragError(
        f"{source}: no weights there; name the published .safetensors or .bin file, or its folder"
    )


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights, without what generation never uses."""
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt") as opened:
                    names = [n for n in opened.keys() if not n.startswith(UNUSED)]  # noqa: SIM118
                    yield from ((name, opened.get_tensor(name)) for name in names)
            else:
                state: Mapping = torch.load(file, map_location="cpu", weights_only=True)
                if not isinstance(state, dict) or not all(isinstance(n, str) for n in state):
                    raise ValueError("no weights by name")
                if not all(isinstance(w, torch.Tensor) for w in state.values()):
                    raise ValueError("something other than weights")
                yield from ((n, w) for n, w in state.items() if not n.startswith(UNUSED))
        except UnpicklingError:
            raise ArragError(
                f"{file}: not a file of weights alone, and nothing else is ever loaded; fetch it "
                "again, or convert it to .safetensors where you trust it"
            ) from None
        except (SafetensorError, OSError, RuntimeError, EOFError, LookupError, ValueError) as error:
            raise ArragError(
                f"{file}: cannot be read ({short_message(error)}); fetch it again"
            ) from None


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _adapter(
    source: Path, weights: dict[str, torch.Tensor], backbone: JanusBackbone, k: int, absent: str
) -> FAiD:
    """The modules; taken out of ``weights``."""
    theirs = {name: weights.pop(name) for name in list(weights) if MODULE.match(name)}
    found: dict[str, torch.Tensor] = {}
    for name, weight in theirs.items():
        layer, part, rest = MODULE.match(name).groups()
        found[f"blocks.{layer}.{_ours(part, rest)}"] = weight
    layers = sorted({int(name.split(".")[1]) for name in found})
    hops = tuple(h for h in range(1, 10) if any(f".hop{h}." in name for name in found))
    if not layers or not hops:
        raise ArragError(f"{source}: holds no FAiD modules (`blender` weights); name another file")
    settings = FaidSettings(
        hops=hops,
        modules=len(layers),
        k=k,
        context=backbone.context,
        absent=absent,
        eps=backbone.model.config.text_config.rms_norm_eps,
    )
    with torch.device("meta"):
        adapter = FAiD(backbone.hidden_size, len(backbone.decoder_layers), settings)
    check_weights(source, found, adapter.state_dict())
    adapter.load_state_dict(found, assign=True)
    return adapter


def _ours(part: str, rest: str) -> str:
    """Our name of one of their module's weights: conv1 and conv12 are hop 1's pair, and so on."""
    if part == "retrieval_layernorm":
        return "norm"
    rest = re.sub(r"^conv(\d)(2?)\.", lambda m: f"convs.hop{m[1]}.{1 if m[2] else 0}.", rest)
    return rest.replace("conv_weights", "merge").replace("mlp.", "score.")


def _delta(
    source: Path, weights: dict[str, torch.Tensor], backbone: JanusBackbone, alpha: float
) -> dict[str, torch.Tensor]:
    """What their training changed of the generator, by the names of ``adapter_folder``."""
    thin = {name: value for name, value in weights.items() if name.endswith((".lora_A", ".lora_B"))}
    plain = {name: value for name, value in weights.items() if name not in thin}
    own = {name: value.detach() for name, value in backbone.model.named_parameters()}
    roots = {name[: -len(".lora_A")] for name in thin}
    unknown = sorted((plain.keys() | roots) - own.keys())
    if unknown:
        raise ArragError(f"{source}: unknown weights {', '.join(unknown[:5])}; not a Janus of ours")
    check_weights(source, plain, {name: own[name] for name in plain})
    delta: dict[str, torch.Tensor] = {}
    for name, value in plain.items():
        far = (value.float() - own[name].float()).norm() / own[name].float().norm().clamp(min=1e-9)
        if TRAINED.search(name) and name not in roots:
            delta |= {name: value} if far > 0 else {}
        elif far > FOREIGN:
            raise ArragError(
                f"{source}: {name} is not the checkpoint's (relative distance {far:.2f}); name the "
                "checkpoint that it was trained from"
            )
    for root in sorted(roots):
        try:
            down, up = thin[f"{root}.lora_A"], thin[f"{root}.lora_B"]
        except KeyError as error:
            raise ArragError(f"{source}: LoRA weight {error} is missing; fetch it again") from None
        delta[root + LORA_A] = down
        delta[root + LORA_B] = up * (alpha / len(down))
    return delta

"""Show-o checkpoint folders: ids, language model, text tokenizer, each checked before use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

from arrag.backbones.showo import MARKERS, ShowoBackbone, Vocabulary
from arrag.utils.checkpoint import check_weights, read_tensors
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json

LLM = "llm"
"""Folder in a checkpoint with the text tokenizer and ``config.json`` of the language model."""


def load_showo(checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"):
    """Load a checkpoint folder as :class:`ShowoBackbone`.

    The folder holds what the published repositories hold: ``config.json`` and weights of Show-o,
    and in ``llm`` the ``config.json`` and tokenizer files of its language model (phi-1.5). Raises
    ArragError for missing or damaged files, keys or shapes that differ (naming them), and a
    tokenizer whose special ids are not the checkpoint's.
    """
    checkpoint = Path(checkpoint)
    raw = read_json(checkpoint / "config.json")
    vocabulary = read_vocabulary(raw, checkpoint / "config.json")
    config = language_model_config(checkpoint / LLM / "config.json", vocabulary)
    state = read_tensors(checkpoint)
    if raw.get("w_clip_vit"):  # the part that understands images; it takes no part in generation
        state = {k: v for k, v in state.items() if not k.startswith("mm_projector.")}
    with torch.device("meta"):
        empty = nn.ModuleDict({"showo": PhiForCausalLM(config)})
    check_weights(empty, state, checkpoint)
    model = PhiForCausalLM.from_pretrained(
        None,
        config=config,
        state_dict={name.removeprefix("showo."): value for name, value in state.items()},
        dtype=getattr(torch, dtype),
    )
    tokenizer = load_tokenizer(checkpoint / LLM, vocabulary)
    length = raw.get("max_text_length", 128) + 1  # the original's count leaves [t2i] out
    return ShowoBackbone(model.to(device), tokenizer, vocabulary, raw["num_vq_tokens"], length)


def read_vocabulary(raw: dict[str, Any], path: Path) -> Vocabulary:
    """The ids that a Show-o ``config.json`` implies; ArragError if it contradicts itself."""
    wanted = ("vocab_size", "llm_vocab_size", "codebook_size", "num_vq_tokens")
    missing = [field for field in wanted if not isinstance(raw.get(field), int)]
    if raw.get("_class_name") != "Showo" or missing:
        raise ArragError(
            f"{path}: _class_name is {raw.get('_class_name')!r}, expected 'Showo', and whole "
            f"numbers are needed for {', '.join(missing or wanted)}; give the folder of a Show-o "
            "checkpoint"
        )
    vocabulary = Vocabulary(raw["llm_vocab_size"], raw["codebook_size"])
    found = {"vocab_size": raw["vocab_size"], "mask_token_id": raw.get("mask_token_id")}
    expected = {"vocab_size": vocabulary.size, "mask_token_id": vocabulary.mask}
    for field, value in found.items():
        if value not in (None, expected[field]):
            raise ArragError(
                f"{path}: {field} is {value}, but llm_vocab_size {vocabulary.text} and "
                f"codebook_size {vocabulary.codes} make it {expected[field]}; restore the file"
            )
    if round(raw["num_vq_tokens"] ** 0.5) ** 2 != raw["num_vq_tokens"]:
        raise ArragError(f"{path}: num_vq_tokens is {raw['num_vq_tokens']}, no square number")
    return vocabulary


def language_model_config(path: Path, vocabulary: Vocabulary) -> PhiConfig:
    """The language model's configuration with Show-o's two changes: size and normed queries."""
    raw = read_json(path)
    if raw.get("model_type") != "phi":
        raise ArragError(
            f"{path}: model_type is {raw.get('model_type')!r}, expected 'phi'; put config.json and "
            "tokenizer files of the model's language model (microsoft/phi-1_5) there"
        )
    return PhiConfig.from_dict({**raw, "vocab_size": vocabulary.size, "qk_layernorm": True})


def load_tokenizer(folder: Path, vocabulary: Vocabulary):
    """The text tokenizer of a folder with MARKERS added; ArragError as in :func:`add_markers`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises a dozen types here
        raise ArragError(
            f"{folder}: holds no tokenizer that can be read ({error}); fetch its files again"
        ) from error
    add_markers(tokenizer, vocabulary, folder)
    return tokenizer


def add_markers(tokenizer, vocabulary: Vocabulary, folder: Path) -> None:
    """Add MARKERS to a text tokenizer; ArragError if they do not get the checkpoint's ids."""
    tokenizer.add_special_tokens({"pad_token": MARKERS[0]})
    tokenizer.add_tokens(list(MARKERS[1:]))
    expected = {token: vocabulary.marker(token) for token in MARKERS}
    wrong = [
        f"{token} is {tokenizer.convert_tokens_to_ids(token)}, expected {expected[token]}"
        for token in MARKERS
        if tokenizer.convert_tokens_to_ids(token) != expected[token]
    ]
    for name in ("bos_token", "eos_token"):
        found = getattr(tokenizer, f"{name}_id")
        if found is None or found >= vocabulary.text:
            wrong.append(f"{name} is {found}, expected an id below {vocabulary.text}")
    if wrong:
        raise ArragError(
            f"{folder}: the tokenizer's ids are not the checkpoint's ({'; '.join(wrong)}); use the "
            "tokenizer that the checkpoint was trained with"
        )

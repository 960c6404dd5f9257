"""Show-o checkpoint folders: ids, language model and text tokenizer, each checked before use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PhiConfig

from arrag.backbones.prompt_checks import check_ids
from arrag.utils.errors import FormatError
from arrag.utils.files import read_json

LLM = "llm"
"""Folder in a checkpoint with the text tokenizer and ``config.json`` of the language model."""

MARKERS = (
    "[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>",
    "<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>",
)  # fmt: skip
"""Special tokens, whose ids follow those of the text in this order."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids of a Show-o checkpoint: text, markers, image tokens and the mask token, in this order.

    Attributes:
        text: Number of text ids (50295 in the published models).
        codes: Number of image tokens, V.
    """

    text: int
    codes: int

    def marker(self, token: str) -> int:
        """Id of one of MARKERS."""
        return self.text + MARKERS.index(token)

    @property
    def first_code(self) -> int:
        """Id of code 0."""
        return self.text + len(MARKERS)

    @property
    def mask(self) -> int:
        """Id of the mask token, the last one."""
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask + 1


def read_vocabulary(raw: dict[str, Any], path: Path) -> Vocabulary:
    """Read the ids that a Show-o ``config.json`` implies.

    Raises:
        FormatError: The file is of another model, or contradicts itself.
    """
    hint = "give the folder of a Show-o checkpoint"
    if raw.get("_class_name") != "Showo":
        found = f"is {raw.get('_class_name')!r}, expected 'Showo'"
        raise FormatError(found, path=path, field="_class_name", hint=hint)
    for field in ("vocab_size", "llm_vocab_size", "codebook_size", "num_vq_tokens"):
        if not isinstance(raw.get(field), int):
            found = f"is {raw.get(field)!r}, expected a whole number"
            raise FormatError(found, path=path, field=field, hint=hint)
    vocabulary = Vocabulary(raw["llm_vocab_size"], raw["codebook_size"])
    side = round(raw["num_vq_tokens"] ** 0.5)
    expected = {
        "vocab_size": vocabulary.size,
        "mask_token_id": vocabulary.mask,
        "num_vq_tokens": side * side,
    }
    for field, value in expected.items():
        if raw.get(field) not in (None, value):
            found = f"is {raw[field]}, the file's other fields imply {value}"
            raise FormatError(found, path=path, field=field, hint="restore the file")
    return vocabulary


def language_model_config(path: Path, vocabulary: Vocabulary) -> PhiConfig:
    """Read the language model's configuration, with Show-o's vocabulary and QK norm."""
    raw = read_json(path)
    if raw.get("model_type") != "phi":
        found = f"is {raw.get('model_type')!r}, expected 'phi'"
        hint = "put config.json and tokenizer files of microsoft/phi-1_5 there"
        raise FormatError(found, path=path, field="model_type", hint=hint)
    return PhiConfig.from_dict({**raw, "vocab_size": vocabulary.size, "qk_layernorm": True})


def add_markers(tokenizer, vocabulary: Vocabulary, folder: Path) -> None:
    """Add MARKERS to a text tokenizer.

    Raises:
        MismatchError: They do not get the checkpoint's ids.
    """
    tokenizer.add_special_tokens({"pad_token": MARKERS[0]})
    tokenizer.add_tokens(list(MARKERS[1:]))
    expected = {token: vocabulary.marker(token) for token in MARKERS}
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in MARKERS}
    for name in ("bos_token", "eos_token"):
        found[name] = getattr(tokenizer, f"{name}_id")
        known = found[name] is not None and found[name] < vocabulary.text
        expected[name] = found[name] if known else f"an id below {vocabulary.text}"
    check_ids(folder, expected, found)

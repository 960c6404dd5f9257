"""Show-o checkpoint folders: ids, language model, text tokenizer, each checked before use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PhiConfig

from arrag.utils.errors import ArragError
from arrag.utils.files import read_json

LLM = "llm"
"""Folder in a checkpoint with the text tokenizer and ``config.json`` of the language model."""


MARKERS = (
    "[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>",
    "<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>",
)  # fmt: skip
"""Tokens between the text's and the codes', in the order of their ids."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids of a Show-o checkpoint: text, markers, codes, mask, in this order.

    text: number of text ids (50295 in the published models); codes: V.
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
        """Id that stands for a code not known yet; the last one."""
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask + 1


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


def load_text_tokenizer(folder: Path, vocabulary: Vocabulary):
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

"""LlamaGen's text conditioning: captions, cleaned as in its training, through a T5 encoder."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_plus

import ftfy
import torch
from transformers import AutoTokenizer, T5EncoderModel

from arrag.backbones.prompt_checks import check_ids, check_prompts, warn_truncated
from arrag.utils.checkpoint import load_pretrained, loading
from arrag.utils.errors import UsageError

DASHES = "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
DASHES += "\ufe31\ufe32\ufe58\ufe63\uff0d"
DOMAINS = "com|co|ru|net|org|edu|gov|it"

# What is replaced, in this order; texts are in lower case by then.
BEFORE_TAGS = (
    (r"<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+\.(?:{DOMAINS})[\w/-]*\b/?(?!@))", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+\.(?:{DOMAINS})[\w/-]*\b/?(?!@))", ""),
)
AFTER_TAGS = (
    (r"@\w+\b", ""),  # names of users
    ("[\u31c0-\u9fff]+", ""),  # Chinese and other characters the encoder lacks
    (f"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # network addresses
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (r"\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\][}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
AFTER_ENTITIES = (
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),  # article numbers, three ways
    (r"\b[a-z]+\d+[a-z]+\b", ""),
    (r"\b\d+[a-z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(?:\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


class _Text(HTMLParser):
    """Collects the text between tags; character references are resolved."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def clean_caption(caption: str) -> str:
    """Clean a caption as LlamaGen does: lower case, without addresses, tags and article numbers.

    DeepFloyd IF's cleaning applied twice, as in LlamaGen's public code.
    """
    return _clean(_clean(caption))


def _clean(caption: str) -> str:
    def replace(text: str, rules: Sequence[tuple[str, str]]) -> str:
        return reduce(lambda text, rule: re.sub(*rule, text), rules, text)

    caption = replace(unquote_plus(caption).strip().lower(), BEFORE_TAGS)
    parser = _Text()
    parser.feed(caption)
    parser.close()
    caption = replace("".join(parser.parts), AFTER_TAGS)
    if len(re.findall(r"[-_]", caption)) > 3:  # words-joined-like-this
        caption = re.sub(r"[-_]", " ", caption)
    caption = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    return replace(caption, AFTER_ENTITIES).strip()


class CaptionEncoder:
    """A T5 encoder whose features are at the end of ``length`` positions."""

    def __init__(self, model: T5EncoderModel, tokenizer, length: int):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.length = tokenizer, length
        self.width: int = model.config.d_model

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of more than ``length`` tokens."""
        cleaned = [clean_caption(prompt) for prompt in prompts]
        lengths = [len(self.tokenizer(text, verbose=False).input_ids) for text in cleaned]
        return [p for p, length in zip(prompts, lengths, strict=True) if length > self.length]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts.

        Returns:
            Features [B, length, width], zero at padding, and the mask int64 [B, length].

        Raises:
            UsageError: A prompt is refused, or is empty after cleaning.
        """
        check_prompts(self.tokenizer, prompts)
        cleaned = [clean_caption(prompt) for prompt in prompts]
        for prompt, text in zip(prompts, cleaned, strict=True):
            if not text:
                found = "is empty without addresses, file names and Chinese characters, which the "
                found += "model's training captions did not have"
                raise UsageError(found, field=f"prompt {prompt!r}", hint="write it in words")
        warn_truncated(self.truncated_prompts(prompts), self.length)
        features, masks = zip(*map(self._encode, cleaned), strict=True)
        return torch.stack(features), torch.stack(masks)

    def _encode(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        # One at a time: rounding depends on the batch.
        ids = self.tokenizer(
            text, max_length=self.length, padding="max_length", padding_side="right",
            truncation=True, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        found = self.model(input_ids=ids.input_ids, attention_mask=ids.attention_mask)
        padding = self.length - int(ids.attention_mask.sum())
        features = found.last_hidden_state[0].roll(padding, 0)  # [length, width]
        mask = ids.attention_mask[0].flip(0)
        return features * mask[:, None], mask


def load_captions(folder: Path, dtype: str, length: int) -> CaptionEncoder:
    """Load the encoder of a T5 folder in transformers' format (LlamaGen's is flan-t5-xl)."""
    with loading(folder, "a T5 encoder with its tokenizer", "put google/flan-t5-xl there"):
        model = load_pretrained(T5EncoderModel, folder, dtype, leave_out=("decoder.", "lm_head."))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    expected = {"pad_token": model.config.pad_token_id}
    check_ids(folder, expected, {"pad_token": tokenizer.pad_token_id})
    return CaptionEncoder(model, tokenizer, length)

"""What every backbone asks of a prompt before it is tokenised, and before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from arrag.utils.errors import ArragError


def check_prompts(tokenizer, prompts: Sequence[str], markers: Sequence[str] = ()) -> None:
    """ArragError for a prompt that is empty, or holds a marker, or words that are not known.

    markers: those of the model; the tokenizer's own are added, but for single characters, which
    some tokenizers pad with. Any other text is taken by any tokenizer but one of whole words (the
    micro models').
    """
    own = [token for token in tokenizer.all_special_tokens if len(token) > 1]
    for prompt in prompts:
        if not prompt.strip():
            raise ArragError("prompt: empty; write what the image should show")
        if held := [token for token in (*markers, *own) if token in prompt]:
            raise ArragError(
                f"prompt {prompt!r}: holds {held[0]!r}, which is a marker of the model and no "
                "text; leave it out"
            )
        if bad := _unknown_words(tokenizer, prompt):
            known = ", ".join(sorted(w for w in tokenizer.get_vocab() if w.isalpha()))
            raise ArragError(
                f"prompt {prompt!r}: the model does not know {', '.join(map(repr, bad))}; "
                f"its words are: {known}"
            )


def _unknown_words(tokenizer, prompt: str) -> list[str]:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(core, "model", None)).__name__ != "WordLevel":
        return []
    words = prompt.split()
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    return [w for w, i in zip(words, ids, strict=True) if tokenizer.unk_token_id in i]


def check_lengths(prompts: Sequence[str], lengths: Sequence[int], image: int, context: int) -> None:
    """ArragError for a prompt that with its image is longer than the model's context.

    lengths: tokens of each prompt with what stands around it; image: tokens of an image.
    """
    for prompt, length in zip(prompts, lengths, strict=True):
        if length + image > context:
            raise ArragError(
                f"prompt {prompt[:60]!r}...: has {length} tokens, but the model's context of "
                f"{context} leaves {context - image} before an image of {image}; shorten it"
            )


def warn_truncated(prompts: Sequence[str], tokens: int) -> None:
    """Warn that of each of ``prompts`` only the first ``tokens`` tokens are read."""
    for prompt in prompts:
        warnings.warn(
            f"prompt {prompt!r}: longer than the {tokens} tokens that the model reads; its end is "
            "left out",
            stacklevel=4,
        )


def check_ids(where: object, expected: dict[str, int | None], found: dict[str, int | None]) -> None:
    """ArragError unless a tokenizer gives every name in ``expected`` the id expected of it."""
    wrong = [
        f"{name} is {found.get(name)}, expected {id}"
        for name, id in expected.items()
        if found.get(name) != id
    ]
    if wrong:
        raise ArragError(
            f"{where}: the tokenizer's ids are not the checkpoint's ({'; '.join(wrong)}); use the "
            "tokenizer that the checkpoint was trained with"
        )

"""Checks of prompts and text tokenizers that every backbone makes before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from arrag.utils.errors import MismatchError, UsageError


def check_prompts(tokenizer, prompts: Sequence[str], markers: Sequence[str] = ()) -> None:
    """Refuse prompts that the model cannot have been trained on.

    Args:
        tokenizer: The text tokenizer. Its special tokens are refused, but for those of a single
            character, which some tokenizers pad with. If it splits at words (as the micro models'
            do), so are unknown words.
        prompts: The prompts.
        markers: Further special tokens of the model.

    Raises:
        UsageError: A prompt is empty, or has a special token or an unknown word.
    """
    special = [*markers, *(token for token in tokenizer.all_special_tokens if len(token) > 1)]
    for prompt in prompts:
        field = f"prompt {prompt!r}"
        if not prompt.strip():
            raise UsageError("is empty", field="prompt", hint="write what the image should show")
        if found := [token for token in special if token in prompt]:
            message = f"contains the special token {found[0]!r}"
            raise UsageError(message, field=field, hint="remove it")
        if unknown := _unknown_words(tokenizer, prompt):
            known = ", ".join(sorted(w for w in tokenizer.get_vocab() if w.isalpha()))
            message = f"the model does not know {', '.join(map(repr, unknown))}"
            raise UsageError(message, field=field, hint=f"its words are: {known}")


def _unknown_words(tokenizer, prompt: str) -> list[str]:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(core, "model", None)).__name__ != "WordLevel":
        return []
    words = prompt.split()
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    return [w for w, i in zip(words, ids, strict=True) if tokenizer.unk_token_id in i]


def check_lengths(prompts: Sequence[str], lengths: Sequence[int], image: int, context: int) -> None:
    """Refuse prompts that with their image are longer than the model's context.

    ``lengths`` are of the prompts with their template; all three are numbers of tokens.

    Raises:
        UsageError: A prompt is too long.
    """
    for prompt, length in zip(prompts, lengths, strict=True):
        if length + image > context:
            found = f"has {length} tokens, of which at most {context - image} fit beside an image"
            raise UsageError(found, field=f"prompt {prompt[:60]!r}...", hint="shorten it")


def warn_truncated(prompts: Sequence[str], tokens: int) -> None:
    """Warn that only the first ``tokens`` tokens of each of ``prompts`` are read."""
    for prompt in prompts:
        warnings.warn(f"prompt {prompt!r}: truncated to the model's {tokens} tokens", stacklevel=4)


def check_ids(path: Path, expected: dict[str, int | str | None], found: dict[str, int]) -> None:
    """Check that a tokenizer gives each name in ``expected`` the id expected of it.

    Raises:
        MismatchError: An id differs.
    """
    wrong = {name: id for name, id in expected.items() if found.get(name) != id}
    if wrong:
        ids = "; ".join(f"{name} is {found.get(name)}, expected {id}" for name, id in wrong.items())
        message = f"the tokenizer's ids are not the checkpoint's ({ids})"
        hint = "use the tokenizer that the checkpoint was trained with"
        raise MismatchError(message, path=path, hint=hint)

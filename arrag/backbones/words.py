"""What every backbone asks of a prompt before it is tokenised."""

from __future__ import annotations

from collections.abc import Sequence

from arrag.errors import ArragError


def check_words(tokenizer, prompts: Sequence[str]) -> None:
    """ArragError for an empty prompt, or for words that a word-level tokenizer does not know.

    A tokenizer without a token for unknown words knows them all; nothing is checked then.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    for prompt in prompts:
        if not prompt.strip():
            raise ArragError("prompt: empty; write what the image should show")
        words = prompt.split()
        ids = [tokenizer(w, add_special_tokens=False).input_ids for w in words]
        bad = [w for w, i in zip(words, ids, strict=True) if unknown in i]
        if bad:
            known = ", ".join(sorted(w for w in tokenizer.get_vocab() if w.isalpha()))
            raise ArragError(
                f"prompt {prompt!r}: the model does not know {', '.join(map(repr, bad))}; "
                f"its words are: {known}"
            )

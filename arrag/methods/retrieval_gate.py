"""Who tells ImageRAG what the first image lacks, in the place of GPT-4o.

The answers of a model are recorded beforehand, about the images that the same pipeline draws
without a reference with the same settings and seed; which model it was is the user's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from arrag.config.generators import Always, Recorded
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file
from arrag.utils.readers import parse_json

SHOWN = 3
"""Prompts named in an error."""


class RetrievalGate(Protocol):
    """label: what replaced GPT-4o; digest: of the answers, None if there are none."""

    label: str
    digest: str | None

    def caption(self, prompt: str, sample: int) -> str | None:
        """What to retrieve for an image; None if it shows what it should."""

    def captions(self, prompt: str) -> set[str | None]:
        """``caption`` of any sample."""

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """ArragError unless ``samples`` images of each prompt can be judged."""


class AlwaysRetrieve:
    """No judge: the prompt itself retrieves."""

    label = "no judge, always the image nearest to the prompt"
    digest = None

    def caption(self, prompt: str, sample: int) -> str:
        """The prompt."""
        return prompt

    def captions(self, prompt: str) -> set[str | None]:
        """The prompt."""
        return {prompt}

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """Any will do."""


class RecordedAnswers:
    """Answers of a file of JSON lines: ``{"prompt", "sample", "caption"}``.

    Prompts are named by their text, as the random streams are. Without ``sample`` an answer is for
    all samples; ``caption`` null: the image shows what it should. Raises ArragError, naming file
    and line, for a line of another form or a second answer.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self.path, self.label = Path(path), f"recorded answers of {name}"
        self._answers: dict[tuple[str, int | None], str | None] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            raise ArragError(
                f"judge.answers: {path} cannot be read ({error}); record the answers of a model, "
                "or use a judge of kind `always`"
            ) from None
        self.digest = sha256_file(self.path)
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._add(number, line)

    def _add(self, number: int, line: str) -> None:
        where = f"judge.answers: {self.path}:{number}"
        try:
            answer = parse_json(line)
        except ValueError as error:
            raise ArragError(f"{where}: no JSON ({error}); correct that line") from None
        if not isinstance(answer, dict) or set(answer) - {"prompt", "sample", "caption"}:
            raise ArragError(f"{where}: expected an object of `prompt`, `sample` and `caption`")
        prompt, sample = answer.get("prompt"), answer.get("sample")
        caption = answer.get("caption", 0)
        told = caption is None or (isinstance(caption, str) and caption.strip())
        counted = sample is None or (type(sample) is int and sample >= 0)
        if not isinstance(prompt, str) or not counted or not told:
            raise ArragError(
                f"{where}: `prompt` must be a text, `sample` a number from 0 or left out, "
                "`caption` a text or null; correct that line"
            )
        if (prompt, sample) in self._answers:
            raise ArragError(f"{where}: a second answer for {prompt!r}; keep one")
        self._answers[prompt, sample] = caption

    def caption(self, prompt: str, sample: int) -> str | None:
        """The answer about an image; ArragError if there is none."""
        for key in ((prompt, sample), (prompt, None)):
            if key in self._answers:
                return self._answers[key]
        raise ArragError(
            f"judge.answers: {self.path} holds no answer for sample {sample} of {prompt!r}; record "
            "one"
        )

    def captions(self, prompt: str) -> set[str | None]:
        """The answers about any sample of a prompt."""
        return {caption for (text, _), caption in self._answers.items() if text == prompt}

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """ArragError, with how many and the first, if images have no answer."""
        known = self._answers
        missing = [
            prompt
            for prompt in prompts
            if (prompt, None) not in known and any((prompt, i) not in known for i in range(samples))
        ]
        if missing:
            shown = ", ".join(repr(prompt) for prompt in missing[:SHOWN])
            raise ArragError(
                f"judge.answers: {self.path} lacks answers for {len(missing)} of {len(prompts)} "
                f"prompts ({shown}{', ...' if len(missing) > SHOWN else ''}); record them for "
                f"{samples} samples each"
            )


def open_gate(settings: Always | Recorded) -> RetrievalGate:
    """The judge that a configuration names."""
    if settings.kind == "always":
        return AlwaysRetrieve()
    return RecordedAnswers(settings.answers, settings.name)

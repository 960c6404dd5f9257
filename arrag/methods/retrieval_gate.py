"""ImageRAG's decision which images need a reference and what it should show, instead of GPT-4o.

A model's answers are recorded beforehand, about the images that the same pipeline generates without
a reference from the same settings and seed. The configuration says which model it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, ValidationError

from arrag.config.generators import Always, Recorded
from arrag.utils.errors import FormatError, MissingError
from arrag.utils.hashing import sha256_file
from arrag.utils.readers import numbered_lines, parse_json, read_text

FIELD = "judge.answers"
SHOWN = 3
"""Prompts named in an error."""


class RetrievalGate(Protocol):
    """Decides about the reference of each image.

    Attributes:
        label: What replaces GPT-4o.
        digest: Of the recorded answers; None if there are none.
    """

    label: str
    digest: str | None

    def caption(self, prompt: str, sample: int) -> str | None:
        """What the reference of an image should show; None if it needs none."""

    def captions(self, prompt: str) -> set[str | None]:
        """``caption`` of all samples of a prompt."""

    def check_prompts(self, prompts: Sequence[str], samples: int) -> None:
        """Raise ArragError unless there is a decision about ``samples`` images of each prompt."""


class AlwaysRetrieve:
    """Every image gets a reference, which the prompt itself retrieves."""

    label = "no judge, always the image nearest to the prompt"
    digest = None

    def caption(self, prompt: str, sample: int) -> str:
        """The prompt."""
        return prompt

    def captions(self, prompt: str) -> set[str | None]:
        """The prompt."""
        return {prompt}

    def check_prompts(self, prompts: Sequence[str], samples: int) -> None:
        """Accept any prompt."""


class Answer(BaseModel):
    """What a model said about the images of a prompt: one line of a file of answers.

    Attributes:
        prompt: Text of the prompt, which also seeds its images.
        sample: Number of the image; None for all of them.
        caption: What the image lacks; None if it shows what it should.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    sample: NonNegativeInt | None = None
    caption: Annotated[str, StringConstraints(pattern=r"\S")] | None


class RecordedAnswers:
    """The answers in a file of JSON lines, each an :class:`Answer`.

    Args:
        path: The file.
        name: The model that answered.

    Raises:
        FormatError: A line is no answer, or the second one about an image.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self.path, self.label = Path(path), f"recorded answers of {name}"
        self._captions: dict[tuple[str, int | None], str | None] = {}
        hint = "record the answers of a model, or use a judge of kind `always`"
        text = read_text(path, FIELD, hint)
        self.digest = sha256_file(self.path)
        for number, line in numbered_lines(text):
            try:
                answer = Answer.model_validate(parse_json(line))
            except ValueError as error:
                raise self._bad_line(number, error) from None
            key = (answer.prompt, answer.sample)
            if key in self._captions:
                raise self._bad_line(number, ValueError(f"a second answer for {answer.prompt!r}"))
            self._captions[key] = answer.caption

    def _bad_line(self, number: int, error: ValueError) -> FormatError:
        message, field = str(error), f"line {number}"
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            message = first["msg"]
            field = ".".join([field, *map(str, first["loc"][:1])])
        return FormatError(message, path=self.path, field=field, hint="correct that line")

    def caption(self, prompt: str, sample: int) -> str | None:
        """What the reference of an image should show; None if it needs none.

        Raises:
            MissingError: There is no answer about the image.
        """
        for key in ((prompt, sample), (prompt, None)):
            if key in self._captions:
                return self._captions[key]
        raise MissingError(
            f"contains no answer about sample {sample} of {prompt!r}",
            path=self.path,
            field=FIELD,
            hint="record one",
        )

    def captions(self, prompt: str) -> set[str | None]:
        """``caption`` of all samples of a prompt."""
        return {caption for (text, _), caption in self._captions.items() if text == prompt}

    def check_prompts(self, prompts: Sequence[str], samples: int) -> None:
        """Raise MissingError, with their number and the first, if prompts have no answer."""
        known = self._captions
        missing = [
            prompt
            for prompt in prompts
            if (prompt, None) not in known and any((prompt, i) not in known for i in range(samples))
        ]
        if missing:
            shown = ", ".join(repr(prompt) for prompt in missing[:SHOWN])
            more = ", ..." if len(missing) > SHOWN else ""
            raise MissingError(
                f"contains no answers about {len(missing)} of {len(prompts)} prompts "
                f"({shown}{more})",
                path=self.path,
                field=FIELD,
                hint=f"record them for {samples} samples each",
            )


def open_gate(settings: Always | Recorded) -> RetrievalGate:
    """Open the gate that a configuration calls its ``judge``."""
    if settings.kind == "always":
        return AlwaysRetrieve()
    return RecordedAnswers(settings.answers, settings.name)

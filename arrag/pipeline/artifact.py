"""One entry of the plan: an artifact, what its job reads, and the arguments of its command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Inputs = dict[str, "str | list[str]"]


@dataclass(frozen=True)
class Artifact:
    """A file that one job makes, or the last file of a folder.

    Attributes:
        kind: What it is: ``codes``, ``samples``, ``table``.
        inputs: What the job reads, by name. A newer input makes the artifact again.
        given: Likewise, but only its presence counts: its digest is in the artifact's name.
        arguments: Arguments of the command, by name.
        method: The first method that needs it, for a command that reads the configuration.
        parts: Files of the jobs that share the work before this one completes it.
    """

    kind: str
    inputs: Inputs = field(default_factory=dict)
    given: Inputs = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    parts: list[str] = field(default_factory=list)

    def paths(self, given: bool) -> list[str]:
        """All paths of ``inputs``, or of ``given``."""
        found = (self.given if given else self.inputs).values()
        return [p for value in found for p in (value if isinstance(value, list) else [value])]


def options(settings: Mapping[str, Any]) -> str:
    """Write settings as options of the command line: ``{"level": 4}`` is ``--level 4``.

    What is None or False is left out, True has no value, a tuple is an option of several values, a
    list repeats its option.
    """
    words = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                values = one if isinstance(one, tuple) else () if one is True else (one,)
                words += [option, *map(str, values)]
    return shlex.join(words)

"""Verdicts of an unfinished scoring run, as JSON lines, so that the same command continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arrag.utils.readers import parse_json
from arrag.utils.resource_errors import disk_space


class ResumeLog:
    """Results by key in a file next to the final one; ``remove`` it when the score is written.

    The first line is the identity, and every entry begins with a line feed, so that a line torn by
    a kill never merges with the next. A log of another identity is started anew.

    Args:
        path: The file; None keeps the results in memory only.
        identity: JSON-able; everything that the results depend on: judge, questions, rules.
    """

    def __init__(self, path: Path | None, identity: Any) -> None:
        self.path = path
        self._head = json.dumps(identity, sort_keys=True)
        self._done: dict[str, Any] = {}
        try:
            head, *lines = path.read_text(encoding="utf-8").split("\n") if path else [""]
        except (OSError, UnicodeDecodeError):
            head, lines = "", []
        self._fresh = head != self._head
        for line in [] if self._fresh else lines:
            try:
                key, result = parse_json(line)
                self._done[key] = result
            except (ValueError, TypeError):  # a torn line
                continue

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __getitem__(self, key: str) -> Any:
        return self._done[key]

    def add(self, entries: dict[str, Any]) -> None:
        """Append results and hand them to the operating system at once."""
        self._done |= entries
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with disk_space(self.path), open(self.path, "w" if self._fresh else "a") as handle:
            handle.write(self._head if self._fresh else "")
            handle.writelines("\n" + json.dumps(entry) for entry in entries.items())
        self._fresh = False

    def remove(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

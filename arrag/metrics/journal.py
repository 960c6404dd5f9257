"""What long judging has done so far: JSON lines that let the same command go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arrag.utils.readers import parse_json
from arrag.utils.resource_errors import disk_space


class Journal:
    """Results by key in a file beside the final one; ``finish`` removes it.

    ``identity`` (JSON) says what the results depend on: judge, questions, rules. A journal of
    another identity is not used but started anew; a torn last line is as good as absent.
    """

    def __init__(self, path: str | Path, identity: Any) -> None:
        self.path = Path(path)
        self._done: dict[str, Any] = {}
        head = json.dumps(identity, sort_keys=True)
        lines = self._lines()
        self._fresh = not lines or lines[0] != head
        self._head = head
        if not self._fresh:
            for entry in map(parse_json, lines[1:]):
                if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
                    self._done[entry[0]] = entry[1]

    def _lines(self) -> list[str]:
        """The lines that are whole JSON."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return []
        whole = []
        for line in text.split("\n"):
            try:
                parse_json(line)
            except ValueError:
                continue
            whole.append(line)
        return whole

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __getitem__(self, key: str) -> Any:
        return self._done[key]

    def add(self, entries: dict[str, Any]) -> None:
        """Append results and hand them to the operating system at once."""
        self._done |= entries
        if self._fresh:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with disk_space(self.path), open(self.path, "w" if self._fresh else "a") as handle:
            if self._fresh:
                handle.write(self._head + "\n")
            elif not self._ends_whole():
                handle.write("\n")
            handle.writelines(json.dumps(entry) + "\n" for entry in entries.items())
        self._fresh = False

    def _ends_whole(self) -> bool:
        with open(self.path, "rb") as handle:
            handle.seek(-1, 2)
            return handle.read(1) == b"\n"

    def finish(self) -> None:
        """Remove the file: the final result is written."""
        self.path.unlink(missing_ok=True)

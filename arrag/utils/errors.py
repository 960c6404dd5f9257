"""The errors that a user is meant to see.

The command line prints such an error on one line and exits with status 2. Any other exception is a
defect of arrag and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ArragError(Exception):
    """A mistake that the user can mend: wrong input, or a machine that lacks something.

    Its text is ``path: field: message; hint``, without the parts that are None. Raise one of the
    subclasses where one fits, and pass the parts apart, so that callers and tests need not parse
    the text.

    Args:
        message: What was found, and what was expected.
        path: The file or folder at fault.
        field: The field, column, option or line at fault.
        hint: What to do about it.
    """

    def __init__(
        self,
        message: object,
        *,
        path: str | Path | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        where = "".join(f"{part}: " for part in (path, field) if part is not None)
        super().__init__(f"{where}{message}" + (f"; {hint}" if hint else ""))
        self.message = str(message)
        self.path = None if path is None else Path(path)
        self.field = field
        self.hint = hint


class ConfigError(ArragError):
    """A configuration file, or a value in it, is invalid."""

    _mistakes: tuple[ConfigError, ...] = ()

    @property
    def mistakes(self) -> tuple[ConfigError, ...]:
        """One error for each mistake; this error if there is only one."""
        return self._mistakes or (self,)

    @classmethod
    def of(cls, mistakes: Sequence[ConfigError], path: str | Path | None = None) -> ConfigError:
        """One error for all mistakes of a file."""
        if len(mistakes) == 1:
            (only,) = mistakes
            return cls(only.message, path=path, field=only.field, hint=only.hint)
        numbered = "; ".join(f"({i}) {one}" for i, one in enumerate(mistakes, start=1))
        error = cls(f"{len(mistakes)} mistakes: {numbered}", path=path)
        error._mistakes = tuple(mistakes)
        return error


class UsageError(ArragError):
    """The arguments of a command or function do not fit together."""


class MissingError(ArragError):
    """A file, folder, package or service that is needed is absent."""


class FormatError(ArragError):
    """A file is damaged, or is not of the expected format."""


class MismatchError(ArragError):
    """Two artifacts do not belong together: another tokenizer, model, grid, settings or digest."""


class OutputError(ArragError):
    """An output would replace something that arrag did not write."""


class ResourceError(ArragError):
    """The machine lacks memory, disk space or a device."""


class UnknownNameError(ArragError):
    """A name that no registry or configuration has; ``hint`` gives the nearest ones."""

"""Assert that an operation is refused with an error of a class, about a file and a field."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arrag.utils.errors import ArragError


@contextmanager
def refused(
    kind: type[ArragError] = ArragError, *, path: str | Path | None = None, field: str | None = None
) -> Iterator[pytest.ExceptionInfo]:
    """Like ``pytest.raises``; also check ``path`` and ``field`` where they are given."""
    with pytest.raises(kind) as caught:
        yield caught
    if path is not None:
        assert caught.value.path == Path(path)
    if field is not None:
        assert caught.value.field == field

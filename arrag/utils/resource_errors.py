"""What a machine can lack, as one line for the user: memory, or room on the disk."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arrag.utils.errors import ResourceError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk; to a user, a used-up quota and a limit on the size of files are the same."""
NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)
"""What torch, FAISS, the dynamic loader and Python write in errors that have no type for it."""


@contextmanager
def translate_resource_errors(
    what: object, hint: str = "give it more memory, and run it again"
) -> Iterator[None]:
    """Turn an out-of-memory or full-disk error of any library into a ResourceError.

    Args:
        what: The output or command that failed.
        hint: What to lower when memory runs out.
    """
    try:
        with disk_space(str(what)):
            yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        detail = (str(error).strip().splitlines() or ["no details"])[-1]
        raise ResourceError(f"out of memory ({detail})", path=str(what), hint=hint) from None


@contextmanager
def disk_space(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk into a ResourceError that names the output."""
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise ResourceError(
            "the disk is full, or a quota or limit is reached",
            path=path,
            hint="free some space or write elsewhere (complete files there are intact)",
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that memory, of the machine or a GPU, ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(x in text for x in NO_MEMORY)


def _is_disk_full(error: Exception) -> bool:
    text = str(error)
    if isinstance(error, OSError):  # NumPy's own error of a short write has no number
        return error.errno in NO_SPACE or (error.errno is None and "requested and" in text)
    # torch.save's error of a short write, and safetensors', which quotes the system.
    return (isinstance(error, RuntimeError) and "unexpected pos" in text) or any(
        text.endswith(f"(os error {number})") for number in NO_SPACE
    )

"""What a machine can lack, as one line for its user: memory, or room on the disk."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Iterator
from contextlib import contextmanager

from arrag.utils.errors import ArragError
from arrag.utils.files import disk_space

NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)
"""What torch, FAISS, the loader of libraries and Python say in errors of no type of their own."""


@contextmanager
def translate_resource_errors(args: argparse.Namespace) -> Iterator[None]:
    """Turn the machine's faults during a command into an ArragError; other errors go through."""
    what = getattr(args, "out", None) or getattr(args, "stage", "arrag")
    try:
        with disk_space(what):
            yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ArragError(f"{what}: {_out_of_memory(args, error)}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that there is no memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    found = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(x in found for x in NO_MEMORY)


def _out_of_memory(args: argparse.Namespace, error: Exception) -> str:
    """What ran out and what to lower."""
    said = str(error).strip().splitlines()
    told = f"out of memory in `{getattr(args, 'stage', 'arrag')}` ({(said or ['no more'])[-1]})"
    if not hasattr(args, "batch_size"):
        return f"{told}; give it more memory, and run it again"
    now = f", now {args.batch_size}" if args.batch_size else ""
    field = getattr(args, "batch_field", None)
    where = f" or resources.{field} of the configuration" if field else ""
    return f"{told}; take fewer images at a time (--batch-size{now}{where}) or give more memory"

"""Taking turns: commands that write one result, and runs of the workflow in one folder.

The kernel keeps these locks and ends them with their holder, also when that is killed: nobody has
to unlock anything. A file system without locks has none, and nobody waits there. No torch here.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arrag.utils.files import clear_leftovers


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Write a result as its only writer: wait for another process that writes it.

    Whoever waited finds what the other made. What killed writers left beside ``path`` is removed.
    """
    path = Path(os.path.abspath(path))
    lock = path.with_name(f".{path.name}.lock")
    handle = _held(lock, f"{path} is being written by another process; waiting for its end")
    try:
        clear_leftovers(path)
        yield
    finally:
        if handle is not None:
            lock.unlink(missing_ok=True)
            os.close(handle)


def _held(lock: Path, why: str) -> int | None:
    """A descriptor that holds the lock on a file; None where there can be none."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None  # not to be written: the command itself says what is wrong
        try:
            _wait_for(handle, why)
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        except FileNotFoundError:
            pass  # removed by the holder that was waited for
        except OSError:
            os.close(handle)
            return None
        os.close(handle)


def _wait_for(handle: int, why: str) -> None:
    """Lock an open file; ``why`` is said if another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"arrag: {why}", file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)


class Turn:
    """A run's turn in a folder of results: one run works there, another waits, then plans anew.

    Two runs at once would make the same results, and each delete what the other is reading.
    Snakemake's own lock outlives a killed run, and somebody has to remove it. Make a Turn before
    the run is planned, ``take`` it before the first job.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._planned_after = self._last()

    def take(self) -> None:
        """Wait until no other run works; start anew if one has worked since this was planned."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            _wait_for(self._handle, f"{self._another()} works in this folder; waiting")
        except OSError:  # a file system without locks
            return
        if self._last() != self._planned_after:
            sys.stdout.flush()
            sys.stderr.flush()
            os.execv(sys.executable, sys.orig_argv)  # the lock ends here
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()} {time.time_ns()}".encode(), 0)

    def _another(self) -> str:
        return f"another run (process {self._last().partition(' ')[0]})"

    def _last(self) -> str:
        """Who worked here last, and since when."""
        try:
            return self.path.read_text()
        except OSError:
            return ""

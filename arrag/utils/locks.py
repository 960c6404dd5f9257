"""Locks between processes: one writer for each result, one workflow run in each folder.

The operating system keeps these locks and ends them with their holder, also when it is killed:
nobody has to unlock anything. On a file system without locks there are none, and nobody waits. No
torch here.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from arrag.utils.outputs import clear_leftovers


class _Held(threading.local):
    """Outputs that the thread has locked."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()


_held = _Held()


def _acquire(path: Path, message: str) -> FileLock | None:
    """Take the lock file ``path``, printing ``message`` before waiting; None where there is none.

    That is: the folder cannot be written, or the file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"arrag: {message}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError:
        return None
    return lock


@contextmanager
def output_lock(path: str | Path) -> Iterator[None]:
    """Be the only writer of a result: wait for another process that writes it.

    The one that waited finds what the other made. Temporary files that killed writers left are
    removed. The thread that holds the lock may take it again.
    """
    path = Path(os.path.abspath(path))
    if path in _held.paths:
        yield
        return
    file = path.with_name(f".{path.name}.lock")
    lock = _acquire(file, f"{path} is being written by another process; waiting for its end")
    _held.paths.add(path)
    try:
        clear_leftovers(path)
        yield
    finally:
        _held.paths.discard(path)
        if lock is not None:
            file.unlink(missing_ok=True)  # those that wait notice, and lock a new one
            lock.release()


class RunLock:
    """One workflow run at a time in a folder of results; the next one plans anew.

    Two runs at once would make the same results, and each delete what the other is reading.
    Snakemake's own lock outlives a killed run, and somebody has to remove it.

    Create it before the workflow is planned, ``acquire`` it before the first job.

    Args:
        path: A file that holds the process and time of the last run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock_path = self.path.with_name(f"{self.path.name}.lock")
        # What is planned while another run works is out of date when that run ends.
        self._last_when_planned = None if self._is_taken() else self._last_run()

    def acquire(self) -> None:
        """Wait until no other run works; restart if one has worked since this one was planned."""
        other = f"another run (process {self._last_run().partition(' ')[0]})"
        self._lock = _acquire(self._lock_path, f"{other} works in this folder; waiting")
        if self._lock is None:
            return
        if self._last_run() != self._last_when_planned:
            sys.stdout.flush()
            sys.stderr.flush()
            os.execv(sys.executable, sys.orig_argv)  # the lock ends here
        self.path.write_text(f"{os.getpid()} {time.time_ns()}")

    def _is_taken(self) -> bool:
        try:
            with FileLock(self._lock_path, blocking=False, fallback_to_soft=False):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def _last_run(self) -> str:
        try:
            return self.path.read_text()
        except OSError:
            return ""

"""GPUs of one machine, shared by jobs that know nothing of each other.

``ARRAG_GPUS=0,1,2,3`` names them, as ``CUDA_VISIBLE_DEVICES`` would: numbers, or ``GPU-...``. A
process that runs a model takes as many as it needs by a lock on a file for each. The kernel lets go
of a lock when the last process that holds it is gone, killed or not. A cluster's scheduler assigns
GPUs by itself; the variable is then not set, and nothing here happens.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import sys
import tempfile
import time
from pathlib import Path

from arrag.utils.errors import ArragError

VARIABLE = "ARRAG_GPUS"
SECONDS = 1.0  # between two looks for a free one


def take(count: int = 1) -> list[str]:
    """Take ``count`` of the GPUs that ``ARRAG_GPUS`` names, for as long as this process lives.

    Waits until so many are free, and takes none of them before. Sets ``CUDA_VISIBLE_DEVICES`` to
    those taken and removes ``ARRAG_GPUS``, so that child processes use the same ones; they hold
    them too. Must come before CUDA is asked anything. Returns the names taken, [] when the variable
    is not set. Raises ArragError for a list that cannot be read or is too short.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return []
    names = named(text)
    if count > len(names):
        raise ArragError(
            f"{VARIABLE}: {len(names)} GPUs are named ({text}), and this wants {count}; name more, "
            "or ask for fewer"
        )
    folder, waiting = lock_folder(), False
    while (taken := _take_now(folder, names, count)) is None:
        if not waiting:
            print(f"waiting for {count} of the GPUs {text}", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(SECONDS)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers as nvidia-smi has them
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    del os.environ[VARIABLE]
    return taken


def named(text: str) -> list[str]:
    """The GPUs of a value of ``ARRAG_GPUS``; ArragError if it is no such list."""
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise ArragError(
            f"{VARIABLE}: found '{text}'; wanted different GPUs with commas between them, as in 0,1"
        )
    return names


def lock_folder() -> Path:
    """This user's folder of locks, of which no other user can make another folder."""
    folder = Path(tempfile.gettempdir()) / f"arrag-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ArragError(f"{folder}: is not a folder of yours; remove it, or set TMPDIR")
    return folder


def _take_now(folder: Path, names: list[str], count: int) -> list[str] | None:
    """``count`` free ones; None, and nothing taken, if there are fewer."""
    taken: dict[str, int] = {}
    for name in names:
        handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        taken[name] = handle
        if len(taken) == count:
            for held in taken.values():  # never closed: the lock is for life, and for what it execs
                os.set_inheritable(held, True)
            return list(taken)
    for handle in taken.values():
        os.close(handle)
    return None

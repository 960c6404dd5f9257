"""The device models run on, and sharing the GPUs of one machine among jobs.

``ARRAG_GPUS=0,1,2,3`` names GPUs as ``CUDA_VISIBLE_DEVICES`` would: numbers, or ``GPU-...``. A
process that runs a model takes as many as it needs by a lock on a file for each. The system lets go
of a lock when the last process that holds it is gone, killed or not. A cluster's scheduler assigns
GPUs by itself; the variable is then not set, and nothing here happens.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from filelock import lock_descriptor

from arrag.utils.errors import OutputError, UsageError

GPUS = "ARRAG_GPUS"
POLL_SECONDS = 1.0
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt (malloc.h)


def default_device() -> str:
    """``"cuda"`` if there is a GPU, else ``"cpu"``; takes one of ``ARRAG_GPUS`` if that is set."""
    import torch  # here: the workflow reads modules that only name this function

    acquire_gpus()
    if torch.cuda.is_available():
        return "cuda"
    keep_freed_memory()
    return "cpu"


@cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next ones.

    glibc gives large arrays back to the kernel, which hands them out again page by page, filled
    with zeros: half of the time of drawing 64 images with Show-o. Other libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_TOP_PAD, 64 << 20)  # bytes asked for beyond what is needed


def acquire_gpus(count: int = 1) -> list[str]:
    """Take GPUs named by ``ARRAG_GPUS`` for as long as this process and its children live.

    Waits until ``count`` are free, and takes none of them before. Sets ``CUDA_VISIBLE_DEVICES`` to
    those taken and removes ``ARRAG_GPUS``, so that child processes use the same ones. Must come
    before CUDA is initialized.

    Returns:
        The names taken; none when the variable is not set.

    Raises:
        UsageError: The list cannot be read, or is shorter than ``count``.
    """
    text = os.environ.get(GPUS)
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise UsageError(f"found {text!r}", field=GPUS, hint="name different GPUs, as in 0,1")
    if count > len(names):
        raise UsageError(
            f"names {len(names)} GPUs ({text}), and {count} are wanted",
            field=GPUS,
            hint="name more, or ask for fewer",
        )
    folder, waiting = _lock_folder(), False
    while (taken := _acquire_now(folder, names, count)) is None:
        if not waiting:
            print(f"waiting for {count} of the GPUs {text}", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(POLL_SECONDS)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers as nvidia-smi has them
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    del os.environ[GPUS]
    return taken


def _lock_folder() -> Path:
    """This user's folder of locks, which no other user can replace."""
    folder = Path(tempfile.gettempdir()) / f"arrag-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OutputError("is not a folder of yours", path=folder, hint="remove it, or set TMPDIR")
    return folder


def _acquire_now(folder: Path, names: list[str], count: int) -> list[str] | None:
    """``count`` free ones; None, and nothing taken, if there are fewer."""
    taken: dict[str, int] = {}
    for name in names:
        handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not lock_descriptor(handle, blocking=False):
            os.close(handle)
            continue
        taken[name] = handle
        if len(taken) == count:
            for held in taken.values():  # never closed: held for life, and through exec
                os.set_inheritable(held, True)
            return list(taken)
    for handle in taken.values():
        os.close(handle)
    return None

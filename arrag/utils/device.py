"""Where models run when nobody says otherwise."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def default_device() -> str:
    """The accelerator if there is one, else ``cpu``.

    Which of several accelerators is not this function's question: a scheduler says it by
    ``CUDA_VISIBLE_DEVICES``, and on one machine :func:`arrag.utils.gpus.take` finds a free one.
    """
    import torch  # here: the workflow reads modules that only name this function

    from arrag.utils.gpus import take

    take()
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
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_TOP_PAD, 64 << 20)  # bytes asked for beyond what is needed

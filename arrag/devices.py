"""Where models run when nobody says otherwise."""

from __future__ import annotations


def default_device() -> str:
    """The accelerator if there is one, else ``cpu``.

    Which of several accelerators is not this function's question: a scheduler says it by
    ``CUDA_VISIBLE_DEVICES``, and on one machine :func:`arrag.gpus.take` finds a free one.
    """
    import torch  # here: the workflow reads modules that only name this function

    from arrag.gpus import take

    take()
    return "cuda" if torch.cuda.is_available() else "cpu"

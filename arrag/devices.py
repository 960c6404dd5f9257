"""Where models run when nobody says otherwise."""

from __future__ import annotations


def default_device() -> str:
    """The accelerator if there is one, else ``cpu``.

    Which accelerator is CUDA's own question: a job that may use one GPU of several is given it by
    ``CUDA_VISIBLE_DEVICES``.
    """
    import torch  # here: the workflow reads modules that only name this function

    return "cuda" if torch.cuda.is_available() else "cpu"

"""What a run makes, where it is, and whether it is right.

``layout`` names every result by what shapes its contents. ``plan`` lists the artifacts of a
configuration with their inputs and the arguments of their commands; the rules in ``workflow/``
look theirs up in it. ``records`` and ``verify`` keep and check digests, ``doctor`` says whether a
run can start, ``assets`` makes what is downloaded or converted. May import every package but
``report`` and ``cli``; torch only inside functions, because the workflow reads this at every start.
Start reading at ``plan``.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Artifact": "artifact",
    "Layout": "layout",
    "Plan": "plan",
    "Record": "records",
    "Verifier": "verify",
    "examine": "doctor",
    "make_asset": "assets",
    "read_record": "records",
    "write_record": "records",
}
__all__ = list(_MODULES)  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

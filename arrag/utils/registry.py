"""Named implementations of one interface: backbones, tokenizers, methods, metrics, judges, sources.

A registry maps names to objects. An entry is either registered by the decorator ``register``, or
listed as ``"module:attribute"`` and imported when it is first asked for, so that reading a registry
imports no slow library.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from arrag.utils.errors import UnknownNameError, UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named implementations.

    Args:
        kind: What the entries are, for messages: ``"backbone"``.
        lazy: Entries by name as ``"package.module:attribute"``, imported on first use.
    """

    def __init__(self, kind: str, lazy: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._lazy = dict(lazy or {})
        self._loaded: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate an implementation to add it under ``name``.

        Raises:
            ValueError: Another implementation has the name.
        """

        def add(implementation: T) -> T:
            module = getattr(implementation, "__module__", None)
            lazy = self._lazy.get(name, f"{module}:").partition(":")[0]
            if self._loaded.get(name, implementation) is not implementation or lazy != module:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._loaded[name] = implementation
            return implementation

        return add

    def get(self, name: str) -> T:
        """Return the implementation called ``name``, imported if need be.

        Raises:
            UnknownNameError: No entry has the name; the hint gives the nearest names.
        """
        if name not in self._loaded:
            module, _, attribute = self._target(name).partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def _target(self, name: str) -> str:
        if name not in self._lazy:
            raise unknown_name(self.kind, name, self)
        return self._lazy[name]

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._lazy

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._lazy, *self._loaded}))

    def __len__(self) -> int:
        return len({*self._lazy, *self._loaded})


def import_registering(module: str) -> None:
    """Import a module that registers an implementation of one's own.

    Raises:
        UsageError: The module cannot be imported.
    """
    try:
        import_module(module)
    except ImportError as error:
        hint = "give the dotted name of a module that Python finds"
        raise UsageError(f"cannot import {module} ({error})", field="module", hint=hint) from None


def nearest(name: str, names: Any) -> str:
    """A hint for an unknown name: the nearest of ``names``, or all of them if none is near."""
    names = sorted(map(str, names))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names) or 'none'}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is none of ``known``; its hint gives the nearest ones."""
    return UnknownNameError(f"unknown {kind} '{name}'", field=kind, hint=nearest(name, known))

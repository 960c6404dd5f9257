"""Turns what pydantic finds wrong in a file into one sentence a person can act on."""

from __future__ import annotations

import difflib
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from arrag.utils.errors import ArragError


def unknown_choice(what: str, found: str, known: list[str]) -> ArragError:
    """``no such method 'diad'; did you mean 'daid'? There are vanilla, daid``."""
    return ArragError(f"no such {what} '{found}'{_hint(found, known)} (known: {', '.join(known)})")


def explain(error: ValidationError, path: Path, model: type[BaseModel]) -> ArragError:
    """One ArragError for all mistakes that pydantic found in the file ``path``."""
    lines = sentences(error, model)
    if len(lines) == 1:
        return ArragError(f"{path}: {lines[0]}")
    numbered = "; ".join(f"({i}) {line}" for i, line in enumerate(lines, start=1))
    return ArragError(f"{path}: {len(lines)} mistakes: {numbered}")


def sentences(error: ValidationError, model: type[BaseModel], at: str = "") -> list[str]:
    """A sentence for each mistake in a ``model``, which stands at ``at`` in the file."""
    details = error.errors(include_url=False)
    # A misspelt key is also a missing one: tell it once.
    respelt = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            parent = _model_at(model, detail["loc"][:-1])
            near = _nearest(str(detail["loc"][-1]), list(parent.model_fields) if parent else [])
            respelt.add((*detail["loc"][:-1], near))
    return [
        _sentence(detail, model, at)
        for detail in details
        if not (detail["type"] == "missing" and tuple(detail["loc"]) in respelt)
    ]


def _sentence(detail: Any, model: type[BaseModel], at: str) -> str:
    location = [part for part in detail["loc"] if part != "[key]"]
    field = ".".join([at] * bool(at) + _written(model, location))
    kind, found = detail["type"], detail.get("input")
    if kind == "value_error":  # written by a validator of ours: it already says what to do
        message = str(detail["ctx"]["error"])
        return f"{field}: {message}" if field else message
    if kind == "extra_forbidden":
        parent = _model_at(model, location[:-1])
        known = list(parent.model_fields) if parent else []
        hint = _hint(str(location[-1]), known)
        return f"{field}: unknown key{hint} (known keys: {', '.join(known)})"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _kind_sentence(detail, model, field)
    info = _field_at(model, location)
    wanted = f" ({info.description})" if info and info.description else ""
    if kind == "missing":
        return f"{field}: missing; add it{wanted}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{field}: found {_show(found)}; {message}{wanted}"


def _nearest(word: str, known: list[str]) -> str | None:
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return near[0] if near else None


def _hint(word: str, known: list[str]) -> str:
    near = _nearest(word, known)
    return f"; did you mean '{near}'?" if near else ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _field_at(model: type[BaseModel], location: list) -> FieldInfo | None:
    for depth in range(len(location), 0, -1):
        parent = _model_at(model, location[: depth - 1])
        if parent is not None and location[depth - 1] in parent.model_fields:
            return parent.model_fields[location[depth - 1]]
    return None


def _kind_sentence(detail: Any, model: type[BaseModel], field: str) -> str:
    """The sentence for a block whose ``kind`` says nothing that exists."""
    known = [_tag(option) for option in _options(_annotation_at(model, detail["loc"]))]
    block = detail["input"]
    if not isinstance(block, dict) or "kind" not in block:
        return f"{field}.kind: missing; add it (one of {', '.join(known)})"
    found = str(block["kind"])
    return f"{field}.kind: unknown kind '{found}'{_hint(found, known)} (known: {', '.join(known)})"


def _written(model: type[BaseModel], location: list) -> list[str]:
    """``location`` as it stands in the file: pydantic names a block's kind between its keys."""
    return [
        str(part)
        for depth, part in enumerate(location)
        if len(_options(_annotation_at(model, location[:depth]))) < 2
    ]


def _model_at(model: type[BaseModel], location: Any) -> type[BaseModel] | None:
    """The model that a place in the document is checked against, None if it is no mapping."""
    found = _options(_annotation_at(model, location))
    return found[0] if len(found) == 1 and not get_origin(found[0]) else None


def _annotation_at(model: type[BaseModel], location: Any) -> Any:
    """The type that a place in the document must have, None if there is no such place."""
    annotation: Any = model
    for part in location:
        options = _options(annotation)
        if len(options) > 1:  # told apart by their kind, which pydantic makes a part of its own
            annotation = next((option for option in options if _tag(option) == part), None)
        elif not options:
            return None
        elif get_origin(options[0]) is dict:
            annotation = get_args(options[0])[1]
        elif part in options[0].model_fields:
            annotation = options[0].model_fields[part].annotation
        else:
            return None
    return annotation


def _options(annotation: Any) -> list[Any]:
    """The models and dictionary types that ``annotation`` allows."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for option in get_args(annotation) for found in _options(option)]
    if get_origin(annotation) is dict:
        return [annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _tag(option: Any) -> str | None:
    """The only value of a model's field ``kind``."""
    field = getattr(option, "model_fields", {}).get("kind")
    return get_args(field.annotation)[0] if field else None

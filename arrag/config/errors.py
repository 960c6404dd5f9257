"""Turns what pydantic finds wrong in a file into errors that name the field and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from arrag.utils.errors import ConfigError
from arrag.utils.registry import nearest


def mistakes_in(
    error: ValidationError, document: Any, model: type[BaseModel], at: str = ""
) -> list[ConfigError]:
    """One error for each mistake that pydantic found.

    Args:
        error: What validating raised.
        document: What was validated.
        model: The model it was validated against.
        at: The field of the file where ``document`` is, for the errors' ``field``.
    """
    found, misspelt = [], set()
    for detail in error.errors(include_url=False):
        path, info, models = _locate(model, document, detail)
        field = ".".join([at] * bool(at) + path)
        known = list(dict.fromkeys(name for m in models for name in m.model_fields))
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1].lower(), known, n=1, cutoff=0.5)
            misspelt |= {".".join([at] * bool(at) + path[:-1] + near)}
        found.append((detail["type"], _mistake(detail, field, info, models, known)))
    # A misspelt key is also a missing one: report it once.
    return [m for kind, m in found if not (kind == "missing" and m.field in misspelt)]


def _mistake(
    detail: Any,
    field: str,
    info: FieldInfo | None,
    models: Sequence[type[BaseModel]],
    known: list[str],
) -> ConfigError:
    kind, found = detail["type"], detail["input"]
    if kind == "value_error":  # written by one of our validators, as "message; hint"
        message, _, hint = str(detail["ctx"]["error"]).partition("; ")
        return ConfigError(message, field=field or None, hint=hint or None)
    if kind == "extra_forbidden":
        hint = nearest(field.rpartition(".")[2], known)
        return ConfigError("unknown key", field=field, hint=hint)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        kinds = [_kind(model) for model in models]
        if kind == "union_tag_not_found":
            hint = f"add it (one of {', '.join(kinds)})"
            return ConfigError("missing", field=f"{field}.kind", hint=hint)
        tag = detail["ctx"]["tag"]
        return ConfigError(f"unknown kind '{tag}'", field=f"{field}.kind", hint=nearest(tag, kinds))
    wanted = info.description if info else None
    if kind == "missing":
        return ConfigError(
            "missing", field=field, hint=f"add it ({wanted})" if wanted else "add it"
        )
    text = repr(found)
    text = text if len(text) <= 60 else text[:57] + "..."
    message = f"found {text}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    return ConfigError(message, field=field, hint=wanted and f"wanted: {wanted}")


def _locate(
    model: type[BaseModel], document: Any, detail: Any
) -> tuple[list[str], FieldInfo | None, list[type[BaseModel]]]:
    """The place of a mistake in the file, the field there, and the models around it.

    Pydantic's location also has the ``kind`` of a block between its keys, which the file has not.
    """
    path: list[str] = []
    info, models, named = None, [model], False
    location = detail["loc"]
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        inside = part in document if isinstance(document, dict) else isinstance(part, int)
        if not inside and not (last and detail["type"] == "missing"):
            models = [m for m in models if _kind(m) == part] or models
            continue
        path.append(str(part))
        document = document[part] if inside else None
        if named or isinstance(part, int):  # a name that the user chose, or a place in a list
            named = False
            continue
        info = next((m.model_fields[part] for m in models if part in m.model_fields), None)
        if info is not None:
            models, named = _models(info.annotation), "dict[" in str(info.annotation)
    return path, info, models


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation, however they are nested in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _kind(model: type[BaseModel]) -> str | None:
    """The only value of a model's field ``kind``."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field else None

"""Command-line options made from a pydantic model, so that a parameter is declared once.

``add_model_options(parser, FidSettings)`` adds ``--extractor``, ``--mode`` and so on, with the
types, choices, defaults and descriptions of the model's fields; ``model_from_args(FidSettings,
args)`` makes the model of what was given. An option that is not given is absent from the model's
``model_fields_set``.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from arrag.utils.errors import UsageError

M = TypeVar("M", bound=BaseModel)


def add_model_options(
    parser: argparse._ActionsContainer,
    model: type[BaseModel],
    *,
    exclude: Collection[str] = (),
    positional: Collection[str] = (),
) -> None:
    """Add an option for every field of a model.

    A field ``learning_rate`` becomes ``--learning-rate``; a bool a flag (``--no-...`` too if it is
    true by default); a list takes one or more values; a ``Literal`` has choices. The help is the
    field's description, with the default.

    Args:
        parser: Parser, or group of one.
        model: Its fields may be text, numbers, paths, bools, literals, lists of these, and None.
        exclude: Fields without an option; they need a default, or another source.
        positional: Fields that are positional arguments.

    Raises:
        TypeError: A field is of another type, such as a nested model, and is not excluded.
    """
    for name, field in model.model_fields.items():
        if name in exclude:
            continue
        flag = name.replace("_", "-")
        options: dict[str, Any] = {"help": _help(field)}
        if name not in positional:
            options |= {"dest": name, "default": argparse.SUPPRESS, "required": field.is_required()}
        kind = _without_none(field.annotation)
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
            del options["required"]
        else:
            if get_origin(kind) is list:
                options["nargs"] = "+"
                (kind,) = get_args(kind)
                metadata: list[Any] = []
            else:
                metadata = field.metadata
            if get_origin(kind) is Literal:
                options["choices"] = get_args(kind)
                options["type"] = type(get_args(kind)[0])
            else:
                options["type"] = _parser_of(name, kind, metadata)
                options["metavar"] = flag.rpartition("-")[2].upper()
        parser.add_argument(name if name in positional else f"--{flag}", **options)


def model_from_args(model: type[M], args: argparse.Namespace, **given: Any) -> M:
    """Make a model of the options that were given.

    Args:
        model: As for ``add_model_options``.
        args: The parsed command line; its other attributes are ignored.
        given: Fields with a value from elsewhere.

    Raises:
        UsageError: The values do not fit together; ``field`` names the option.
    """
    values = {name: value for name, value in vars(args).items() if name in model.model_fields}
    try:
        return model.model_validate(values | given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]) if first["loc"] else None
        field = option and f"--{option.replace('_', '-')}"
        message, _, hint = first["msg"].removeprefix("Value error, ").partition("; ")
        raise UsageError(message, field=field, hint=hint or None) from None


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    default = field.get_default(call_default_factory=True)
    if not (field.is_required() or default is None or isinstance(default, bool)):
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        text = f"{text} (default: {shown})".strip()
    return text.replace("%", "%%")  # argparse formats it


def _without_none(annotation: Any) -> Any:
    """The type beside None in an optional one."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            return _without_none(kinds[0])
    return annotation


def _parser_of(name: str, kind: Any, metadata: list[Any]) -> Callable[[str], Any]:
    """An argparse type that validates as the model does, constraints included."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if not isinstance(plain, type) or issubclass(plain, BaseModel):
        raise TypeError(f"no option can be made of field {name!r} of type {kind}")
    adapter = TypeAdapter(Annotated[(kind, *metadata)] if metadata else kind)

    def parse(text: str) -> Any:
        try:
            return adapter.validate_strings(text)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise argparse.ArgumentTypeError(f"found {text!r}: {message}") from None

    return parse

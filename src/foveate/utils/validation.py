"""Settings as users write them, and errors of pydantic as sentences: the field, what it must be,
what was got, and what to try.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from foveate.errors import UnknownName, UsageError, did_you_mean
from foveate.utils.safe_yaml import parse_yaml

if TYPE_CHECKING:
    from pydantic import ValidationError

_WANTED = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "a list"),
    "string_type": "text",
    "dict_type": "a mapping",
}
"""What a value must be, by the type of pydantic's error, with values of its context."""
_NOT_A_GROUP = ("model_type", "model_attributes_type")
_MAX_SHOWN = 4  # fields of a group that an error lists
_MAX_VALUE = 300  # characters of a value that an error shows


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse FIELD=VALUE: 'training.ema=0' -> ('training.ema', 0). The value is YAML."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise UsageError(f"--set needs FIELD=VALUE, got {text!r}", hint="--set training.ema=0")
    try:
        return dotted.strip(), parse_yaml(value)
    except ValueError:
        raise UsageError(f"--set {dotted}: the value is not YAML", why=f"got {value!r}") from None


def validation_error(
    error: ValidationError,
    model: Any,
    *,
    kind: str = "field",
    prefix: str = "",
    where: object = None,
    names: Mapping[str, str] | None = None,
) -> UsageError:
    """Return the error for the first field that pydantic refuses.

    Args:
        error: The error of pydantic.
        model: The model that was validated.
        kind: What a field of it is, in the singular.
        prefix: What to put before the names of fields: "tuning.".
        where: The file that the values come from.
        names: What the user typed instead of a field: {"training.epochs": "--epochs"}.
    """
    errors = error.errors()
    first, loc = errors[0], errors[0]["loc"]
    parts, inner = _walk(loc, model)
    dotted = prefix + ".".join(parts)
    fields = list(getattr(inner, "model_fields", ()))
    if first["type"] == "extra_forbidden":
        unknown = str(loc[len(parts)])
        full = f"{dotted}.{unknown}" if parts else prefix + unknown
        return UnknownName(unknown, fields, kind=kind, where=where or full)
    name, value = (names or {}).get(dotted, dotted), repr(first["input"])[:_MAX_VALUE]
    if first["type"] == "missing":
        return UsageError(f"{name} is missing", where=where)
    if first["type"] in _NOT_A_GROUP and len(fields) > 1:
        return group_error(name, fields, value, where)
    wanted = dict.fromkeys(_wanted(each) for each in errors if _starts_with(each["loc"], parts))
    what = f"{name} must be {' or '.join(wanted)}, got {value}"
    choices = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
    return UsageError(what, where=where, hint=did_you_mean(str(first["input"]), choices))


def group_error(name: str, fields: Iterable[str], value: str, where: object = None) -> UsageError:
    """Return the error for a value that was given to a whole group of settings."""
    listed = [f"{name}.{field}" for field in fields]
    shown = ", ".join(listed[:_MAX_SHOWN]) + (", ..." if len(listed) > _MAX_SHOWN else "")
    what = f"{name} is a group of settings, got {value}"
    return UsageError(what, where=where, hint=f"set one of them: {shown}")


def _walk(loc: tuple[int | str, ...], model: Any) -> tuple[list[str], Any]:
    """The fields that a location begins with, and the type of the last one.

    What follows are members of a union or indices of a list, which nobody has typed.
    """
    parts = []
    for part in loc:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            break
        parts.append(str(part))
        model = fields[part].annotation
    return parts, model


def _starts_with(loc: tuple[int | str, ...], parts: list[str]) -> bool:
    return [str(part) for part in loc[: len(parts)]] == parts


def _wanted(error: Any) -> str:
    """What the value must be."""
    if error["type"] in _NOT_A_GROUP:
        return "a name"
    text = _WANTED.get(error["type"])
    if text is None:
        return str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return text.format(**{key: _number(value) for key, value in error.get("ctx", {}).items()})


def _number(value: Any) -> Any:
    """A number as a person writes it: 0, not 0.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value

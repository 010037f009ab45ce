"""Arguments and options: their types, and errors that say what was got and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from foveate.errors import UsageError, did_you_mean

PATH = click.Path(path_type=Path)
MAX_SIZE = 8192  # px, that of the recipe, whose import takes long


class Parameter(click.Parameter):
    """A parameter whose errors are those of Foveate."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        try:
            result = super().type_cast_value(ctx, value)
        except click.BadParameter:
            raise self._invalid(ctx, _values(value)) from None
        if any(isinstance(each, float) and not math.isfinite(each) for each in _values(result)):
            raise self._invalid(ctx, _values(value))
        return result

    def _invalid(self, ctx: click.Context, values: list[Any]) -> UsageError:
        """The error for the first of the values that the type refuses."""
        value = next((each for each in values if not self._accepts(each, ctx)), values[0])
        hint = f"{ctx.command_path} --help"
        if isinstance(self.type, click.Path):
            what = f"{label(self)} cannot be read: permission denied"
            return UsageError(what, where=value, hint="change its permissions")
        if isinstance(self.type, click.Choice):
            hint = did_you_mean(str(value), self.type.choices) or hint
        got = repr(value) if _is_text(value) else str(value)
        return UsageError(f"{label(self)} must be {_wanted(self.type)}, got {got}", hint=hint)

    def _accepts(self, value: Any, ctx: click.Context) -> bool:
        try:
            result = self.type.convert(value, self, ctx)
        except click.BadParameter:
            return False
        return not isinstance(result, float) or math.isfinite(result)


class Argument(Parameter, click.Argument):
    """A positional argument."""


class Option(Parameter, click.Option):
    """An option; the range of its values is a sentence of its help."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)  # [x>=1]
        return extra


def label(param: click.Parameter) -> str:
    """Return what the help calls a parameter: "--epochs", "IMAGES"."""
    if isinstance(param, click.Argument):
        return (param.name or "").upper()
    return max(param.opts, key=len)


def number_type(kind: type, bounds: Iterable[Any]) -> Any:
    """Return the type of a number.

    Args:
        kind: int or float.
        bounds: Objects with one of the attributes gt, ge, lt and le, as pydantic has them.
    """
    limits: dict[str, Any] = {}
    for bound in bounds:
        for name, key in (("ge", "min"), ("gt", "min"), ("le", "max"), ("lt", "max")):
            if (limit := getattr(bound, name, None)) is not None:
                limits[key], limits[f"{key}_open"] = limit, name in ("gt", "lt")
    if kind is int:
        return click.IntRange(**limits) if limits else click.INT
    return click.FloatRange(**limits) if limits else click.FLOAT


def range_text(kind: Any) -> str:
    """Return the range of a number as a sentence; empty if it has none."""
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    text = _bounds(kind)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _wanted(kind: Any) -> str:
    """What a value must be."""
    if isinstance(kind, click.Choice):
        return f"one of {', '.join(map(str, kind.choices))}"
    is_integer = isinstance(kind, click.types.IntParamType)
    noun = "a whole number" if is_integer else "a number"
    ranged = isinstance(kind, click.IntRange | click.FloatRange)
    bounds = _bounds(kind) if ranged else ""
    return f"{noun}, {bounds}" if bounds else noun


def _bounds(kind: Any) -> str:
    parts = []
    if kind.min is not None:
        parts.append(f"{'above' if kind.min_open else 'at least'} {kind.min:,}")
    if kind.max is not None:
        parts.append(f"{'below' if kind.max_open else 'at most'} {kind.max:,}")
    return " and ".join(parts)


def _is_text(value: Any) -> bool:
    """Whether a value is no number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return True
    return False


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]

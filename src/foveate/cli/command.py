"""A command, derived from a public function: its parameters become arguments and options.

Names, types, defaults and help texts come from the signature and the docstring of the function;
options of the recipe come from the descriptions of its fields. A file in `commands/` adds what
these do not say.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from foveate.cli.docstrings import Docstring, parse_docstring
from foveate.cli.parameters import PATH, Argument, Option, number_type, range_text
from foveate.errors import UsageError
from foveate.utils import console
from foveate.utils.invocation import invocation, shell_command

STARTED = time.monotonic()  # a time budget counts from here: imports take seconds
_REGISTRIES = {
    "task": "modeling.tasks",
    "tuning": "modeling.tunings",
    "format": "data.formats",
    "objective": "training.objectives",
}
"""The folder of plug-ins from which an option takes its values."""

ALL = ("*",)
"""All short options of the recipe."""

_JSON = Option(
    ["--json", "as_json"],
    is_flag=True,
    help="Print the result as one JSON object on stdout; everything else goes to stderr.",
)


@dataclass(frozen=True)
class Command:
    """A public function as a command.

    Attributes:
        function: The function. It imports nothing heavy before it is called.
        example: A command line for the help.
        options: Parameters that are options although they are positional in Python.
        flags: Names of options that differ from the parameter's.
        types: Types that the annotation does not express, such as a range.
        registries: Folders of plug-ins whose names are listed as values of an option.
        values: Functions that return the values of an option, where these are found in another way.
        recipe_options: Short options of the recipe.
        defaults: Their defaults, where they are not those of the recipe.
        extra: Options that the function does not have.
        run: What to call with all values instead of the function.
        details: Further paragraphs of the help.
    """

    function: Callable[..., Any]
    example: str
    options: Collection[str] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)
    registries: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Callable[[], Iterable[str]]] = field(default_factory=dict)
    recipe_options: Collection[str] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    extra: Collection[click.Option] = ()
    run: Callable[..., Any] | None = None
    details: str = ""

    @cached_property
    def docstring(self) -> Docstring:
        """The docstring of the function."""
        return parse_docstring(self.function)

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters of the function that can be set on the command line."""
        parameters = inspect.signature(self.function).parameters
        return {
            name: each for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD
        }

    def is_argument(self, name: str) -> bool:
        """Whether a parameter is given by its position on the command line."""
        parameter = self.parameters[name]
        return parameter.kind is not parameter.KEYWORD_ONLY and name not in self.options

    def build(self, name: str) -> click.Command:
        """Build the click command."""
        params: list[click.Parameter] = []
        for each in self.parameters:
            params.append(self._argument(each) if self.is_argument(each) else self._option(each))
        params += [*self.extra, *self._recipe_options(), _JSON]
        text = self._plain(self.docstring.description)
        return _Command(
            name,
            callback=self._invoke,
            params=params,
            help="\n\n".join(part for part in (text, self.details) if part),
            epilog=f"\b\nExample: {self.example}",
            arguments={
                each: self._plain(self.docstring.parameters[each])
                for each in self.parameters
                if self.is_argument(each)
            },
        )

    def _argument(self, name: str) -> click.Argument:
        parameter = self.parameters[name]
        kind, multiple = _click_type(parameter.annotation)
        multiple |= parameter.kind is parameter.VAR_POSITIONAL
        optional = parameter.default is not parameter.empty
        optional |= parameter.kind is parameter.VAR_POSITIONAL
        more: dict[str, Any] = {"nargs": -1} if multiple else {}
        if optional and not multiple:
            more["default"] = parameter.default
        return Argument([name], type=self.types.get(name, kind), required=not optional, **more)

    def _option(self, name: str) -> click.Option:
        if name == "settings":
            help_ = f"{self._plain(self.docstring.parameters[name])} Repeatable."
            return Option(["--set", "settings"], multiple=True, metavar="FIELD=VALUE", help=help_)
        parameter = self.parameters[name]
        flag = self.flags.get(name, f"--{name.replace('_', '-')}")
        help_ = self._help(name)
        if parameter.annotation is bool:
            both = f"{flag}/--no-{flag[2:]}" if parameter.default else flag
            return Option([both, name], is_flag=True, default=parameter.default, help=help_)
        kind, multiple = _click_type(parameter.annotation)
        required = parameter.default is parameter.empty
        return Option(
            [flag, name],
            type=self.types.get(name, kind),
            metavar=_metavar(self.types.get(name)),
            multiple=multiple,
            required=required,
            help=f"{help_} Repeatable." if multiple else help_,
            # a default of None would be the value of a required option that is not given
            **({} if required else {"default": parameter.default}),
        )

    def _help(self, name: str) -> str:
        """The text of an option: its docstring, the values that it takes, and its default."""
        text, folder = self.docstring.parameters[name], self.registries.get(name)
        range_ = range_text(self.types.get(name))
        if folder is None and name not in self.types:
            folder = _REGISTRIES.get(name)
        default = self.parameters[name].default
        if default is inspect.Parameter.empty:  # click adds that it is required
            default = None
        if name in self.values:
            text = f"{text.rstrip('.')}. One of: {', '.join(self.values[name]())}"
        return self._describe(text, folder, default, range_)

    def _describe(self, text: str, folder: str | None, default: Any, range_: str = "") -> str:
        """A help text: what it is, the plug-ins that it names, its range and its default."""
        about, _, known = self._plain(text).partition("Default: ")
        about = about.strip().rstrip(".")
        parts = [f"{about[0].upper()}{about[1:]}."]
        if folder is not None:
            parts.append(f"One of: {', '.join(plugin_names(folder))}.")
        if range_:
            parts.append(range_)
        if known:
            parts.append(f"Default: {known.rstrip('.')}.")
        elif default not in (None, "", ()) and not isinstance(default, bool):
            parts.append(f"Default: {_default_text(default)}.")
        return " ".join(parts)

    def _recipe_options(self) -> Iterator[click.Option]:
        if not self.recipe_options:
            return
        from foveate.recipe import CONTINUE_OPTIONS, default_value, field_info

        for name in self._recipe_names():
            info = field_info(CONTINUE_OPTIONS[name])
            text, _, known = (info.description or "").partition("; default: ")
            kind = _click_type(info.annotation)[0]
            if kind in (int, float):
                kind = number_type(kind, info.metadata)
            default = default_value(CONTINUE_OPTIONS[name])
            known = self.defaults.get(name, known)
            text = f"{text}. Default: {known}" if known else text
            text = self._describe(text, _REGISTRIES.get(name), default, range_text(kind))
            flag = f"--{name.replace('_', '-')}"
            if info.annotation is bool:
                both = f"{flag}/--no-{flag[2:]}" if default else flag
                yield Option([both, name], is_flag=True, default=None, help=text)
            else:
                kind = kind if isinstance(kind, click.ParamType) else str
                kind = str if isinstance(kind, click.Choice | click.Path) else kind
                yield Option([flag, name], type=kind, metavar=_metavar(kind), help=text)

    def _recipe_names(self) -> Collection[str]:
        if self.recipe_options is not ALL:
            return self.recipe_options
        from foveate.recipe import SHORT_OPTIONS

        return SHORT_OPTIONS

    def _plain(self, text: str) -> str:
        """Python's notation in a docstring as that of the command line."""
        text = re.sub(r'\{"([\w.]+)": ([^}]+)\}', r"\1=\2", text)

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name in self.recipe_options:
                return f"--{name.replace('_', '-')}"
            if name not in self.parameters:
                return name if " " in name else f"'{name}'"
            return name.upper() if self.is_argument(name) else f"--{name.replace('_', '-')}"

        return re.sub(r"`([^`]+)`", replace, text)

    def _invoke(self, as_json: bool, **values: Any) -> int:
        """Call the function with the values of the command line, and show the result."""
        console.setup(json=as_json)
        for name in self._recipe_names():
            if values[name] is None:
                del values[name]
        if "settings" in values:
            values["settings"] = _assignments(values["settings"])
        for name in self.parameters:
            if name in values and _is_path_list(values[name]):
                values[name] = list(_read_paths(values[name]))
        with invocation(shell_command(*sys.argv[1:]), STARTED):
            if self.run is not None:
                return self.run(as_json=as_json, **values) or 0
            variadic = [
                value
                for name, each in self.parameters.items()
                if each.kind is each.VAR_POSITIONAL
                for value in values.pop(name)
            ]
            result = self.function(*variadic, **values)
        if result is not None:  # as in all but the first of several processes
            show(result, as_json)
        return int(getattr(result, "exit_code", 0))


class _Command(click.Command):
    """A command whose help describes its arguments, too."""

    def __init__(self, *args: Any, arguments: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments, self.allow_extra_args = arguments, True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what is left over is refused in Foveate's words."""
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            usage = " ".join(["foveate", self.name or "", *self.collect_usage_pieces(ctx)])
            what = f"there is one argument too many: {ctx.args[0]!r}"
            if len(ctx.args) > 1:
                what = f"there are {len(ctx.args)} arguments too many, first {ctx.args[0]!r}"
            hint = f"{usage}; a path with spaces needs quotes"
            raise UsageError(what, hint=hint)
        return ctx.args

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.arguments:
            with formatter.section("Arguments"):
                rows = [(name.upper(), text) for name, text in self.arguments.items()]
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)


def show(result: Any, as_json: bool) -> None:
    """Print a result as text, or as the last line under --json."""
    if getattr(result, "rows", None):
        console.table(result.columns, result.rows)
    for line in result.lines():
        console.say(line)
    if as_json:
        console.final_json(result.numbers())


def plugin_names(folder: str) -> list[str]:
    """Return the names of the plug-ins in a folder below the package; none of them is imported."""
    from foveate.registry import Registry

    return Registry(f"foveate.{folder}", object, "plug-in").names()


def _assignments(texts: Iterable[str]) -> dict[str, Any]:
    from foveate.utils.validation import parse_assignment

    return dict(parse_assignment(text) for text in texts)


def _is_path_list(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(each, Path) for each in value)


def _read_paths(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths as typed; for - those on stdin, one per line."""
    for path in paths:
        if str(path) == "-":
            yield from (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        else:
            yield path


def _click_type(annotation: Any) -> tuple[Any, bool]:
    """The click type of an annotation, and whether it takes several values."""
    if isinstance(annotation, str):  # a name that is imported for type checkers only
        return (PATH if "PathLike" in annotation else str), False
    parts = _parts(annotation)
    lists = [part for part in parts if get_origin(part) is not None and part not in (Literal,)]
    for part in parts:
        if get_origin(part) is Literal:
            return click.Choice(get_args(part)), False
    for part in lists:
        return _click_type(get_args(part)[0])[0], True
    if Path in parts:
        return PATH, False
    return next((kind for kind in (int, float) if kind in parts), str), False


def _metavar(kind: Any) -> str | None:
    """The metavar of a range, which click calls INTEGER RANGE."""
    if isinstance(kind, click.IntRange):
        return "INTEGER"
    return "FLOAT" if isinstance(kind, click.FloatRange) else None


def _default_text(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without None."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for part in get_args(annotation) if part is not NoneType)
    return (annotation,)

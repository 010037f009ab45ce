"""What verbs are made of: their options and arguments, their result on the screen."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from foveate.utils import console

STARTED = time.monotonic()  # a time budget counts from here: imports take seconds
_JSON = click.Option(
    ["--json", "as_json"],
    is_flag=True,
    help="Last line on stdout: one JSON object; all else to stderr.",
)
_SHELVES = {
    "tuning": "modeling.tunings",
    "task": "modeling.tasks",
    "format": "data.formats",
    "how": "training.test_time",
    "objective": "training.objectives",
    "explainer": "explainability.methods",
    "runtime": "deploy.targets",
}
"""Which shelf a word of the command line takes its names from."""


def command(
    name: str,
    about: str | None,
    run: Callable[..., Any],
    params: list[click.Parameter],
    example: str,
) -> click.Command:
    """The verb `name`: `about` and `example` are its help, `run` is given `as_json` and an argument for each of `params`."""
    return click.Command(
        name, callback=run, params=[*params, _JSON], help=f"{about}\n\nExample: {example}"
    )


def listed_paths(places: Iterable[Path]) -> Iterator[Path]:
    """The paths as they were typed; for - those on stdin, a line each."""
    for place in places:
        if str(place) == "-":
            yield from (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        else:
            yield place


def option(*names: str, **options: Any) -> click.Option:
    return click.Option(list(names), **options)


def path_argument(name: str, **options: Any) -> click.Argument:
    return click.Argument([name], type=click.Path(path_type=Path), **options)


def out_option(name: str = "NAME-N") -> click.Option:
    """Where the run folder is made; by default runs/`name`."""
    return option(
        "--out",
        type=click.Path(path_type=Path),
        help=f"The run folder to make; default: runs/{name}.",
    )


def resume_option() -> click.Option:
    return option(
        "--resume",
        type=click.Path(path_type=Path),
        metavar="RUN",
        help="Go on with an unfinished run, by its recipe.",
    )


def set_option(about: str) -> click.Option:
    """FIELD=VALUE, any number of times; `assigned` reads them."""
    return option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help=about)


def assigned(texts: Iterable[str]) -> dict[str, Any]:
    """What --set was given."""
    from foveate.recipe import parse_assignment

    return dict(parse_assignment(text) for text in texts)


def shown(result: Any, as_json: bool) -> None:
    """The result in words, or as the last line under --json."""
    if hasattr(result, "rows") and result.rows:
        console.table(result.columns, result.rows)
    for line in result.lines():
        console.say(line)
    if as_json:
        console.final_json(result.numbers())


def typed() -> str:
    return shlex.join(["foveate", *sys.argv[1:]])


def recipe_options(words: Collection[str] = ()) -> Iterator[click.Option]:
    """Options for these short words of a recipe; without any, for all of them."""
    from foveate.recipe import WORDS

    return named_options({word: WORDS[word] for word in words or WORDS})


def named_options(words: dict[str, str], kept: str = "") -> Iterator[click.Option]:
    """An option for each short word and the field of the recipe that it means. `kept`: the section that has its usual defaults,
    while others are as in an earlier run; empty where all have them."""
    from foveate.recipe import default_of, field_of

    for word, dotted in words.items():
        kind, text = field_of(dotted)
        flag = f"--{word.replace('_', '-')}"
        usual = _default(default_of(dotted)) if dotted.startswith(kept) else " Default: as in RUN."
        help_ = f"{text[0].upper()}{text[1:]}{listed(word)}.{usual}"
        if kind is bool:
            yield option(f"{flag}/--no-{flag[2:]}", default=None, help=help_)
        else:
            yield option(
                flag,
                type=_click_type(kind),
                help=help_,
                metavar=None if kind is bool else word.upper(),
            )


def listed(word: str) -> str:
    """': full, last, ...' for a word that names something on a shelf; read off the file names."""
    from foveate.registry import Shelf

    shelf = _SHELVES.get(word)
    return ": " + ", ".join(Shelf(f"foveate.{shelf}", object, word).names()) if shelf else ""


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    return f" Default: {value}."


def _click_type(kind: Any) -> Any:
    """A number is read as one; everything else is text that the recipe checks."""
    for number in (int, float):
        if number in (kind, *getattr(kind, "__args__", ())):
            return number
    return str


def common() -> list[click.Parameter]:
    return [
        option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        option(
            "--strict",
            is_flag=True,
            help="Stop at the first image that cannot be read, instead of skipping and naming it.",
        ),
    ]

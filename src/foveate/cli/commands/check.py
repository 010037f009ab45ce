"""What is wrong with images and labels before a fit, and what it would take: broken files, copies, leaks, classes, minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import (
    assigned,
    command,
    option,
    path_argument,
    recipe_options,
    set_option,
    shown,
    typed,
)
from foveate.utils import console

_WORDS = (
    "format",
    "backbone",
    "weights",
    "task",
    "tuning",
    "size",
    "epochs",
    "batch_size",
    "seed",
    "device",
    "lang",
)
_ABOUT = f"""{__doc__}

No network and no weights are needed. With --backbone NAME pictures are compared by its features, too. Nothing of yours is changed.

Exit codes: 0 nothing, or notes only; 3 warnings; 4 errors; 1 and 2 as ever, when the check itself fails or the words are wrong."""


def made() -> click.Command:
    def run(
        data: Path, out: Path | None, most: int, plan: bool, as_json: bool, **words: Any
    ) -> int:
        console.setup(json=as_json)
        settings = assigned(words.pop("set_"))
        from foveate.api.check.core import check
        from foveate.recipe import recipe_from

        given = {word: value for word, value in words.items() if value is not None}
        found = check(recipe_from(data, given, settings), out, most, plan, typed())
        shown(found, as_json)
        return found.exit_code

    params: list[click.Parameter] = [
        path_argument("data"),
        option(
            "--out",
            type=click.Path(path_type=Path),
            help="The folder to make; default: checks/NAME-N.",
        ),
        option(
            "--images",
            "most",
            default=20_000,
            type=click.IntRange(min=0),
            help="Pictures to open; 0 = all. Default: 20000.",
        ),
        option(
            "--plan/--no-plan",
            default=True,
            help="Measure what a fit would take: minutes, memory, disk.",
        ),
        set_option("Any field of the recipe of the fit: --set data.near_duplicates=0.99."),
        *recipe_options(_WORDS),
    ]
    return command("check", _ABOUT, run, params, "foveate check photos")

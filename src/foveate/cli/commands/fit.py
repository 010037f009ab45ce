"""Adapts a backbone to your images: a folder per class, a table, boxes (COCO, YOLO, VOC), or images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import (
    STARTED,
    assigned,
    command,
    option,
    out_option,
    path_argument,
    recipe_options,
    resume_option,
    set_option,
    shown,
    typed,
)
from foveate.errors import UsageError
from foveate.utils import console


def made() -> click.Command:
    def run(
        data: Path | None, out: Path | None, resume: Path | None, as_json: bool, **words: Any
    ) -> None:
        console.setup(json=as_json)
        recipe, settings = words.pop("recipe"), words.pop("set_")
        from foveate.api.fit.core import fit
        from foveate.recipe import load_recipe, recipe_from

        if data is None and recipe is None and resume is None:
            raise UsageError("no data was named", hint="foveate fit FOLDER")
        given = {word: value for word, value in words.items() if value is not None}
        base = load_recipe(recipe) if recipe else None
        settled = recipe_from(data, given, assigned(settings), base)
        shown(fit(settled, out, resume, typed(), STARTED), as_json)

    params: list[click.Parameter] = [
        path_argument("data", required=False),
        out_option(),
        resume_option(),
        option(
            "--recipe",
            type=click.Path(path_type=Path),
            help="A YAML file with all settings; words beside it count more.",
        ),
        set_option("Any field of the recipe: --set training.ema=0."),
        *recipe_options(),
    ]
    return command("fit", __doc__, run, params, "foveate fit photos --tuning full --epochs 20")

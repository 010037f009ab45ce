"""Learns a backbone from images without labels, and says whether it has helped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import (
    assigned,
    command,
    listed,
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

_WORDS = (
    "backbone",
    "weights",
    "size",
    "tuning",
    "epochs",
    "minutes",
    "batch_size",
    "lr",
    "strict",
    "seed",
    "device",
)


def made() -> click.Command:
    def run(images: Path | None, objective: str | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.pretrain.core import pretrain
        from foveate.recipe import recipe_from

        others = {name: words.pop(name) for name in ("labels", "out", "resume", "dry_run")}
        if images is None and others["resume"] is None:
            raise UsageError("no images were named", hint="foveate pretrain FOLDER")
        settings = assigned(words.pop("set_"))
        given = {
            word: value for word, value in {**words, "task": objective}.items() if value is not None
        }
        found = pretrain(recipe_from(images, given, settings), command=typed(), **others)
        if found is not None:  # by the first of several processes
            shown(found, as_json)

    params: list[click.Parameter] = [
        path_argument("images", required=False),
        option("--objective", help=f"How{listed('objective')}. Default: lejepa."),
        option(
            "--labels",
            type=click.Path(path_type=Path),
            metavar="DATA",
            help="Labelled images to judge by alone.",
        ),
        out_option(),
        resume_option(),
        option(
            "--dry-run",
            is_flag=True,
            help="Say how fast it would go and what it would take, and stop.",
        ),
        *recipe_options(_WORDS),
        set_option("Any field of the recipe: --set task.narrow=0."),
    ]
    return command(
        "pretrain",
        __doc__,
        run,
        params,
        "foveate pretrain pictures --backbone resnet18 --weights none",
    )

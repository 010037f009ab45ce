"""Learns a backbone from images without labels, and says whether it has helped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate import console
from foveate.errors import UsageError
from foveate.options import command, listed, option, path_argument, recipe_options, shown, typed

_WORDS = ("backbone", "weights", "size", "tuning", "epochs", "minutes", "batch_size", "lr", "strict", "seed", "device")


def made() -> click.Command:
    def run(images: Path | None, objective: str | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.recipe import parse_assignment, recipe_from
        from foveate.verbs.pretrain import pretrain

        others = {name: words.pop(name) for name in ("labels", "out", "resume", "dry_run")}
        if images is None and others["resume"] is None:
            raise UsageError("no images were named", hint="foveate pretrain FOLDER")
        settings = dict(parse_assignment(text) for text in words.pop("set_"))
        given = {word: value for word, value in {**words, "task": objective}.items() if value is not None}
        found = pretrain(recipe_from(images, given, settings), command=typed(), **others)
        if found is not None:  # by the first of several processes
            shown(found, as_json)

    params: list[click.Parameter] = [
        path_argument("images", required=False),
        option("--objective", help=f"How{listed('objective')}. Default: lejepa."),
        option("--labels", type=click.Path(path_type=Path), metavar="DATA", help="Labelled images to judge by alone."),
        option("--out", type=click.Path(path_type=Path), help="The run folder to make; default: runs/NAME-N."),
        option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an unfinished run, by its recipe."),
        option("--dry-run", is_flag=True, help="Say how fast it would go and what it would take, and stop."),
        *recipe_options(_WORDS),
        option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="Any field of the recipe: --set task.narrow=0."),
    ]
    return command("pretrain", __doc__, run, params, "foveate pretrain pictures --backbone resnet18 --weights none")

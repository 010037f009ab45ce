"""Adds images or classes to a finished run, and measures what it forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import (
    STARTED,
    assigned,
    command,
    named_options,
    out_option,
    path_argument,
    set_option,
    shown,
    typed,
)
from foveate.utils import console

_WORDS = {
    "replay": "start.replay",
    "distill": "start.distill",
    "epochs": "training.epochs",
    "minutes": "training.minutes",
    "lr": "training.lr",
    "seed": "seed",
    "device": "device",
}


def made() -> click.Command:
    def run(run: Path, data: Path, out: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.continue_ import continue_

        settings = assigned(words.pop("set_"))
        stated = {_WORDS[word]: value for word, value in words.items() if value is not None}
        shown(continue_(run, data, out, {**stated, **settings}, typed(), STARTED), as_json)

    params: list[click.Parameter] = [
        path_argument("run"),
        path_argument("data"),
        out_option(),
        *named_options(_WORDS, kept="start."),
        set_option("Any field of the recipe; the rest is as in RUN."),
    ]
    return command(
        "continue",
        __doc__,
        run,
        params,
        "foveate continue runs/photos-lora-1 new_photos --replay 0.2",
    )

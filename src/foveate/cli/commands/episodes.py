"""How well new classes are learnt from a few images each: n ways, k shots, over and over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, path_argument, recipe_options, shown
from foveate.utils import console


def made() -> click.Command:
    def run(data: Path, run: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.episodes.core import episodes

        counts = {name: words.pop(name) for name in ("ways", "shots", "queries", "count")}
        given = {word: value for word, value in words.items() if value is not None}
        shown(episodes(data, run=run, **counts, words=given), as_json)

    least = click.IntRange(min=1)
    params: list[click.Parameter] = [
        path_argument("data"),
        option(
            "--run",
            type=click.Path(path_type=Path),
            metavar="RUN",
            help="Features of this run; default: of --backbone.",
        ),
        option(
            "--ways",
            default=5,
            type=click.IntRange(min=2),
            help="Classes in an episode. Default: 5.",
        ),
        option(
            "--shots", default=1, type=least, help="Images of each class that teach. Default: 1."
        ),
        option(
            "--queries",
            default=15,
            type=least,
            help="Images of each class that are asked. Default: 15.",
        ),
        option("--count", default=600, type=least, help="Episodes. Default: 600."),
        option(
            "--tuning",
            default="centroid",
            help="How: centroid, ridge, lpplus, knn, probe. Default: centroid.",
        ),
        *recipe_options(("backbone", "weights", "size", "format", "strict", "seed", "device")),
    ]
    return command("episodes", __doc__, run, params, "foveate episodes photos --ways 5 --shots 1")

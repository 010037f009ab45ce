"""Where an answer comes from: heat maps, each with a test of whether it can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, common, listed, listed_paths, option, path_argument, shown
from foveate.utils import console

_TEXT = "A sentence to ask about, of a run from CLIP or its kin; several times for several."


def made() -> click.Command:
    def run(
        run: Path, places: tuple[Path, ...], how: tuple[str, ...], as_json: bool, **words: Any
    ) -> None:
        console.setup(json=as_json)
        from foveate.api.explain.core import DEFAULT, explain

        shown(explain(run, listed_paths(places), how or DEFAULT, **words), as_json)

    params: list[click.Parameter] = [
        path_argument("run"),
        path_argument("places", nargs=-1, required=True, metavar="IMAGES"),
        option(
            "--how",
            multiple=True,
            help=f"A way{listed('explainer')}; several times for several. Default: gradcam, hirescam.",
        ),
        option("--text", "texts", multiple=True, help=_TEXT),
        option(
            "--nearest",
            type=click.IntRange(0),
            default=0,
            metavar="N",
            help="N training images below that are most like it.",
        ),
        option(
            "--out",
            type=click.Path(path_type=Path),
            help="The folder to make; default: RUN/explanations/N.",
        ),
        *common(),
    ]
    return command(
        "explain",
        __doc__,
        run,
        params,
        "foveate explain runs/photos-probe-1 new_photos --how gradcam --how occlusion",
    )

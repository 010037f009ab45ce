"""The same answers over HTTP (Open Inference Protocol, POST /predict), and a page to drop a picture on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, path_argument
from foveate.utils import console


def made() -> click.Command:
    def run(
        places: tuple[Path, ...], as_json: bool, body_mb: float, wait_ms: float, **words: Any
    ) -> None:
        console.setup(json=as_json)
        from foveate.api.serve import serve

        serve(places, bytes=int(body_mb * 1_000_000), wait=wait_ms / 1000, **words)

    params: list[click.Parameter] = [
        path_argument("places", nargs=-1, required=True, metavar="RUN_OR_FILE"),
        option("--host", default="127.0.0.1", help="Default: 127.0.0.1, this machine alone."),
        option(
            "--port",
            default=8000,
            type=click.IntRange(0, 65535),
            help="0: any that is free. Default: 8000.",
        ),
        option(
            "--batch", default=32, type=click.IntRange(min=1), help="Pictures at once. Default: 32."
        ),
        option(
            "--wait-ms",
            default=30.0,
            type=click.FloatRange(min=0),
            help="How long one waits for others. Default: 30.",
        ),
        option(
            "--room",
            default=64,
            type=click.IntRange(min=1),
            help="Pictures inside; more are told to come again. Default: 64.",
        ),
        option(
            "--body-mb",
            default=20.0,
            type=click.FloatRange(min=0, min_open=True),
            help="Of a request. Default: 20.",
        ),
        option(
            "--seconds",
            default=20.0,
            type=click.FloatRange(min=0, min_open=True),
            help="For it to arrive. Default: 20.",
        ),
        option(
            "--grace",
            default=30.0,
            type=click.FloatRange(min=0),
            help="Seconds to finish when told to stop. Default: 30.",
        ),
        option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
    ]
    return command("serve", __doc__, run, params, "foveate serve runs/photos-probe-1")

"""foveate serve."""

import click

from foveate.api.serve import serve
from foveate.cli.command import Command

_POSITIVE = click.FloatRange(min=0, min_open=True)
COMMAND = Command(
    serve,
    "foveate serve runs/photos-probe-1",
    types={
        "port": click.IntRange(0, 65535),
        "max_batch": click.IntRange(min=1),
        "batch_wait_ms": click.FloatRange(min=0),
        "max_queue": click.IntRange(min=1),
        "max_body_mb": _POSITIVE,
        "max_bodies_mb": _POSITIVE,
        "max_decoded_mb": _POSITIVE,
        "request_timeout": _POSITIVE,
        "grace": click.FloatRange(min=0),
    },
)

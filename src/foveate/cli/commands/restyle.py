"""foveate restyle."""

import click

from foveate.api.restyle import restyle
from foveate.cli.command import Command
from foveate.cli.parameters import MAX_SIZE

COMMAND = Command(
    restyle,
    "foveate restyle photo.jpg painting.jpg --out photo-painted.png",
    types={
        "size": click.IntRange(32, MAX_SIZE),
        "steps": click.IntRange(min=1),
        "style_weight": click.FloatRange(min=0),
    },
)

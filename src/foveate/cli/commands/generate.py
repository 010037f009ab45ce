"""foveate generate."""

import click

from foveate.api.generate import generate
from foveate.cli.command import Command

COMMAND = Command(
    generate,
    "foveate generate runs/digits-full-1 3 7 --count 8",
    types={
        "run": str,
        "count": click.IntRange(min=1),
        "seed": click.IntRange(min=0),
        "steps": click.IntRange(min=1),
        "guidance": click.FloatRange(min=0),
    },
)

"""foveate soup."""

import click

from foveate.api.soup import soup
from foveate.cli.command import Command

COMMAND = Command(
    soup,
    "foveate soup runs/photos-full-1 --shift other_camera",
    types={"steps": click.IntRange(min=1)},
)

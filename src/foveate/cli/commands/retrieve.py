"""foveate retrieve."""

import click

from foveate.api.retrieve import retrieve
from foveate.cli.command import Command

COMMAND = Command(
    retrieve,
    "foveate retrieve photos 'a red car' --backbone clip:ViT-B-32",
    types={"top": click.IntRange(min=1)},
    recipe_options=("weights", "size", "format", "allow_outside", "strict", "seed", "device"),
)

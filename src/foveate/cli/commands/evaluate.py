"""foveate evaluate."""

import click

from foveate.api.evaluate import evaluate
from foveate.cli.command import Command
from foveate.messages import languages

COMMAND = Command(
    evaluate,
    "foveate evaluate runs/photos-probe-1 new_photos",
    types={"lang": click.Choice(languages())},
)

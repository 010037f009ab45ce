"""foveate export."""

import click

from foveate.api.export import export
from foveate.cli.command import Command

COMMAND = Command(
    export,
    "foveate export runs/photos-probe-1 --int8",
    options=("to",),
    types={"max_drop": click.FloatRange(0, 1)},
    registries={"to": "deploy.targets"},
)

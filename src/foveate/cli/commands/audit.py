"""foveate audit."""

import click

from foveate.api.audit import audit
from foveate.cli.command import Command

COMMAND = Command(
    audit,
    "foveate audit runs/photos-probe-1 --unlabeled inbox",
    types={
        "extra_labels": click.IntRange(min=1),
        "format": click.Choice(["csv", "labelstudio", "cvat", "labelme"]),
    },
)

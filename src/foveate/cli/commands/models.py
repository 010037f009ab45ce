"""foveate models."""

import click

from foveate.api.models import models
from foveate.cli.command import Command
from foveate.cli.parameters import MAX_SIZE

COMMAND = Command(
    models,
    "foveate models --compare photos tf_efficientnet_lite0 resnet18",
    types={
        "images": click.IntRange(min=0),
        "size": click.IntRange(16, MAX_SIZE),
        "seed": click.IntRange(min=0),
    },
)

"""foveate models."""

import click

from foveate.api.models import models
from foveate.cli.command import Command

COMMAND = Command(
    models,
    "foveate models --compare photos tf_efficientnet_lite0 resnet18",
    types={
        "images": click.IntRange(min=0),
        "size": click.IntRange(min=16),
        "seed": click.IntRange(min=0),
    },
)

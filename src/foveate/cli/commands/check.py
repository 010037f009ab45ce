"""foveate check."""

import click

from foveate.api.check import check
from foveate.cli.command import Command

COMMAND = Command(
    check,
    "foveate check photos",
    types={"images": click.IntRange(min=0)},
    recipe_options=(
        "format",
        "allow_outside",
        "backbone",
        "weights",
        "task",
        "tuning",
        "size",
        "epochs",
        "batch_size",
        "seed",
        "device",
        "lang",
    ),
    defaults={
        "backbone": "images are not compared by features, and the cost is that of a fit with "
        "tf_efficientnet_lite0"
    },
    details="Exit codes: 0 no problems, or notes only; 3 warnings; 4 errors; 1 the check itself "
    "failed; 2 invalid arguments.",
)

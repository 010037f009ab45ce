"""foveate episodes."""

import click

from foveate.api.episodes import episodes
from foveate.cli.command import Command

_AT_LEAST_ONE = click.IntRange(min=1)
COMMAND = Command(
    episodes,
    "foveate episodes photos --ways 5 --shots 1",
    types={
        "ways": click.IntRange(min=2),
        "shots": _AT_LEAST_ONE,
        "queries": _AT_LEAST_ONE,
        "count": _AT_LEAST_ONE,
        "tuning": str,
    },
    recipe_options=("backbone", "weights", "size", "format", "strict", "seed", "device"),
)

"""foveate fit."""

from foveate.api.fit import fit
from foveate.cli.command import ALL, Command

COMMAND = Command(
    fit,
    "foveate fit photos --tuning full --epochs 20",
    recipe_options=ALL,
)

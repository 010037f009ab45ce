"""foveate fit.

Its options are the parameters of `foveate.fit` (api/fit/__init__.py) and the fields of the recipe
that have a short name (`SHORT_OPTIONS` in recipe/); nothing has to be added here for a new one.
"""

from foveate.api.fit import fit
from foveate.cli.command import ALL, Command

COMMAND = Command(
    fit,
    "foveate fit photos --tuning full --epochs 20",
    recipe_options=ALL,
)

"""The names and settings in a recipe, checked before data are read, which can take minutes."""

from __future__ import annotations

from foveate.data.formats import FORMATS
from foveate.modeling.backbones import family_of
from foveate.modeling.tasks import TASKS
from foveate.modeling.tunings import TUNINGS
from foveate.modeling.weights import check_weights
from foveate.recipe import Recipe
from foveate.utils.device import resolve_device

_OPEN = ("auto", "default")  # names that are resolved later, by the data


def check_names(recipe: Recipe, weights: bool = True) -> None:
    """Check all names in a recipe of a fit, and the settings of its task and its tuning.

    Args:
        recipe: The recipe.
        weights: Whether a file of weights must exist.

    Raises:
        UnknownName: There is no plug-in, backbone or setting of a name.
        UsageError: There is no such device or weights file, or a setting is invalid.
    """
    if recipe.data.format not in _OPEN:
        FORMATS.get(recipe.data.format)
    family_of(recipe.backbone.name)
    if weights:
        check_weights(recipe.backbone.weights)
    resolve_device(recipe.device)
    if recipe.task.name not in _OPEN:
        TASKS.validate(recipe.task.name, recipe.task.settings)
    if recipe.tuning.name not in _OPEN:
        TUNINGS.validate(recipe.tuning.name, recipe.tuning.settings)

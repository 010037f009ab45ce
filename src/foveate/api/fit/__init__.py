"""fit DATA: adapt a pretrained backbone to labeled images."""

from typing import TYPE_CHECKING, Any

from foveate.errors import UsageError
from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.fit.pipeline import FitResult
    from foveate.recipe import Recipe


@entry_point
def fit(
    data: PathLike | None = None,
    *,
    out: PathLike | None = None,
    resume: PathLike | None = None,
    recipe: "Recipe | PathLike | None" = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> "FitResult":
    """Adapt a pretrained backbone to your labeled images.

    Reads one folder per class, tables, boxes (COCO, YOLO, VOC), images with masks or captions;
    splits, trains, evaluates, and writes a run folder with a report.

    Args:
        data: Dataset: a folder or a table.
        out: Run folder to create. Default: runs/NAME-N.
        resume: Unfinished run to resume.
        recipe: YAML file with settings; other options override it.
        settings: Values of recipe fields, such as {"training.ema": 0}.
        **options: Short options of the recipe, such as tuning="lora" or epochs=20.

    Raises:
        UsageError: An option is invalid, or the run folder exists.
        DataError: The data cannot be read or used.
        WeightsError: The weights of the backbone are not available.
        RunError: The run folder is damaged or in use.
    """
    from foveate.recipe import Recipe, load_recipe, recipe_from

    if data is None and recipe is None and resume is None:
        raise UsageError("no data were given", hint="foveate fit FOLDER")
    base = recipe if isinstance(recipe, Recipe) or recipe is None else load_recipe(to_path(recipe))
    resolved = recipe_from(data, options, settings or {}, base)
    from foveate.api.fit.core import (
        fit_recipe,  # takes seconds, which invalid options need not wait
    )

    return fit_recipe(resolved, as_path(out), as_path(resume))

"""check DATA: problems of a dataset, and the cost of a fit."""

from typing import TYPE_CHECKING, Any

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path

if TYPE_CHECKING:
    from foveate.api.check.result import CheckResult


@entry_point
def check(
    data: PathLike,
    *,
    out: PathLike | None = None,
    images: int = 20_000,
    plan: bool = True,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> "CheckResult":
    """Check images and labels for problems, and estimate the cost of a fit.

    Finds unreadable files, duplicates, leaks between splits, and missing or rare classes. If a
    backbone is given, duplicates are found by its features, too; otherwise neither a network
    connection nor weights are needed. The data are not changed.

    Args:
        data: Dataset: a folder or a table.
        out: Folder to create. Default: checks/NAME-N.
        images: Number of images to open; 0 = all.
        plan: Estimate the time, memory and disk space of a fit.
        settings: Values of recipe fields, such as {"data.near_duplicates": 0.99}.
        **options: Short options of the recipe, such as backbone="resnet18".

    Raises:
        UsageError: The path does not exist, or the folder exists or lies in the data.
    """
    from foveate.api.check.core import check_data
    from foveate.recipe import recipe_from

    return check_data(recipe_from(data, options, settings or {}), as_path(out), images, plan)

"""continue RUN DATA: add images or classes to a finished run."""

from typing import TYPE_CHECKING, Any

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.fit.pipeline import FitResult


@entry_point
def continue_(
    run: PathLike,
    data: PathLike,
    *,
    out: PathLike | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> "FitResult":
    """Add images or classes to a finished run, and measure what it forgets.

    The new run starts from the weights and classes of `run` and learns `data` beside the replayed
    share of its images. Old and new validation images are scored before, after and in every epoch.
    The weights of `run` are not changed.

    Args:
        run: Run folder to continue from.
        data: New images, with labels of the same type.
        out: Run folder to create. Default: runs/NAME-N.
        settings: Values of recipe fields, such as {"start.replay": 0.2}; others are as in `run`.
        **options: Short options of the recipe: replay, distill, and those of `fit`.

    Raises:
        UsageError: The run cannot be continued: a probe without its old images, data with another
            label type, or new classes of boxes or masks.
    """
    from foveate.api.continue_.core import continued_recipe
    from foveate.api.fit.core import fit_recipe

    return fit_recipe(
        continued_recipe(to_path(run), to_path(data), options, settings), as_path(out)
    )

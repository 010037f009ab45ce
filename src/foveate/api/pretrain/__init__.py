"""pretrain IMAGES: self-supervised pretraining on unlabeled images."""

from typing import TYPE_CHECKING, Any, cast

from foveate.errors import UsageError
from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, require_exists, to_path

if TYPE_CHECKING:
    from foveate.api.pretrain.core import PretrainResult


@entry_point
def pretrain(
    images: PathLike | None = None,
    *,
    objective: str | None = None,
    labels: PathLike | None = None,
    out: PathLike | None = None,
    resume: PathLike | None = None,
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> "PretrainResult":
    """Pretrain a backbone on unlabeled images, and measure whether it helped.

    The best epoch is kept, or the initial backbone where none has helped. Several processes,
    started by torchrun, share every batch.

    Args:
        images: Folder of images, or tar shards.
        objective: Self-supervised objective. Default: lejepa.
        labels: Labeled images for the evaluation; they are never trained on.
        out: Run folder to create. Default: runs/NAME-N.
        resume: Unfinished run to resume.
        dry_run: Measure the throughput, estimate the time, and stop.
        settings: Values of recipe fields, such as {"task.local_views": 0}.
        **options: Short options of the recipe, such as backbone="resnet18" or epochs=20.

    Returns:
        The result; with `dry_run` the estimate instead; None in all but the first of several
        processes.

    Raises:
        UsageError: The options do not fit together.
        DataError: There are too few images, or all are alike.
    """
    from foveate.api.pretrain.core import pretrain_recipe
    from foveate.recipe import recipe_from

    if images is None and resume is None:
        raise UsageError("no images were given", hint="foveate pretrain FOLDER")
    if images is not None:
        require_exists(to_path(images))
    if objective is not None:
        options["task"] = objective
    recipe = recipe_from(images, options, settings or {})
    result = pretrain_recipe(recipe, as_path(labels), as_path(out), as_path(resume), dry_run)
    return cast("PretrainResult", result)

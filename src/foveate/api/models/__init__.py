"""models [NAMES]: backbones, listed or compared on data."""

from typing import TYPE_CHECKING, Any, overload

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike

if TYPE_CHECKING:
    from foveate.api.models.comparison import ComparisonResult
    from foveate.api.models.core import ModelsResult


@overload
def models(*names: str) -> "ModelsResult": ...


@overload
def models(*names: str, compare: PathLike, **options: Any) -> "ComparisonResult": ...


@entry_point  # type: ignore[misc]  # `options` above are those of the comparison
def models(
    *names: str,
    compare: PathLike | None = None,
    images: int = 400,
    size: int | None = None,
    seed: int = 0,
    format: str = "auto",
    device: str = "auto",
    strict: bool = False,
) -> "ModelsResult | ComparisonResult":
    """List backbones, or compare them on your images.

    The comparison ranks backbones by a linear classifier and nearest neighbors on their frozen
    features. Test images are left out of it.

    Args:
        names: Names of backbones, parts of names, or patterns with *; weights may follow a colon
            (resnet18:none). Default: a selection of good starting points.
        compare: Labeled images on which to compare the backbones.
        images: Number of images in the comparison; 0 takes all.
        size: Input size of all compared backbones, px. Default: that of each backbone.
        seed: Seed of the image sample, the folds and random weights.
        format: Format of the images to compare on.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        strict: Stop at the first unreadable image instead of skipping and reporting it.

    Raises:
        UnknownName: No backbone matches a name.
        DataError: The data are not single-label classification data.
        WeightsError: No weights are available for any of the backbones.
    """
    if compare is None:
        from foveate.api.models.core import list_models

        return list_models(names)
    from foveate.api.models.comparison import compare_backbones
    from foveate.recipe import recipe_from

    data = {"data.format": format, "data.strict": strict, "backbone.size": size}
    recipe = recipe_from(compare, {"seed": seed, "device": device}, data)
    return compare_backbones(recipe, names, images)

"""retrieve DATA [QUERIES]: image-text retrieval."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.retrieve.core import RetrieveResult


@entry_point
def retrieve(
    data: PathLike,
    queries: str | Iterable[str] = (),
    *,
    run: PathLike | None = None,
    backbone: str | None = None,
    top: int = 5,
    **options: Any,
) -> "RetrieveResult":
    """Measure image-text retrieval, or find the images nearest to text queries.

    Without queries, recall at 1, 5 and 10 is measured in both directions on data with captions.

    Args:
        data: Images with captions; with queries, any images.
        queries: Text queries.
        run: Run whose image and text encoders are used.
        backbone: Backbone that embeds images and text. Default: clip:ViT-B-32.
        top: Number of images to return for each query.
        **options: Short options of the recipe: weights, size, format, allow_outside,
            strict, seed, device.

    Raises:
        UsageError: The backbone does not embed text, or `run` and `backbone` are both given.
        DataError: The data have no captions.
    """
    from foveate.api.retrieve.core import embed, find_nearest, measure_recall, retrieval_recipe

    chosen = {**options, **({} if backbone is None else {"backbone": backbone})}
    texts = [queries] if isinstance(queries, str) else list(queries)
    recipe = retrieval_recipe(to_path(data), as_path(run), chosen)
    index = embed(recipe, as_path(run), captions=not texts)
    return find_nearest(index, texts, top) if texts else measure_recall(index)

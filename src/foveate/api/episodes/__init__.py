"""episodes DATA: few-shot evaluation on new classes."""

from typing import TYPE_CHECKING, Any

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.episodes.core import EpisodesResult


@entry_point
def episodes(
    data: PathLike,
    *,
    run: PathLike | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    count: int = 600,
    tuning: str = "centroid",
    **options: Any,
) -> "EpisodesResult":
    """Measure few-shot learning: accuracy on n-way, k-shot episodes (Vinyals et al. 2016).

    In each episode a head is fitted to a few images of each class on frozen features.

    Args:
        data: Labeled images.
        run: Run whose features are used. Default: those of `backbone`.
        ways: Classes per episode.
        shots: Support images per class.
        queries: Query images per class.
        count: Number of episodes.
        tuning: Classifier: centroid, ridge, lpplus, knn or probe.
        **options: Short options of the recipe: backbone, weights, size, format, strict, seed,
            device.

    Raises:
        UsageError: There are too few classes or images, the classifier needs gradient steps, or
            `run` and a backbone are both given.
        DataError: The data are not single-label classification data.
    """
    from foveate.api.episodes.core import Protocol, episodes_recipe, run_episodes

    recipe = episodes_recipe(to_path(data), as_path(run), {**options, "tuning": tuning})
    return run_episodes(recipe, as_path(run), Protocol(ways, shots, queries, count))

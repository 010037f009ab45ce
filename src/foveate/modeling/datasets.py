"""The datasets of a model: the same samples, prepared for training or for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.data.dataset import ImageDataset, TiledDataset
from foveate.data.image_cache import ImageCache
from foveate.data.mosaic import make_mosaic
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.modeling.model import Model
from foveate.modeling.tasks import SpatialTask
from foveate.recipe import AugmentRecipe
from foveate.types import Sample


def training_dataset(
    model: Model, samples: Sequence[Sample], cache: ImageCache, augment: AugmentRecipe, seed: int
) -> ImageDataset:
    """Return the samples with the augmentation of a recipe."""
    spec, task = model.backbone.input, model.task
    transform = training_transform(spec, task.framing, augment)
    tiles = make_mosaic(spec, task.framing, augment)
    return ImageDataset(samples, cache, transform, task.encode, seed, tiles)


def eval_dataset(
    model: Model, samples: Sequence[Sample], cache: ImageCache, seed: int
) -> ImageDataset:
    """Return the samples with the preprocessing of evaluation and prediction."""
    spec, task = model.backbone.input, model.task
    transform = evaluation_transform(spec, task.framing)
    if isinstance(task, SpatialTask) and task.framing == "windows":
        return TiledDataset(
            samples, cache, transform, task.encode, seed, spec.size, task.merge_tiles
        )
    return ImageDataset(samples, cache, transform, task.encode, seed)

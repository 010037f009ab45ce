"""Images in the cells of a confusion matrix, the most frequent confusion first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foveate.data.image_cache import ImageCache
from foveate.data.tables import label_names
from foveate.images.codec import thumbnail
from foveate.inference.predictor import Predictor
from foveate.predictions import Labels
from foveate.reporting.evaluation_page import ConfusionCell
from foveate.types import Sample

_MAX_CELLS, _MAX_IMAGES = 24, 8
_SIDE = 96  # px


def confusion_cells(
    predictor: Predictor, samples: Sequence[Sample], predictions: Sequence[Any], cache: ImageCache
) -> list[ConfusionCell]:
    """Return the cells off the diagonal; none unless each image has one class.

    Args:
        predictor: The run.
        samples: The images.
        predictions: Of the images.
        cache: Decodes the images.
    """
    if predictor.model.task.prediction_type is not Labels or predictor.multilabel:
        return []
    cells: dict[tuple[str, str], list[Sample]] = {}
    for sample, prediction in zip(samples, predictions, strict=True):
        if sample.target is not None and label_names(sample) != tuple(prediction.names):
            cell = label_names(sample)[0], prediction.names[0]
            cells.setdefault(cell, []).append(sample)
    by_count = sorted(cells.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        ConfusionCell(
            target,
            predicted,
            len(members),
            [
                (sample.key, thumbnail(cache.read(sample.path)[0], _SIDE))
                for sample in members[:_MAX_IMAGES]
            ],
        )
        for (target, predicted), members in by_count[:_MAX_CELLS]
    ]

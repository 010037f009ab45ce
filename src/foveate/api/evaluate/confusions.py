"""What lies in the cells of a confusion matrix: the pictures of each mistake, the most frequent mistake first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foveate.data.image_cache import ImageCache
from foveate.data.tables import label_names
from foveate.images import codec as images
from foveate.inference.predictor import Predictor
from foveate.predictions import Labels
from foveate.reporting.pages import ConfusionCell
from foveate.types import Sample

_CELLS, _PICTURES = 24, 8  # that are shown
_SIDE = 96  # px


def confused(
    predictor: Predictor, samples: Sequence[Sample], predictions: Sequence[Any], pixels: ImageCache
) -> list[ConfusionCell]:
    """Of answers with one class each; nothing of others."""
    if predictor.model.task.prediction_type is not Labels or predictor.multilabel:
        return []
    found: dict[tuple[str, str], list[Sample]] = {}
    for sample, prediction in zip(samples, predictions, strict=True):
        if sample.target is not None and label_names(sample) != tuple(prediction.names):
            found.setdefault((label_names(sample)[0], prediction.names[0]), []).append(sample)
    frequent = sorted(found.items(), key=lambda each: (-len(each[1]), each[0]))[:_CELLS]
    return [
        ConfusionCell(
            truth,
            answer,
            len(own),
            [
                (each.key, images.thumbnail(pixels.read(each.path)[0], _SIDE))
                for each in own[:_PICTURES]
            ],
        )
        for (truth, answer), own in frequent
    ]

"""Examples for a report: the worst predictions, of captions the best too, and generated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.data.image_cache import rendering_of
from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names
from foveate.errors import UsageError
from foveate.explainability.faithfulness import ExplainTarget, overlay
from foveate.explainability.methods import DEFAULT_EXPLAINER, EXPLAINERS
from foveate.images.codec import read_image, thumbnail
from foveate.images.drawing import draw_prediction
from foveate.images.heatmaps import attention_sheet
from foveate.images.pixels import as_rgb
from foveate.images.sheets import side_by_side
from foveate.inference.engine import metric_of
from foveate.inference.predictor import Predictor, confidence
from foveate.messages import Message, percent
from foveate.predictions import DenoisingResult, Labels, Number, Text
from foveate.reporting.evaluation_page import Example
from foveate.types import Sample

_MAX_EXAMPLES, _MAX_BEST = 24, 6
_MAX_WITH_ATTENTION = 12  # images with an attention map for each word, which are larger
_MAX_WITH_HEAT = 12  # images beside a heat map
_SIDE, _GAP = 192, 6  # px of a thumbnail, and between two
_PAIR_SIDE = 640  # px of target and prediction side by side
_WORD_SIDE, _MAX_WORDS = 104, 11  # px of each attention map, and how many

_Ranked = list[tuple[float, Sample, Any]]
_PREDICTED = Message("report.predicted", "predicted")
_TRUE = Message("report.true", "true")
_PROMPT = Message("report.prompt", "prompt")
_NONE = Message("report.none", "none")


def worst_and_best(
    scanned: ScannedTable, predictions: Sequence[Any], predictor: Predictor
) -> tuple[list[Example], list[Example]]:
    """Return the predictions with the highest loss, and those with the lowest.

    Only captions have best ones, because they are never quite right. How well noise was removed
    from an image shows nothing.

    Args:
        scanned: The images.
        predictions: Of the images.
        predictor: The run.
    """
    task = predictor.model.task
    if not any_scored(scanned, predictor):
        return [], []
    metric = metric_of(predictor.model)
    ranked = [
        (metric.sample_loss(prediction, sample.target), sample, prediction)
        for sample, prediction in zip(scanned.table.samples, predictions, strict=True)
        if sample.target is not None
    ]
    ranked.sort(key=lambda row: (-row[0], row[1].key))
    wrong = [row for row in ranked if row[0] > 0]
    if task.prediction_type is Text:
        best = ranked[::-1][:_MAX_BEST]
        return _examples(wrong[:_MAX_WITH_ATTENTION], predictor), _examples(best, predictor)
    has_heat = task.prediction_type in (Labels, Number)
    count = _MAX_WITH_HEAT if has_heat else _MAX_EXAMPLES
    return _examples(wrong[:count], predictor), []


def any_scored(scanned: ScannedTable, predictor: Predictor) -> bool:
    """Return whether single predictions can be right or wrong, and any image has a target."""
    if predictor.model.task.prediction_type is DenoisingResult:
        return False
    return any(sample.target is not None for sample in scanned.table.samples)


def generated_examples(predictor: Predictor) -> list[Example]:
    """Return images that the network generates, each with its prompt."""
    model = predictor.model
    generated = model.task.sample_images(model.backbone, model.head)
    return [
        Example(
            f"generated {index}",
            thumbnail(image.pixels, _SIDE),
            [(_PROMPT, prompt)] if prompt else [],
        )
        for index, (prompt, image) in enumerate(generated)
        if image.pixels is not None
    ]


def _examples(ranked: _Ranked, predictor: Predictor) -> list[Example]:
    return [_example(sample, prediction, predictor) for _, sample, prediction in ranked]


def _example(sample: Sample, prediction: Any, predictor: Predictor) -> Example:
    if isinstance(prediction, Labels | Number):
        predicted: str | Message
        if isinstance(prediction, Number):
            assert isinstance(sample.target, Number)
            predicted, true = prediction.with_interval, f"{sample.target.value:.4g}"
        else:
            predicted, true = _with_confidence(prediction), ", ".join(label_names(sample))
        details = [(_PREDICTED, predicted), (_TRUE, true or _NONE)]
        return Example(sample.key, _with_heat_map(sample, predictor), details)
    pixels = as_rgb(read_image(sample.source, None, rendering_of(predictor.recipe.data))[0])
    if isinstance(prediction, Text):
        return _caption_example(sample, prediction, pixels)
    left = draw_prediction(pixels, sample.target, predictor.classes)
    right = draw_prediction(pixels, predictor.apply_threshold(prediction), predictor.classes)
    pair = side_by_side(left, right, ("true", "predicted"))
    return Example(sample.key, thumbnail(pair, _PAIR_SIDE), [])


def _with_confidence(prediction: Labels) -> Message:
    names = ", ".join(prediction.names) or _NONE
    share = percent(confidence(prediction)).replace(" ", "\N{NO-BREAK SPACE}")
    return Message("report.with_confidence", "{names} ({percent})", names=names, percent=share)


def _with_heat_map(sample: Sample, predictor: Predictor) -> np.ndarray:
    """The network's input, beside the evidence for the prediction where it can be explained."""
    target = ExplainTarget.from_sample(predictor, sample)
    pixels, scores = target.pixels(_SIDE), target.explainable_scores()
    if not scores:
        return pixels
    try:
        heat = EXPLAINERS.get(DEFAULT_EXPLAINER)().explain(target.request(scores[0]))
    except UsageError:  # the network is of another kind
        return pixels
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    return np.concatenate([pixels, gap, overlay(pixels, heat)], 1)


def _caption_example(sample: Sample, prediction: Text, pixels: np.ndarray) -> Example:
    """The image, and where the network looked before it wrote each word."""
    references = sample.target.sentences if isinstance(sample.target, Text) else ()
    details = [
        (_PREDICTED, prediction.sentences[0] or _NONE),
        (_TRUE, " / ".join(references)),
    ]
    maps, words = prediction.attention_maps, prediction.tokens
    if maps is None:
        return Example(sample.key, thumbnail(pixels, _SIDE), details)
    return Example(
        sample.key, attention_sheet(pixels, maps, words, _WORD_SIDE, _MAX_WORDS), details
    )

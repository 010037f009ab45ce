"""The pictures of a report: the worst answers, and of sentences the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names
from foveate.errors import UsageError
from foveate.evaluation.metrics import metric_for
from foveate.explainability.faithfulness import ExplainTarget, overlay
from foveate.explainability.methods import EXPLAINERS, USUAL
from foveate.images import codec as images
from foveate.images.drawing import draw_prediction
from foveate.images.heatmaps import attention_sheet
from foveate.images.sheets import side_by_side
from foveate.inference.predictor import Predictor, confidence
from foveate.predictions import DenoisingResult, Labels, Text
from foveate.reporting.pages import Example
from foveate.types import Sample

_MOST, _BEST = 24, 6  # pictures
_SENTENCES = 12  # pictures with a map for each word, which are larger
_HEATED = 12  # pictures beside what speaks for the answer
_THUMBNAIL, _GAP = 192, 6  # px
_WIDE = 640  # px, of truth and answer side by side
_WORD, _WORDS = (
    104,
    11,
)  # px of a picture that shows where a word was looked for, and how many words at the most

_Judged = list[tuple[float, Sample, Any]]


def ranked(
    scanned: ScannedTable, predictions: Sequence[Any], predictor: Predictor
) -> tuple[list[Example], list[Example]]:
    """The worst answers, worst first, and the best ones, which only sentences have: they are never quite right. How well noise was
    taken off a picture shows nothing."""
    task = predictor.model.task
    if task.prediction_type is DenoisingResult:
        return [], []
    metric = metric_for(task.prediction_type, predictor.classes, predictor.multilabel)
    found = [
        (metric.sample_losses(prediction, sample.target), sample, prediction)
        for sample, prediction in zip(scanned.table.samples, predictions, strict=True)
        if sample.target is not None
    ]
    found.sort(key=lambda each: (-each[0], each[1].key))
    worst = [each for each in found if each[0] > 0]
    if task.prediction_type is not Text:
        most = _HEATED if task.prediction_type is Labels else _MOST
        return _shown(worst[:most], predictor), []
    return _shown(worst[:_SENTENCES], predictor), _shown(found[::-1][:_BEST], predictor)


def made(predictor: Predictor) -> list[Example]:
    """What the network makes by itself, each under what it was to show."""
    model = predictor.model
    shown = model.task.sample_images(model.backbone, model.head)
    return [
        Example(
            f"made {place}",
            images.thumbnail(picture.pixels, _THUMBNAIL),
            [("asked", sentence)] if sentence else [],
        )
        for place, (sentence, picture) in enumerate(shown)
        if picture.pixels is not None
    ]


def _shown(chosen: _Judged, predictor: Predictor) -> list[Example]:
    return [_picture(sample, prediction, predictor) for _, sample, prediction in chosen]


def _picture(sample: Sample, prediction: Any, predictor: Predictor) -> Example:
    if isinstance(prediction, Labels):
        answer = f"{', '.join(prediction.names) or 'none'} ({confidence(prediction):.0%})"
        told = [("answer", answer), ("truth", ", ".join(label_names(sample)) or "none")]
        return Example(sample.key, _with_heat(sample, predictor), told)
    full, _ = images.read_image(sample.path)
    if isinstance(prediction, Text):
        return _worded(sample, prediction, full)
    left = draw_prediction(full, sample.target, predictor.classes)
    right = draw_prediction(full, predictor.with_uncertainty(prediction), predictor.classes)
    return Example(
        sample.key, images.thumbnail(side_by_side(left, right, ("truth", "answer")), _WIDE), []
    )


def _with_heat(sample: Sample, predictor: Predictor) -> np.ndarray:
    """The picture as the network sees it, and where its answer came from, where the network can be looked into."""
    subject = ExplainTarget.of(predictor, sample)
    pixels, questions = subject.pixels(_THUMBNAIL), subject.questions()
    if not questions:
        return pixels
    try:
        map_ = EXPLAINERS.get(USUAL)().explain(subject.asked(questions[0]))
    except UsageError:
        return pixels
    return np.concatenate(
        [pixels, np.full((_THUMBNAIL, _GAP, 3), 255, np.uint8), overlay(pixels, map_)], 1
    )


def _worded(sample: Sample, prediction: Text, full: Any) -> Example:
    """The picture, and where the network looked before it wrote each word."""
    truth = sample.target.sentences if isinstance(sample.target, Text) else ()
    told = [("answer", prediction.sentences[0] or "nothing"), ("truth", " / ".join(truth))]
    if prediction.attention_maps is None:
        return Example(sample.key, images.thumbnail(full, _THUMBNAIL), told)
    return Example(sample.key, attention_sheet(full, prediction.attention_maps, prediction.tokens, _WORD, _WORDS), told)

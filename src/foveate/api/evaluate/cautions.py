"""Cautions: what the scores of an evaluation do not tell."""

from __future__ import annotations

import shlex

import numpy as np

from foveate.api.evaluate.held_out import overlap_cautions
from foveate.data.scan import ScannedTable
from foveate.inference.predictor import Predictor
from foveate.messages import Message, message_from
from foveate.predictions import DenoisingResult
from foveate.types import Scores

_FEW_IMAGES = 100


def score_cautions(scores: Scores) -> list[Message]:
    """Return the cautions that follow from the scores: no better than a constant answer."""
    if "majority_accuracy" in scores.numbers:
        return _majority_cautions(scores)
    gain = scores.numbers.get("mae_gain")
    if gain is None or (gain.low is not None and gain.low > 0):
        return []
    return [
        Message(
            "caution.no_better_than_median",
            "always answering the median of the training numbers is about as good on these images: "
            "mean absolute error {mae}, that of the median {median}",
            mae=scores.numbers["mae"].with_interval,
            median=scores.numbers["median_mae"].with_interval,
        )
    ]


def _majority_cautions(scores: Scores) -> list[Message]:
    """Whether always answering one class would do as well."""
    accuracy, majority = (scores.numbers[name] for name in ("accuracy", "majority_accuracy"))
    confusion = np.array(scores.tables["confusion"])
    classes, answered = scores.tables["classes"], np.flatnonzero(confusion.sum(0))
    if len(answered) == 1 and confusion.shape[0] > 1:
        return [
            Message(
                "caution.one_answer",
                "the run answers {name} for every image, and has learned to tell nothing",
                name=repr(classes[answered[0]]),
            )
        ]
    lowest = accuracy.value if accuracy.low is None else accuracy.low
    if lowest > majority.value:
        return []
    return [
        Message(
            "caution.no_better_than_majority",
            "always answering {name} would be right for {share} of these images, and the accuracy "
            "of {accuracy} is not better than that beyond the noise",
            name=repr(classes[int(confusion.sum(1).argmax())]),
            share=f"{majority.value:.3f}",
            accuracy=accuracy.with_interval,
        )
    ]


def cautions_for(
    predictor: Predictor, scanned: ScannedTable, scores: Scores, split: str, own: bool
) -> list[Message]:
    """Return the cautions about the scores of a run.

    Args:
        predictor: The run.
        scanned: The images that were evaluated.
        scores: The scores.
        split: Of the images.
        own: Whether they are the run's own images.
    """
    run, count = predictor.run, len(scanned.hashes)
    cautions = score_cautions(scores)
    cautions += [message_from(row) for row in run.outcome().get("cautions", [])] if own else []
    cautions += overlap_cautions(run, scanned, own)
    if own and split == "val":
        cautions += _selection_cautions(predictor)
    if predictor.model.task.prediction_type is DenoisingResult:
        cautions.append(
            Message(
                "caution.denoising",
                "this score measures how well noise is removed, not how good generated images are: "
                "foveate generate {run} --reference DATA compares them with real ones",
                run=shlex.quote(str(run.folder)),
            )
        )
    if count < _FEW_IMAGES:
        cautions.append(
            Message(
                "caution.few_images",
                "the score rests on only {count:image|images}: the interval shows how uncertain it "
                "is",
                count=count,
            )
        )
    if own:
        cautions.append(
            Message(
                "caution.same_source",
                "these images come from the same source as the training images; another camera, "
                "site or season can cost far more than any interval shows: collect images from "
                "there and run foveate evaluate on them",
            )
        )
    return cautions


def _selection_cautions(predictor: Predictor) -> list[Message]:
    """What the validation images have already selected."""
    cautions = []
    if predictor.model.tuning.needs_steps:
        cautions.append(
            Message(
                "caution.selected_weights",
                "the validation images also selected the weights: expect slightly less on new "
                "images",
            )
        )
    if (predictor.run.folder / "leaderboard.json").is_file():
        cautions.append(
            Message(
                "caution.selected_tuning",
                "the validation images also selected the fine-tuning method: expect slightly less "
                "on new images",
            )
        )
    return cautions

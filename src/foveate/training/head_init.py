"""The head, solved on features of the backbone as it came; and how much a random split of the images would flatter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foveate.data.splits import group_folds
from foveate.data.tables import label_names
from foveate.evaluation.intervals import wilson
from foveate.inference.features import head_features
from foveate.modeling.classifiers.logistic import LabeledFeatures, out_of_fold
from foveate.predictions import Labels
from foveate.run.folder import note_choice
from foveate.training.job import Job
from foveate.types import Score
from foveate.utils import console, log
from foveate.utils.device import ComputeMode

_FOLDS = 5


@dataclass(frozen=True)
class LeftOut:
    """Training images before classifiers that were solved without them. `chances`: (N, K); `truths`: (N,) places of classes."""

    chances: np.ndarray
    truths: np.ndarray


@dataclass(frozen=True)
class HeadFit:
    """`audit`: of the split, rows; `left_out`: where a probe with one class an image was solved."""

    audit: list[dict[str, Any]] = field(default_factory=list)
    left_out: LeftOut | None = None


def needs_features(job: Job) -> bool:
    solvable = hasattr(job.model.head, "feature_vector") and job.model.task.prediction_type is Labels
    return solvable and (
        not job.model.tuning.needs_steps or job.recipe.training.head_start == "probe"
    )


def head_training_features(job: Job) -> np.ndarray:
    """(N, D) of the training images, by the backbone as it came."""
    pictures = job.dataset("train")
    with console.progress(len(pictures), "features") as bar:
        found = head_features(
            job.model,
            pictures,
            [job.scanned.hashes[place] for place in job.indices("train")],
            batch_size=job.recipe.training.batch_size,
            device=job.device,
            way=ComputeMode(job.recipe.training.precision, bool(job.recipe.training.channels_last)),
            advance=bar.advance,
        )
    return found.numpy()


def fit_head(job: Job, features: np.ndarray) -> HeadFit:
    """Has the tuning put the closed-form solution into the head."""
    samples = job.table.in_split("train")
    targets = np.stack(
        [job.model.task.encode(sample.target, (1, 1))["labels"].numpy() for sample in samples]
    )
    multilabel = bool(job.recipe.task.settings.get("multilabel"))
    groups = [job.groups[place] for place in job.indices("train")]
    labels = [label_names(sample) for sample in samples]
    folds = group_folds(labels, groups, _FOLDS, job.recipe.seed)
    known = LabeledFeatures(features, targets, folds, multilabel)
    choices = job.model.tuning.fit_head(job.model, known)
    for choice in choices:
        note_choice(job.run, *choice)
    if multilabel or not any(field == "head.C" for field, *_ in choices):
        return HeadFit()
    truths, solution = targets.argmax(1), known.solution
    assert solution.left_out is not None
    left_out = LeftOut(solution.left_out, truths)
    if not job.recipe.data.audit or len(set(groups)) == len(groups):
        return HeadFit([], left_out)
    alone = group_folds(
        labels, [str(place) for place in range(len(groups))], _FOLDS, job.recipe.seed
    )
    chances = out_of_fold(known.turned, targets, alone, solution.strength, False, near=solution)
    return HeadFit(_audit(LeftOut(chances, truths), left_out), left_out)


def _audit(alone: LeftOut, grouped: LeftOut) -> list[dict[str, Any]]:
    """How much a random split would flatter: the same probe, folds that divide groups against folds that do not."""
    found = []
    for name, left_out, meaning in (
        ("random folds", alone, "near-copies of a picture may be on both sides"),
        ("folds by group", grouped, "near-copies, or what the data groups, stay together"),
    ):
        hits, count = (
            int((left_out.chances.argmax(1) == left_out.truths).sum()),
            len(left_out.truths),
        )
        score = Score(hits / count, *wilson(hits, count), count)
        log.info(f"accuracy of a probe inside the training images, {name}: {score}")
        found.append({"name": name, "score": asdict(score), "meaning": meaning})
    return found

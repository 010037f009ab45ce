"""The initial head, fitted to features of the backbone as it came (LP-FT, Kumar et al. 2022).

On the way it measures how optimistic the score of a random split of the images would be, and how
far the accuracy could fall on images unlike these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foveate.data.splits import group_folds
from foveate.data.tables import strata
from foveate.evaluation.intervals import Units
from foveate.evaluation.proportions import proportion
from foveate.inference.features import head_features
from foveate.messages import Message
from foveate.modeling.classifiers.logistic import LabeledFeatures, out_of_fold
from foveate.predictions import Labels, Number
from foveate.training.job import DataAudit, Job
from foveate.training.unlike_images import measure_unlike
from foveate.types import Decision, Sample, Score
from foveate.utils import console, log
from foveate.utils.device import ComputeMode

_FOLDS = 5  # of the cross-validation that chooses the penalty
_RANDOM_FOLDS = (
    Message("training.random_folds", "random folds"),
    Message("training.random_folds_meaning", "near-duplicates of an image may be on both sides"),
)
_GROUP_FOLDS = (
    Message("training.group_folds", "grouped folds"),
    Message(
        "training.group_folds_meaning",
        "near-duplicates, and images that the data group, stay together",
    ),
)


@dataclass(frozen=True)
class OutOfFold:
    """Training images, classified by a probe that was fitted without their fold.

    Attributes:
        probabilities: (N, K).
        labels: (N,), indices of their classes.
    """

    probabilities: np.ndarray
    labels: np.ndarray

    def accuracy(self, units: Units) -> Score:
        return proportion(self.probabilities.argmax(1) == self.labels, units)


@dataclass(frozen=True)
class HeadFit:
    """What fitting a head yields beside its weights.

    Attributes:
        decisions: what the tuning has chosen.
        out_of_fold: cross-validated probabilities; None unless the head is a single-label probe.
        audit: what the probe says about the data; that of the job if it has one.
    """

    decisions: list[Decision] = field(default_factory=list)
    out_of_fold: OutOfFold | None = None
    audit: DataAudit = field(default_factory=DataAudit)


def needs_features(job: Job) -> bool:
    """Whether the head is fitted to features before any step, or instead of all."""
    model = job.model
    fittable = (Labels, Number)
    if not hasattr(model.head, "feature_vector") or model.task.prediction_type not in fittable:
        return False
    return not model.tuning.needs_steps or job.recipe.training.head_init == "probe"


def fit_to_targets(job: Job) -> list[Decision]:
    """Let the task learn from the training targets; a run that continues another keeps its own."""
    if job.recipe.start.run:
        return []
    targets = [sample.target for sample in job.table.in_split("train")]
    return job.model.task.fit_to_targets(job.model.head, targets)


def head_training_features(job: Job) -> np.ndarray:
    """Return (N, D) features, by the backbone as it came, of the images for the head.

    Those of images that are held out from training for a comparison are computed with them, so that
    fits with and without these images read the same file.
    """
    wanted = job.head_indices()
    indices = wanted if job.head_images is not None else job.indices("train", "unlike")
    kept = np.isin(indices, wanted)
    dataset = job.eval_dataset(indices)
    with console.progress(len(dataset), "features") as bar:
        features = head_features(
            job.model,
            dataset,
            [job.scanned.hashes[index] for index in indices],
            batch_size=job.recipe.training.batch_size,
            device=job.device,
            mode=ComputeMode.for_training(job.recipe.training),
            advance=bar.advance,
        )
    return features.numpy()[kept]


def fit_head(job: Job, features: np.ndarray) -> HeadFit:
    """Let the tuning fit the head of the model, in closed form.

    Args:
        job: The fit; its model gets the head, nothing is written.
        features: (N, D) features of `job.head_indices()`.
    """
    seed, numeric = job.recipe.seed, job.model.task.prediction_type is Number
    indices = job.head_indices()
    samples = [job.table.samples[index] for index in indices]
    targets = _targets(job, samples)
    groups = [job.groups[index] for index in indices]
    labels = strata(samples)
    folds = group_folds(labels, groups, _FOLDS, seed)
    grouped = len(set(groups)) < len(groups)
    known = LabeledFeatures(features, targets, folds, job.multilabel, grouped, numeric)
    decisions = [Decision(*each) for each in job.model.tuning.fit_head(job.model, known)]
    if job.multilabel or not any(each.field == "head.C" for each in decisions):
        return HeadFit(decisions, audit=job.audit or DataAudit())
    assert known.solution.out_of_fold is not None
    by_group = OutOfFold(known.solution.out_of_fold, targets.argmax(1))
    if job.audit is None and job.recipe.data.leakage_audit:
        return HeadFit(decisions, by_group, _audit(known, by_group, labels, groups, seed))
    return HeadFit(decisions, by_group, job.audit or DataAudit())


def _audit(
    known: LabeledFeatures,
    by_group: OutOfFold,
    labels: list[tuple[str, ...]],
    groups: list[str],
    seed: int,
) -> DataAudit:
    """Measure what random folds, and look-alikes that are left out, change.

    Args:
        known: The training images, with the solution.
        by_group: Of the solution, in the folds of `known`.
        labels: As `strata` returns them.
        groups: The group of each image.
        seed: Of folds and clusters.
    """
    solution = known.solution
    unlike = measure_unlike(known.rotated, known.targets, groups, solution, seed)
    row = None if unlike is None else unlike.row()
    if not known.grouped:
        return DataAudit(unlike=row)
    singles = [str(index) for index in range(len(groups))]
    folds = group_folds(labels, singles, _FOLDS, seed)
    probabilities = out_of_fold(
        known.rotated, known.targets, folds, solution.strength, False, initial=solution
    )
    audited = OutOfFold(probabilities, by_group.labels)
    return DataAudit(_audit_rows(audited, by_group, Units.of(groups)), row)


def _targets(job: Job, samples: Sequence[Sample]) -> np.ndarray:
    """(N, K) classes in {0, 1}, or (N, 1) standardized numbers."""
    encoded = [job.model.task.encode(sample.target, (1, 1)) for sample in samples]
    if job.model.task.prediction_type is not Number:
        return np.stack([each["labels"].numpy() for each in encoded])
    head: Any = job.model.head
    numbers = np.array([float(each["number"]) for each in encoded])
    standardized: np.ndarray = numbers - float(head.target_mean)
    return standardized[:, None] / float(head.target_deviation)


def _audit_rows(random: OutOfFold, by_group: OutOfFold, units: Units) -> list[dict[str, Any]]:
    """Compare the same probe in folds that divide groups and in folds that do not."""
    rows = []
    for (name, meaning), result in ((_RANDOM_FOLDS, random), (_GROUP_FOLDS, by_group)):
        score = result.accuracy(units)
        log.info(f"accuracy of a probe on the training images, {name} ({meaning}): {score}")
        rows.append({"name": name.row(), "score": asdict(score), "meaning": meaning.row()})
    return rows

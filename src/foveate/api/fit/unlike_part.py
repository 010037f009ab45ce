"""The second validation part of --tuning auto: look-alikes that no trial is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foveate.data.tables import label_names
from foveate.messages import Message
from foveate.modeling.classifiers.solution import rotate
from foveate.predictions import Labels
from foveate.run.folder import Run
from foveate.training.head_init import head_training_features, needs_features
from foveate.training.job import Job, PreparedData
from foveate.training.unlike_images import DIRECTIONS, held_out_clusters
from foveate.utils import log

_NO_CLUSTERS = Message(
    "tuning.no_clusters",
    "tunings are compared on validation images alone: look-alikes are held out only where each "
    "image has one class and the head is fitted to features",
)
_TOO_LATE = Message(
    "tuning.no_time_for_clusters",
    "tunings are compared on validation images alone: there is no time to compute the features by "
    "which look-alikes are found",
)
_TOO_FEW = Message(
    "tuning.too_few_clusters",
    "tunings are compared on validation images alone: there are too few training images to hold "
    "out some of their look-alikes",
)


def hold_out_look_alikes(job: Job, trials: Sequence[Path]) -> PreparedData:
    """Return the data of a job, with some of its training images in the split `unlike`.

    These are whole clusters of look-alikes; each is a group of its own, so that intervals are over
    clusters. Nothing is held out where that cannot be, which is logged.

    Args:
        job: The first trial of a search.
        trials: Folders of trials of the same search before it was interrupted, which held out the
            same images.
    """
    cluster_of = _recorded_clusters(trials[0]) if trials else _draw_clusters(job)
    samples = job.table.samples
    groups = [
        cluster_of.get(sample.key, group) for sample, group in zip(samples, job.groups, strict=True)
    ]
    held = tuple(
        replace(sample, split="unlike") if sample.key in cluster_of else sample
        for sample in samples
    )
    scanned = replace(job.scanned, table=job.table.with_samples(held))
    return replace(job.data, scanned=scanned, groups=groups)


def _recorded_clusters(trial: Path) -> dict[str, str]:
    """What a trial holds out: the path of each image -> its cluster."""
    return {row["path"]: row["group"] for row in Run(trial).splits() if row["split"] == "unlike"}


def _draw_clusters(job: Job) -> dict[str, str]:
    """Draw the look-alikes to hold out: the path of each image -> its cluster."""
    if not (needs_features(job) and job.model.task.prediction_type is Labels) or job.multilabel:
        log.info(_NO_CLUSTERS)
        return {}
    if job.head_images is not None:
        log.info(_TOO_LATE)
        return {}
    indices = job.indices("train")
    samples = [job.table.samples[index] for index in indices]
    classes = np.array([job.model.classes.index(label_names(sample)[0]) for sample in samples])
    rows = rotate(head_training_features(job)).leading(DIRECTIONS).rows
    groups = [job.groups[index] for index in indices]
    clusters = held_out_clusters(rows, classes, groups, job.recipe.seed)
    held = {
        sample.key: cluster
        for sample, cluster in zip(samples, clusters, strict=True)
        if cluster is not None
    }
    text = (
        "{images:training image|training images} in {clusters:cluster|clusters} of look-alikes are "
        "held out from all trials, as a second validation part; what is chosen is trained with them"
    )
    message = Message(
        "tuning.unlike_part", text, images=len(held), clusters=len(set(held.values()))
    )
    log.info(message if held else _TOO_FEW)
    return held

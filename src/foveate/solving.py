"""The head, solved on features of the backbone as it came; and how much a random split of the images would flatter."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from foveate import console
from foveate.data import label_names
from foveate.features import described
from foveate.intervals import wilson
from foveate.job import Job, note_choice
from foveate.linear import Known, out_of_fold
from foveate.splits import group_folds
from foveate.types import Labels, Score

_FOLDS = 5


def wants_features(job: Job) -> bool:
    solvable = hasattr(job.model.head, "describe") and job.model.task.answer is Labels
    return solvable and (not job.model.tuning.needs_steps or job.recipe.training.head_start == "probe")


def features_of(job: Job) -> np.ndarray:
    """(N, D) of the training images, by the backbone as it came."""
    pictures = job.pictures("train")
    with console.progress(len(pictures), "features") as bar:
        found = described(
            job.model,
            pictures,
            [job.scanned.hashes[place] for place in job.places("train")],
            batch_size=job.recipe.training.batch_size,
            device=job.device,
            channels_last=bool(job.recipe.training.channels_last),
            advance=bar.advance,
        )
    return found.numpy()


def solve_head(job: Job, features: np.ndarray) -> list[dict[str, Any]]:
    """Has the tuning put the closed-form solution into the head; gives the audit of the split, where a probe was solved."""
    samples = job.table.of("train")
    targets = np.stack([job.model.task.encode(sample.truth, (1, 1))["labels"].numpy() for sample in samples])
    multilabel = bool(job.recipe.task.settings.get("multilabel"))
    groups = [job.groups[place] for place in job.places("train")]
    labels = [label_names(sample) for sample in samples]
    folds = group_folds(labels, groups, _FOLDS, job.recipe.seed)
    choices = job.model.tuning.solve(job.model, Known(features, targets, folds, multilabel))
    for choice in choices:
        note_choice(job.run, *choice)
    strength = next((value for field, value, _ in choices if field == "head.C"), None)
    if strength is None or multilabel or not job.recipe.data.audit or len(set(groups)) == len(groups):
        return []
    return _audit(features, targets, labels, groups, strength, job.recipe.seed)


def _audit(
    features: np.ndarray, targets: np.ndarray, labels: list[tuple[str, ...]], groups: list[str], strength: float, seed: int
) -> list[dict[str, Any]]:
    """How much a random split would flatter: the same probe, folds that divide groups against folds that do not."""
    found = []
    for name, by, meaning in (
        ("random folds", [str(place) for place in range(len(groups))], "near-copies of a picture may be on both sides"),
        ("folds by group", groups, "near-copies, or what the data groups, stay together"),
    ):
        chances = out_of_fold(features, targets, group_folds(labels, by, _FOLDS, seed), strength, False)
        hits = int((chances.argmax(1) == targets.argmax(1)).sum())
        low, high = wilson(hits, len(labels))
        score = Score(hits / len(labels), low, high, len(labels))
        console.say(f"accuracy of a probe inside the training images, {name}: {score}")
        found.append({"name": name, "score": asdict(score), "meaning": meaning})
    return found

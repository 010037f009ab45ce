"""What a fit works with: recipe, run folder, model and data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.scan import ScannedTable
from foveate.data.tables import strata
from foveate.messages import Message
from foveate.modeling.datasets import eval_dataset, training_dataset
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.training.clock import TimeBudget
from foveate.types import Split, Table

HEAD_IMAGES = "head.images"
"""The decision to fit the head to a part of the training images: `Job.head_images`."""


@dataclass(frozen=True)
class PreparedData:
    """Data that are scanned and split; fits on the same data share it.

    Attributes:
        scanned: samples with splits, hashes and pixels.
        groups: name of the group of near-duplicates of each sample.
        split_reason: where the splits come from.
        read_seconds: time that reading an image took; 0 if it was not measured.
    """

    scanned: ScannedTable
    groups: list[str]
    split_reason: Message
    read_seconds: float = 0.0


@dataclass(frozen=True)
class DataAudit:
    """What a linear classifier of the training images says about the scores of any other.

    Attributes:
        leakage: accuracy in random and in grouped folds, JSON-able rows; empty if it was not
            measured.
        unlike: row of the accuracy on images whose look-alikes were left out; None if it was not
            measured.
    """

    leakage: list[dict[str, Any]] = field(default_factory=list)
    unlike: dict[str, Any] | None = None


@dataclass
class Job:
    """One fit.

    Attributes:
        recipe: the recipe as far as it is resolved.
        run: the run folder to write.
        model: the model to train.
        data: its data.
        device: where to train.
        budget: the time that it may take; None = any.
        evaluated: the splits that it is scored on in the end.
        image_seconds: time of an image in a training step; 0 until it is measured.
        forward_seconds: time of an image without gradients; 0 until it is measured.
        head_images: training images that the head is fitted to; None = all.
        audit: of another fit on the same images; None = it is measured where it can be.
    """

    recipe: Recipe
    run: Run
    model: Model
    data: PreparedData
    device: torch.device
    budget: TimeBudget | None = None
    head_images: int | None = None
    evaluated: tuple[Split, ...] = ("val", "test")
    image_seconds: float = 0.0
    forward_seconds: float = 0.0
    audit: DataAudit | None = None

    @property
    def scanned(self) -> ScannedTable:
        return self.data.scanned

    @property
    def groups(self) -> list[str]:
        return self.data.groups

    @property
    def table(self) -> Table:
        return self.scanned.table

    @property
    def multilabel(self) -> bool:
        return bool(self.recipe.task.settings.get("multilabel"))

    def indices(self, *splits: str) -> list[int]:
        """Return the indices of the samples of some splits, in the order of the table."""
        return [index for index, sample in enumerate(self.table.samples) if sample.split in splits]

    def head_indices(self) -> list[int]:
        """Return the indices of the training images that the head is fitted to.

        Where these are a part of them, it is random, and the same for the same seed; the first
        image of each class, as it is drawn, is in it.
        """
        indices = self.indices("train")
        if self.head_images is None or self.head_images >= len(indices):
            return indices
        drawn = np.random.default_rng(self.recipe.seed).permutation(indices).tolist()
        labels = dict(zip(indices, strata(self.table.in_split("train")), strict=True))
        first = list({labels[index]: index for index in reversed(drawn)}.values())
        ordered = dict.fromkeys([*first, *drawn])
        return sorted(list(ordered)[: self.head_images])

    def dataset(self, *splits: str, augmented: bool = False) -> ImageDataset:
        """Return the images of some splits, as for evaluation or `augmented` as for training."""
        indices = self.indices(*splits)
        if not augmented:
            return self.eval_dataset(indices)
        samples = [self.table.samples[index] for index in indices]
        cache, augment = self.scanned.cache, self.recipe.augment
        return training_dataset(self.model, samples, cache, augment, self.recipe.seed)

    def eval_dataset(self, indices: Sequence[int]) -> ImageDataset:
        """Return images as for evaluation, by their indices."""
        samples = [self.table.samples[index] for index in indices]
        return eval_dataset(self.model, samples, self.scanned.cache, self.recipe.seed)

"""What a fit works with: recipe, run folder, model and data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.scan import ScannedTable
from foveate.messages import Message
from foveate.modeling.datasets import eval_dataset, training_dataset
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.types import Table


@dataclass(frozen=True)
class PreparedData:
    """Data that are scanned and split; fits on the same data share it.

    Attributes:
        scanned: samples with splits, hashes and pixels.
        groups: name of the group of near-duplicates of each sample.
        split_reason: where the splits come from.
    """

    scanned: ScannedTable
    groups: list[str]
    split_reason: Message


@dataclass
class Job:
    """One fit.

    Attributes:
        recipe: the recipe as far as it is resolved.
        run: the run folder to write.
        model: the model to train.
        data: its data.
        device: where to train.
        deadline: moment of `time.monotonic()` when training must be over; None = none.
    """

    recipe: Recipe
    run: Run
    model: Model
    data: PreparedData
    device: torch.device
    deadline: float | None = None

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

    def indices(self, split: str) -> list[int]:
        """Return the indices of the samples of a split."""
        return [index for index, sample in enumerate(self.table.samples) if sample.split == split]

    def dataset(self, split: str, augmented: bool = False) -> ImageDataset:
        """Return the images of a split, as for evaluation or `augmented` as for training."""
        samples = [self.table.samples[index] for index in self.indices(split)]
        cache, seed = self.scanned.cache, self.recipe.seed
        if augmented:
            return training_dataset(self.model, samples, cache, self.recipe.augment, seed)
        return eval_dataset(self.model, samples, cache, seed)

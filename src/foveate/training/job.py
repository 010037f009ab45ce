"""What a fit has in its hands: recipe, run folder, model and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.mosaic import mosaic
from foveate.data.scan import ScannedTable
from foveate.data.transforms import training_transform
from foveate.inference.engine import eval_dataset
from foveate.modeling.model import Model
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run, note_choice
from foveate.types import Table


@dataclass(frozen=True)
class PreparedData:
    """What every fit on the same pictures stands on. `groups`: a name for each sample; `how`: the splits in words."""

    scanned: ScannedTable
    groups: list[str]
    how: str


@dataclass
class Job:
    """`deadline`: the moment of time.monotonic() when the training must be over; None = none."""

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

    def dataset(self, split: str, augmented: bool = False) -> ImageDataset:
        spec, framing = self.model.backbone.input, self.model.task.framing
        samples = [sample for sample in self.table.samples if sample.split == split]
        if not augmented:
            return eval_dataset(self.model, samples, self.scanned.pixels, self.recipe.seed)
        transform = training_transform(spec, framing, self.recipe.augment)
        joined = mosaic(spec, framing, self.recipe.augment)
        return ImageDataset(
            samples,
            self.scanned.pixels,
            transform,
            self.model.task.encode,
            self.recipe.seed,
            joined,
        )

    def indices(self, split: str) -> list[int]:
        return [index for index, sample in enumerate(self.table.samples) if sample.split == split]

    def choose(self, field: str, value: Any, reason: str) -> None:
        """Takes a decision for the user: said, reasoned, written down."""
        self.recipe = with_settings(self.recipe, {field: value})
        note_choice(self.run, field, value, reason)

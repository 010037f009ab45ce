"""What an epoch of training is worth: a judge looks at the weights that would be kept, and the trainer keeps the best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.inference.engine import compute_scores, predict_batches
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.types import Batch
from foveate.utils.device import ComputeMode


@dataclass(frozen=True)
class ValidationResult:
    """`score`: what counts, the most important number first, the greater the better. `row`: what is logged of it. `ended`: why the
    training should end now; empty where it should go on."""

    score: list[float]
    row: dict[str, Any] = field(default_factory=dict)
    stop_reason: str = ""


class Validator(ABC):
    @abstractmethod
    def validate(self, model: Model, asked: Callable[[], bool]) -> ValidationResult | None:
        """Looks at the model in eval mode, and leaves it as it was; None where it was `asked` to stop before it was done."""


class MetricValidator(Validator):
    """The task's main number on the images of the validation, and at a tie the loss.

    `parts`: places of some of the images under a name, whose number is logged beside that of all.
    """

    def __init__(
        self,
        pictures: ImageDataset,
        recipe: Recipe,
        device: torch.device,
        parts: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.pictures, self.recipe, self.device, self.parts = pictures, recipe, device, parts or {}
        self.way = ComputeMode(recipe.training.precision, bool(recipe.training.channels_last))
        self.multilabel = bool(recipe.task.settings.get("multilabel"))

    def validate(self, model: Model, asked: Callable[[], bool]) -> ValidationResult | None:
        found = predict_batches(model, self.pictures, self._batches(asked), self.device, self.way)
        if asked():
            return None
        scores = compute_scores(found.predictions, self.pictures.samples, model, self.multilabel)
        value = scores.numbers[scores.main].value
        row = {"val_loss": found.loss, f"val_{scores.main}": value}
        row |= {
            f"val_{scores.main}_{name}": part
            for name, part in self._by_part(model, found.predictions).items()
        }
        return ValidationResult([value, -found.loss], row)

    def _batches(self, asked: Callable[[], bool]) -> Iterator[Batch]:
        for batch in make_loader(
            self.pictures,
            BatchSampler(len(self.pictures), self.recipe.training.batch_size),
            self.recipe.data.workers,
        ):
            if asked():
                return
            yield batch

    def _by_part(self, model: Model, predictions: Sequence[Any]) -> dict[str, float]:
        """The main number of each part."""
        found = {}
        for name, places in self.parts.items():
            samples = [self.pictures.samples[place] for place in places]
            scores = compute_scores(
                [predictions[place] for place in places], samples, model, self.multilabel
            )
            found[name] = scores.numbers[scores.main].value
        return found

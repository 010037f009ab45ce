"""Model selection: a validator scores every epoch, and the trainer keeps the best weights."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.inference.engine import BatchPredictions, compute_scores, predict_dataset
from foveate.messages import Message
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.utils.device import ComputeMode

_TIMED_IMAGES = 8


@dataclass(frozen=True)
class ValidationResult:
    """The result of a validation.

    Attributes:
        score: selection criteria, the most important first; greater is better.
        row: numbers for metrics.jsonl.
        stop_reason: why the training should end now; None if it should continue.
    """

    score: list[float]
    row: dict[str, Any] = field(default_factory=dict)
    stop_reason: Message | None = None


class Validator(ABC):
    """Scores a model after every epoch, or as often as a time budget allows."""

    @property
    @abstractmethod
    def images(self) -> int:
        """The number of images that are scored."""

    @abstractmethod
    def time_image(self, model: Model) -> float:
        """Return about how many seconds an image takes, measured on a few of them."""

    def time_writing(self, model: Model) -> float:
        """Return about how many seconds it takes to write a prediction and its target."""
        return 0.0

    def limit(self, model: Model, images: int) -> int:
        """Score a random part of the images from now on, if the validator can do with one.

        Args:
            model: The model.
            images: The size of the part.

        Returns:
            The number of images that are scored from now on.
        """
        return self.images

    @abstractmethod
    def validate(self, model: Model, stop_requested: Callable[[], bool]) -> ValidationResult | None:
        """Score the model in eval mode, and leave it as it was.

        Args:
            model: The model, with the weights that would be kept.
            stop_requested: Whether a signal asked to stop meanwhile.

        Returns:
            The result; None if it stopped before the end.
        """


class MetricValidator(Validator):
    """Selects by the main metric of the task on the validation images; by the loss at a tie.

    Args:
        dataset: Validation images.
        recipe: The resolved recipe.
        device: Where the model is.
        subsets: Indices of images by name; their main metric is logged beside that of all.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        recipe: Recipe,
        device: torch.device,
        subsets: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.device = device
        self.subsets = subsets or {}
        self.mode = ComputeMode.for_training(recipe.training)

    @property
    def images(self) -> int:
        return len(self.dataset.samples)

    def time_image(self, model: Model) -> float:
        self._predict(model, self._part(model, 1))  # warms up
        some = self._part(model, _TIMED_IMAGES)
        start = time.monotonic()
        predictions = self._predict(model, some).predictions
        compute_scores(predictions, some.samples, model)
        return (time.monotonic() - start) / len(some.samples)

    def time_writing(self, model: Model) -> float:
        predictions = self._predict(model, self._part(model, 1)).predictions
        start = time.monotonic()
        for prediction in predictions:
            json.dumps(prediction.row(model.classes, model.multilabel))
        return 2 * (time.monotonic() - start)  # a target takes about as long

    def limit(self, model: Model, images: int) -> int:
        place = {index: place for place, index in enumerate(self._draw(images))}
        self.dataset = self._part(model, images)
        self.subsets = {
            name: [place[index] for index in indices if index in place]
            for name, indices in self.subsets.items()
        }
        return self.images

    def validate(self, model: Model, stop_requested: Callable[[], bool]) -> ValidationResult | None:
        result = self._predict(model, self.dataset, stop_requested)
        if stop_requested():
            return None
        name, value = self._main_metric(model, result.predictions, range(len(self.dataset.samples)))
        row = {"val_loss": result.loss, f"val_{name}": value}
        for subset, indices in self.subsets.items():
            if not indices:
                continue
            _, row[f"val_{name}_{subset}"] = self._main_metric(model, result.predictions, indices)
        return ValidationResult([value, -result.loss], row)

    def _draw(self, images: int) -> list[int]:
        """Return the indices of a random part of the images, the same for the same seed."""
        order = np.random.default_rng(self.recipe.seed).permutation(self.images)
        return sorted(order[:images].tolist())

    def _part(self, model: Model, images: int) -> ImageDataset:
        samples = [self.dataset.samples[index] for index in self._draw(images)]
        return eval_dataset(model, samples, self.dataset.cache, self.dataset.seed)

    def _predict(
        self,
        model: Model,
        dataset: ImageDataset,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> BatchPredictions:
        return predict_dataset(
            model,
            dataset,
            self.recipe.training.batch_size,
            self.device,
            self.mode,
            workers=self.recipe.data.workers,
            should_stop=stop_requested,
        )

    def _main_metric(
        self, model: Model, predictions: Sequence[Any], indices: Sequence[int]
    ) -> tuple[str, float]:
        """Return name and value of the main metric of some of the samples."""
        scores = compute_scores(
            [predictions[index] for index in indices],
            [self.dataset.samples[index] for index in indices],
            model,
        )
        return scores.main, scores.numbers[scores.main].value

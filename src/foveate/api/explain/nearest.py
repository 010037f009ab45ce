"""The training images most similar to an image, by the features of the run's backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from foveate.data.scan import drop_unreadable
from foveate.data.tables import label_names
from foveate.errors import UsageError
from foveate.images.codec import read_image, resize
from foveate.images.sheets import image_grid
from foveate.inference.features import pooled_features
from foveate.inference.predictor import Predictor
from foveate.run.lineage import read_run_table
from foveate.types import Provides, Sample, content_of
from foveate.utils import console

_MAX_TRAINING_IMAGES = 2000
_TILE_SIZE = 128  # px


@dataclass(frozen=True)
class NearestImage:
    """A similar training image.

    `similarity` is the cosine of both features after subtracting the mean of the training images.
    """

    key: str
    label: str
    similarity: float
    path: Path

    def row(self) -> dict[str, Any]:
        return {"path": self.key, "label": self.label, "similarity": self.similarity}


@dataclass(frozen=True)
class TrainingIndex:
    """Features of the training images of a run.

    Attributes:
        predictor: The run.
        samples: N training images.
        features: (N, D), centered and of length 1.
        mean: (D,), mean feature before centering.
    """

    predictor: Predictor
    samples: list[Sample]
    features: Tensor
    mean: Tensor

    @classmethod
    def of(cls, predictor: Predictor) -> TrainingIndex:
        """Compute the features of at most 2,000 training images, drawn by the run's seed.

        Raises:
            UsageError: There are no training images, or the backbone has no pooled features.
        """
        model = predictor.model
        if Provides.POOLED not in model.backbone.provides:
            raise UsageError(
                "this run's backbone has no pooled features to compare images by",
                where="--nearest",
            )
        table = read_run_table(predictor.run)
        train = [sample for sample in table.samples if sample.split == "train"]
        rng = np.random.default_rng(predictor.recipe.seed)
        drawn = sorted(rng.permutation(len(train))[:_MAX_TRAINING_IMAGES].tolist())
        cache = predictor.new_cache(keep=True)
        samples = drop_unreadable([train[index] for index in drawn], cache)
        if not samples:
            raise UsageError(
                "the training images of the run cannot be found",
                where="--nearest",
                hint="leave out --nearest",
            )
        with console.progress(len(samples), "training images") as bar:
            features = pooled_features(
                model.backbone, samples, cache, model.task.framing, predictor.device, bar.advance
            )
        mean = features.mean(0)
        return cls(predictor, samples, functional.normalize(features - mean, dim=1), mean)

    def nearest(self, sample: Sample, count: int) -> list[NearestImage]:
        """Return the `count` training images most similar to an image, best first."""
        model = self.predictor.model
        cache = self.predictor.new_cache(keep=False)
        features = pooled_features(
            model.backbone, [sample], cache, model.task.framing, self.predictor.device
        )
        query = functional.normalize(features - self.mean, dim=1)
        similarities, indices = (query @ self.features.T)[0].topk(min(count, len(self.samples)))
        chosen = [self.samples[index] for index in indices.tolist()]
        return [
            NearestImage(sample.key, ", ".join(label_names(sample)), float(value), sample.path)
            for sample, value in zip(chosen, similarities.tolist(), strict=True)
        ]

    @staticmethod
    def sheet(nearest: Sequence[NearestImage]) -> np.ndarray:
        """Draw the images side by side, with their labels and similarities."""
        size = (_TILE_SIZE, _TILE_SIZE)
        tiles = [resize(read_image(content_of(each.path), _TILE_SIZE)[0], size) for each in nearest]
        titles = [f"{each.label} {each.similarity:.2f}".strip() for each in nearest]
        return image_grid(tiles, titles, len(nearest))

"""The training images that a picture is most like, by the features that the run's backbone has of
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from foveate.data.image_cache import ImageCache
from foveate.data.scan import drop_unreadable
from foveate.data.tables import label_names
from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.images.sheets import image_grid
from foveate.inference.features import pooled_features
from foveate.inference.predictor import Predictor
from foveate.run.lineage import read_run_table
from foveate.types import Provides, Sample
from foveate.utils import console
from foveate.utils.paths import printable

_MOST = 2000  # training images that are looked at
_SIDE = 128  # px


@dataclass(frozen=True)
class Near:
    """`alike`: the cosine of both features, each less the mean of the training images."""

    key: str
    label: str
    alike: float
    path: Path

    def row(self) -> dict[str, Any]:
        return {"path": self.key, "label": self.label, "alike": self.alike}


@dataclass(frozen=True)
class Known:
    """`features`: (N, D) of length 1, of the training images `samples`; `middle`: (D,), their mean
    before.
    """

    predictor: Predictor
    samples: list[Sample]
    features: Tensor
    middle: Tensor

    @classmethod
    def of(cls, predictor: Predictor) -> Known:
        """Of at most 2,000 training images, drawn by the run's seed.

        Raises UsageError where there are none, or no features.
        """
        model = predictor.model
        if Provides.POOLED not in model.backbone.provides:
            raise UsageError(
                "this run's backbone has no vector of a picture to compare", where="--nearest"
            )
        train = [
            sample for sample in read_run_table(predictor.run).samples if sample.split == "train"
        ]
        drawn = np.random.default_rng(predictor.recipe.seed).permutation(len(train))[:_MOST]
        pixels = ImageCache(model.backbone.input.size, model.task.framing, keep=True)
        samples = drop_unreadable([train[place] for place in sorted(drawn.tolist())], pixels)
        if not samples:
            raise UsageError(
                "the run's training images are not there", where="--nearest", hint="leave it out"
            )
        with console.progress(len(samples), "training images") as bar:
            features = pooled_features(
                model.backbone, samples, pixels, model.task.framing, predictor.device, bar.advance
            )
        middle = features.mean(0)
        return cls(predictor, samples, functional.normalize(features - middle, dim=1), middle)

    def nearest(self, path: Path, count: int) -> list[Near]:
        model, sample = self.predictor.model, Sample(path, printable(path))
        pixels = ImageCache(model.backbone.input.size, model.task.framing, keep=False)
        found = pooled_features(
            model.backbone, [sample], pixels, model.task.framing, self.predictor.device
        )
        asked = functional.normalize(found - self.middle, dim=1)
        alike, places = (asked @ self.features.T)[0].topk(min(count, len(self.samples)))
        chosen = [self.samples[place] for place in places.tolist()]
        return [
            Near(each.key, ", ".join(label_names(each)), float(value), each.path)
            for each, value in zip(chosen, alike.tolist(), strict=True)
        ]

    @staticmethod
    def strip(near: Sequence[Near]) -> np.ndarray:
        pictures = [
            images.resize(images.read_image(each.path, _SIDE)[0], (_SIDE, _SIDE)) for each in near
        ]
        return image_grid(
            pictures, [f"{each.label} {each.alike:.2f}".strip() for each in near], len(near)
        )

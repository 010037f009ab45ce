"""The main score under corruptions: noise, blur, fog, compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.api.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache, rendering_of
from foveate.data.transforms import DeferredNormalize, as_image, evaluation_transform
from foveate.errors import UsageError
from foveate.images.preprocessing import View
from foveate.inference.engine import compute_scores, predict_dataset
from foveate.inference.predictor import Predictor
from foveate.recipe import DataRecipe
from foveate.types import Sample, Score, TargetTensors
from foveate.utils import console


@dataclass(frozen=True)
class CorruptionResult:
    """Scores under corruptions.

    Attributes:
        metric: Name of the main score.
        clean: Without corruption.
        rows: By corruption, at each severity from 1 to 5.
    """

    metric: str
    clean: Score
    rows: dict[str, list[Score]]

    @property
    def mean(self) -> float:
        """Over all corruptions and severities."""
        return float(np.mean([score.value for scores in self.rows.values() for score in scores]))

    def numbers(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        rows = {name: [asdict(score) for score in scores] for name, scores in self.rows.items()}
        return {"metric": self.metric, "mean": self.mean, "clean": self.clean.value, "rows": rows}

    def lines(self) -> list[str]:
        """Return lines of text, the worst corruption first."""
        by_score = sorted(
            self.rows, key=lambda name: np.mean([score.value for score in self.rows[name]])
        )
        means = f"mean {self.metric} {self.mean:.3f}, {self.clean.value:.3f} without"
        return [
            f"under {len(self.rows)} corruptions: {means}",
            *(
                f"  {name}: {', '.join(f'{score.value:.3f}' for score in self.rows[name])}"
                for name in by_score
            ),
        ]


def require_colors(recipe: DataRecipe) -> None:
    """Refuse other channels than red, green and blue, for which corruptions are not defined.

    Raises:
        UsageError: The run has other channels.
    """
    if rendering_of(recipe).channels != 3:
        raise UsageError(
            "corruptions are defined for three bands",
            where="--corrupt",
            why=f"this run sees the bands {', '.join(map(str, recipe.bands))}",
            hint="leave out --corrupt",
        )


def score_corrupted(
    predictor: Predictor, samples: Sequence[Sample], cache: ImageCache, clean: Score
) -> CorruptionResult:
    """Score every corruption at every severity, applied to the network's input.

    Args:
        predictor: The run.
        samples: The images.
        cache: Decodes the images.
        clean: The main score without corruption.
    """
    rows, main = dict[str, list[Score]](), ""
    with console.progress(len(CORRUPTIONS) * len(SEVERITIES) * len(samples), "corrupt") as bar:
        for name in CORRUPTIONS:
            for severity in SEVERITIES:
                result = predict_dataset(
                    predictor.model,
                    _corrupted_dataset(predictor, samples, cache, name, severity),
                    predictor.recipe.training.batch_size,
                    predictor.device,
                    predictor.mode,
                    advance=bar.advance,
                )
                scores = compute_scores(result.predictions, samples, predictor.model)
                main = scores.main
                rows.setdefault(name, []).append(scores.numbers[main])
    return CorruptionResult(main, clean, rows)


def _corrupted_dataset(
    predictor: Predictor, samples: Sequence[Sample], cache: ImageCache, name: str, severity: int
) -> ImageDataset:
    """The network's inputs, corrupted.

    Randomness comes from torch's generator, which the dataset seeds for each image.
    """
    spec, task = predictor.model.backbone.input, predictor.model.task
    clean_transform = evaluation_transform(spec, task.framing)

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image, view, tensors = clean_transform(pixels, size, target)
        seed = int(torch.randint(2**31, ()))
        corrupted = corrupt(image.permute(1, 2, 0).numpy(), name, severity, seed)
        return as_image(corrupted).as_subclass(Tensor), view, tensors

    normalized = DeferredNormalize(transform, spec)
    return ImageDataset(samples, cache, normalized, task.encode, predictor.recipe.seed)

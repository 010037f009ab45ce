"""How much of the main number is left when pictures are noisy, blurred, in fog or badly stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.api.evaluate.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import DeferredNormalize, as_image, evaluation_transform
from foveate.images.preprocessing import View
from foveate.inference.engine import predict_batches, score_predictions
from foveate.inference.predictor import Predictor
from foveate.types import Sample, Score, TargetTensors
from foveate.utils import console


@dataclass(frozen=True)
class Corrupted:
    """`measure`: the main number, `clean`: without corruption; `rows`: of each corruption, the number at each strength."""

    measure: str
    clean: Score
    rows: dict[str, list[Score]]

    @property
    def mean(self) -> float:
        return float(np.mean([score.value for scores in self.rows.values() for score in scores]))

    def numbers(self) -> dict[str, Any]:
        rows = {name: [asdict(score) for score in scores] for name, scores in self.rows.items()}
        return {"measure": self.measure, "mean": self.mean, "clean": self.clean.value, "rows": rows}

    def lines(self) -> list[str]:
        worst = sorted(
            self.rows, key=lambda name: np.mean([score.value for score in self.rows[name]])
        )
        told = [
            f"under {len(self.rows)} corruptions: mean {self.measure} {self.mean:.3f}, {self.clean.value:.3f} without"
        ]
        return [
            *told,
            *(
                f"  {name}: {', '.join(f'{score.value:.3f}' for score in self.rows[name])}"
                for name in worst
            ),
        ]


def robust(
    predictor: Predictor, samples: Sequence[Sample], pixels: ImageCache, clean: Score
) -> Corrupted:
    """Every corruption at every strength, of the square that the network sees."""
    rows, main = dict[str, list[Score]](), ""
    with console.progress(len(CORRUPTIONS) * len(STRENGTHS) * len(samples), "corrupt") as bar:
        for name in CORRUPTIONS:
            for strength in STRENGTHS:
                pictures = _spoilt(predictor, samples, pixels, name, strength)
                batches = make_loader(
                    pictures, BatchSampler(len(pictures), predictor.recipe.training.batch_size)
                )
                found = predict_batches(
                    predictor.model, pictures, batches, predictor.device, predictor.way, bar.advance
                )
                scores = score_predictions(
                    found.predictions, samples, predictor.model, predictor.multilabel
                ).compute()
                main = scores.main
                rows.setdefault(name, []).append(scores.numbers[main])
    return Corrupted(main, clean, rows)


def _spoilt(
    predictor: Predictor, samples: Sequence[Sample], pixels: ImageCache, name: str, strength: int
) -> ImageDataset:
    """The pictures as the network would see them, spoilt; chance comes from torch's generator, which is seeded for each of them."""
    spec, task = predictor.model.backbone.input, predictor.model.task
    plain = evaluation_transform(spec, task.framing)

    def transform(
        values: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image, view, moved = plain(values, size, target)
        spoilt = corrupted(
            image.permute(1, 2, 0).numpy(), name, strength, int(torch.randint(2**31, ()))
        )
        return as_image(spoilt).as_subclass(Tensor), view, moved

    return ImageDataset(samples, pixels, DeferredNormalize(transform, spec), task.encode, predictor.recipe.seed)

"""A guard against harm by pretraining: it compares features of held-out images with the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.evaluation.intervals import paired_mean_difference
from foveate.inference.features import extract_features
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.reporting.metric_names import metric_name
from foveate.training.feature_quality import FeatureQuality
from foveate.training.validation import ValidationResult, Validator
from foveate.types import Batch
from foveate.utils.device import ComputeMode

# below these shares of their values at the start, features have collapsed
_MIN_RANK_SHARE, _MIN_SPREAD_SHARE = 0.25, 0.1
# and below these values if they started from random weights, which are no measure for others
_MIN_RANK, _MIN_SPREAD = 1.5, 0.01
_PATIENCE = 3  # bad epochs in a row before it ends: the first steps of a new head disturb
_WORSE = "worse"  # key in metrics.jsonl


class CollapseGuard(Validator):
    """Scores a backbone by its features of held-out images, and stops a harmful training.

    One half of the images selects the epoch and detects harm, the other half is reported.

    Args:
        held_out: The images.
        copies: The same images as pairs of mildly augmented views.
        labels: (N,), indices of their classes; None if they are unknown.
        device: Where the model is.
        mode: Precision and memory format.
        batch_size: Images at once.
        from_scratch: Whether the training started from random weights.
    """

    def __init__(
        self,
        held_out: ImageDataset,
        copies: ImageDataset,
        labels: np.ndarray | None,
        device: torch.device,
        mode: ComputeMode,
        batch_size: int,
        from_scratch: bool,
    ) -> None:
        self.held_out = held_out
        self.copies = copies
        self.labels = labels
        self.device = device
        self.mode = mode
        self.batch_size = batch_size
        self.from_scratch = from_scratch
        order = np.random.default_rng(0).permutation(len(held_out))
        self.selection_indices, self.report_indices = order[::2], order[1::2]
        self.start: FeatureQuality | None = None
        self.seconds = 0.0  # that the start took to measure
        self.worse_epochs = 0
        self.epochs = 0

    def measure_start(self, model: Model, rows: Sequence[dict[str, Any]]) -> None:
        """Measure the model before the first step.

        Args:
            model: The model with its initial weights.
            rows: Metrics of the epochs that a resumed run has behind it.
        """
        begin = time.monotonic()
        self.start = self.measure(model)
        self.seconds = time.monotonic() - begin
        self.epochs, self.worse_epochs = len(rows), 0
        for row in rows:
            self.worse_epochs = self.worse_epochs + 1 if row.get(_WORSE) else 0

    @property
    def images(self) -> int:
        return len(self.held_out)

    def time_image(self, model: Model) -> float:
        return self.seconds / self.images

    def validate(self, model: Model, stop_requested: Callable[[], bool]) -> ValidationResult | None:
        assert self.start is not None
        now = self.measure(model)
        if stop_requested():
            return None
        selection = now.subset(self.selection_indices)
        collapse = collapse_reason(now, self.start, self.from_scratch)
        harm = collapse or degradation_reason(selection, self.start.subset(self.selection_indices))
        self.worse_epochs = self.worse_epochs + 1 if harm else 0
        self.epochs += 1
        # without labels the last epoch that did no harm is kept
        criterion = self.epochs if selection.knn is None else selection.knn.mean()
        return ValidationResult(
            score=[float(harm is None), float(criterion)],
            row={**now.row(), _WORSE: harm is not None},
            stop_reason=harm if collapse or self.worse_epochs >= _PATIENCE else None,
        )

    @torch.inference_mode()
    def measure(self, model: Model) -> FeatureQuality:
        """Measure the features of the held-out images."""
        was_training = model.training
        model.eval()
        features = self.features(model)
        first = list(self._batches(self.copies))
        second = [replace(each, images=_second_view(each), targets=[]) for each in first]
        quality = FeatureQuality.measure(
            features, self._extract(model, first), self._extract(model, second), self.labels
        )
        model.train(was_training)
        return quality

    def features(self, model: Model) -> Tensor:
        """Return (N, D) features of the held-out images, by a model in eval mode."""
        return self._extract(model, self._batches(self.held_out))

    def _extract(self, model: Model, batches: Any) -> Tensor:
        return extract_features(model.backbone, batches, self.device, self.mode)

    def _batches(self, dataset: ImageDataset) -> Any:
        return make_loader(dataset, BatchSampler(len(dataset), self.batch_size))


def _second_view(batch: Batch) -> Tensor:
    return torch.stack([target["global_views"][0] for target in batch.targets])


def collapse_reason(
    now: FeatureQuality, start: FeatureQuality, from_scratch: bool
) -> Message | None:
    """Say why the features have become useless; None if they have not.

    Args:
        now: The features now.
        start: The features before the first step.
        from_scratch: Whether these are of random weights, which are no measure for others.
    """
    if not np.isfinite([now.rank, now.spread]).all():
        return Message("training.nonfinite_features", "features contain NaN or infinity")
    if now.rank < (_MIN_RANK if from_scratch else _MIN_RANK_SHARE * start.rank):
        return Message(
            "training.rank_collapse",
            "features collapsed: they span {now:.1f} dimensions, {start:.1f} at the start",
            now=now.rank,
            start=start.rank,
        )
    if now.spread < (_MIN_SPREAD if from_scratch else _MIN_SPREAD_SHARE * start.spread):
        return Message(
            "training.spread_collapse",
            "features collapsed: all images look the same (spread {now:.3f}, {start:.3f} at the "
            "start)",
            now=now.spread,
            start=start.spread,
        )
    return None


def degradation_reason(now: FeatureQuality, start: FeatureQuality) -> Message | None:
    """Say by how much the features are worse than at the start; None if that may be noise."""
    metric, before, after = "self_retrieval", start.self_retrieval, now.self_retrieval
    if now.knn is not None and start.knn is not None:
        metric, before, after = "knn_accuracy", start.knn, now.knn
    change, low, high = paired_mean_difference(after, before)
    if high >= 0:
        return None
    return Message(
        "training.worse_features",
        "{metric} {change:+.3f} [{low:+.3f}, {high:+.3f}] compared with the start",
        metric=metric_name(metric),
        change=change,
        low=low,
        high=high,
    )

"""The predictor of a run: images in, predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.data.dataset import ImageDataset, Item
from foveate.data.image_cache import ImageCache, rendering_of
from foveate.data.loading import BatchSampler, even_slices, make_loader
from foveate.errors import RunError, UsageError
from foveate.evaluation import conformal
from foveate.evaluation.calibration import Calibration, FeatureSpace
from foveate.evaluation.conformal import IntervalCalibration
from foveate.evaluation.operating_point import OperatingPoint
from foveate.inference.engine import (
    BatchPredictions,
    collect_features,
    predict_batches,
)
from foveate.inference.protocol import ImagePredictor
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.model import Model, build_model
from foveate.modeling.weights import read_run_tensors, weights_fingerprint
from foveate.predictions import Boxes, Labels
from foveate.recipe import Recipe
from foveate.run.folder import (
    ADAPTED_FILE,
    CALIBRATION_FILE,
    FEATURE_SPACE_FILE,
    Run,
)
from foveate.types import Batch, Sample, StoredImage
from foveate.utils.device import ComputeMode, resolve_device, to_device
from foveate.utils.invocation import shell_command


@dataclass(frozen=True, eq=False)
class DecodedImage(StoredImage):
    """An image in memory, as the predictor of a run needs it.

    Attributes:
        source: The file or its content; empty once preprocessed.
        pixels: Decoded pixels and the (H, W) of the upright original, if tiles are cut out of them.
        item: What the network sees, if that is one square.
    """

    source: Path | bytes
    pixels: tuple[np.ndarray, tuple[int, int]] | None = None
    item: Item | None = None

    def content(self) -> Path | bytes:
        return self.source

    def decoded(self) -> tuple[np.ndarray, tuple[int, int]] | None:
        return self.pixels

    @property
    def nbytes(self) -> int:
        pixels = 0 if self.pixels is None else self.pixels[0].nbytes
        return pixels + (0 if self.item is None else self.item[0].nbytes)


class Predictor(ImagePredictor[DecodedImage]):
    """A finished run that predicts; `load_predictor` creates it.

    Attributes:
        run: The run folder.
        recipe: Its recipe.
        model: The model, in eval mode and on `device`.
        device: Device to compute on.
        mode: Precision and memory format.
        calibration: Fitted to validation images, if there were enough of them. Then probabilities
            are calibrated, sets and intervals have the requested coverage, and uncertain
            predictions abstain.
        operating_point: Threshold of two classes, if the recipe asked for one; scores tell what it
            reaches. Predictions do not use it.
    """

    def __init__(self, run: Run, recipe: Recipe, model: Model, device: torch.device) -> None:
        self.run, self.recipe, self.device = run, recipe, device
        self.name = run.folder.resolve().name
        self.classes, self.multilabel = model.classes, model.multilabel
        self.threshold = float(run.outcome().get("threshold") or 0.0)
        self.rendering = rendering_of(recipe.data)
        self.has_channel_files = recipe.data.format == "nnunet"
        self.mode = ComputeMode.for_inference(recipe.training)
        self.model = to_device(model, device, self.mode)
        self.calibration = _read_calibration(run)
        chosen = None if run.adaptation() else run.outcome().get("operating_point")
        self.operating_point = chosen and OperatingPoint.from_row(chosen)
        self._cache = self.new_cache(keep=False)

    @property
    def info(self) -> dict[str, Any]:
        return {
            "task": self.recipe.task.name,
            "backbone": self.recipe.backbone.name,
            "license": self.run.outcome().get("license", "not stated"),
            "precision": self.mode.precision,
        }

    @property
    def metric_settings(self) -> dict[str, Any]:
        """What the run adds to the settings of its metric."""
        return {"operating_point": self.operating_point}

    def new_cache(self, keep: bool) -> ImageCache:
        """Return a cache that decodes images as this run does."""
        model = self.model
        return ImageCache(model.backbone.input.size, model.task.framing, keep, self.rendering)

    def dataset(self, samples: Sequence[Sample], cache: ImageCache) -> ImageDataset:
        """Return the samples with the preprocessing of this run."""
        return eval_dataset(self.model, samples, cache, self.recipe.seed)

    def predict_samples(
        self,
        samples: Sequence[Sample],
        cache: ImageCache,
        advance: Callable[[int], None] = lambda count: None,
    ) -> BatchPredictions:
        """Predict for readable images, with all boxes, also those below the threshold.

        Args:
            samples: The images.
            cache: Decodes them.
            advance: Called with the number of images of each finished part.
        """
        dataset = self.dataset(samples, cache)
        sampler = BatchSampler(len(dataset), self.recipe.training.batch_size)
        return self.predict_batches(dataset, make_loader(dataset, sampler), advance)

    def predict_batches(
        self,
        dataset: ImageDataset,
        batches: Iterable[Batch],
        advance: Callable[[int], None] = lambda count: None,
    ) -> BatchPredictions:
        """Predict for the batches of a dataset, as `predict_samples` does."""
        with collect_features(self.model) as features:
            result = predict_batches(self.model, dataset, batches, self.device, self.mode, advance)
        if self.calibration is not None and result.predictions:
            result.predictions = self.calibration.annotate(
                result.predictions,
                torch.cat(features).numpy(),
                self.classes,
                self.coverage,
                self.risk,
            )
        return result

    def decode(self, source: Path | bytes) -> DecodedImage:
        image = DecodedImage(source)
        image = DecodedImage(source, self._cache.read(image))
        if self.model.task.framing == "windows":
            # tiles are cut out one at a time: all of them would take many times the memory
            return image
        return DecodedImage(b"", item=self._dataset([image])[0, 0])

    def predict_decoded(self, images: Sequence[DecodedImage]) -> list[Any]:
        if not images:
            return []
        dataset = self._dataset(images)
        items = [
            (*image.item[:-1], index)
            for index, image in enumerate(images)
            if image.item is not None
        ]
        batch_size = self.recipe.training.batch_size
        if items:
            parts = even_slices(len(items), batch_size)
            result = self.predict_batches(dataset, (dataset.collate(items[part]) for part in parts))
        else:
            sampler = BatchSampler(len(dataset), batch_size)
            result = self.predict_batches(dataset, make_loader(dataset, sampler))
        return [self.apply_threshold(prediction) for prediction in result.predictions]

    def apply_threshold(self, prediction: Any) -> Any:
        """Drop the boxes of a prediction whose score is below the threshold."""
        if not isinstance(prediction, Boxes) or prediction.scores is None:
            return prediction
        return prediction.select(prediction.scores >= self.threshold)

    def _dataset(self, images: Sequence[DecodedImage]) -> ImageDataset:
        samples = [Sample(image, f"image {index}") for index, image in enumerate(images)]
        return self.dataset(samples, self._cache)


def load_predictor(run: Path | str, device: str = "auto", merge: bool = True) -> Predictor:
    """Load the predictor of a finished run.

    Args:
        run: Run folder.
        device: Name of the device.
        merge: Whether to fold added parameters (LoRA and similar) into the backbone; those of a run
            after test-time adaptation always are.

    Raises:
        UsageError: There is no run at the path, or it is a pretraining run.
        RunError: The run is unfinished or damaged, or the frozen weights of the backbone are not
            those that it was trained with.
    """
    opened = Run.open(Path(run))
    outcome = opened.outcome()
    if opened.is_pretraining:
        raise UsageError(
            "this run is a pretrained backbone and cannot make predictions",
            where=opened.folder,
            hint=shell_command("fit", "DATA", "--backbone", opened.folder),
        )
    opened.verify()
    recipe, classes = opened.recipe(), opened.classes()
    model = build_model(recipe, classes, weights=None if outcome["frozen"] else "none")
    if outcome["frozen"] and weights_fingerprint(model.frozen_tensors()) != outcome["frozen"]:
        raise weights_mismatch(opened, model)
    model.load_tensors(read_run_tensors(opened.folder))
    if not model.tuning.unmergeable and (merge or opened.adaptation()):
        model.merge()
    if opened.adaptation():
        model.replace_tensors(read_run_tensors(opened.folder, ADAPTED_FILE))
    return Predictor(opened, recipe, model, resolve_device(device))


def weights_mismatch(run: Run, model: Model) -> RunError:
    """Return the error for backbone weights other than those that a run was trained with."""
    return RunError(
        "the weights of the backbone differ from those that this run was trained with",
        where=run.folder,
        why=f"they were loaded from {model.backbone.origin!r}",
        hint="restore the weights that recipe.yaml names",
    )


def confidence(prediction: Any) -> float:
    """Return the largest score of predicted labels, in [0, 1]; 0 for other predictions."""
    if not isinstance(prediction, Labels) or prediction.scores is None:
        return 0.0
    return float(prediction.scores.max())


def _read_calibration(run: Run) -> Calibration | IntervalCalibration | None:
    """Return None if the run has none, or was adapted after it was calibrated."""
    if run.adaptation() or not (run.folder / CALIBRATION_FILE).is_file():
        return None
    row = run.read_json(CALIBRATION_FILE)
    if conformal.KEY in row:
        return IntervalCalibration.from_row(row)
    tensors = read_run_tensors(run.folder, FEATURE_SPACE_FILE)
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    return Calibration.from_row(row, FeatureSpace(**arrays))

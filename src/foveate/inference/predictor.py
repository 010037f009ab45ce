"""A run made ready: pictures in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import unreadable
from foveate.errors import RunError, UsageError
from foveate.evaluation.calibration import COVERAGE, RISK, Calibration, FeatureSpace
from foveate.inference.engine import BatchPredictions, collect_features, eval_dataset, predict_batches
from foveate.modeling.model import Model, build_model
from foveate.modeling.weights import read_tensors, weights_fingerprint
from foveate.predictions import Boxes, ImageResult, Labels
from foveate.recipe import Recipe
from foveate.run.folder import ADAPTED_FILE, CALIBRATION_FILE, FEATURE_SPACE_FILE, Run
from foveate.types import Batch, Sample
from foveate.utils.device import ComputeMode, resolve_device
from foveate.utils.paths import printable


class Predictor:
    """Made by `load`. `model` is in eval mode, its added parameters folded in where that can be and was wanted. `calibration`: what
    validation images say of its answers, where there were enough of them: then chances hold, sets have the true class in a share
    `coverage` of images, and it abstains where it would be wrong more often than `risk`."""

    def __init__(self, run: Run, recipe: Recipe, model: Model, device: torch.device) -> None:
        self.run, self.recipe, self.model, self.device = run, recipe, model, device
        self.classes = model.task.classes
        self.multilabel = bool(recipe.task.settings.get("multilabel"))
        self.threshold = float(run.outcome().get("threshold") or 0.0)
        self.way = ComputeMode("fp32", bool(recipe.training.channels_last))
        self.model.to(device=device, memory_format=self.way.memory_format)  # type: ignore[call-overload]
        self.coverage, self.risk = COVERAGE, RISK
        self.calibration = _calibration(run)

    def dataset(self, samples: Sequence[Sample], pixels: ImageCache) -> ImageDataset:
        """Samples as this run's network sees them."""
        return eval_dataset(self.model, samples, pixels, self.recipe.seed)

    def predict_samples(
        self,
        samples: Sequence[Sample],
        pixels: ImageCache,
        advance: Callable[[int], None] = lambda count: None,
    ) -> BatchPredictions:
        """Answers in the order of the samples; every picture must be readable."""
        pictures = self.dataset(samples, pixels)
        return self.predict_dataset(
            pictures,
            make_loader(pictures, BatchSampler(len(pictures), self.recipe.training.batch_size)),
            advance,
        )

    def predict_dataset(
        self,
        pictures: ImageDataset,
        batches: Iterable[Batch],
        advance: Callable[[int], None] = lambda count: None,
    ) -> BatchPredictions:
        """The same for the `batches` of all `pictures`."""
        with collect_features(self.model) as seen:
            found = predict_batches(self.model, pictures, batches, self.device, self.way, advance)
        if self.calibration is not None and found.predictions:
            features = torch.cat(seen).numpy()
            found.predictions = self.calibration.annotate(
                found.predictions, features, self.classes, self.coverage, self.risk
            )
        return found

    def with_uncertainty(self, prediction: Any) -> Any:
        """The answer without the boxes below the threshold that was best on the validation images."""
        if not isinstance(prediction, Boxes) or prediction.scores is None:
            return prediction
        return prediction.select(prediction.scores >= self.threshold)

    def predict(
        self, paths: Iterable[Path], *, strict: bool = False, batch_size: int = 32
    ) -> Iterator[ImageResult]:
        """An answer for each picture, in order. A broken one is answered with its error, or raised when strict."""
        waiting = iter(paths)
        while chunk := list(islice(waiting, batch_size)):
            yield from self._chunk(chunk, strict)

    def _chunk(self, paths: list[Path], strict: bool) -> Iterator[ImageResult]:
        samples = [Sample(path, printable(path)) for path in dict.fromkeys(paths)]
        pixels = ImageCache(self.model.backbone.input.size, self.model.task.framing, keep=True)
        found = unreadable(samples, pixels, strict)
        errors = {path: error.brief for path, error in found.items()}
        whole = [sample for sample in samples if sample.path not in errors]
        answered = map(self.with_uncertainty, self.predict_samples(whole, pixels).predictions)
        told = dict(zip((sample.path for sample in whole), answered, strict=True))
        for path in paths:
            yield ImageResult(
                printable(path), told.get(path), errors.get(path), self.classes, self.multilabel
            )


def load_predictor(run: Path | str, device: str = "auto", merge: bool = True) -> Predictor:
    """The predictor of a finished run. `merge`: whether added parameters are folded in; of an adapted run they always are.

    Raises UsageError when there is no run, RunError when it is unfinished, damaged, or when the backbone's frozen weights are
    not those that it was trained with.
    """
    opened = Run.open(Path(run))
    outcome = opened.outcome()
    if opened.is_pretraining:
        hint = f"foveate fit DATA --backbone {opened.folder}"
        raise UsageError(
            "this run is a backbone, and answers nothing yet", where=opened.folder, hint=hint
        )
    opened.verify()
    recipe, classes = opened.recipe(), opened.classes()
    model = build_model(recipe, classes, weights=None if outcome["frozen"] else "none")
    if outcome["frozen"] and weights_fingerprint(model.frozen_tensors()) != outcome["frozen"]:
        raise other_weights(opened, model)
    model.load_tensors(read_tensors(opened.folder / "model.safetensors", verbatim=True))
    if not model.tuning.unmergeable and (merge or opened.adaptation()):
        model.merge()
    if opened.adaptation():
        model.replace_tensors(read_tensors(opened.folder / ADAPTED_FILE, verbatim=True))
    return Predictor(opened, recipe, model, resolve_device(device))


def _calibration(run: Run) -> Calibration | None:
    """None where there is none, and where the network was adapted afterwards: its answers are others now."""
    if run.adaptation() or not (run.folder / CALIBRATION_FILE).is_file():
        return None
    known = {
        name: tensor.float().numpy()
        for name, tensor in read_tensors(run.folder / FEATURE_SPACE_FILE, verbatim=True).items()
    }
    return Calibration.from_row(run.read_json(CALIBRATION_FILE), FeatureSpace(**known))


def other_weights(run: Run, model: Model) -> RunError:
    """The complaint about a backbone that is not the one that the run was trained with."""
    return RunError(
        "the backbone's weights are not those that this run was trained with",
        where=run.folder,
        why=f"they come from {model.backbone.origin!r} now",
        hint="bring back the weights named in recipe.yaml",
    )


def confidence(prediction: Any) -> float:
    """How sure an answer is, 0 to 1: the greatest score."""
    return (
        float(prediction.scores.max())
        if isinstance(prediction, Labels) and prediction.scores is not None
        else 0.0
    )

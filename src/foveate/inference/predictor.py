"""A run made ready: pictures in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from foveate.data.dataset import Pictures
from foveate.data.image_cache import Pixels
from foveate.data.loading import Order, loader
from foveate.data.scan import broken
from foveate.errors import RunError, UsageError
from foveate.evaluation.calibration import COVERAGE, RISK, Calibration, Familiar
from foveate.inference.engine import Answers, answers, pooled_of, shown
from foveate.modeling.model import Model, build
from foveate.modeling.weights import fingerprint, read_tensors
from foveate.predictions import Answer, Boxes, Labels
from foveate.recipe import Recipe
from foveate.run.folder import ADAPTED, CALIBRATION, FAMILIAR, Run
from foveate.types import Batch, Sample
from foveate.utils.device import Way, device_of
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
        self.way = Way("fp32", bool(recipe.training.channels_last))
        self.model.to(device=device, memory_format=self.way.layout)  # type: ignore[call-overload]
        self.coverage, self.risk = COVERAGE, RISK
        self.calibration = _calibration(run)

    def pictures(self, samples: Sequence[Sample], pixels: Pixels) -> Pictures:
        """Samples as this run's network sees them."""
        return shown(self.model, samples, pixels, self.recipe.seed)

    def answers(
        self,
        samples: Sequence[Sample],
        pixels: Pixels,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Answers:
        """Answers in the order of the samples; every picture must be readable."""
        pictures = self.pictures(samples, pixels)
        return self.answered(
            pictures,
            loader(pictures, Order(len(pictures), self.recipe.training.batch_size)),
            advance,
        )

    def answered(
        self,
        pictures: Pictures,
        batches: Iterable[Batch],
        advance: Callable[[int], None] = lambda count: None,
    ) -> Answers:
        """The same for the `batches` of all `pictures`."""
        with pooled_of(self.model) as seen:
            found = answers(self.model, pictures, batches, self.device, self.way, advance)
        if self.calibration is not None and found.predictions:
            features = torch.cat(seen).numpy()
            found.predictions = self.calibration.told(
                found.predictions, features, self.classes, self.coverage, self.risk
            )
        return found

    def sure(self, prediction: Any) -> Any:
        """The answer without the boxes below the threshold that was best on the validation images."""
        if not isinstance(prediction, Boxes) or prediction.scores is None:
            return prediction
        return prediction.chosen(prediction.scores >= self.threshold)

    def predict(
        self, paths: Iterable[Path], *, strict: bool = False, batch_size: int = 32
    ) -> Iterator[Answer]:
        """An answer for each picture, in order. A broken one is answered with its error, or raised when strict."""
        waiting = iter(paths)
        while chunk := list(islice(waiting, batch_size)):
            yield from self._chunk(chunk, strict)

    def _chunk(self, paths: list[Path], strict: bool) -> Iterator[Answer]:
        samples = [Sample(path, printable(path)) for path in dict.fromkeys(paths)]
        pixels = Pixels(self.model.backbone.input.size, self.model.task.framing, keep=True)
        found = broken(samples, pixels, strict)
        errors = {path: error.brief for path, error in found.items()}
        whole = [sample for sample in samples if sample.path not in errors]
        answered = map(self.sure, self.answers(whole, pixels).predictions)
        told = dict(zip((sample.path for sample in whole), answered, strict=True))
        for path in paths:
            yield Answer(
                printable(path), told.get(path), errors.get(path), self.classes, self.multilabel
            )


def load(run: Path | str, device: str = "auto", merge: bool = True) -> Predictor:
    """The predictor of a finished run. `merge`: whether added parameters are folded in; of an adapted run they always are.

    Raises UsageError when there is no run, RunError when it is unfinished, damaged, or when the backbone's frozen weights are
    not those that it was trained with.
    """
    opened = Run.open(Path(run))
    outcome = opened.outcome()
    if opened.pretrained:
        hint = f"foveate fit DATA --backbone {opened.folder}"
        raise UsageError(
            "this run is a backbone, and answers nothing yet", where=opened.folder, hint=hint
        )
    opened.check()
    recipe, classes = opened.recipe(), opened.classes()
    model = build(recipe, classes, weights=None if outcome["frozen"] else "none")
    if outcome["frozen"] and fingerprint(model.frozen()) != outcome["frozen"]:
        raise other_weights(opened, model)
    model.put(read_tensors(opened.folder / "model.safetensors", own=True))
    if not model.tuning.unmergeable and (merge or opened.adapted()):
        model.merge()
    if opened.adapted():
        model.adjust(read_tensors(opened.folder / ADAPTED, own=True))
    return Predictor(opened, recipe, model, device_of(device))


def _calibration(run: Run) -> Calibration | None:
    """None where there is none, and where the network was adapted afterwards: its answers are others now."""
    if run.adapted() or not (run.folder / CALIBRATION).is_file():
        return None
    known = {
        name: tensor.float().numpy()
        for name, tensor in read_tensors(run.folder / FAMILIAR, own=True).items()
    }
    return Calibration.of(run.read_json(CALIBRATION), Familiar(**known))


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

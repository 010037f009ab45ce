"""adapt RUN IMAGES: adapt a finished run to unlabeled images of another domain, as a new run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import entropy as entropies
from torch import Tensor

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import ScannedTable
from foveate.errors import UsageError
from foveate.inference.engine import compute_scores, scan_with_progress
from foveate.inference.predictor import Predictor, load_predictor
from foveate.messages import counted
from foveate.modeling.weights import read_run_tensors
from foveate.predictions import Labels
from foveate.run.folder import ADAPTATION_FILE, ADAPTED_FILE, Run
from foveate.run.lineage import read_run_table
from foveate.training.test_time import TEST_TIME_METHODS, Feed, TestTimeMethod
from foveate.types import Batch, Sample, Score, Table
from foveate.utils import console
from foveate.utils.console import Bar
from foveate.utils.device import to_device
from foveate.utils.invocation import shell_command
from foveate.utils.paths import printable

_MIN_IMAGES = 64  # with fewer, the statistics of the images are unreliable


@dataclass(frozen=True)
class DomainPredictions:
    """Predictions for the target images.

    Attributes:
        labels: Predicted classes of each target image; empty if the task predicts no classes of
            whole images.
        entropy: Mean entropy of the probabilities, nats; None unless there is one class per image.
        source_score: Main metric on the run's own held-out images, if there are any.
    """

    labels: list[str]
    entropy: float | None
    source_score: Score | None


@dataclass(frozen=True)
class AdaptResult:
    """An adapted run.

    Attributes:
        run: The new run folder.
        method: The adaptation method.
        images: Number of images that it was adapted to.
        skipped: Number of unreadable images.
        before: Predictions of the run before.
        after: Predictions of the new run.
        metric: Name of the metric of `source_score`.
        seconds: Duration.
    """

    run: Path
    method: str
    images: int
    skipped: int
    before: DomainPredictions
    after: DomainPredictions
    metric: str
    seconds: float

    @property
    def columns(self) -> list[str]:
        return ["prediction", "before", "after"]

    @property
    def rows(self) -> list[list[str]]:
        before, after = Counter(self.before.labels), Counter(self.after.labels)
        return [[name, str(before[name]), str(after[name])] for name in sorted(before | after)]

    @property
    def changed(self) -> int:
        """Number of images whose prediction changed."""
        pairs = zip(self.before.labels, self.after.labels, strict=True)
        return sum(before != after for before, after in pairs)

    def numbers(self) -> dict[str, Any]:
        numbers = {
            "run": str(self.run),
            "method": self.method,
            "images": self.images,
            "skipped": self.skipped,
            "changed": self.changed,
        }
        for name, predictions in (("before", self.before), ("after", self.after)):
            score = predictions.source_score
            numbers[f"entropy_{name}"] = predictions.entropy
            numbers[f"source_{name}"] = asdict(score) if score else None
        return {**numbers, "metric": self.metric, "seconds": round(self.seconds, 2)}

    def lines(self) -> list[str]:
        before, after = self.before, self.after
        lines = [f"run: {self.run}"]
        if before.labels:
            lines.append(
                f"{self.changed} of {counted(self.images, 'prediction', 'predictions')} changed"
            )
        if before.entropy is not None:
            lines[-1] += f"; their mean entropy went from {before.entropy:.3f} "
            lines[-1] += f"to {after.entropy:.3f} nats (more confident does not mean more accurate)"
        if before.source_score and after.source_score:
            lines.append(
                f"on held-out images of the run: {self.metric} "
                f"{before.source_score.value:.3f} before, {after.source_score} after"
            )
        lines += [f"note: {caution}" for caution in self.cautions()]
        return [
            *lines,
            "next: label some of these images and score them: "
            f"{shell_command('evaluate', self.run, 'LABELED')}",
        ]

    def cautions(self) -> list[str]:
        """Return the limits of the adaptation."""
        cautions = []
        if self.images < _MIN_IMAGES:
            images = counted(self.images, "image is", "images are")
            cautions.append(f"{images} few to adapt to: some hundreds are better")
        lost = sorted(set(self.before.labels) - set(self.after.labels))
        if lost:
            classes = counted(len(lost), "class is", "classes are")
            cautions.append(
                f"{classes} no longer predicted, such as {lost[0]!r}: "
                "the predictions may be collapsing"
            )
        return [
            *cautions,
            "no labels were used: whether the predictions have improved cannot be measured here",
        ]


def create_adaptation(method: str, settings: dict[str, Any] | None) -> TestTimeMethod:
    """Create the adaptation method of this name, with its own settings."""
    return TEST_TIME_METHODS.create(method, settings or {})


def open_source(
    run: Path, adaptation: TestTimeMethod, method: str, device: str
) -> tuple[Run, Predictor]:
    """Open the run to adapt. Raises UsageError if the run, or the method for it, is unsuitable."""
    source = Run.open(run)
    source.require_continuable()
    predictor = load_predictor(run, device)
    require_suitable(adaptation, method, predictor)
    return source, predictor


def scan_domains(
    source: Run, paths: Sequence[Path], predictor: Predictor, strict: bool
) -> tuple[ScannedTable, ScannedTable]:
    """Scan the images of the run (source domain) and the new ones (target domain)."""
    recipe = predictor.recipe.data.model_copy(update={"strict": strict})
    source_table = read_run_table(source)
    source_images = scan_with_progress(source_table, predictor.model, recipe)
    samples = tuple(Sample(path, printable(path)) for path in paths)
    target_table = Table(samples, source_table.classes, "unlabeled", paths[0].parent)
    return source_images, scan_with_progress(target_table, predictor.model, recipe)


def describe(
    adaptation: TestTimeMethod, method: str, source: Run, target: ScannedTable
) -> dict[str, Any]:
    """Return the content of adapted.json: the method, the run and the images."""
    return {
        "method": method,
        "settings": adaptation.settings.model_dump(),
        "run": str(source.folder.resolve()),
        "images": len(target.hashes),
        "sha256": list(target.hashes),
    }


def require_suitable(adaptation: TestTimeMethod, method: str, predictor: Predictor) -> None:
    """Raise UsageError if the method needs one class per image, and the run predicts others."""
    single_label = predictor.model.task.prediction_type is Labels and not predictor.multilabel
    if adaptation.needs_classes and not single_label:
        raise UsageError(
            f"{method} needs a run that predicts one class per image",
            where=predictor.run.folder,
            hint="--method adabn",
        )


def predict_all(
    predictor: Predictor, target: ScannedTable, source: ScannedTable
) -> tuple[DomainPredictions, str]:
    """Return the predictions of the network as it is now, and the name of its main metric."""
    predictions = predictor.predict_samples(target.table.samples, target.cache).predictions
    labels = [each for each in predictions if isinstance(each, Labels)]
    names = ["|".join(each.names) or "none" for each in labels]
    entropy = None
    if labels and not predictor.multilabel:
        probabilities = np.array([each.scores for each in labels])
        entropy = float(entropies(probabilities, axis=1).mean())
    held_out = source.table.in_split("val") or source.table.in_split("test")
    if not held_out:
        return DomainPredictions(names, entropy, None), ""
    scores = compute_scores(
        predictor.predict_samples(held_out, source.cache).predictions, held_out, predictor.model
    )
    return DomainPredictions(names, entropy, scores.numbers[scores.main]), scores.main


def run_adaptation(
    adaptation: TestTimeMethod, predictor: Predictor, source: ScannedTable, target: ScannedTable
) -> dict[str, Tensor]:
    """Adapt the predictor's model in place, and return the tensors that changed, by name."""
    model = predictor.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source_images = predictor.dataset(source.table.in_split("train"), source.cache)
    target_images = predictor.dataset(target.table.samples, target.cache)
    source_passes, target_passes = adaptation.passes
    steps = source_passes * len(source_images) + target_passes * len(target_images)
    with console.progress(steps, "adapt") as bar:
        adaptation.adapt(
            model, _feed(predictor, source_images, bar), _feed(predictor, target_images, bar)
        )
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not tensor.equal(before[name])
    }


def _feed(predictor: Predictor, images: ImageDataset, bar: Bar) -> Feed:
    recipe = predictor.recipe

    def batches(epoch: int) -> Iterator[Batch]:
        size, seed = recipe.training.batch_size, recipe.seed
        sampler = BatchSampler(len(images), size, seed=seed, epoch=epoch)
        for batch in make_loader(images, sampler):
            yield to_device(batch, predictor.device, predictor.mode)
            bar.advance(len(batch))

    return batches


def write_run(new: Run, source: Run, changed: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the weights of the source run, and the changed tensors beside them."""
    new.copy_metadata(source)
    new.write_json(ADAPTATION_FILE, about)
    new.write_tensors("model.safetensors", read_run_tensors(source.folder))
    new.write_tensors(ADAPTED_FILE, changed)
    # a folder without a recipe is no run, so it is written when the rest is complete
    new.write_text("recipe.yaml", source.recipe().to_yaml())
    outcome = source.outcome()
    new.finish({key: outcome[key] for key in outcome if key not in ("checksums", "parts")})

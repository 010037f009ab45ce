"""A model's answers to pictures, and their loss. The one decode path of training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from foveate.data.dataset import ImageDataset, TiledDataset
from foveate.data.image_cache import ImageCache
from foveate.data.scan import ScannedTable, scan
from foveate.data.transforms import evaluation_transform
from foveate.evaluation.metrics import Metric, metric_for
from foveate.inference.microbatch import MicroBatcher
from foveate.modeling.model import Model
from foveate.modeling.tasks import SpatialTask
from foveate.recipe import DataRecipe
from foveate.types import Batch, Features, Sample, Scores, Table
from foveate.utils import console, log
from foveate.utils.device import ComputeMode


@dataclass
class BatchPredictions:
    """`predictions` in the order of the samples. `loss`: mean over the images that have a truth; nan when none has."""

    predictions: list[Any] = field(default_factory=list)
    loss: float = float("nan")


def eval_dataset(model: Model, samples: Sequence[Sample], cache: ImageCache, seed: int) -> ImageDataset:
    """Samples as the model sees them when it answers."""
    spec, task = model.backbone.input, model.task
    transform = evaluation_transform(spec, task.framing)
    if isinstance(task, SpatialTask) and task.framing == "windows":
        return TiledDataset(samples, cache, transform, task.encode, seed, spec.size, task.merge_tiles)
    return ImageDataset(samples, cache, transform, task.encode, seed)


@contextmanager
def collect_features(
    model: Model, read: Callable[[Features], torch.Tensor | None] = lambda found: found.pooled
) -> Iterator[list[torch.Tensor]]:
    """A list that takes up the pooled features, (B, D) on the CPU, of whatever the backbone is asked meanwhile, where they are
    wanted; or what else is `read` off its features."""
    seen: list[torch.Tensor] = []
    fresh: list[torch.Tensor] = []

    def look(module: torch.nn.Module, args: Any, found: Features) -> None:
        values = read(found)
        fresh[:] = [] if values is None else [values.detach().float().cpu()]

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        """When the head has answered too: else memory was exhausted, and the same images come again."""
        seen.extend(fresh)
        fresh.clear()

    hooks = [model.backbone.register_forward_hook(look), model.register_forward_hook(keep)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def predict_batches(
    model: Model,
    dataset: ImageDataset,
    batches: Iterable[Batch],
    device: torch.device,
    mode: ComputeMode,
    advance: Callable[[int], None] = lambda count: None,
) -> BatchPredictions:
    """Runs the model over the `batches` of all `pictures`, in eval mode; the answers are decoded on the CPU in fp32."""
    was_training = model.training
    model.eval()
    found, total, count, portions = BatchPredictions(), 0.0, 0, MicroBatcher()

    def asked(part: Batch) -> tuple[Batch, Any]:
        part = part.to(device, memory_format=mode.memory_format)
        with mode.autocast(device):
            return part, model(part)

    for batch in batches:
        for _, (part, output) in portions.each(batch, asked):
            found.predictions += model.task.decode(output, part)
            if all(part.targets):
                total += float(sum(model.task.loss(output, part).values())) * len(part)
                count += len(part)
            advance(len(part))
    model.train(was_training)
    if len(found.predictions) == len(dataset):  # fewer when it was asked to stop
        found.predictions = dataset.merge_predictions(found.predictions)
    found.loss = total / count if count else float("nan")
    return found


def score_predictions(
    predictions: Iterable[Any], samples: Iterable[Sample], model: Model, multilabel: bool
) -> Metric:
    """The metric that reads this task's answers, told of every sample that has a truth."""
    metric = metric_for(model.task.prediction_type, model.task.classes, multilabel)
    for prediction, sample in zip(predictions, samples, strict=True):
        if sample.target is not None:
            metric.update(prediction, sample.target)
    return metric


def compute_scores(
    predictions: Iterable[Any], samples: Iterable[Sample], model: Model, multilabel: bool
) -> Scores:
    """What that metric says."""
    return score_predictions(predictions, samples, model, multilabel).compute()


def scan_with_progress(table: Table, model: Model, recipe: DataRecipe) -> ScannedTable:
    """The pictures that can be read, as the model sees them; those that cannot are named."""
    with console.progress(len(table.samples), "read") as bar:
        scanned = scan(
            table, model.backbone.input.size, model.task.framing, recipe, lambda: bar.advance(1)
        )
    for key, why in scanned.skipped:
        log.warning(f"skipped {key}: {why}")
    return scanned

"""The forward pass of training, evaluation and prediction: images in, predictions and loss out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import ScannedTable, scan
from foveate.evaluation.metrics import Metric, metric_for
from foveate.inference.microbatch import MicroBatcher
from foveate.modeling.model import Model
from foveate.recipe import DataRecipe
from foveate.types import Batch, Features, Sample, Scores, Table
from foveate.utils import console, log
from foveate.utils.device import ComputeMode, to_device


@dataclass
class BatchPredictions:
    """The predictions for a dataset.

    Attributes:
        predictions: In the order of the samples; fewer if the run was stopped.
        loss: Mean over the images that have a target; NaN if none has.
    """

    predictions: list[Any] = field(default_factory=list)
    loss: float = float("nan")


def predict_dataset(
    model: Model,
    dataset: ImageDataset,
    batch_size: int,
    device: torch.device,
    mode: ComputeMode,
    *,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BatchPredictions:
    """Predict for a dataset, in the order of its samples.

    Args:
        model: The model, on `device`; its training or evaluation mode is restored.
        dataset: The samples, as `eval_dataset` returns them.
        batch_size: Images per forward pass.
        device: Device of the model.
        mode: Precision and memory format.
        workers: Processes that load images; None = as many as are worth it.
        advance: Called with the number of images of each finished part.
        should_stop: Asked before each batch; predictions are incomplete if it returns True.
    """
    loader = make_loader(dataset, BatchSampler(len(dataset), batch_size), workers)
    batches = takewhile(lambda _: not should_stop(), loader)
    return predict_batches(model, dataset, batches, device, mode, advance)


@torch.inference_mode()
def predict_batches(
    model: Model,
    dataset: ImageDataset,
    batches: Iterable[Batch],
    device: torch.device,
    mode: ComputeMode,
    advance: Callable[[int], None] = lambda count: None,
) -> BatchPredictions:
    """Predict for the batches of a dataset; they are decoded in float32 on the CPU."""
    was_training = model.training
    model.eval()
    result, total_loss, count, micro_batcher = BatchPredictions(), 0.0, 0, MicroBatcher()

    def forward(part: Batch) -> tuple[Batch, Any]:
        part = to_device(part, device, mode)
        with mode.autocast(device):
            return part, model(part)

    for batch in batches:
        for _, (part, output) in micro_batcher.map(batch, forward):
            result.predictions += model.task.decode(output, part)
            if all(part.targets):
                total_loss += float(sum(model.task.loss(output, part).values())) * len(part)
                count += len(part)
            advance(len(part))
    model.train(was_training)
    if len(result.predictions) == len(dataset):  # fewer if the batches were cut short
        result.predictions = dataset.merge_predictions(result.predictions)
    result.loss = total_loss / count if count else float("nan")
    return result


@contextmanager
def collect_features(
    model: Model,
    select: Callable[[Features], torch.Tensor | None] = lambda features: features.pooled,
) -> Iterator[list[torch.Tensor]]:
    """Collect features of the backbone during the forward passes in a block.

    Args:
        model: The model whose forward passes are observed.
        select: Returns the tensor to keep, B first, or None: the pooled features by default,
            where the task needs them.

    Yields:
        A list that grows by one float32 tensor on the CPU with each forward pass.
    """
    collected: list[torch.Tensor] = []
    latest: list[torch.Tensor] = []

    def store(module: torch.nn.Module, args: Any, features: Features) -> None:
        tensor = select(features)
        latest[:] = [] if tensor is None else [tensor.detach().float().cpu()]

    def commit(module: torch.nn.Module, args: Any, output: Any) -> None:
        # once the head is done: if it runs out of memory, the same images come again
        collected.extend(latest)
        latest.clear()

    hooks = [model.backbone.register_forward_hook(store), model.register_forward_hook(commit)]
    try:
        yield collected
    finally:
        for hook in hooks:
            hook.remove()


def metric_of(model: Model, settings: Mapping[str, Any] | None = None) -> Metric:
    """Return a new metric for the predictions of a model.

    Args:
        model: The model.
        settings: What the run adds to those that the task tells.
    """
    task = model.task
    own = {**task.metric_settings(model.head), **(settings or {})}
    return metric_for(task.prediction_type, model.classes, model.multilabel, own)


def score_predictions(
    predictions: Iterable[Any],
    samples: Iterable[Sample],
    model: Model,
    settings: Mapping[str, Any] | None = None,
) -> Metric:
    """Return the metric of the task, updated with every sample that has a target.

    It knows the groups of the samples, over which intervals are computed.

    Args:
        predictions: The predictions.
        samples: Their images, with targets.
        model: The model.
        settings: As for `metric_of`.
    """
    metric, groups = metric_of(model, settings), []
    for prediction, sample in zip(predictions, samples, strict=True):
        if sample.target is not None:
            metric.update(prediction, sample.target)
            groups.append(sample.group)
    metric.groups = groups
    return metric


def compute_scores(predictions: Iterable[Any], samples: Iterable[Sample], model: Model) -> Scores:
    """Compute the scores of predictions for samples with targets."""
    return score_predictions(predictions, samples, model).compute()


def scan_with_progress(table: Table, model: Model, recipe: DataRecipe) -> ScannedTable:
    """Decode all images at the size that the model needs, and report the unreadable ones."""
    with console.progress(len(table.samples), "read") as bar:
        scanned = scan(
            table, model.backbone.input.size, model.task.framing, recipe, lambda: bar.advance(1)
        )
    for key, reason in scanned.skipped:
        log.warning(f"skipped {key}: {reason}")
    return scanned

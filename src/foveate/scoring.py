"""A model's answers to pictures, and their loss. The one decode path of training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from foveate.metrics import metric_for
from foveate.model import Model
from foveate.precision import Way
from foveate.types import Batch, Sample, Scores


@dataclass
class Answers:
    """`predictions` in the order of the samples. `loss`: mean over the images that have a truth; nan when none has."""

    predictions: list[Any] = field(default_factory=list)
    loss: float = float("nan")


@torch.inference_mode()
def answers(
    model: Model,
    batches: Iterable[Batch],
    device: torch.device,
    way: Way,
    advance: Callable[[int], None] = lambda count: None,
) -> Answers:
    """Runs the model over batches, in eval mode; the answers are decoded on the CPU in fp32."""
    was_training = model.training
    model.eval()
    found, total, count = Answers(), 0.0, 0
    for batch in batches:
        batch = batch.to(device, memory_format=way.layout)
        with way.autocast(device):
            output = model(batch)
        found.predictions += model.task.decode(output, batch)
        if all(batch.targets):
            total += float(sum(model.task.loss(output, batch).values())) * len(batch)
            count += len(batch)
        advance(len(batch))
    model.train(was_training)
    found.loss = total / count if count else float("nan")
    return found


def scored(predictions: Iterable[Any], samples: Iterable[Sample], model: Model, multilabel: bool) -> Scores:
    """The metric that reads this task's answers, over the samples that have a truth."""
    metric = metric_for(model.task.answer, model.task.classes, multilabel)
    for prediction, sample in zip(predictions, samples, strict=True):
        if sample.truth is not None:
            metric.update(prediction, sample.truth)
    return metric.compute()

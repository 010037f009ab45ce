"""The report of pretraining: measures of features, nearest neighbors and reconstructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from foveate.api.evaluate.page import (
    choice_rows,
    split_counts,
    training_summary,
)
from foveate.api.pretrain.images import PretrainingImages
from foveate.api.pretrain.verdict import Verdict
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import as_pixels
from foveate.images.codec import thumbnail
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.reporting.pretraining_page import PretrainingPage
from foveate.run.folder import Run
from foveate.training.collapse_guard import CollapseGuard
from foveate.utils.invocation import current_invocation

_ROWS = 8  # of neighbors, and of reconstructions
_NEIGHBORS = 6
_THUMBNAIL_SIZE = 96  # px


def neighbor_rows(
    guard: CollapseGuard, model: Model, images: PretrainingImages
) -> list[list[np.ndarray]]:
    """Return thumbnails of held-out images, each with its nearest neighbors among the others."""
    directions = functional.normalize(guard.features(model.eval()), dim=1)
    cosines = (directions @ directions.T).fill_diagonal_(-2.0)
    count = len(cosines)
    queries = np.linspace(0, count - 1, min(_ROWS, count)).round().astype(int).tolist()
    nearest = cosines[queries].topk(min(_NEIGHBORS, count - 1), dim=1).indices.tolist()
    rows = [[query, *neighbors] for query, neighbors in zip(queries, nearest, strict=True)]
    thumbnails = {
        index: thumbnail(images.cache.read(images.held_out[index])[0], _THUMBNAIL_SIZE)
        for index in {index for row in rows for index in row}
    }
    return [[thumbnails[index] for index in row] for row in rows]


@torch.inference_mode()
def reconstruction_rows(
    model: Model, dataset: ImageDataset, device: torch.device
) -> list[list[np.ndarray]]:
    """Return images, what the network saw of each, and what it reconstructed.

    Empty if the objective reconstructs no images.
    """
    loader = make_loader(dataset, BatchSampler(len(dataset), _ROWS), workers=0)
    batch = next(iter(loader)).to(device)
    objective: Any = model.task
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair = objective.reconstructions(model.eval()(batch), batch)
    if pair is None:
        return []
    spec = model.backbone.input
    columns = [as_pixels(images.cpu(), spec.mean, spec.std) for images in (batch.images, *pair)]
    return [list(row) for row in zip(*columns, strict=True)]


def build_page(
    run: Run,
    recipe: Recipe,
    verdict: Verdict,
    outcome: dict[str, Any],
    neighbors: list[list[np.ndarray]],
    reconstructions: list[list[np.ndarray]],
) -> PretrainingPage:
    """Collect what the report of pretraining shows.

    Args:
        run: The run folder.
        recipe: Its recipe.
        verdict: Whether it helped.
        outcome: What finished.json says.
        neighbors: What `neighbor_rows` returned.
        reconstructions: What `reconstruction_rows` returned.
    """
    command, environment = run.environment()
    start, end = outcome["start"], outcome["end"]
    images = Message(
        "pretraining.images",
        "{path}: {splits}",
        path=recipe.data.path,
        splits=split_counts(outcome["images"]),
    )
    return PretrainingPage(
        title=run.folder.name,
        command=current_invocation().command or command,
        verdict=verdict.headline,
        explanation=verdict.explanation,
        measures=[(name, start[name], end[name]) for name in start],
        facts=[
            (Message("fact.images", "images"), images),
            (Message("fact.objective", "objective"), recipe.task.name),
            (Message("fact.backbone", "backbone"), f"{recipe.backbone.name} ({outcome['origin']})"),
            (Message("fact.tuning", "fine-tuning"), recipe.tuning.name),
            (Message("fact.seed", "random seed"), str(recipe.seed)),
            (Message("fact.training", "training"), training_summary(outcome)),
        ],
        choices=choice_rows(run),
        curves=[{"epoch": 0, **start}, *run.read_metrics()],
        neighbors=neighbors,
        reconstructions=reconstructions,
        environment=environment,
        lang=recipe.lang,
    )

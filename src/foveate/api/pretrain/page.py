"""What the report of a pre-training shows: numbers, curves, neighbours and paintings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foveate.api.pretrain.pictures import Unlabelled
from foveate.api.pretrain.verdict import Verdict
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.images import codec as images
from foveate.messages import message_from
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.reporting.pages import PretrainingPage
from foveate.run.folder import Run
from foveate.training.collapse_guard import CollapseGuard
from foveate.types import InputSpec
from foveate.utils.invocation import current_invocation

_ROWS, _NEAREST = 8, 6
_SIDE = 96  # px


def nearest(guard: CollapseGuard, model: Model, pictures: Unlabelled) -> list[list[np.ndarray]]:
    """Rows of thumbnails: a held-out image, and those among the others that the backbone finds most alike."""
    alike = functional.normalize(guard.features(model.eval()), dim=1)
    alike = (alike @ alike.T).fill_diagonal_(-2.0)
    asked = np.linspace(0, len(alike) - 1, min(_ROWS, len(alike))).round().astype(int).tolist()
    places = alike[asked].topk(min(_NEAREST, len(alike) - 1), dim=1).indices.tolist()
    shown = {
        place: _thumbnail(pictures, place)
        for place in {*asked, *(place for row in places for place in row)}
    }
    return [[shown[place] for place in (one, *row)] for one, row in zip(asked, places, strict=True)]


def _thumbnail(pictures: Unlabelled, place: int) -> np.ndarray:
    return images.thumbnail(pictures.pixels.read(pictures.held[place])[0], _SIDE)


@torch.inference_mode()
def painted(model: Model, train: ImageDataset, device: torch.device) -> list[list[np.ndarray]]:
    """Rows of an image, what was shown of it, and what was painted; none where the objective paints nothing."""
    batch = next(iter(make_loader(train, BatchSampler(len(train), _ROWS), workers=0))).to(device)
    objective: Any = model.task
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = objective.painted(model.eval()(batch), batch)
    if found is None:
        return []
    spec = model.backbone.input
    return [[pixels(each, spec) for each in row] for row in zip(batch.images, *found, strict=True)]


def pixels(image: Tensor, spec: InputSpec) -> np.ndarray:
    """(3, S, S) normalised -> (S, S, 3) uint8."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    values: np.ndarray = (
        ((image.cpu() * std + mean).clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .numpy()
    )
    return values


def page_of(
    run: Run,
    recipe: Recipe,
    verdict: Verdict,
    told: dict[str, Any],
    neighbours: list[list[np.ndarray]],
    sheet: list[list[np.ndarray]],
) -> PretrainingPage:
    around = run.read_json("environment.json")
    return PretrainingPage(
        title=run.folder.name,
        command=current_invocation().command or around["command"],
        verdict=verdict.headline,
        explanation=verdict.explanation,
        measures=[(name, told["start"][name], told["end"][name]) for name in told["start"]],
        facts=[
            (
                "images",
                f"{recipe.data.path}: "
                + ", ".join(f"{count} {split}" for split, count in told["images"].items()),
            ),
            ("objective", recipe.task.name),
            ("backbone", f"{recipe.backbone.name} ({told['origin']})"),
            ("tuning", recipe.tuning.name),
            ("seed", str(recipe.seed)),
            ("trained", f"{told['epochs']} epochs, {told['seconds']:.0f} s: {message_from(told['reason'])}"),
        ],
        choices=[
            (row["field"], str(row["value"]), row["reason"])
            for row in run.read_json("choices.json")
        ],
        curves=[{"epoch": 0, **told["start"]}, *run.read_metrics()],
        neighbours=neighbours,
        sheet=sheet,
        lang=recipe.lang,
        environment={
            **{k: str(v) for k, v in around.items() if k not in ("versions", "command")},
            **around["versions"],
        },
    )

"""What leaves the house in an export: a graph, what it says of itself, and the pictures on which it
is held against its run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.api.pretrain.images import HELD, TRAIN
from foveate.data.streaming import Catalogue
from foveate.deploy.postprocess.classify import encode_feature_space
from foveate.deploy.runtime import FORMAT_VERSION, preprocess
from foveate.errors import UsageError
from foveate.images.preprocessing import Framing
from foveate.inference.engine import compute_scores, scan_with_progress
from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.backbones import Backbone, family_of
from foveate.modeling.tasks import ExportStep
from foveate.predictions import Embedding
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.types import Provides, Score
from foveate.version import __version__

_MOST = 512  # images that a file answers
_CALIBRATING = 200  # training images
_KEPT = "nearest"  # the share of images whose nearest other one is the same
Portable = Callable[[Backbone, nn.Module, Tensor], dict[str, Tensor]]


class Graph(nn.Module):
    """(B, 3, S, S) uint8 -> the outputs that a task lets out, in the order of their names."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module, portable: Portable) -> None:
        super().__init__()
        self.backbone, self.head, self.portable = backbone, head, portable
        for name, values in (("mean", backbone.input.mean), ("std", backbone.input.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    @classmethod
    def of(cls, predictor: Predictor) -> Graph:
        model = predictor.model
        model.to(memory_format=torch.contiguous_format)
        return cls(model.backbone, model.head, model.task.export_outputs).eval()

    def named(self, images: Tensor) -> dict[str, Tensor]:
        return self.portable(
            self.backbone, self.head, (images.float() / 255 - self.mean) / self.std
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())


@dataclass(frozen=True)
class Leaving:
    """`steps`: the graphs beside the first one, given its outputs.

    `places`: of the pictures that are answered, `keys`: their names; `train`: of pictures that give
    the ranges of 8 bits. `own`: the run's answers to the former, `judged`: the main number of such
    answers and its name.
    """

    run: Run
    graph: Graph
    steps: Callable[[dict[str, Tensor]], dict[str, ExportStep]]
    about: dict[str, Any]
    places: list[Any]
    keys: list[str]
    train: list[Any]
    own: Callable[[], Sequence[Any]]
    judged: Callable[[Sequence[Any]], tuple[str, Score]]

    @property
    def side(self) -> int:
        return int(self.about["size"])

    def examples(self) -> list[np.ndarray]:
        """Two squares, (3, S, S) uint8."""
        return [
            preprocess(self.places[place], self.side, self.framing).squares[0] for place in (0, -1)
        ]

    @property
    def framing(self) -> Framing:
        found: Framing = self.about["framing"]
        return found


def leaving(folder: Path) -> Leaving:
    """A finished run, or a pre-trained backbone.

    Raises UsageError where there are no images to compare on.
    """
    return (
        _backbone(Run.open(folder))
        if Run.open(folder).is_pretraining
        else _answering(load_predictor(folder, "cpu"))
    )


def _answering(predictor: Predictor) -> Leaving:
    model, table = predictor.model, read_run_table(predictor.run)
    train = table.in_split("train")
    chosen = next(
        (part for part in (table.in_split("val"), table.in_split("test"), train) if part), ()
    )[:_MOST]
    if not chosen:
        hint = "a run that saw images"
        raise UsageError(
            "this run has no images to compare the file on", where=predictor.run.folder, hint=hint
        )
    graph = Graph.of(predictor)
    with torch.inference_mode():  # what cannot leave says so before pictures are read
        graph(torch.zeros(1, 3, *[model.backbone.input.size] * 2, dtype=torch.uint8))
    scanned = scan_with_progress(table.with_samples(chosen), model, predictor.recipe.data)
    samples = scanned.table.samples

    def judged(answers: Sequence[Any]) -> tuple[str, Score]:
        scores = compute_scores(answers, samples, model)
        return scores.main, scores.numbers[scores.main]

    return Leaving(
        predictor.run,
        graph,
        lambda outputs: model.task.export_steps(model.head, outputs),
        _about_answers(predictor),
        [sample.path for sample in samples],
        [sample.key for sample in samples],
        [train[place].path for place in _drawn(len(train), predictor.recipe.seed)],
        lambda: predictor.predict_samples(samples, scanned.cache).predictions,
        judged,
    )


def _backbone(run: Run) -> Leaving:
    """It answers with vectors; what counts is which pictures are nearest to which."""
    recipe = run.recipe()
    backbone = family_of(str(run.folder)).open(str(run.folder), "auto")
    graph = Graph(backbone, nn.Identity(), _pooled).eval()
    held, train = Catalogue(run.folder / HELD), Catalogue(run.folder / TRAIN)
    entries = [held[place] for place in range(min(_MOST, len(held)))]
    places, size = [entry.content() for entry in entries], backbone.input.size

    @torch.inference_mode()
    def own() -> list[Embedding]:
        found = [
            graph.named(torch.from_numpy(preprocess(place, size, "crop").squares[0][None]))[
                "pooled"
            ]
            for place in places
        ]
        return [Embedding(each[0].numpy()) for each in found]

    mine = own()
    nearest = _nearest(mine)

    def judged(answers: Sequence[Embedding]) -> tuple[str, Score]:
        same = _nearest(answers) == nearest
        return _KEPT, Score(float(same.mean()), count=len(same))

    about = {
        **_about(run, "embed"),
        "classes": [],
        "multilabel": False,
        "size": size,
        "framing": "crop",
        "threshold": 0.0,
    }
    drawn = [train[place].content() for place in _drawn(len(train), recipe.seed)]
    return Leaving(
        run,
        graph,
        lambda outputs: {},
        about,
        places,
        [entry.key for entry in entries],
        drawn,
        lambda: mine,
        judged,
    )


def _drawn(count: int, seed: int) -> list[int]:
    """Places of the training images that give the ranges of 8 bits."""
    return np.random.default_rng(seed).permutation(count)[:_CALIBRATING].tolist()  # type: ignore[no-any-return]


def _pooled(backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
    found = backbone(images, {Provides.POOLED}).pooled
    assert found is not None
    return {"pooled": found}


def _nearest(vectors: Sequence[Embedding]) -> np.ndarray:
    """(N,): the place of the most alike other one, by cosine."""
    table = np.stack([each.vector for each in vectors]).astype(np.float64)
    table /= np.linalg.norm(table, axis=1, keepdims=True).clip(min=1e-12)
    alike = table @ table.T
    np.fill_diagonal(alike, -np.inf)
    found: np.ndarray = alike.argmax(1)
    return found


_PICTURES = {
    "crop": "upright by EXIF, RGB on white, short side to `size` "
    "(bicubic, antialiased), center crop, uint8",
    "whole": "upright by EXIF, RGB on white, long side to `size` "
    "(bicubic, antialiased), padded with black to a square, uint8",
    "windows": "upright by EXIF, RGB on white, squares of `size` at full resolution "
    "that overlap by at least a quarter, uint8",
}


def _about(run: Run, task: str) -> dict[str, Any]:
    known = {
        "format": FORMAT_VERSION,
        "created_by": f"foveate {__version__}",
        "run": run.folder.resolve().name,
        "task": task,
    }
    about = {
        "backbone": run.recipe().backbone.name,
        "license": run.outcome().get("license", "not stated"),
        "precision": "fp32",
    }
    return {**known, **about, "parts": {}}


def _about_answers(predictor: Predictor) -> dict[str, Any]:
    """What a file says of itself; how pictures become squares is in words, for those who read it
    without Foveate.
    """
    model, known = predictor.model, predictor.calibration
    framing = model.task.framing
    return {
        **_about(predictor.run, predictor.recipe.task.name),
        "classes": list(predictor.classes),
        "multilabel": predictor.multilabel,
        "size": model.backbone.input.size,
        "framing": framing,
        "preprocessing": _PICTURES[framing],
        "threshold": predictor.threshold,
        "calibration": None
        if known is None
        else {**known.row(), "feature_space": encode_feature_space(known.feature_space)},
        **model.task.export_metadata(),
    }

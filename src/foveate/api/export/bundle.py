"""What an export needs of a run: a graph, its metadata, and images to check the file on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.api.pretrain.images import HELD_OUT, TRAIN
from foveate.data.image_cache import rendering_of
from foveate.data.streaming import Catalog
from foveate.deploy.postprocess.classify import encode_feature_space
from foveate.deploy.runtime import FORMAT_VERSION, PreprocessedImage, preprocess
from foveate.errors import UsageError
from foveate.evaluation.calibration import Calibration
from foveate.evaluation.conformal import IntervalCalibration
from foveate.images.pixels import Rendering
from foveate.images.preprocessing import Framing
from foveate.inference.engine import compute_scores, scan_with_progress
from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.backbones import Backbone, family_of
from foveate.modeling.tasks import ExportStep
from foveate.predictions import Embedding
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.types import Provides, Score, StoredImage, content_of
from foveate.version import __version__

_MAX_CHECK_IMAGES = 512
_CALIBRATION_IMAGES = 200  # training images
_SAME_NEAREST = "nearest"  # metric: share of images whose nearest neighbor is the same
ExportOutputs = Callable[[Backbone, nn.Module, Tensor], dict[str, Tensor]]


class Graph(nn.Module):
    """(B, C, S, S) -> the exported outputs of a task, in a fixed order.

    Args:
        backbone: The backbone.
        head: The head of the task.
        outputs: Computes the outputs.
        bits: Of each channel: images are uint8, or with 16 bits float32 up to 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, head: nn.Module, outputs: ExportOutputs, bits: int = 8
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.outputs, self.bits = backbone, head, outputs, bits
        for name, values in (("mean", backbone.input.mean), ("std", backbone.input.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    @classmethod
    def of(cls, predictor: Predictor) -> Graph:
        """Return the graph of a run, in evaluation mode."""
        model = predictor.model
        model.to(memory_format=torch.contiguous_format)
        bits = predictor.recipe.data.bits
        return cls(model.backbone, model.head, model.task.export_outputs, bits).eval()

    def empty_images(self, count: int) -> Tensor:
        """Return black images of the shape and type that it takes."""
        spec, kind = self.backbone.input, torch.uint8 if self.bits == 8 else torch.float32
        return torch.zeros(count, spec.channels, spec.size, spec.size, dtype=kind)

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""
        normalized = (images.float() / 255 - self.mean) / self.std
        return self.outputs(self.backbone, self.head, normalized)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())


@dataclass(frozen=True)
class ExportBundle:
    """A run as it is exported.

    Attributes:
        run: The run.
        graph: Its network.
        steps: Returns the further graphs, by name, given example outputs of `graph`.
        metadata: What the file stores about itself.
        sources: Image files (or encoded images) on which the file is checked.
        keys: Their names.
        calibration: Sources of training images that give the ranges of 8-bit numbers.
        run_predictions: Computes the run's own predictions for `sources`.
        score: Scores predictions for `sources`; returns name and value of the main metric.
    """

    run: Run
    graph: Graph
    steps: Callable[[dict[str, Tensor]], dict[str, ExportStep]]
    metadata: dict[str, Any]
    sources: list[Any]
    keys: list[str]
    calibration: list[Any]
    run_predictions: Callable[[], Sequence[Any]]
    score: Callable[[Sequence[Any]], tuple[str, Score]]

    @property
    def side(self) -> int:
        """Side S of the network's input, px."""
        return int(self.metadata["size"])

    @property
    def framing(self) -> Framing:
        framing: Framing = self.metadata["framing"]
        return framing

    def examples(self) -> list[np.ndarray]:
        """Return two inputs, (C, S, S)."""
        ends = self.sources[0], self.sources[-1]
        return [self.preprocess(source).squares[0] for source in ends]

    def preprocess(self, source: Path | bytes | StoredImage) -> PreprocessedImage:
        """Decode an image as the exported file will."""
        content = source if isinstance(source, bytes) else content_of(source)
        rendering = Rendering.from_row(self.metadata.get("rendering"))
        return preprocess(content, self.side, self.framing, rendering)


def export_bundle(folder: Path) -> ExportBundle:
    """Return the bundle of a finished run or of a pretrained backbone.

    Raises:
        UsageError: There are no images to check the file on.
    """
    run = Run.open(folder)
    if run.is_pretraining:
        return _backbone_bundle(run)
    return _task_bundle(load_predictor(folder, "cpu"))


def _task_bundle(predictor: Predictor) -> ExportBundle:
    model, table = predictor.model, read_run_table(predictor.run)
    train = table.in_split("train")
    splits = (table.in_split("val"), table.in_split("test"), train)
    chosen = next((split for split in splits if split), ())[:_MAX_CHECK_IMAGES]
    if not chosen:
        raise UsageError(
            "this run has no images to check the file on",
            where=predictor.run.folder,
            hint="a run that was trained on images",
        )
    graph = Graph.of(predictor)
    with torch.inference_mode():  # what cannot be exported fails before images are read
        graph(graph.empty_images(1))
    scanned = scan_with_progress(table.with_samples(chosen), model, predictor.recipe.data)
    samples = scanned.table.samples

    def score(predictions: Sequence[Any]) -> tuple[str, Score]:
        scores = compute_scores(predictions, samples, model)
        return scores.main, scores.numbers[scores.main]

    return ExportBundle(
        run=predictor.run,
        graph=graph,
        steps=lambda outputs: model.task.export_steps(model.head, outputs),
        metadata=_task_metadata(predictor),
        sources=[sample.path for sample in samples],
        keys=[sample.key for sample in samples],
        calibration=[
            train[index].path for index in _calibration_indices(len(train), predictor.recipe.seed)
        ],
        run_predictions=lambda: predictor.predict_samples(samples, scanned.cache).predictions,
        score=score,
    )


def _backbone_bundle(run: Run) -> ExportBundle:
    """The predictions of a backbone are embeddings; its metric compares nearest neighbors."""
    recipe = run.recipe()
    backbone = family_of(str(run.folder)).open(str(run.folder), "auto")
    graph = Graph(backbone, nn.Identity(), _pooled_output).eval()
    held_out, train = Catalog(run.folder / HELD_OUT), Catalog(run.folder / TRAIN)
    entries = [held_out[index] for index in range(min(_MAX_CHECK_IMAGES, len(held_out)))]
    sources, size = [entry.content() for entry in entries], backbone.input.size
    embeddings = _embed(graph, sources, size)
    nearest = _nearest_indices(embeddings)

    def score(predictions: Sequence[Embedding]) -> tuple[str, Score]:
        same = _nearest_indices(predictions) == nearest
        return _SAME_NEAREST, Score(float(same.mean()), count=len(same))

    metadata = {
        **_run_metadata(run, "embed"),
        "classes": [],
        "multilabel": False,
        "size": size,
        "framing": "crop",
        "threshold": 0.0,
    }
    drawn = _calibration_indices(len(train), recipe.seed)
    return ExportBundle(
        run=run,
        graph=graph,
        steps=lambda outputs: {},
        metadata=metadata,
        sources=sources,
        keys=[entry.key for entry in entries],
        calibration=[train[index].content() for index in drawn],
        run_predictions=lambda: embeddings,
        score=score,
    )


@torch.inference_mode()
def _embed(graph: Graph, sources: Sequence[Any], size: int) -> list[Embedding]:
    embeddings = []
    for source in sources:
        square = preprocess(source, size, "crop").squares[0]
        pooled = graph.named(torch.from_numpy(square[None]))["pooled"]
        embeddings.append(Embedding(pooled[0].numpy()))
    return embeddings


def _calibration_indices(count: int, seed: int) -> list[int]:
    """Indices of the training images that give the ranges of 8-bit numbers."""
    drawn: list[int] = np.random.default_rng(seed).permutation(count)[:_CALIBRATION_IMAGES].tolist()
    return drawn


def _pooled_output(backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
    pooled = backbone(images, {Provides.POOLED}).pooled
    assert pooled is not None
    return {"pooled": pooled}


def _nearest_indices(embeddings: Sequence[Embedding]) -> np.ndarray:
    """(N,): index of the nearest other image, by cosine."""
    vectors = np.stack([each.vector for each in embeddings]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -np.inf)
    nearest: np.ndarray = similarities.argmax(1)
    return nearest


# for those who read a file without Foveate
_PREPROCESSING = {
    "crop": "upright by EXIF, RGB on white, short side to `size` "
    "(bicubic, antialiased), center crop, uint8",
    "whole": "upright by EXIF, RGB on white, long side to `size` "
    "(bicubic, antialiased), padded with black to a square, uint8",
    "windows": "upright by EXIF, RGB on white, squares of `size` at full resolution "
    "that overlap by at least a quarter, uint8",
}


def _other_channels(rendering: Rendering) -> str:
    """In which of them images are no RGB of bytes."""
    bands = ", ".join(map(str, rendering.bands))
    text = f"; instead of RGB the bands {bands}" if rendering.channels != 3 else ""
    return text + ("; instead of uint8 float32 up to 255" if rendering.bits == 16 else "")


def _run_metadata(run: Run, task: str) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "created_by": f"foveate {__version__}",
        "run": run.folder.resolve().name,
        "task": task,
        "backbone": run.recipe().backbone.name,
        "license": run.outcome().get("license", "not stated"),
        "precision": "fp32",
        "parts": {},
    }


def _task_metadata(predictor: Predictor) -> dict[str, Any]:
    model, calibration = predictor.model, predictor.calibration
    framing, rendering = model.task.framing, rendering_of(predictor.recipe.data)
    return {
        **_run_metadata(predictor.run, predictor.recipe.task.name),
        "classes": list(predictor.classes),
        "multilabel": predictor.multilabel,
        "size": model.backbone.input.size,
        "framing": framing,
        "rendering": rendering.row(),
        "channel_files": predictor.has_channel_files,
        "preprocessing": _PREPROCESSING[framing] + _other_channels(rendering),
        "threshold": predictor.threshold,
        "calibration": _calibration_row(calibration),
        **model.task.export_metadata(),
    }


def _calibration_row(calibration: Calibration | IntervalCalibration | None) -> Any:
    """The calibration, JSON-able; of labels with the feature space."""
    if not isinstance(calibration, Calibration):
        return calibration and calibration.row()
    space = encode_feature_space(calibration.feature_space)
    return {**calibration.row(), "feature_space": space}

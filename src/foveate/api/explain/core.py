"""explain RUN IMAGES: heat maps of the evidence, and tests of their faithfulness."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foveate.api.explain.nearest import NearestImage, TrainingIndex
from foveate.data.image_sources import find_samples_at
from foveate.errors import BrokenImage, UsageError
from foveate.explainability.faithfulness import (
    ExplainTarget,
    Faithfulness,
    FaithfulnessCurves,
    TextTarget,
    overlay,
    randomization_similarity,
    randomize_weights,
)
from foveate.explainability.methods import EXPLAINERS, Explainer
from foveate.images.encoding import write_image
from foveate.images.sheets import image_grid, stack
from foveate.inference.predictor import Predictor, load_predictor
from foveate.messages import counted, percent
from foveate.modeling.model import Model
from foveate.modeling.tasks import ExplainableScore
from foveate.types import Sample
from foveate.utils import console, log
from foveate.utils.files import write_text

_TILE_SIZE = 224  # px of an image on a sheet
_MAX_SCORES = 3  # explained classes, boxes or words of an image
# correlation with the map of random weights from which a map is not to be trusted
_MAX_RANDOMIZATION_SIMILARITY = 0.5


@dataclass(frozen=True)
class Explanation:
    """The heat map of one score of one image by one method.

    Attributes:
        path: The image.
        label: The class, box, word or text query that is explained.
        probability: Its probability.
        method: Name of the explanation method.
        map: Heat map (h, w), float.
        faithfulness: Results of the insertion and deletion tests.
        randomization_similarity: Correlation with the map of a network with random weights.
        nearest: Most similar training images, if requested.
    """

    path: str
    label: str
    probability: float
    method: str
    map: Tensor
    faithfulness: Faithfulness
    randomization_similarity: float
    nearest: tuple[NearestImage, ...] = ()

    @property
    def doubt(self) -> str:
        """Why the map should not be trusted; empty if no test speaks against it."""
        if not self.faithfulness.better_than_random:
            return "no better than random"
        similar = self.randomization_similarity > _MAX_RANDOMIZATION_SIMILARITY
        return "similar with random weights" if similar else ""

    def alt(self) -> str:
        """Return a text alternative of the map."""
        values = self.map.numpy()
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        vertical = ("top", "middle", "bottom")[min(2, 3 * int(row) // values.shape[0])]
        horizontal = ("left", "center", "right")[min(2, 3 * int(column) // values.shape[1])]
        text = f"{self.label} ({percent(self.probability)}), {self.method}: "
        text += f"strongest evidence in the {vertical} {horizontal}"
        return f"{text}; {self.doubt}" if self.doubt else text

    def row(self) -> dict[str, Any]:
        """Return the line of explanations.jsonl."""
        nearest = {"nearest": [each.row() for each in self.nearest]} if self.nearest else {}
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "method": self.method,
            **self.faithfulness.row(),
            "randomization_similarity": self.randomization_similarity,
            "doubt": self.doubt,
            "alt": self.alt(),
            **nearest,
        }


@dataclass(frozen=True)
class ExplainResult:
    """What was explained.

    Attributes:
        folder: Holds a sheet for each image, and explanations.jsonl.
        explanations: One for each image, score and method.
        skipped: Unreadable images, with the reason.
    """

    folder: Path
    explanations: list[Explanation]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return [
            "method",
            "maps",
            "insertion",
            "deletion",
            "better than random",
            "correlation with random weights",
        ]

    @property
    def rows(self) -> list[list[str]]:
        """Means of each method over all its maps."""
        methods = dict.fromkeys(each.method for each in self.explanations)
        return [self._method_row(method) for method in methods]

    def _method_row(self, method: str) -> list[str]:
        own = [each for each in self.explanations if each.method == method]
        insertion = float(np.mean([each.faithfulness.insertion for each in own]))
        deletion = float(np.mean([each.faithfulness.deletion for each in own]))
        better = sum(each.faithfulness.better_than_random for each in own)
        similarity = float(np.mean([each.randomization_similarity for each in own]))
        return [
            method,
            str(len(own)),
            f"{insertion:.3f}",
            f"{deletion:.3f}",
            f"{better} of {len(own)}",
            f"{similarity:+.2f}",
        ]

    def numbers(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "explanations": [each.row() for each in self.explanations],
            "skipped": len(self.skipped),
        }

    def lines(self) -> list[str]:
        doubtful = sum(bool(each.doubt) for each in self.explanations)
        maps = counted(len(self.explanations), "map", "maps")
        note = f"note: do not trust {doubtful} of {maps}; the sheets state the reason for each"
        return [
            *([note] if doubtful else []),
            f"sheets: {self.folder}",
            f"numbers: {self.folder / 'explanations.jsonl'}",
        ]


@dataclass(frozen=True)
class Request:
    """What to explain.

    Attributes:
        explainers: Explanation methods by name.
        texts: Text queries to explain instead of the predictions.
        nearest: Number of most similar training images to show.
        strict: Whether to stop at the first unreadable image.
    """

    explainers: dict[str, Explainer]
    texts: tuple[str, ...]
    nearest: int
    strict: bool


def create_explainers(names: Iterable[str]) -> dict[str, Explainer]:
    """Create the explainers of these names. Raises UnknownName."""
    return {name: EXPLAINERS.get(name)() for name in names}


def explain_images(
    run: Path, images: Iterable[Path], request: Request, folder: Path, device: str
) -> ExplainResult:
    """Explain the predictions of images, and write sheets and numbers to a new folder.

    Args:
        run: Run folder.
        images: Image files and folders.
        request: What to explain.
        folder: Folder to create.
        device: Compute device.
    """
    samples = list(find_samples_at(images))
    predictor = load_predictor(run, device)
    samples = predictor.join_channels(samples)
    randomized = randomize_weights(predictor.model)
    explanations, skipped = list[Explanation](), list[tuple[str, str]]()
    index = TrainingIndex.of(predictor) if request.nearest else None
    folder.mkdir(parents=True)
    with console.progress(len(samples), "explain") as bar:
        for number, sample in enumerate(samples):
            try:
                own, sheet = _explain_image(predictor, randomized, sample, request)
                nearest = index.nearest(sample, request.nearest) if index else []
            except BrokenImage as error:
                if request.strict:
                    raise
                log.warning(f"skipped {sample.key}: {error.why or error.what}")
                skipped.append((sample.key, error.why or error.what))
            else:
                sheet = stack(sheet, index.sheet(nearest)) if index else sheet
                alt = _alt_text(own, nearest)
                write_image(
                    sheet, folder / f"{number:04d}-{Path(sample.key).stem}.png", {"alt": alt}
                )
                explanations += [replace(each, nearest=tuple(nearest)) for each in own]
            bar.advance(1)
    text = "".join(json.dumps(each.row(), ensure_ascii=False) + "\n" for each in explanations)
    write_text(folder / "explanations.jsonl", text)
    return ExplainResult(folder, explanations, skipped)


def _alt_text(explanations: list[Explanation], nearest: list[NearestImage]) -> str:
    similar = [f"similar to {each.key} ({each.label})" for each in nearest]
    return "; ".join([*(each.alt() for each in explanations), *similar])


def _explain_image(
    predictor: Predictor, randomized: Model, sample: Sample, request: Request
) -> tuple[list[Explanation], np.ndarray]:
    """Return the explanations of an image and its sheet."""
    target = ExplainTarget.from_sample(predictor, sample)
    target = TextTarget(target.model, target.batch, request.texts) if request.texts else target
    scores = target.explainable_scores()[: len(request.texts) or _MAX_SCORES]
    if not scores:
        kind = predictor.model.task.prediction_type.__name__.lower()
        raise UsageError(
            f"there is nothing to explain in this prediction ({kind})",
            where=sample.key,
            hint="another image or run",
        )
    explanations = [
        explanation
        for score in scores
        for explanation in _explain_score(target, score, randomized, sample.key, request.explainers)
    ]
    return explanations, _sheet(target, explanations, len(request.explainers))


def _explain_score(
    target: ExplainTarget,
    score: ExplainableScore,
    randomized: Model,
    path: str,
    explainers: dict[str, Explainer],
) -> list[Explanation]:
    curves = FaithfulnessCurves(target, score)
    probability = float(target.probabilities(score, target.batch.images)[0])
    explanations = []
    for method, explainer in explainers.items():
        map_ = explainer.explain(target.request(score)).detach().float().cpu()
        similarity = randomization_similarity(explainer, target, score, map_, randomized)
        faithfulness = curves.measure(map_)
        explanations.append(
            Explanation(path, score.name, probability, method, map_, faithfulness, similarity)
        )
    return explanations


def _sheet(target: ExplainTarget, explanations: list[Explanation], methods: int) -> np.ndarray:
    """A row for each score: the network's input, then each map over it with its test results."""
    pixels = target.pixels(_TILE_SIZE)
    tiles, titles = list[np.ndarray](), list[str]()
    for first in range(0, len(explanations), methods):
        row = explanations[first : first + methods]
        tiles += [pixels, *(overlay(pixels, each.map) for each in row)]
        heading = f"{row[0].label} ({percent(row[0].probability)})"
        titles += [heading, *(_title(each) for each in row)]
    return image_grid(tiles, titles, methods + 1)


def _title(explanation: Explanation) -> str:
    if explanation.doubt:
        return f"{explanation.method}: {explanation.doubt}"
    tests = explanation.faithfulness
    return f"{explanation.method}: ins {tests.insertion:.2f}, del {tests.deletion:.2f}"

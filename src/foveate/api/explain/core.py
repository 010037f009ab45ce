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
from foveate.errors import BrokenImage, DataError, UsageError
from foveate.explainability.faithfulness import (
    THOROUGH_TEST,
    CurveTest,
    ExplainTarget,
    Faithfulness,
    FaithfulnessTest,
    TextTarget,
    overlay,
    randomization_similarity,
    randomize_weights,
    short_test,
)
from foveate.explainability.methods import EXPLAINERS, Explainer
from foveate.images.drawing import draw_frame
from foveate.images.encoding import write_image
from foveate.images.sheets import image_grid, stack
from foveate.inference.predictor import Predictor, load_predictor
from foveate.messages import counted, percent
from foveate.modeling.model import Model
from foveate.modeling.tasks import ExplainableScore
from foveate.predictions import Boxes
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
        box: The object that is explained, x0, y0, x1, y1 in px of the upright image; None where
            the score is not that of an object.
        nearest: Most similar training images, if requested.
    """

    path: str
    label: str
    probability: float
    method: str
    map: Tensor
    faithfulness: Faithfulness
    randomization_similarity: float
    box: tuple[float, ...] | None = None
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
            **({"box": list(self.box)} if self.box else {}),
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
        without: Images in which the run finds nothing that could be explained.
    """

    folder: Path
    explanations: list[Explanation] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)

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
            "nothing_to_explain": self.without,
        }

    def lines(self) -> list[str]:
        doubtful = sum(bool(each.doubt) for each in self.explanations)
        maps = counted(len(self.explanations), "map", "maps")
        note = f"note: do not trust {doubtful} of {maps}; the sheets state the reason for each"
        empty = counted(len(self.without), "image", "images")
        return [
            *([note] if doubtful else []),
            *([f"note: the run finds nothing to explain in {empty}"] if self.without else []),
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
        thorough: Whether to test maps by finer curves and more random orders.
    """

    explainers: dict[str, Explainer]
    texts: tuple[str, ...]
    nearest: int
    strict: bool
    thorough: bool = False


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
    explainer = _ImageExplainer(predictor, request)
    index = TrainingIndex.of(predictor) if request.nearest else None
    result = ExplainResult(folder)
    with console.progress(len(samples), "explain") as bar:
        for number, sample in enumerate(samples):
            try:
                own, sheet = explainer.explain(sample)
                nearest = index.nearest(sample, request.nearest) if index and own else []
            except BrokenImage as error:
                if request.strict:
                    raise
                log.warning(f"skipped {sample.key}: {error.why or error.what}")
                result.skipped.append((sample.key, error.why or error.what))
            else:
                if own:
                    sheet = stack(sheet, index.sheet(nearest)) if index else sheet
                    path = folder / f"{number:04d}-{_printable(Path(sample.key).stem)}.png"
                    folder.mkdir(parents=True, exist_ok=True)
                    write_image(sheet, path, {"alt": _alt_text(own, nearest)})
                    result.explanations.extend(
                        replace(each, nearest=tuple(nearest)) for each in own
                    )
                else:
                    result.without.append(sample.key)
            bar.advance(1)
    if not result.explanations:
        raise _nothing_explained(predictor, result)
    rows = [json.dumps(each.row(), ensure_ascii=False) + "\n" for each in result.explanations]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "explanations.jsonl", "".join(rows))
    return result


def _nothing_explained(predictor: Predictor, result: ExplainResult) -> UsageError | DataError:
    if not result.without:
        key, why = result.skipped[0]
        return DataError("none of the images could be read", where=key, why=why)
    return _nothing_to_explain(predictor, result.without)


def _nothing_to_explain(predictor: Predictor, keys: list[str]) -> UsageError:
    kind = predictor.model.task.prediction_type
    no_box = f"no box reaches the threshold of the run, {predictor.threshold:.2f}"
    return UsageError(
        f"there is nothing to explain in this prediction ({kind.__name__.lower()})",
        where=keys[0],
        why=no_box if kind is Boxes else "",
        hint="another image or run",
    )


def _printable(name: str) -> str:
    """The name of an image as a part of a file name: "x\ny" -> "x_y"."""
    return "".join(each if each.isprintable() else "_" for each in name)


def _alt_text(explanations: list[Explanation], nearest: list[NearestImage]) -> str:
    similar = [f"similar to {each.key} ({each.label})" for each in nearest]
    return "; ".join([*(each.alt() for each in explanations), *similar])


class _ImageExplainer:
    """Explains predictions of a run, image by image.

    Args:
        predictor: The run.
        request: What to explain.
    """

    def __init__(self, predictor: Predictor, request: Request) -> None:
        self.predictor, self.request = predictor, request
        self.randomized = randomize_weights(predictor.model)
        self.pass_flops = 0  # the same for all images, which the network sees in one size

    def explain(self, sample: Sample) -> tuple[list[Explanation], np.ndarray]:
        """Return the explanations of an image and its sheet; none where nothing is predicted."""
        request = self.request
        target = ExplainTarget.from_sample(self.predictor, sample)
        if request.texts:
            target = TextTarget(target.model, target.batch, sentences=request.texts)
        scores = target.explainable_scores()[: len(request.texts) or _MAX_SCORES]
        if not scores:
            return [], np.zeros((0, 0, 3), np.uint8)
        maps = _maps(target, scores, self.randomized, request.explainers)
        test = FaithfulnessTest(target, scores, self._test(target, len(maps)))
        measured = test.measure([(each.score, each.map) for each in maps])
        explanations = [
            Explanation(
                sample.key,
                scores[each.score].name,
                float(test.whole[each.score]),
                each.method,
                each.map,
                faithfulness,
                each.similarity,
                target.box(scores[each.score]),
            )
            for each, faithfulness in zip(maps, measured, strict=True)
        ]
        return explanations, _sheet(target, scores, explanations)

    def _test(self, target: ExplainTarget, maps: int) -> CurveTest:
        if self.request.thorough:
            return THOROUGH_TEST
        self.pass_flops = self.pass_flops or target.pass_flops()
        return short_test(self.pass_flops, maps)


@dataclass(frozen=True)
class _Map:
    """A map (h, w) of a score, by its index, and its similarity with that of random weights."""

    score: int
    method: str
    map: Tensor
    similarity: float


def _maps(
    target: ExplainTarget,
    scores: list[ExplainableScore],
    randomized: Model,
    explainers: dict[str, Explainer],
) -> list[_Map]:
    """The maps of all scores, and of each by all methods."""
    maps = []
    trained, random = (
        each.requests(scores) for each in (target, replace(target, model=randomized))
    )
    for index, (request, with_random_weights) in enumerate(zip(trained, random, strict=True)):
        for method, explainer in explainers.items():
            map_ = explainer.explain(request).detach().float().cpu()
            similarity = randomization_similarity(explainer, map_, with_random_weights)
            maps.append(_Map(index, method, map_, similarity))
    return maps


def _sheet(
    target: ExplainTarget, scores: list[ExplainableScore], explanations: list[Explanation]
) -> np.ndarray:
    """A row for each score: the network's input, then each map over it with its test results."""
    pixels, scale = target.pixels(_TILE_SIZE), _TILE_SIZE / target.batch.images.shape[-1]
    methods = len(explanations) // len(scores)
    tiles, titles = list[np.ndarray](), list[str]()
    for index, score in enumerate(scores):
        row = explanations[index * methods : (index + 1) * methods]
        images = [pixels, *(overlay(pixels, each.map) for each in row)]
        if score.found:
            box = [side * scale for side in score.found.box]
            images = [draw_frame(image, box) for image in images]
        tiles += images
        heading = f"{row[0].label} ({percent(row[0].probability)})"
        titles += [heading, *(_title(each) for each in row)]
    return image_grid(tiles, titles, methods + 1)


def _title(explanation: Explanation) -> str:
    if explanation.doubt:
        return f"{explanation.method}: {explanation.doubt}"
    tests = explanation.faithfulness
    return f"{explanation.method}: ins {tests.insertion:.2f}, del {tests.deletion:.2f}"

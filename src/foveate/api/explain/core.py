"""explain RUN IMAGES: heat maps of the evidence, and tests of whether to believe them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foveate.api.explain.nearest import Known, Near
from foveate.data.discovery import find_images_at
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
from foveate.images import codec as image_io
from foveate.images.sheets import image_grid, stack
from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.model import Model
from foveate.modeling.tasks import ExplainableScore
from foveate.types import Sample
from foveate.utils import console, log
from foveate.utils.files import write_text
from foveate.utils.paths import printable

_SIDE = 224  # px of a picture in a sheet
_QUESTIONS = 3  # of a picture, at the most
_LIKE_RANDOM = 0.5  # correlation with the map of random weights from which a map is doubted


@dataclass(frozen=True)
class Why:
    """One picture, one question, one way to explain.

    `same`: the correlation with the map of random weights; `nearest`: training images like this
    one, where they were asked for.
    """

    path: str
    label: str
    probability: float
    method: str
    map: Tensor
    faithfulness: Faithfulness
    randomization_similarity: float
    nearest: tuple[Near, ...] = ()

    @property
    def doubt(self) -> str:
        """Why not to believe the map; empty where there is no reason."""
        if not self.faithfulness.better_than_random:
            return "no better than random"
        return "like random weights" if self.randomization_similarity > _LIKE_RANDOM else ""

    def alt(self) -> str:
        """What the map shows, in words."""
        found = self.map.numpy()
        rows, columns = np.unravel_index(int(found.argmax()), found.shape)
        height = ("top", "middle", "bottom")[min(2, 3 * int(rows) // found.shape[0])]
        side = ("left", "centre", "right")[min(2, 3 * int(columns) // found.shape[1])]
        told = f"{self.label} ({self.probability:.0%}), {self.method}: "
        told += f"strongest evidence in the {height} {side}"
        return f"{told}; {self.doubt}" if self.doubt else told

    def row(self) -> dict[str, Any]:
        about = {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "method": self.method,
            **self.faithfulness.row(),
        }
        near = {"nearest": [each.row() for each in self.nearest]} if self.nearest else {}
        return {
            **about,
            "randomization_similarity": self.randomization_similarity,
            "doubt": self.doubt,
            "alt": self.alt(),
            **near,
        }


@dataclass(frozen=True)
class ExplainResult:
    """`folder`: a sheet for each picture and explanations.jsonl."""

    folder: Path
    found: list[Why]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return [
            "method",
            "maps",
            "insertion",
            "deletion",
            "better than random",
            "like random weights",
        ]

    @property
    def rows(self) -> list[list[str]]:
        told = []
        for how in dict.fromkeys(each.method for each in self.found):
            own = [each for each in self.found if each.method == how]
            means = [
                float(np.mean([getattr(each.faithfulness, name) for each in own]))
                for name in ("insertion", "deletion")
            ]
            better, same = (
                sum(each.faithfulness.better_than_random for each in own),
                float(np.mean([each.randomization_similarity for each in own])),
            )
            told.append(
                [
                    how,
                    str(len(own)),
                    *(f"{mean:.3f}" for mean in means),
                    f"{better} of {len(own)}",
                    f"{same:+.2f}",
                ]
            )
        return told

    def numbers(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "explanations": [each.row() for each in self.found],
            "skipped": len(self.skipped),
        }

    def lines(self) -> list[str]:
        doubted = sum(bool(each.doubt) for each in self.found)
        note = (
            f"note: {doubted} of {len(self.found)} maps are not to be believed, each says why"
            if doubted
            else ""
        )
        return [
            *([note] if note else []),
            f"sheets: {self.folder}",
            f"numbers: {self.folder / 'explanations.jsonl'}",
        ]


@dataclass(frozen=True)
class Request:
    """What to explain and how: `texts` replace the questions of the task, where there are any."""

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
    """Explain the predictions for files and folders; sheets and numbers go to the new `folder`."""
    paths = list(find_images_at(images))
    predictor = load_predictor(run, device)
    other, found, skipped = randomize_weights(predictor.model), list[Why](), list[tuple[str, str]]()
    known = Known.of(predictor) if request.nearest else None
    folder.mkdir(parents=True)
    with console.progress(len(paths), "explain") as bar:
        for index, path in enumerate(paths):
            try:
                whys, sheet = _explained(predictor, other, path, request)
                near = known.nearest(path, request.nearest) if known else []
            except BrokenImage as error:
                if request.strict:
                    raise
                log.warning(f"skipped {printable(path)}: {error.why or error.what}")
                skipped.append((printable(path), error.why or error.what))
            else:
                alt = "; ".join(
                    [
                        *(each.alt() for each in whys),
                        *(f"like {each.key} ({each.label})" for each in near),
                    ]
                )
                sheet = stack(sheet, known.strip(near)) if known else sheet
                image_io.write_image(sheet, folder / f"{index:04d}-{path.stem}.png", {"alt": alt})
                found += [replace(why, nearest=tuple(near)) for why in whys]
            bar.advance(1)
    text = "".join(json.dumps(each.row(), ensure_ascii=False) + "\n" for each in found)
    write_text(folder / "explanations.jsonl", text)
    return ExplainResult(folder, found, skipped)


def _explained(
    predictor: Predictor,
    other: Model,
    path: Path,
    request: Request,
) -> tuple[list[Why], np.ndarray]:
    sample = Sample(path, printable(path))
    subject = ExplainTarget.from_sample(predictor, sample)
    subject = TextTarget(subject.model, subject.batch, request.texts) if request.texts else subject
    questions = subject.explainable_scores()[: len(request.texts) or _QUESTIONS]
    if not questions:
        kind = predictor.model.task.prediction_type.__name__.lower()
        raise UsageError(
            f"there is nothing to explain about this answer ({kind})",
            where=path,
            hint="another picture or run",
        )
    whys = [
        why
        for question in questions
        for why in _whys(subject, question, other, sample.key, request.explainers)
    ]
    return whys, _sheet(subject, whys, len(request.explainers))


def _whys(
    subject: ExplainTarget,
    question: ExplainableScore,
    other: Model,
    path: str,
    explainers: dict[str, Explainer],
) -> list[Why]:
    curves = FaithfulnessCurves(subject, question)
    chance = float(subject.probabilities(question, subject.batch.images)[0])
    found = []
    for how, explainer in explainers.items():
        map_ = explainer.explain(subject.request(question)).detach().float().cpu()
        same = randomization_similarity(explainer, subject, question, map_, other)
        found.append(Why(path, question.name, chance, how, map_, curves.measure(map_), same))
    return found


def _sheet(subject: ExplainTarget, whys: list[Why], across: int) -> np.ndarray:
    """A row for each question: the picture as the network sees it, then each map over it, with what
    it is worth.
    """
    pixels = subject.pixels(_SIDE)
    pictures, titles = list[np.ndarray](), list[str]()
    for first in range(0, len(whys), across):
        row = whys[first : first + across]
        pictures += [pixels, *(overlay(pixels, why.map) for why in row)]
        titles += [f"{row[0].label} ({row[0].probability:.0%})", *(_title(why) for why in row)]
    return image_grid(pictures, titles, across + 1)


def _title(why: Why) -> str:
    return (
        f"{why.method}: {why.doubt}"
        if why.doubt
        else f"{why.method}: ins {why.faithfulness.insertion:.2f}, "
        f"del {why.faithfulness.deletion:.2f}"
    )

"""explain RUN IMAGES: where an answer comes from, and whether the map that says so can be believed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foveate.api.explain.nearest import Known, Near
from foveate.data.discovery import pictures_at
from foveate.errors import BrokenImage, UsageError
from foveate.explainability.faithfulness import (
    Curves,
    Described,
    Faith,
    Subject,
    over,
    randomised,
    sameness,
)
from foveate.explainability.methods import EXPLAINERS, Explainer
from foveate.images import codec as images
from foveate.images.sheets import stacked, tiled
from foveate.inference.predictor import Predictor, load
from foveate.modeling.model import Model
from foveate.modeling.tasks import Question
from foveate.run.folder import Run
from foveate.types import Sample
from foveate.utils import console
from foveate.utils.files import numbered, refuse_taken
from foveate.utils.paths import printable

_SIDE = 224  # px of a picture in a sheet
_QUESTIONS = 3  # of a picture, at the most
_LIKE_RANDOM = 0.5  # correlation with the map of random weights from which a map is doubted
DEFAULT = ("gradcam", "hirescam")


@dataclass(frozen=True)
class Why:
    """One picture, one question, one way to explain. `same`: the correlation with the map of random weights; `nearest`: training
    images like this one, where they were asked for."""

    path: str
    question: str
    chance: float
    how: str
    map: Tensor
    faith: Faith
    same: float
    nearest: tuple[Near, ...] = ()

    @property
    def doubt(self) -> str:
        """Why not to believe the map; empty where there is no reason."""
        if not self.faith.better:
            return "no better than random"
        return "like random weights" if self.same > _LIKE_RANDOM else ""

    def alt(self) -> str:
        """What the map shows, in words."""
        found = self.map.numpy()
        rows, columns = np.unravel_index(int(found.argmax()), found.shape)
        height = ("top", "middle", "bottom")[min(2, 3 * int(rows) // found.shape[0])]
        side = ("left", "centre", "right")[min(2, 3 * int(columns) // found.shape[1])]
        told = f"{self.question} ({self.chance:.0%}): by {self.how}, the {height} {side} speaks for it most"
        return f"{told}; {self.doubt}" if self.doubt else told

    def row(self) -> dict[str, Any]:
        about = {
            "path": self.path,
            "question": self.question,
            "chance": self.chance,
            "how": self.how,
            **self.faith.row(),
        }
        near = {"nearest": [each.row() for each in self.nearest]} if self.nearest else {}
        return {
            **about,
            "same_with_random_weights": self.same,
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
        return ["how", "maps", "insertion", "deletion", "better than random", "like random weights"]

    @property
    def rows(self) -> list[list[str]]:
        told = []
        for how in dict.fromkeys(each.how for each in self.found):
            own = [each for each in self.found if each.how == how]
            means = [
                float(np.mean([getattr(each.faith, name) for each in own]))
                for name in ("insertion", "deletion")
            ]
            better, same = (
                sum(each.faith.better for each in own),
                float(np.mean([each.same for each in own])),
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


def explain(
    run: Path,
    places: Iterable[Path],
    how: Sequence[str] = DEFAULT,
    out: Path | None = None,
    device: str = "auto",
    strict: bool = False,
    texts: Sequence[str] = (),
    nearest: int = 0,
) -> ExplainResult:
    """Explains the answers of a finished run to files and to all pictures in folders: one sheet a picture, with a row for each
    question (the class, a box, a word) and a column for each way.

    `texts`: sentences to ask about in the place of the run's own questions, where its backbone embeds sentences. `nearest`: so many
    training images stand below, those whose features are nearest. Raises UsageError for ways that the network does not take, and
    where a task has nothing to explain.
    """
    folder = out or numbered(run / "explanations")
    refuse_taken(folder)
    explainers = {name: EXPLAINERS.load(name)() for name in how}
    paths = list(pictures_at(places))
    predictor = load(run, device)
    other, found, skipped = randomised(predictor.model), list[Why](), list[tuple[str, str]]()
    known = Known.of(predictor) if nearest else None
    folder.mkdir(parents=True)
    with console.progress(len(paths), "explain") as bar:
        for place, path in enumerate(paths):
            try:
                whys, sheet = _explained(predictor, other, path, explainers, tuple(texts))
                near = known.nearest(path, nearest) if known else []
            except BrokenImage as error:
                if strict:
                    raise
                console.warn(f"skipped {printable(path)}: {error.why or error.what}")
                skipped.append((printable(path), error.why or error.what))
            else:
                alt = "; ".join(
                    [
                        *(each.alt() for each in whys),
                        *(f"like {each.key} ({each.label})" for each in near),
                    ]
                )
                sheet = stacked(sheet, known.strip(near)) if known else sheet
                images.write(sheet, folder / f"{place:04d}-{path.stem}.png", {"alt": alt})
                found += [replace(why, nearest=tuple(near)) for why in whys]
            bar.advance(1)
    text = "".join(json.dumps(each.row(), ensure_ascii=False) + "\n" for each in found)
    Run(folder).write_text("explanations.jsonl", text)
    return ExplainResult(folder, found, skipped)


def _explained(
    predictor: Predictor,
    other: Model,
    path: Path,
    explainers: dict[str, Explainer],
    texts: tuple[str, ...],
) -> tuple[list[Why], np.ndarray]:
    sample = Sample(path, printable(path))
    subject = Subject.of(predictor, sample)
    subject = Described(subject.model, subject.batch, texts) if texts else subject
    questions = subject.questions()[: len(texts) or _QUESTIONS]
    if not questions:
        kind = predictor.model.task.answer.__name__.lower()
        raise UsageError(
            f"there is nothing to explain about this answer ({kind})",
            where=path,
            hint="another picture or run",
        )
    whys = [
        why
        for question in questions
        for why in _whys(subject, question, other, sample.key, explainers)
    ]
    return whys, _sheet(subject, whys, len(explainers))


def _whys(
    subject: Subject, question: Question, other: Model, path: str, explainers: dict[str, Explainer]
) -> list[Why]:
    curves = Curves(subject, question)
    chance = float(subject.chances(question, subject.batch.images)[0])
    found = []
    for how, explainer in explainers.items():
        map_ = explainer.explain(subject.asked(question)).detach().float().cpu()
        same = sameness(explainer, subject, question, map_, other)
        found.append(Why(path, question.name, chance, how, map_, curves.faith(map_), same))
    return found


def _sheet(subject: Subject, whys: list[Why], across: int) -> np.ndarray:
    """A row for each question: the picture as the network sees it, then each map over it, with what it is worth."""
    pixels = subject.pixels(_SIDE)
    pictures, titles = list[np.ndarray](), list[str]()
    for first in range(0, len(whys), across):
        row = whys[first : first + across]
        pictures += [pixels, *(over(pixels, why.map) for why in row)]
        titles += [f"{row[0].question} ({row[0].chance:.0%})", *(_title(why) for why in row)]
    return tiled(pictures, titles, across + 1)


def _title(why: Why) -> str:
    return (
        f"{why.how}: {why.doubt}"
        if why.doubt
        else f"{why.how}: in {why.faith.insertion:.2f}, out {why.faith.deletion:.2f}"
    )

"""The report of an evaluation: one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.images.codec import to_data_uri
from foveate.reporting.i18n import speaker
from foveate.types import Score, Scores
from foveate.utils.files import write_text

_WRITTEN = {
    "map": "mAP",
    "mar": "mAR",
    "iou": "IoU",
    "auroc": "AUROC",
    "f1": "F1",
    "dice": "Dice",
    "cider": "CIDEr",
}
_WRITTEN |= {"bleu": "BLEU", "rouge": "ROUGE", "l": "L", "chrf": "chrF"}
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the answers
_SPLITS = {
    "test": "test images that took no part in training or in any choice",
    "val": "validation images",
    "train": "training images",
    "all": "all images of the data",
}


@dataclass(frozen=True)
class Example:
    """A bad answer. `pixels`: (H, W, 3) uint8, a thumbnail. `told`: what to say of it, names and
    values."""

    key: str
    pixels: np.ndarray
    told: list[tuple[str, str]]

    @property
    def wide(self) -> bool:
        height, width = self.pixels.shape[:2]
        return bool(width > 1.5 * height)


@dataclass(frozen=True)
class Comparison:
    """The same thing measured in two ways."""

    name: str
    score: Score
    meaning: str


@dataclass(frozen=True)
class Shift:
    """What a run loses on images from elsewhere. `home`, `away`: the main number here and there,
    `drop`: the first less the second. `per_class`: class, home, away, drop and the counts of both,
    the largest drop first; `measure`: what these columns hold."""

    measure: str
    home: Score
    away: Score
    drop: Score
    per_class: list[dict[str, Any]]


@dataclass(frozen=True)
class OodResult:
    """How well images of other data are told from the run's own. `name`: of that data; `auroc`: 0.5
    = not at all, 1 = always."""

    name: str
    auroc: Score


@dataclass(frozen=True)
class ConfusionCell:
    """Images of one class that got the answer of another. `pictures`: some of them, key and
    thumbnail (H, W, 3) uint8."""

    truth: str
    answer: str
    count: int
    pictures: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class EvaluationPage:
    """What a report says.

    `asks`: the question that the run answers; `lang`: of the words; `facts`: name and value;
        `choices`: field, value, reason;
    `skipped`: path, why; `ladder`: a row for each tuning that was tried; `curves`: the rows of
        metrics.jsonl; `cautions`: sentences
    about what the figure cannot promise; `shift`: what these images lose against others; `best`:
    good answers, where they tell something; `made`: pictures that the network makes by itself;
    `ood`: how well images of other data are told apart; `corrupted`: the main number under
    corruptions; `slices`: the main number on parts of the images, rows; `confused`: what lies in
    the cells of the confusion matrix. Empty parts are left out.
    """

    title: str
    command: str
    split: str
    scores: Scores
    facts: list[tuple[str, str]]
    choices: list[tuple[str, str, str]]
    cautions: list[str]
    comparisons: list[Comparison]
    ladder: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    mistakes: list[Example]
    skipped: list[tuple[str, str]]
    environment: dict[str, str]
    shift: Shift | None = None
    best: list[Example] = field(default_factory=list)
    made: list[Example] = field(default_factory=list)
    ood: OodResult | None = None
    corrupted: dict[str, Any] | None = None
    slices: list[dict[str, Any]] = field(default_factory=list)
    confused: list[ConfusionCell] = field(default_factory=list)
    asks: str = ""
    lang: str = "en"


@dataclass(frozen=True)
class PretrainingPage:
    """What a report of a pre-training says. `measures`: name, at the start, at the end;
    `neighbours`: rows of pictures, an image and those that are nearest to it; `sheet`: rows of
    pictures as they are, as the network saw them, and as it painted them."""

    title: str
    command: str
    verdict: dict[str, Any]
    measures: list[tuple[str, float, float]]
    facts: list[tuple[str, str]]
    choices: list[tuple[str, str, str]]
    curves: list[dict[str, Any]]
    neighbours: list[list[np.ndarray]]
    sheet: list[list[np.ndarray]]
    environment: dict[str, str]
    lang: str = "en"


@dataclass(frozen=True)
class CheckExample:
    """A place of a problem. `like`: another image, or nothing; `pictures`: of both, key and
    thumbnail (H, W, 3) uint8; none where it is no image, or cannot be read."""

    name: str
    why: str
    like: str
    pictures: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class IssueRow:
    """A kind of problem: how often it was met, what to do, and its first places."""

    gravity: str
    what: str
    count: int
    hint: str
    cards: list[CheckExample]


@dataclass(frozen=True)
class ClassRow:
    """`counts`: of each split, then of all; `share`: of the largest class's, in [0, 1]; `pictures`:
    examples, as of a card."""

    name: str
    counts: list[int]
    share: float
    pictures: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class CheckPage:
    """What the page of a check says. `counts`: of errors, warnings and notes; `facts`, `plan`:
    what, and how it is; `unit`: what `classes` count; `splits`: the columns of them."""

    title: str
    command: str
    counts: dict[str, int]
    troubles: list[IssueRow]
    facts: list[tuple[str, str]]
    plan: list[tuple[str, str]]
    unplanned: str
    unit: str
    splits: list[str]
    classes: list[ClassRow]
    examples: list[CheckExample]
    lang: str = "en"


def write_check_report(page: CheckPage, path: Path) -> None:
    """Renders the page to `path`, complete or not at all."""

    def shown(pictures: list[tuple[str, np.ndarray]]) -> list[tuple[str, str]]:
        return [(key, to_data_uri(pixels)) for key, pixels in pictures]

    _render("check.html.j2", path, page, shown=shown)


def write_pretraining_report(page: PretrainingPage, path: Path) -> None:
    """Renders the page to `path`, complete or not at all."""
    from foveate.reporting import plots

    curves = plots.pretraining_curves(page.curves) if page.curves else ""
    rows = [
        [[to_data_uri(picture) for picture in row] for row in part]
        for part in (page.neighbours, page.sheet)
    ]
    _render("pretraining.html.j2", path, page, curves=curves, neighbours=rows[0], sheet=rows[1])


def write_report(page: EvaluationPage, path: Path) -> None:
    """Renders the page to `path`, complete or not at all."""
    from foveate.reporting import plots

    tables = page.scores.tables
    _render(
        "report.html.j2",
        path,
        page,
        main=page.scores.numbers[page.scores.main],
        split=_SPLITS.get(page.split, page.split),
        pictures={
            mistake.key: to_data_uri(mistake.pixels)
            for mistake in [*page.mistakes, *page.best, *page.made]
        },
        cells=[
            (cell, [(key, to_data_uri(pixels)) for key, pixels in cell.pictures])
            for cell in page.confused
        ],
        confusion=plots.confusion_matrix(np.array(tables["confusion"]), tables["classes"])
        if "confusion" in tables
        else "",
        sureness=plots.reliability_and_risk(tables["reliability"], tables["risk"])
        if "reliability" in tables
        else "",
        precision=plots.pr_curves(tables["pr"]) if "pr" in tables else "",
        curves=plots.training_curves(page.curves) if page.curves else "",
        columns=list(
            dict.fromkeys(
                name
                for row in page.curves
                for name, value in row.items()
                if isinstance(value, int | float)
            )
        ),
        risks=_parts_answered(tables["risk"]) if "risk" in tables else [],
    )


def _parts_answered(risk: list[list[float]]) -> list[tuple[float, float]]:
    """The share of wrong answers among a tenth, a quarter, ... of all, the surest first."""
    answered, wrong = map(np.array, risk)
    places = [int(np.argmin(np.abs(answered - share))) for share in _SHARES]
    return [(float(answered[place]), float(wrong[place])) for place in places]


def _render(
    template: str, path: Path, page: EvaluationPage | PretrainingPage | CheckPage, **content: Any
) -> None:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = FileSystemLoader(Path(__file__).parent / "templates")
    engine = Environment(
        loader=templates,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    say = speaker(page.lang)
    engine.filters["said"] = lambda name: say(said(name))
    text = engine.get_template(template).render(page=page, _=say, **content)
    write_text(path, text)


def said(name: str) -> str:
    """mean_iou -> 'mean IoU'."""
    return " ".join(_WRITTEN.get(word, word) for word in name.split("_"))

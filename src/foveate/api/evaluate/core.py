"""evaluate RUN [DATA]: numbers with counts and intervals, the predictions behind them, and a report to open."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from foveate.api.evaluate.confusions import confused
from foveate.api.evaluate.ood import told_apart
from foveate.api.evaluate.robustness import Corrupted, robust
from foveate.api.evaluate.shift import between, differences, lines
from foveate.api.evaluate.slices import Slice, sliced
from foveate.api.evaluate.slices import lines as slice_lines
from foveate.api.evaluate.slices import rows as slice_rows
from foveate.api.evaluate.worst_cases import made, ranked
from foveate.data.formats import read_table
from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names, read_matching_table, select_split
from foveate.evaluation.metrics import Metric
from foveate.inference.engine import scan_with_progress, score_predictions
from foveate.inference.predictor import Predictor, load_predictor
from foveate.predictions import DenoisingResult, Labels
from foveate.reporting.model_card import write_model_card
from foveate.reporting.pages import Comparison, EvaluationPage, OodResult, Shift, write_report
from foveate.run.folder import Run
from foveate.run.lineage import own_table
from foveate.types import Sample, Score, Scores
from foveate.utils import console, log
from foveate.utils.files import write_json, written_aside
from foveate.utils.invocation import current_invocation

_WORDS = {
    "test": "test images, held out from training and from every choice",
    "val": "validation images",
    "train": "training images",
    "all": "all images of the given data",
}


@dataclass(frozen=True)
class Source:
    """The data to evaluate on: `path` is None for the run's own images; `split` may be auto."""

    path: Path | None
    split: str
    format: str
    strict: bool


@dataclass(frozen=True)
class Extras:
    """What is measured beside the metrics, and the language of the report (None: the run's)."""

    ood: Path | None
    corrupt: bool
    slices: Path | None
    lang: str | None


@dataclass(frozen=True)
class EvaluateResult:
    """`scores` of the images of `split`; `folder` holds predictions.jsonl, scores.json and report.html. `metric`: what computed the
    scores, for those who want to compare; `seconds`: what all this took, `looking`: of them, the network's. `shifted`: the same of
    images from elsewhere, where they were asked for, and `shift`: what is lost there; `ood`: how well other things are told
    apart."""

    run: Path
    folder: Path
    split: str
    scores: Scores
    cautions: list[str]
    skipped: int
    metric: Metric
    looking: float
    seconds: float
    shift: Shift | None = None
    shifted: EvaluateResult | None = None
    ood: OodResult | None = None
    corrupted: Corrupted | None = None
    slices: list[Slice] = field(default_factory=list)

    def numbers(self) -> dict[str, Any]:
        values = {name: score.value for name, score in self.scores.numbers.items()}
        main = self.scores.numbers[self.scores.main]
        extra = {"low": main.low, "high": main.high, "count": main.count, "skipped": self.skipped}
        about = {
            "run": str(self.run),
            "split": self.split,
            "report": str(self.folder / "report.html"),
        }
        found: dict[str, Any] = {**about, **values, **extra}
        if self.ood is not None:
            found["ood"] = {"data": self.ood.name, "auroc": asdict(self.ood.auroc)}
        if self.corrupted is not None:
            found["corrupted"] = self.corrupted.numbers()
        if self.slices:
            found["slices"] = slice_rows(self.slices)
        if self.shifted is None or self.shift is None:
            return found
        return {
            **found,
            "shifted": self.shifted.numbers(),
            "drop": asdict(self.shift.drop),
            "per_class": self.shift.per_class,
        }

    def lines(self) -> list[str]:
        found = [f"on {_WORDS[self.split]}:"]
        found += [f"  {name}: {score}" for name, score in self.scores.numbers.items()]
        if self.ood is not None:
            found.append(f"  told from {self.ood.name}, AUROC: {self.ood.auroc}")
        found += self.corrupted.lines() if self.corrupted is not None else []
        found += slice_lines(self.slices, self.scores.main)
        found += [f"note: {caution}" for caution in self.cautions]
        if self.shifted is not None and self.shift is not None:
            found += [
                "on the other data:",
                *self.shifted.lines()[1:-1],
                *lines(self.shift, self.scores.main),
            ]
            found += [f"report of the other data: {self.shifted.folder / 'report.html'}"]
        return [*found, f"report: {self.folder / 'report.html'}"]

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{score}</td></tr>"
            for name, score in self.scores.numbers.items()
        )
        return f"<table><caption>{_WORDS[self.split]}</caption>{rows}</table>"


def evaluate_run(
    run: Path, source: Source, device: str, extras: Extras, shift: Path | None
) -> EvaluateResult:
    """Evaluate a run; where `shift` is given, on that data too, with the difference of both."""
    if shift is not None:
        read_table(shift, source.format)  # its errors are raised before anything runs
    home = _evaluate(run, source, device, extras)
    if shift is None:
        return home
    plain = Extras(None, False, None, extras.lang)
    away = _evaluate(run, replace(source, path=shift, split="auto"), device, plain, home)
    return replace(home, shift=away.shift, shifted=away, seconds=home.seconds + away.seconds)


def _evaluate(
    run: Path,
    source: Source,
    device: str,
    extras: Extras,
    home: EvaluateResult | None = None,
) -> EvaluateResult:
    """`home`: what these images are compared with."""
    start = time.perf_counter()
    predictor = load_predictor(run, device)
    table = (
        own_table(predictor.run)
        if source.path is None
        else read_matching_table(predictor.classes, source.path, source.format)
    )
    split, table = select_split(table, source.split)
    recipe = predictor.recipe.data.model_copy(update={"strict": source.strict})
    scanned = scan_with_progress(table, predictor.model, recipe)
    samples = scanned.table.samples
    with console.progress(len(samples), "evaluate") as bar:
        looking = time.perf_counter()
        found = predictor.predict_samples(samples, scanned.pixels, bar.advance)
        looking = time.perf_counter() - looking
    strangers = (
        told_apart(predictor, found.predictions, extras.ood) if extras.ood is not None else None
    )
    metric = score_predictions(found.predictions, samples, predictor.model, predictor.multilabel)
    scores = metric.compute()
    spoilt = (
        robust(predictor, samples, scanned.pixels, scores.numbers[scores.main])
        if extras.corrupt
        else None
    )
    parts = (
        sliced(predictor, samples, found.predictions, extras.slices, scores.numbers[scores.main])
        if extras.slices
        else []
    )
    cautions = _cautions(predictor, scanned, split, own=source.path is None)
    shift = between(home.metric, home.scores, metric, scores) if home else None
    cautions += differences(shift) if shift else []
    folder = _free_folder(predictor.run, split if source.path is None else source.path.stem)
    _save(folder, samples, found.predictions, scores, predictor)
    about = (Path(run), folder, split, scores, cautions, len(scanned.skipped), metric, looking)
    result = EvaluateResult(*about, 0.0, shift, None, strangers, spoilt, parts)
    page = _page(
        predictor, result, scanned, found.predictions, extras.lang or predictor.recipe.lang
    )
    write_report(page, folder / "report.html")
    if source.path is None:
        write_model_card(
            page,
            predictor.recipe.task.name,
            predictor.recipe.backbone.name,
            predictor.run.folder / "README.md",
        )
    return replace(result, seconds=time.perf_counter() - start)


def _cautions(predictor: Predictor, scanned: ScannedTable, split: str, own: bool) -> list[str]:
    """What the figure cannot promise, in words."""
    trained = {row["sha256"] for row in predictor.run.splits() if row["split"] == "train"}
    seen = sum(digest in trained for digest in scanned.hashes)
    count = len(scanned.hashes)
    found = list(predictor.run.outcome().get("cautions", [])) if own else []
    if seen:
        found.append(
            f"{seen} of these {count} images were trained on (byte for byte): the figure flatters"
        )
    adapted_to = set(predictor.run.adaptation().get("sha256", []))
    met = sum(digest in adapted_to for digest in scanned.hashes)
    if met:
        found.append(f"the run was adapted to {met} of these {count} images, without their labels")
    if split == "val" and own and predictor.model.tuning.needs_steps:
        found.append(
            "the validation images also chose which weights were kept: expect a little less on new images"
        )
    if split == "val" and own and _leaderboard(predictor.run):
        found.append(
            "the validation images also chose the tuning: expect a little less on new images"
        )
    if predictor.model.task.prediction_type is DenoisingResult:
        hint = (
            f"foveate generate {predictor.run.folder} --reference DATA compares them with real ones"
        )
        found.append(
            f"this tells how well noise is taken off, not how good the pictures are that it makes: {hint}"
        )
    if count < 100:
        found.append(f"{count} images are few: the interval says how little they can tell")
    if own:
        found.append(
            "these images come from the same source as the training images; another camera, site or season can cost far more than "
            "any interval shows: collect images from there, and run foveate evaluate on them"
        )
    return found


def _leaderboard(run: Run) -> list[dict[str, Any]]:
    """What a ladder wrote of its rungs; nothing where the run climbed none."""
    return run.read_json("leaderboard.json") if (run.folder / "leaderboard.json").is_file() else []


def parts_told(outcome: dict[str, Any]) -> list[tuple[str, str]]:
    """How old and new validation images fared, before and after a run that went on from another; nothing for any other run."""
    before, after = (outcome.get("parts", {}).get(word, {}) for word in ("before", "after"))
    scores = {
        name: Score(row["value"], row["low"], row["high"], row["count"])
        for name, row in after.items()
    }
    return [
        (
            f"{name} validation images",
            f"{after[name]['number']} {before[name]['value']:.3f} before, {score} after",
        )
        for name, score in scores.items()
    ]


def _moved(tuning: str, outcome: dict[str, Any]) -> str:
    count = outcome.get("parameters")
    return f"{tuning}, {count['trained']:,} of {count['all']:,} parameters" if count else tuning


def _adapted(run: Run) -> list[tuple[str, str]]:
    """How a run was adapted to images from elsewhere; nothing for any other run."""
    about = run.adaptation()
    return (
        [("adapted", f"{about['how']}, to {about['images']} images without labels")]
        if about
        else []
    )


def _free_folder(run: Run, name: str) -> Path:
    parent, number = run.folder / "evaluations", 2
    folder = parent / name
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    folder.mkdir(parents=True)
    return folder


def _save(
    folder: Path,
    samples: Sequence[Sample],
    predictions: Sequence[Any],
    scores: Scores,
    predictor: Predictor,
) -> None:
    """Every number can be rebuilt from predictions.jsonl."""
    with (
        written_aside(folder / "predictions.jsonl") as aside,
        aside.open("w", encoding="utf-8") as file,
    ):
        for sample, prediction in zip(samples, predictions, strict=True):
            row = {"path": sample.key, "truth": _truth_row(sample, predictor.classes)}
            row |= prediction.row(predictor.classes, predictor.multilabel)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    write_json(folder / "scores.json", asdict(scores))


def _truth_row(sample: Sample, classes: tuple[str, ...]) -> Any:
    truth: Any = sample.target
    return (
        list(label_names(sample))
        if truth is None or isinstance(truth, Labels)
        else truth.row(classes)["answer"]
    )


def _page(
    predictor: Predictor,
    result: EvaluateResult,
    scanned: ScannedTable,
    predictions: Sequence[Any],
    lang: str,
) -> EvaluationPage:
    run, recipe = predictor.run, predictor.recipe
    outcome = run.outcome()
    told = run.read_json("environment.json")
    worst, best = ranked(scanned, predictions, predictor)
    return EvaluationPage(
        title=run.folder.name,
        command=current_invocation().command or told["command"],
        split=result.split,
        scores=result.scores,
        facts=[
            ("data", recipe.data.path),
            ("images", ", ".join(f"{count} {split}" for split, count in outcome["images"].items())),
            *([("classes", str(len(predictor.classes)))] if predictor.classes else []),
            ("backbone", f"{recipe.backbone.name} ({outcome['origin']})"),
            ("licence of the weights", outcome.get("licence", "not stated")),
            ("tuning", _moved(recipe.tuning.name, outcome)),
            ("seed", str(recipe.seed)),
            (
                "trained",
                f"{outcome['epochs']} epochs, {outcome['seconds']:.0f} s: {outcome['reason']}",
            ),
            *([("goes on from", recipe.start.run)] if recipe.start.run else []),
            *_adapted(run),
            *parts_told(outcome),
        ],
        choices=[
            (row["field"], log.shorten(row["value"]), row["reason"])
            for row in run.read_json("choices.json")
        ],
        cautions=result.cautions,
        comparisons=[
            Comparison(row["name"], Score(**row["score"]), row["meaning"])
            for row in outcome["audit"]
        ],
        ladder=_leaderboard(run),
        curves=run.read_metrics(),
        mistakes=worst,
        best=best,
        made=made(predictor),
        skipped=list(scanned.skipped),
        shift=result.shift,
        ood=result.ood,
        corrupted=result.corrupted.numbers() if result.corrupted else None,
        slices=slice_rows(result.slices),
        confused=confused(predictor, scanned.table.samples, predictions, scanned.pixels),
        asks=predictor.model.task.question,
        lang=lang,
        environment={
            **{k: str(v) for k, v in told.items() if k not in ("versions", "command")},
            **told["versions"],
        },
    )

"""evaluate RUN [DATA]: scores with intervals, the predictions behind them, and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foveate.api.evaluate.cautions import cautions_for
from foveate.api.evaluate.coverage import check_coverage
from foveate.api.evaluate.held_out import drop_changed
from foveate.api.evaluate.ood import detect_ood
from foveate.api.evaluate.page import build_page
from foveate.api.evaluate.result import EvaluateResult
from foveate.api.evaluate.robustness import require_colors, score_corrupted
from foveate.api.evaluate.shift import class_cautions, compare_domains
from foveate.api.evaluate.slices import score_slices
from foveate.api.evaluate.unlike import unlike_accuracy
from foveate.data.depth_check import compare_depth
from foveate.data.formats import read_table
from foveate.data.grouping import find_groups
from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names, read_matching_table, select_split
from foveate.inference.engine import scan_with_progress, score_predictions
from foveate.inference.predictor import Predictor, load_predictor
from foveate.messages import Message
from foveate.predictions import Labels
from foveate.recipe import DataRecipe
from foveate.reporting.evaluation_page import write_report
from foveate.reporting.model_card import write_model_card
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.types import Sample
from foveate.utils import console
from foveate.utils.files import atomic_write, require_writable, write_json


@dataclass(frozen=True)
class Source:
    """The data to evaluate on.

    Attributes:
        path: None for the run's own images.
        split: train, val, test, all or auto.
        format: Name of a format, or auto.
        strict: Whether to stop at the first unreadable image.
        allow_outside: Whether the data may name images outside of their folder.
    """

    path: Path | None
    split: str
    format: str
    strict: bool
    allow_outside: bool = False

    def reading(self, recipe: DataRecipe) -> DataRecipe:
        """Return how the images are read: as those of the run, but for what is asked for here."""
        allowed = self.allow_outside or recipe.allow_outside
        return recipe.model_copy(update={"strict": self.strict, "allow_outside": allowed})


@dataclass(frozen=True)
class Extras:
    """What to measure besides the metrics.

    Attributes:
        ood: Folder of out-of-distribution images.
        corrupt: Whether to score corrupted images.
        slices: Table with subgroups.
        lang: Language of the report; None = that of the run.
    """

    ood: Path | None
    corrupt: bool
    slices: Path | None
    lang: str | None


def evaluate_run(
    run: Path, source: Source, device: str, extras: Extras, shift: Path | None
) -> EvaluateResult:
    """Evaluate a run, and compare it with another domain where `shift` names its data."""
    if extras.corrupt:
        require_colors(Run.open(run).recipe().data)
    if shift is not None:
        # so that its errors are raised before anything runs
        read_table(shift, source.format, allow_outside=source.allow_outside)
    own = _evaluate(run, source, device, extras)
    if shift is None:
        return own
    no_extras = Extras(None, False, None, extras.lang)
    other = _evaluate(run, replace(source, path=shift, split="auto"), device, no_extras, own)
    seconds = own.seconds + other.seconds
    return replace(own, shift=other.shift, shifted=other, seconds=seconds)


def _scan(predictor: Predictor, source: Source) -> tuple[str, ScannedTable, list[Message]]:
    """Return the split to evaluate, its images, and cautions about their bit depth."""
    reading = source.reading(predictor.recipe.data)
    if source.path is None:
        split, table = select_split(read_run_table(predictor.run), source.split)
        scanned = scan_with_progress(table, predictor.model, reading)
        return split, drop_changed(predictor.run, scanned), []
    accepted = predictor.model.task.accepted_targets()
    table = read_matching_table(predictor.classes, accepted, source.path, source.format, reading)
    split, table = select_split(table, source.split)
    depth = compare_depth(table.samples, predictor.rendering)
    scanned = scan_with_progress(table, predictor.model, reading)
    return split, _with_groups(scanned, reading), depth


def _evaluate(
    run: Path,
    source: Source,
    device: str,
    extras: Extras,
    own: EvaluateResult | None = None,
) -> EvaluateResult:
    """`own`: the result on the run's own images, to compare with."""
    start = time.perf_counter()
    hint = "change its permissions, or copy the run to another folder"
    require_writable(Run.open(run).folder / "evaluations", hint)
    predictor = load_predictor(run, device)
    split, scanned, depth = _scan(predictor, source)
    samples, cache = scanned.table.samples, scanned.cache
    with console.progress(len(samples), "evaluate") as bar:
        inference_start = time.perf_counter()
        predictions = predictor.predict_samples(samples, cache, bar.advance).predictions
        inference_seconds = time.perf_counter() - inference_start
    groups = [sample.group for sample in samples]
    ood = detect_ood(predictor, predictions, groups, extras.ood) if extras.ood else None
    metric = score_predictions(predictions, samples, predictor.model, predictor.metric_settings)
    scores = metric.compute()
    main = scores.numbers[scores.main]
    corrupted = score_corrupted(predictor, samples, cache, main) if extras.corrupt else None
    slices = (
        score_slices(predictor, samples, predictions, extras.slices, main) if extras.slices else []
    )
    cautions = cautions_for(predictor, scanned, scores, split, own=source.path is None)
    coverage = check_coverage(predictor, scores)
    if coverage is not None:
        cautions += coverage.cautions(str(predictor.run.folder), own=source.path is None)
    cautions += depth
    shift = compare_domains(own.scores, scores, metric.class_score) if own else None
    cautions += class_cautions(shift) if shift else []
    result = EvaluateResult(
        run=Path(run),
        folder=_new_folder(predictor.run, split if source.path is None else source.path.stem),
        split=split,
        scores=scores,
        cautions=cautions,
        coverage=coverage,
        unlike=unlike_accuracy(predictor.run, split) if source.path is None else None,
        skipped=len(scanned.skipped),
        metric=metric,
        inference_seconds=inference_seconds,
        shift=shift,
        ood=ood,
        corrupted=corrupted,
        slices=slices,
    )
    _save(result, samples, predictions, predictor)
    page = build_page(predictor, result, scanned, predictions, extras.lang or predictor.recipe.lang)
    write_report(page, result.folder / "report.html")
    if source.path is None:
        task, backbone = predictor.recipe.task.name, predictor.recipe.backbone.name
        write_model_card(page, task, backbone, predictor.run.folder / "README.md")
    return replace(result, seconds=time.perf_counter() - start)


def _with_groups(scanned: ScannedTable, reading: DataRecipe) -> ScannedTable:
    """Look for the groups of other data, over which intervals are computed.

    The run's own images have the groups that `fit` found.
    """
    groups = find_groups(scanned, reading).names
    pairs = zip(scanned.table.samples, groups, strict=True)
    samples = tuple(replace(sample, group=group) for sample, group in pairs)
    return replace(scanned, table=scanned.table.with_samples(samples))


def _new_folder(run: Run, name: str) -> Path:
    parent, number = run.folder / "evaluations", 2
    folder = parent / name
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    folder.mkdir(parents=True)
    return folder


def _save(
    result: EvaluateResult,
    samples: Sequence[Sample],
    predictions: Sequence[Any],
    predictor: Predictor,
) -> None:
    """Write the scores, and the predictions from which each of them can be rebuilt."""
    with (
        atomic_write(result.folder / "predictions.jsonl") as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for sample, prediction in zip(samples, predictions, strict=True):
            row = {"path": sample.key, "target": _target_row(sample, predictor.classes)}
            row |= prediction.row(predictor.classes, predictor.multilabel)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    write_json(result.folder / "scores.json", asdict(result.scores))


def _target_row(sample: Sample, classes: tuple[str, ...]) -> Any:
    target: Any = sample.target
    if target is None or isinstance(target, Labels):
        return list(label_names(sample))
    return target.row(classes)["prediction"]

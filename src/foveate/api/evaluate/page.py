"""The report of an evaluation: facts about the run, cautions about its scores, and examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from foveate.api.evaluate.confusion_images import confusion_cells
from foveate.api.evaluate.result import EvaluateResult
from foveate.api.evaluate.slices import slice_rows
from foveate.api.evaluate.unlike import describe_unlike
from foveate.api.evaluate.worst_cases import any_scored, generated_examples, worst_and_best
from foveate.data.scan import ScannedTable
from foveate.inference.predictor import Predictor
from foveate.messages import Message, message_from
from foveate.reporting.evaluation_page import Comparison, EvaluationPage
from foveate.reporting.metric_names import metric_name
from foveate.reporting.rendering import Text
from foveate.run.folder import Run
from foveate.types import Score
from foveate.utils import log
from foveate.utils.invocation import current_invocation

_NOT_STATED = Message("fact.not_stated", "not stated")


def build_page(
    predictor: Predictor,
    result: EvaluateResult,
    scanned: ScannedTable,
    predictions: Sequence[Any],
    lang: str,
) -> EvaluationPage:
    """Return the report of an evaluation.

    Args:
        predictor: The run.
        result: What was measured.
        scanned: The images.
        predictions: Of the images.
        lang: Code of the language.
    """
    run, samples = predictor.run, scanned.table.samples
    outcome, (command, environment) = run.outcome(), run.environment()
    worst, best = worst_and_best(scanned, predictions, predictor)
    return EvaluationPage(
        title=run.folder.name,
        data=_data_name(run.folder.name, str(predictor.recipe.data.path)),
        command=current_invocation().command or command,
        split=result.split,
        scores=result.scores,
        facts=_facts(predictor, outcome),
        license=outcome.get("license", ""),
        choices=choice_rows(run),
        unlike=describe_unlike(result.scores, result.unlike) if result.unlike else None,
        coverage=result.coverage.describe() if result.coverage else None,
        cautions=result.cautions,
        comparisons=_comparisons(outcome),
        tuning_trials=_tuning_trials(run),
        curves=run.read_metrics(),
        worst=worst,
        best=best,
        is_perfect=not worst and any_scored(scanned, predictor),
        generated=generated_examples(predictor),
        skipped=list(scanned.skipped),
        shift=result.shift,
        ood=result.ood,
        corrupted=result.corrupted.numbers() if result.corrupted else None,
        slices=slice_rows(result.slices),
        confusions=confusion_cells(predictor, samples, predictions, scanned.cache),
        question=predictor.model.task.question,
        lang=lang,
        environment=environment,
    )


def _data_name(run: str, data: str) -> str:
    """The name of the data; "" if the name of the run already begins with it."""
    name = Path(data).stem
    return "" if run.startswith(name) else name


def choice_rows(run: Run) -> list[tuple[str, str, Text]]:
    """Return field, value and reason of what was chosen automatically."""
    return [(each.field, log.shorten(each.value), each.reason) for each in run.decisions()]


def _tuning_trials(run: Run) -> list[dict[str, Any]]:
    """The fine-tuning methods that were tried; empty unless --tuning auto tried any."""
    if not (run.folder / "leaderboard.json").is_file():
        return []
    with run.expecting("leaderboard.json") as rows:
        messages = [row["note_message"] for row in rows]
        notes = [message_from(message) if message else "" for message in messages]
        return [{**row, "note": note} for row, note in zip(rows, notes, strict=True)]


def _comparisons(outcome: dict[str, Any]) -> list[Comparison]:
    return [
        Comparison(message_from(row["name"]), Score(**row["score"]), message_from(row["meaning"]))
        for row in outcome["leakage_audit"]
    ]


def _facts(predictor: Predictor, outcome: dict[str, Any]) -> list[tuple[Message, Text]]:
    recipe, classes = predictor.recipe, predictor.classes
    facts: list[tuple[Message, Text]] = [
        (Message("fact.data", "data"), str(recipe.data.path)),
        (Message("fact.images", "images"), split_counts(outcome["images"])),
    ]
    if classes:
        facts.append((Message("fact.classes", "classes"), str(len(classes))))
    backbone = f"{recipe.backbone.name} ({outcome['origin']})"
    facts += [
        (Message("fact.backbone", "backbone"), backbone),
        (
            Message("fact.license", "license of the weights"),
            outcome.get("license") or _NOT_STATED,
        ),
        (Message("fact.tuning", "fine-tuning"), _tuning(recipe.tuning.name, outcome)),
        (Message("fact.seed", "random seed"), str(recipe.seed)),
        (Message("fact.training", "training"), training_summary(outcome)),
    ]
    if recipe.start.run:
        facts.append((Message("fact.start", "continues from"), str(recipe.start.run)))
    if adaptation := predictor.run.adaptation():
        value = Message(
            "fact.adaptation_value",
            "{method}, to {count:unlabeled image|unlabeled images}",
            method=adaptation["method"],
            count=adaptation["images"],
        )
        facts.append((Message("fact.adaptation", "test-time adaptation"), value))
    return facts + old_and_new_scores(outcome)


def split_counts(counts: dict[str, int]) -> Text:
    """Return "600 train, 94 test" of a number of images by split."""
    names = {
        "train": Message("fact.train", "train"),
        "val": Message("fact.val", "validation"),
        "test": Message("fact.test", "test"),
    }
    order = sorted(counts, key=[*names, *counts].index)
    parts: list[Text] = [
        Message(
            "fact.split_count",
            "{count} {split}",
            count=counts[split],
            split=names.get(split, split),
        )
        for split in order
    ]
    if not parts:
        return ""
    return reduce(
        lambda one, other: Message("fact.list", "{one}, {other}", one=one, other=other), parts
    )


def training_summary(outcome: dict[str, Any]) -> Message:
    """Return how long training took and why it ended."""
    seconds, reason = f"{outcome['seconds']:.0f}", message_from(outcome["reason"])
    if not outcome["epochs"]:
        return Message(
            "fact.fitting_value", "{seconds} s: {reason}", seconds=seconds, reason=reason
        )
    return Message(
        "fact.training_value",
        "{epochs:epoch|epochs}, {seconds} s: {reason}",
        epochs=outcome["epochs"],
        seconds=seconds,
        reason=reason,
    )


def _tuning(name: str, outcome: dict[str, Any]) -> Text:
    parameters = outcome.get("parameters")
    if not parameters:
        return name
    return Message(
        "fact.tuning_value",
        "{tuning}, {trained} of {count:parameter|parameters} trained",
        tuning=name,
        trained=f"{parameters['trained']:,}",
        count=parameters["all"],
    )


def old_and_new_scores(outcome: dict[str, Any]) -> list[tuple[Message, Text]]:
    """Return the scores of old and new validation images, before and after a continued run.

    Empty for any other run.
    """
    parts = outcome.get("parts", {})
    names = {
        "old": Message("fact.old_images", "old validation images"),
        "new": Message("fact.new_images", "new validation images"),
    }
    rows: list[tuple[Message, Text]] = []
    for name, after in parts.get("after", {}).items():
        before = parts["before"][name]
        value = Message(
            "fact.before_after",
            "{metric} {before} before, {after} after",
            metric=metric_name(after["metric"]),
            before=f"{before['value']:.3f}",
            after=str(Score(after["value"], after["low"], after["high"], after["count"])),
        )
        rows.append((names[name], value))
    return rows

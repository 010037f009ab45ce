"""From a table and a recipe to a finished, evaluated run; shared by fit, continue and --tuning
auto.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from foveate.api.evaluate import evaluate
from foveate.api.evaluate.page import old_and_new_scores
from foveate.api.evaluate.result import EvaluateResult
from foveate.api.fit.calibration import calibrate, choose_operating_point, predict_for_job
from foveate.api.fit.forgetting import scores_after, scores_before
from foveate.data.grouping import find_groups
from foveate.data.scan import without_images
from foveate.data.splits import count_divided, split_table, subsample_shots
from foveate.data.tables import label_text
from foveate.errors import RunError
from foveate.inference.engine import (
    compute_scores,
    scan_with_progress,
)
from foveate.messages import Message, message_from
from foveate.modeling.backbones import family_of
from foveate.modeling.model import Model, build_model
from foveate.modeling.weights import weights_fingerprint
from foveate.predictions import Boxes, DenoisingResult
from foveate.recipe import Recipe, with_settings
from foveate.run.appearance import write_appearance
from foveate.run.folder import (
    CLASSES_FILE,
    MODEL_FILE,
    Run,
)
from foveate.run.lineage import old_and_new, open_earlier_run, read_run_table, split_beside_earlier
from foveate.training.clock import TimeBudget
from foveate.training.continual import Teacher, initialize_from_run
from foveate.training.data import check_trainable_classes
from foveate.training.head_init import (
    HeadFit,
    fit_head,
    fit_to_targets,
    head_training_features,
    needs_features,
)
from foveate.training.job import HEAD_IMAGES, DataAudit, Job, PreparedData
from foveate.training.normalization import measure_normalization
from foveate.training.planning import plan_training
from foveate.training.reserve import EVALUATED, after_training
from foveate.training.resolve import resolve_recipe
from foveate.training.state import TrainingResult
from foveate.training.trainer import Trainer
from foveate.training.validation import MetricValidator
from foveate.types import Decision, Split, Table
from foveate.utils import log
from foveate.utils.device import resolve_device
from foveate.utils.invocation import shell_command


@dataclass(frozen=True)
class FitResult:
    """A finished run. `evaluation` is None if all images were used for training."""

    run: Path
    evaluation: EvaluateResult | None
    outcome: dict[str, Any]

    def numbers(self) -> dict[str, Any]:
        scores = {} if self.evaluation is None else self.evaluation.numbers()
        measured = self.outcome.get("parts", {})
        parts = {
            f"{word}_{name}": row["value"]
            for word, rows in measured.items()
            for name, row in rows.items()
        }
        return {
            **scores,
            **parts,
            "run": str(self.run),
            "seconds": self.outcome["seconds"],
            "epochs": self.outcome["epochs"],
        }

    def lines(self) -> list[str]:
        lines = self.evaluation.lines() if self.evaluation else []
        lines += [f"{name}: {line}" for name, line in old_and_new_scores(self.outcome)]
        if not self.outcome["images"]:
            command = shell_command("evaluate", self.run, "DATA")
            lines = [f"there were no images: score it with {command}"]
        if set(self.outcome["images"]) == {"train"}:
            command = shell_command("evaluate", self.run, "OTHER_DATA")
            lines = [f"no images were held out: score it with {command}"]
        generates = self.evaluation is not None and self.evaluation.metric.reads is DenoisingResult
        words = ("generate", self.run) if generates else ("predict", self.run, "IMAGES")
        reason = self.outcome.get("reason", {})
        cut_by_time = reason.get("id") == "training.cut_by_time"
        cut = [f"training: {message_from(reason)}"] if cut_by_time else []
        return [*cut, f"run: {self.run}", *lines, f"next: {shell_command(*words)}"]

    def _repr_html_(self) -> str:
        return f"<p>{self.run}</p>" + (self.evaluation._repr_html_() if self.evaluation else "")


def prepare_job(
    recipe: Recipe,
    table: Table,
    out: Path | None,
    data: PreparedData | None = None,
    budget: TimeBudget | None = None,
    evaluated: tuple[Split, ...] = ("val", "test"),
    hold_out: Callable[[Job], PreparedData] | None = None,
) -> Job:
    """Do everything up to the first step; create the run folder once all options are checked.

    Args:
        recipe: What the user asked for.
        table: The data.
        out: Run folder to create.
        data: Those of another job on the same images, which are then not read again.
        budget: The time that there is; that of the recipe by default.
        evaluated: The splits that it is scored on in the end.
        hold_out: Called with the job, at last; returns its data with other splits.

    Raises:
        TooLittleTime: Training cannot do what the budget demands.
    """
    budget = budget or TimeBudget.of(recipe, open_end=not recipe.is_set("training.epochs"))
    Run.require_free(out, recipe.data.path)
    device = resolve_device(recipe.device)
    recipe, decisions = resolve_recipe(recipe, table)
    model = _build(recipe, table)
    log.info(f"backbone: {recipe.backbone.name}, weights from {model.backbone.origin}")
    _log_channels(model)
    data = data or _prepare_data(recipe, table, model)
    earlier = open_earlier_run(recipe)
    known = table.classes if model.tuning.knows_classes else earlier.classes() if earlier else ()
    check_trainable_classes(data.scanned.table, recipe.task.name, known)
    run = Run.create(out, f"{Path(recipe.data.path).resolve().stem}-{recipe.tuning.name}")
    job = Job(recipe, run, model, data, device, budget, evaluated=evaluated)
    run.write_environment()
    run.write_json(CLASSES_FILE, list(table.classes))
    write_appearance(run, data.scanned)
    train = job.dataset("train")
    measured = measure_normalization(model, train.samples, train.cache, recipe.data)
    job.recipe = with_settings(recipe, {each.field: each.value for each in measured})
    job.recipe, planned = plan_training(job)
    if hold_out is not None:
        job.data = hold_out(job)
    run.write_splits(_split_rows(job))
    counts = Counter(sample.split for sample in job.table.samples)
    sizes = [f"{counts[name]} {name}" for name in get_args(Split) if counts[name]]
    decisions.append(Decision("splits", ", ".join(sizes) or "none", data.split_reason))
    run.write_recipe(job.recipe, [*decisions, *measured, *planned])
    return job


def _build(recipe: Recipe, table: Table) -> Model:
    """Build the model, with the weights of an earlier run if the recipe continues one."""
    run = open_earlier_run(recipe)
    if run is None:
        return build_model(recipe, table.classes)
    model = build_model(recipe, table.classes, weights=None if run.outcome()["frozen"] else "none")
    initialize_from_run(model, recipe, run)
    return model


def _log_channels(model: Model) -> None:
    """Say what becomes of other channels than red, green and blue."""
    if (channels := model.backbone.input.channels) != 3:
        text = (
            "the first layer of the backbone, trained on three channels, is widened to {channels}: "
            "its weights are repeated and scaled; augmentation leaves out what is defined for "
            "colors only (saturation, sharpness, equalization)"
        )
        log.info(Message("training.channels", text, channels=channels))


def _prepare_data(recipe: Recipe, table: Table, model: Model) -> PreparedData:
    if not table.samples:
        return PreparedData(
            without_images(table),
            [],
            Message("choice.nothing_to_split", "there are no images to split"),
        )
    start = time.monotonic()
    scanned, run = scan_with_progress(table, model, recipe.data), open_earlier_run(recipe)
    seconds = (time.monotonic() - start) / len(table.samples)
    found = find_groups(scanned, recipe.data)
    for note in found.notes:
        log.info(note)
    groups = found.names
    if run is not None:
        return PreparedData(*split_beside_earlier(scanned, groups, recipe, run), seconds)
    table, how = split_table(scanned.table, groups, recipe.data, recipe.seed)
    if divided := count_divided([sample.split for sample in table.samples], groups):
        log.warning(_divided_groups(divided))
    scanned = replace(scanned, table=table)
    if recipe.data.shots is None:
        return PreparedData(scanned, groups, how, seconds)
    text = "{splits}; {shots:training image|training images} per class"
    how = Message("choice.shots", text, splits=how, shots=recipe.data.shots)
    scanned, groups = subsample_shots(scanned, groups, recipe.data.shots, recipe.seed)
    return PreparedData(scanned, groups, how, seconds)


def reopen_job(
    run: Run,
    recipe: Recipe | None = None,
    budget: TimeBudget | None = None,
    evaluated: tuple[Split, ...] = ("val", "test"),
) -> Job:
    """Rebuild the job of an unfinished run; its images must be unchanged.

    Args:
        run: The run.
        recipe: Replaces that of the run.
        budget: The time that there is; that of the recipe by default.
        evaluated: The splits that it is scored on in the end.

    Raises:
        RunError: The images have changed.
    """
    recipe = recipe or run.recipe()
    table = read_run_table(run)
    model = _build(recipe, table.with_classes(run.classes()))
    scanned = scan_with_progress(table, model, recipe.data)
    known = {row["path"]: row["sha256"] for row in run.splits()}
    now = zip(scanned.table.samples, scanned.hashes, strict=True)
    changed = [sample.key for sample, digest in now if known[sample.key] != digest]
    if changed or len(scanned.hashes) < len(known):
        hint = "restore the images, or start a new run"
        raise RunError(
            "the images have changed since this run began",
            where=changed[0] if changed else table.root,
            hint=hint,
        )
    groups = [sample.group or "" for sample in scanned.table.samples]
    decided = {each.field: each.value for each in run.decisions()}
    return Job(
        recipe,
        run,
        model,
        PreparedData(scanned, groups, Message("choice.recorded_splits", "as recorded in the run")),
        resolve_device(recipe.device),
        budget or TimeBudget.of(recipe, open_end="training.epochs" in decided),
        decided.get(HEAD_IMAGES),
        ("test",) if EVALUATED in decided else evaluated,
    )


def run_job(job: Job) -> FitResult:
    """Fit the head, train, save, and evaluate."""
    start = time.perf_counter()
    before_parts = scores_before(job)
    frozen = job.model.frozen_tensors()
    before = weights_fingerprint(frozen) if frozen else ""
    job.run.record(fit_to_targets(job))
    features = head_training_features(job) if needs_features(job) else None
    head_fit = (
        fit_head(job, features) if features is not None else HeadFit(audit=job.audit or DataAudit())
    )
    job.run.record(head_fit.decisions)
    steps = job.model.tuning.needs_steps
    outcome = _train(job) if steps else _closed_form_result(job, start)
    job.model.cpu()
    job.model.load_tensors(outcome.tensors)
    after = weights_fingerprint(job.model.frozen_tensors()) if frozen else ""
    if after != before:
        raise RunError(
            "frozen weights have changed: this is a bug in Foveate", where=job.run.folder
        )
    job.run.write_tensors(MODEL_FILE, outcome.tensors)
    result = outcome.row()
    counts = Counter(str(sample.split) for sample in job.table.samples)
    result |= {
        "frozen": after,
        "origin": job.model.backbone.origin,
        "images": dict(counts),
        "leakage_audit": head_fit.audit.leakage,
        "unlike": head_fit.audit.unlike,
    }
    result |= {
        "cautions": [each.row() for each in _cautions(job, head_fit, outcome)],
        "threshold": _best_threshold(job),
        "parameters": _count_parameters(job.model),
    }
    result["license"] = family_of(job.recipe.backbone.name).license(job.recipe.backbone.name)
    result["calibration"] = calibrate(job, None if steps else head_fit.out_of_fold)
    temperature = (result["calibration"] or {}).get("temperature", 1.0)
    chosen = choose_operating_point(job, temperature)
    result["operating_point"] = chosen and asdict(chosen)
    if before_parts:
        result["parts"] = {"before": before_parts, "after": scores_after(job)}
    job.run.finish(result)
    return FitResult(job.run.folder, _evaluate_splits(job), result)


def _split_rows(job: Job) -> list[dict[str, str]]:
    return [
        {
            "path": sample.key,
            "split": str(sample.split),
            "group": group,
            "label": label_text(sample),
            "sha256": digest,
        }
        for sample, group, digest in zip(
            job.table.samples, job.groups, job.scanned.hashes, strict=True
        )
    ]


def _closed_form_result(job: Job, start: float) -> TrainingResult:
    tensors = {
        name: tensor.detach().clone() for name, tensor in job.model.trained_tensors().items()
    }
    reason = Message("training.closed_form", "fitted in closed form")
    return TrainingResult(tensors, 0, -1, 0, time.perf_counter() - start, reason)


def _train(job: Job) -> TrainingResult:
    train, val = job.dataset("train", augmented=True), job.dataset("val")
    run, start = open_earlier_run(job.recipe), job.recipe.start
    trainer = Trainer(
        job.model,
        job.recipe,
        job.run,
        train,
        MetricValidator(val, job.recipe, job.device, old_and_new(val.samples, run) if run else {})
        if len(val)
        else None,
        job.device,
        score_start=run is not None or needs_features(job),
        teacher=Teacher(run, start, job.device) if run and start.distill else None,
        budget=job.budget,
        after=after_training(job),
        image_seconds=job.image_seconds,
    )
    return trainer.train()


def _count_parameters(model: Model) -> dict[str, int]:
    """Number of all parameters and of those that were trained."""
    both = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "trained": sum(count for count, moves in both if moves),
        "all": sum(count for count, _ in both),
    }


def _best_threshold(job: Job) -> float | None:
    """The best score threshold for boxes on the validation images; None for other tasks."""
    dataset = job.dataset("val")
    if job.model.task.prediction_type is not Boxes or not len(dataset):
        return None
    scores = compute_scores(predict_for_job(job, dataset), dataset.samples, job.model)
    return float(scores.tables["threshold"])


# --- evaluation


def _cautions(job: Job, head_fit: HeadFit, outcome: TrainingResult) -> list[Message]:
    """Return what the scores cannot promise, whatever is evaluated: doubts about the data."""
    cautions, leakage_audit = [], head_fit.audit.leakage
    if outcome.kept_start:
        cautions.append(
            Message(
                "caution.start_kept",
                "no epoch of training was better on the validation images than the model before "
                "training, which is kept",
            )
        )
    if divided := count_divided([sample.split for sample in job.table.samples], job.groups):
        cautions.append(_divided_groups(divided))
    if leakage_audit:
        random, by_group = (row["score"]["value"] for row in leakage_audit)
        cautions.append(
            Message(
                "caution.random_split",
                "a probe reaches {random:.3f} in random folds of the training images and "
                "{by_group:.3f} in folds that keep near-duplicates (or groups) together: a random "
                "split of these images would change the score by {bias:+.3f}",
                random=random,
                by_group=by_group,
                bias=random - by_group,
            )
        )
    return cautions


def _divided_groups(count: int) -> Message:
    text = (
        "{groups:group (near-copies, or images of one patient or video) is|groups (near-copies, or"
        " images of one patient or video) are} on both sides of the split that the data define: the"
        " scores are optimistically biased"
    )
    return Message("caution.divided_groups", text, groups=count)


def _evaluate_splits(job: Job) -> EvaluateResult | None:
    """Evaluate the saved run on the splits that have images; the last result is reported."""
    nonempty = [split for split in job.evaluated if job.indices(split)]
    results = [evaluate(job.run.folder, split=split, device=str(job.device)) for split in nonempty]
    return results[-1] if results else None

"""fit DATA: adapts a backbone to a task, and says what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foveate import console
from foveate.data import Order, clusters, divided, label_names, loader
from foveate.errors import DataError, RunError, UsageError
from foveate.formats import FORMATS, read_table
from foveate.job import Job, note_choice
from foveate.model import build
from foveate.mosaic import refuse_placeless
from foveate.planning import choose_norms, plan
from foveate.precision import Way, device_of
from foveate.recipe import Recipe, with_settings
from foveate.run import Run, environment
from foveate.scoring import answers, scored
from foveate.solving import features_of, solve_head, wants_features
from foveate.tasks import TASKS, Facts
from foveate.trainer import Outcome, Trainer
from foveate.tunings import TUNINGS
from foveate.types import Boxes, Regions, Table
from foveate.verbs.evaluate import EvaluateResult, evaluate, own_splits, scanned_aloud
from foveate.weights import fingerprint


@dataclass(frozen=True)
class FitResult:
    """`evaluation` is None when every image was trained on."""

    run: Path
    evaluation: EvaluateResult | None
    outcome: dict[str, Any]

    def numbers(self) -> dict[str, Any]:
        scores = {} if self.evaluation is None else self.evaluation.numbers()
        return {**scores, "run": str(self.run), "seconds": self.outcome["seconds"], "epochs": self.outcome["epochs"]}

    def lines(self) -> list[str]:
        told = self.evaluation.lines() if self.evaluation else []
        if set(self.outcome["images"]) == {"train"}:
            told = [f"every image was trained on: foveate evaluate {self.run} OTHER_DATA says what it is worth"]
        return [f"run: {self.run}", *told, f"next: foveate predict {self.run} IMAGES"]

    def _repr_html_(self) -> str:
        return f"<p>{self.run}</p>" + (self.evaluation._repr_html_() if self.evaluation else "")


def fit(recipe: Recipe, out: Path | None = None, resume: Path | None = None, command: str = "") -> FitResult:
    """Reads, splits, adapts, saves and evaluates; the run folder holds everything.

    `resume` goes on with an unfinished run, whose own recipe counts. Raises what the parts raise: UsageError, DataError,
    WeightsError, RunError, Interrupted.
    """
    if resume is not None:
        return _resumed(Run.open(resume), command)
    job = _prepared(recipe, out, command)
    with job.run.locked():
        return _adapted(job, command)


def _resumed(run: Run, command: str) -> FitResult:
    if run.finished:
        console.say(f"{run.folder} is finished: nothing to do")
        return FitResult(run.folder, None, run.outcome())
    with run.locked():
        run.sweep()
        return _adapted(_reopened(run), command)


def _prepared(recipe: Recipe, out: Path | None, command: str) -> Job:
    """Everything up to the first step; the run folder is made when nothing can be wrong with the words any more."""
    Run.refuse_taken(out)
    device = device_of(recipe.device)
    table = _read(recipe)
    recipe, choices = _settled(recipe, table)
    model = build(recipe, table.classes)
    console.say(f"backbone: {recipe.backbone.name}, weights from {model.backbone.origin}")
    scanned = scanned_aloud(table, model, recipe.data)
    groups = clusters(scanned, recipe.data)
    table, how = divided(scanned.table, groups, recipe.data, recipe.seed)
    _refuse_untaught(table)
    run = Run.create(out, f"{Path(recipe.data.path).resolve().stem}-{recipe.tuning.name}")
    job = Job(recipe, run, model, replace(scanned, table=table), groups, device)
    run.write_json("environment.json", environment(command))
    run.write_json("classes.json", list(table.classes))
    run.write_splits(_split_rows(job))
    counts = Counter(sample.split for sample in table.samples)
    choices.append(("splits", ", ".join(f"{counts[name]} {name}" for name in ("train", "val", "test") if counts[name]), how))
    for choice in choices:
        note_choice(run, *choice)
    plan(job)
    run.write_text("recipe.yaml", job.recipe.to_yaml())
    return job


def _reopened(run: Run) -> Job:
    """The job of an unfinished run, from what the run wrote down; the pictures must still be the same bytes."""
    recipe = run.recipe()
    model = build(recipe, run.classes())
    table = own_splits(read_table(Path(recipe.data.path), recipe.data.format), run)
    scanned = scanned_aloud(table, model, recipe.data)
    known = {row["path"]: row["sha256"] for row in run.splits()}
    now = zip(scanned.table.samples, scanned.hashes, strict=True)
    changed = [sample.key for sample, digest in now if known[sample.key] != digest]
    if changed or len(scanned.hashes) < len(known):
        hint = "a run can only go on with the same pictures: start a new one"
        raise RunError("the pictures have changed since this run began", where=changed[0] if changed else table.root, hint=hint)
    groups = [sample.group or "" for sample in scanned.table.samples]
    return Job(recipe, run, model, scanned, groups, device_of(recipe.device))


def _adapted(job: Job, command: str) -> FitResult:
    """Solves, trains, saves, evaluates."""
    start = time.perf_counter()
    frozen = job.model.frozen()
    before = fingerprint(frozen) if frozen else ""
    features = features_of(job) if wants_features(job) else None
    audit = solve_head(job, features) if features is not None else []
    outcome = _trained(job) if job.model.tuning.needs_steps else _solved(job, start)
    job.model.cpu()
    job.model.put(outcome.tensors)
    after = fingerprint(job.model.frozen()) if frozen else ""
    if after != before:
        raise RunError("frozen weights moved: this is a bug in Foveate", where=job.run.folder)
    job.run.write_tensors("model.safetensors", outcome.tensors)
    told = {key: value for key, value in asdict(replace(outcome, tensors={})).items() if key != "tensors"}
    counts = Counter(str(sample.split) for sample in job.table.samples)
    told |= {"frozen": after, "origin": job.model.backbone.origin, "images": dict(counts), "audit": audit}
    told |= {"cautions": _cautions(job, audit), "threshold": _threshold(job)}
    job.run.finish(told)
    return FitResult(job.run.folder, _evaluated(job, command), told)


# --- words -> data


def _read(recipe: Recipe) -> Table:
    if not recipe.data.path:
        raise UsageError("no data was named", hint="foveate fit FOLDER")
    table = read_table(Path(recipe.data.path), recipe.data.format)
    summary = FORMATS.load(table.format).summary
    console.say(f"data: {recipe.data.path}, read as {summary}: {len(table.samples)} images, {len(table.classes)} classes")
    for note in table.notes:
        console.warn(note)
    _tell_boxes(table)
    return table


def _tell_boxes(table: Table) -> None:
    """Boxes and images of each class, before anything is trained."""
    boxes: Counter[str] = Counter()
    pictures: Counter[str] = Counter()
    for sample in table.samples:
        if isinstance(sample.truth, Boxes):
            boxes.update(sample.truth.names)
            pictures.update(set(sample.truth.names))
    if boxes:
        rows = [[name, str(boxes[name]), str(pictures[name])] for name in table.classes]
        console.table(["class", "boxes", "images"], rows)


def _settled(recipe: Recipe, table: Table) -> tuple[Recipe, list[tuple[str, Any, str]]]:
    """The recipe with format, task and the task's own settings decided."""
    found: list[tuple[str, Any, str]] = []
    if recipe.data.format == "auto":
        found.append(("data.format", table.format, "it looks like " + FORMATS.load(table.format).summary))
    recipe = with_settings(recipe, {"data.path": str(Path(recipe.data.path).resolve()), "data.format": table.format})
    truths = [sample.truth for sample in table.samples if sample.split in (None, "train")]
    if recipe.task.name == "auto":
        name = _task_for(truths)
        found.append(("task", name, "this is what the truths answer"))
        recipe = with_settings(recipe, {"task": {"name": name, **recipe.task.settings}})
    task = TASKS.load(recipe.task.name)
    refuse_placeless(recipe.augment, task.answer)
    for field, value in task.suggests.items():
        if not recipe.stated(field):
            found.append((field, value, f"suits the task {recipe.task.name}"))
            value = {"name": value, **recipe.tuning.settings} if field == "tuning" else value
            recipe = with_settings(recipe, {field: value})
    steps = TUNINGS.load(recipe.tuning.name).needs_steps
    if steps and recipe.training.norm == "auto":
        found.append(("training.norm", *choose_norms(recipe)))
        recipe = with_settings(recipe, {"training.norm": found[-1][1]})
    facts = Facts(table.multilabel, solved=not steps)
    for field, value, reason in task.settle(recipe.task.settings, truths, table.classes, facts):
        found.append((f"task.{field}", value, reason))
        recipe = with_settings(recipe, {f"task.{field}": value})
    return recipe, found


def _task_for(truths: Sequence[Any]) -> str:
    """The task whose answers look like these truths."""
    fitting = [name for name in TASKS.names() if truths and isinstance(truths[0], TASKS.load(name).answer)]
    if len(fitting) != 1:
        hint = "--task " + "|".join(fitting or TASKS.names())
        raise UsageError("the data does not say which task this is", where="task", hint=hint)
    return fitting[0]


def _refuse_untaught(table: Table) -> None:
    """A class that no training image shows cannot be learnt; fewer than two classes of whole images are no question."""
    if isinstance(table.samples[0].truth, Regions):
        return
    taught = {name for sample in table.of("train") for name in label_names(sample)}
    if len(taught) < (1 if isinstance(table.samples[0].truth, Boxes) else 2) and not table.multilabel:
        what = f"only one class has training images: {next(iter(taught))!r}" if taught else "there are no training images"
        raise DataError(what, where=table.root, hint="give images of another class")
    for name in sorted(set(table.classes) - taught):
        console.warn(f"the class {name!r} has no training image: it will never be the answer")


def _split_rows(job: Job) -> list[dict[str, str]]:
    return [
        {"path": sample.key, "split": str(sample.split), "group": group, "label": "|".join(label_names(sample)), "sha256": digest}
        for sample, group, digest in zip(job.table.samples, job.groups, job.scanned.hashes, strict=True)
    ]


def _solved(job: Job, start: float) -> Outcome:
    tensors = {name: tensor.detach().clone() for name, tensor in job.model.changed().items()}
    return Outcome(tensors, 0, -1, 0, time.perf_counter() - start, "solved in closed form")


def _trained(job: Job) -> Outcome:
    train, val = job.pictures("train", augmented=True), job.pictures("val")
    return Trainer(job.model, job.recipe, job.run, train, val if len(val) else None, job.device).train()


def _threshold(job: Job) -> float | None:
    """The score from which boxes are shown, the best on the validation images; None for other answers."""
    pictures = job.pictures("val")
    if job.model.task.answer is not Boxes or not len(pictures):
        return None
    batches = loader(pictures, Order(len(pictures), job.recipe.training.batch_size))
    way = Way("fp32", bool(job.recipe.training.channels_last))
    found = answers(job.model.to(job.device), pictures, batches, job.device, way)
    job.model.cpu()
    return float(scored(found.predictions, pictures.samples, job.model, False).tables["threshold"])


# --- what it is worth


def _cautions(job: Job, audit: list[dict[str, Any]]) -> list[str]:
    """Doubts that belong to the data, whatever is evaluated."""
    found = []
    splits: dict[str, set[str]] = {}
    for sample, group in zip(job.table.samples, job.groups, strict=True):
        splits.setdefault(group, set()).add(str(sample.split))
    torn = sum(len(places) > 1 for places in splits.values())
    if torn:
        found.append(f"{torn} groups of near-copies lie on both sides of the split that the data names: the figures flatter")
    if audit:
        random, grouped = (row["score"]["value"] for row in audit)
        found.append(
            f"a probe reaches {random:.3f} in random folds of the training images and {grouped:.3f} in folds that keep near-copies "
            f"(or groups) together: a random split of these images would flatter by {random - grouped:+.3f}"
        )
    return found


def _evaluated(job: Job, command: str) -> EvaluateResult | None:
    """Scores the saved run, as anyone would load it, on each held-out split; the last one is the headline."""
    splits = [split for split in ("val", "test") if job.places(split)]
    results = [evaluate(job.run.folder, split=split, device=str(job.device), command=command) for split in splits]
    return results[-1] if results else None

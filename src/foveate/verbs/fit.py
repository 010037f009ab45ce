"""fit DATA: adapts a backbone to a task, and says what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate import console
from foveate.data import Order, Pictures, Scanned, clusters, divided, loader, scan
from foveate.errors import DataError, RunError, UsageError
from foveate.features import described
from foveate.formats import FORMATS, read_table
from foveate.intervals import wilson
from foveate.linear import Solution, out_of_fold, solve
from foveate.model import Model, build
from foveate.precision import Way, device_of, fastest, ways
from foveate.recipe import Recipe, with_settings
from foveate.run import Run, environment
from foveate.splits import group_folds
from foveate.tasks import TASKS, Facts
from foveate.trainer import Outcome, Trainer
from foveate.transforms import evaluation, training
from foveate.tunings import TUNINGS
from foveate.types import Labels, Sample, Score, Table
from foveate.verbs.evaluate import EvaluateResult, evaluate, own_splits
from foveate.weights import fingerprint

_FOLDS = 5
_MEASURED = 8  # images in a step that is timed
_WORTH_MEASURING = 2000  # images to push through, all epochs together: below, timing costs more than it gains
_ENOUGH = 16  # images at once, for statistics that are worth learning
_LONG = 1000  # steps from which TrivialAugment is worth its noise
_SAFETY = 0.8  # of a time budget is planned for; the rest is validation, saving and noise


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


@dataclass
class Job:
    """What a fit has in its hands. `groups`: a name for each sample of the table."""

    recipe: Recipe
    run: Run
    model: Model
    scanned: Scanned
    groups: list[str]
    device: torch.device

    @property
    def table(self) -> Table:
        return self.scanned.table

    def pictures(self, split: str, augmented: bool = False) -> Pictures:
        spec, framing = self.model.backbone.input, self.model.task.framing
        transform = training(spec, framing, self.recipe.augment) if augmented else evaluation(spec, framing)
        samples = [sample for sample in self.table.samples if sample.split == split]
        return Pictures(samples, self.scanned.pixels, transform, self.model.task.encode, self.recipe.seed)

    def places(self, split: str) -> list[int]:
        return [index for index, sample in enumerate(self.table.samples) if sample.split == split]

    def choose(self, field: str, value: Any, reason: str) -> None:
        """Takes a decision for the user: said, reasoned, written down."""
        self.recipe = with_settings(self.recipe, {field: value})
        note_choice(self.run, field, value, reason)


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
    scanned = _scanned(table, model, recipe)
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
    _choose_way(job)
    _plan_time(job)
    _choose_policy(job)
    _choose_layer_decay(job)
    run.write_text("recipe.yaml", job.recipe.to_yaml())
    return job


def _reopened(run: Run) -> Job:
    """The job of an unfinished run, from what the run wrote down; the pictures must still be the same bytes."""
    recipe = run.recipe()
    model = build(recipe, run.classes())
    table = own_splits(read_table(Path(recipe.data.path), recipe.data.format), run)
    scanned = _scanned(table, model, recipe)
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
    features = _features(job) if _wants_features(job) else None
    audit = _solved_head(job, features) if features is not None else []
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
    told["cautions"] = _cautions(job, audit)
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
    return table


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
    steps = TUNINGS.load(recipe.tuning.name).needs_steps
    if steps and recipe.training.norm == "auto":
        found.append(("training.norm", *_norms(recipe)))
        recipe = with_settings(recipe, {"training.norm": found[-1][1]})
    facts = Facts(table.multilabel, solved=not steps)
    for field, value, reason in task.settle(recipe.task.settings, truths, table.classes, facts):
        found.append((f"task.{field}", value, reason))
        recipe = with_settings(recipe, {f"task.{field}": value})
    return recipe, found


def _norms(recipe: Recipe) -> tuple[str, str]:
    """Whether batch normalisation learns new statistics; from few images at once they would be noise."""
    if recipe.backbone.weights == "none":
        return "learn", "random weights have no statistics to keep"
    at_once = recipe.training.micro_batch or recipe.training.batch_size
    if at_once >= _ENOUGH:
        return "learn", f"{at_once} images at once are enough for statistics of these images"
    return "keep", f"{at_once} images at once are too few for statistics of these images"


def _task_for(truths: Sequence[Any]) -> str:
    """The task whose answers look like these truths."""
    fitting = [name for name in TASKS.names() if truths and isinstance(truths[0], TASKS.load(name).answer)]
    if len(fitting) != 1:
        hint = "--task " + "|".join(fitting or TASKS.names())
        raise UsageError("the data does not say which task this is", where="task", hint=hint)
    return fitting[0]


def _scanned(table: Table, model: Model, recipe: Recipe) -> Scanned:
    with console.progress(len(table.samples), "read") as bar:
        scanned = scan(table, model.backbone.input.size, recipe.data, lambda: bar.advance(1))
    for key, why in scanned.skipped:
        console.warn(f"skipped {key}: {why}")
    return scanned


def _refuse_untaught(table: Table) -> None:
    """A class that no training image shows cannot be learnt; fewer than two classes are no question."""
    taught = {name for sample in table.of("train") for name in _names(sample)}
    if len(taught) < 2 and not table.multilabel:
        what = f"only one class has training images: {next(iter(taught))!r}" if taught else "there are no training images"
        raise DataError(what, where=table.root, hint="give images of another class")
    for name in sorted(set(table.classes) - taught):
        console.warn(f"the class {name!r} has no training image: it will never be the answer")


def _names(sample: Sample) -> tuple[str, ...]:
    return sample.truth.names if isinstance(sample.truth, Labels) else ()


def _split_rows(job: Job) -> list[dict[str, str]]:
    return [
        {"path": sample.key, "split": str(sample.split), "group": group, "label": "|".join(_names(sample)), "sha256": digest}
        for sample, group, digest in zip(job.table.samples, job.groups, job.scanned.hashes, strict=True)
    ]


def note_choice(run: Run, field: str, value: Any, reason: str) -> None:
    """Says a decision and adds it to choices.json."""
    console.choice(field, value, reason)
    rows = run.read_json("choices.json") if (run.folder / "choices.json").is_file() else []
    run.write_json("choices.json", [*rows, {"field": field, "value": value, "reason": reason}])


# --- how to compute


def _choose_way(job: Job) -> None:
    """Precision and memory format: as asked, or measured on a few steps where there are enough of them to care."""
    asked = job.recipe.training
    steps = job.model.tuning.needs_steps
    candidates = ways(asked.precision if steps else "fp32", asked.channels_last)
    images = len(job.places("train")) * (asked.epochs if steps else 1)
    if len(candidates) > 1 and images < _WORTH_MEASURING and steps:
        way, why = candidates[0], "too few images to be worth measuring"
    else:
        way, why = fastest(candidates, _timed_step(job, steps))
    job.choose("training.precision", way.precision, why)
    job.choose("training.channels_last", way.channels_last, why)


def _timed_step(job: Job, with_gradients: bool) -> Any:
    """A function that runs a few training images through the model as the given way does, and leaves no trace."""
    pictures = job.pictures("train")
    batch = next(iter(loader(pictures, Order(len(pictures), _MEASURED))))
    model, device = job.model, job.device

    def step(way: Way) -> None:
        model.to(device=device, memory_format=way.layout)  # type: ignore[call-overload]
        with torch.set_grad_enabled(with_gradients), way.autocast(device), torch.random.fork_rng():
            part = batch.to(device, memory_format=way.layout)
            loss = sum(model.task.loss(model(part), part).values())
        if with_gradients:
            loss.backward()  # type: ignore[union-attr]
            model.zero_grad(set_to_none=True)

    return step


def _plan_time(job: Job) -> None:
    """Cuts the epochs to the time that was given."""
    minutes, asked = job.recipe.training.minutes, job.recipe.training.epochs
    if minutes is None or not job.model.tuning.needs_steps:
        return
    way = Way(job.recipe.training.precision, bool(job.recipe.training.channels_last))
    step = _timed_step(job, True)
    step(way)
    start = time.perf_counter()
    step(way)
    seconds = (time.perf_counter() - start) / min(_MEASURED, len(job.places("train"))) * len(job.places("train"))
    epochs = max(1, min(asked, int(60 * minutes * _SAFETY / seconds)))
    if epochs < asked:
        job.choose("training.epochs", epochs, f"{seconds:.0f} s an epoch, {minutes:g} minutes given")


def _choose_policy(job: Job) -> None:
    """Distorted pictures pay in a long training; a short one has no time for them."""
    training = job.recipe.training
    if job.recipe.augment.policy != "auto" or not job.model.tuning.needs_steps:
        return
    steps = training.epochs * len(Order(len(job.places("train")), training.batch_size))
    if steps >= _LONG:
        job.choose("augment.policy", "trivial", f"{steps} steps are enough to gain from distorted pictures")
    else:
        job.choose("augment.policy", "none", f"{steps} steps are too few to gain from distorted pictures")


def _choose_layer_decay(job: Job) -> None:
    """Transformers keep their early layers better with small rates (BEiT, MAE); convolutional networks were measured to lose."""
    tuning = job.model.tuning
    if job.recipe.training.layer_decay is not None or not (tuning.needs_steps and tuning.layerwise):
        return
    if any(hasattr(module, "running_mean") for module in job.model.backbone.modules()):
        job.choose("training.layer_decay", 1.0, "networks with batch normalisation adapt best when all layers move alike")
    else:
        job.choose("training.layer_decay", 0.75, "networks without batch normalisation adapt best when early layers move little")


# --- the head, solved


def _wants_features(job: Job) -> bool:
    solvable = hasattr(job.model.head, "linear") and job.model.task.answer is Labels
    return solvable and (not job.model.tuning.needs_steps or job.recipe.training.head_start == "probe")


def _features(job: Job) -> np.ndarray:
    """(N, D) of the training images, by the backbone as it came."""
    pictures = job.pictures("train")
    with console.progress(len(pictures), "features") as bar:
        found = described(
            job.model,
            pictures,
            [job.scanned.hashes[place] for place in job.places("train")],
            batch_size=job.recipe.training.batch_size,
            device=job.device,
            channels_last=bool(job.recipe.training.channels_last),
            advance=bar.advance,
        )
    return found.numpy()


def _solved_head(job: Job, features: np.ndarray) -> list[dict[str, Any]]:
    """Puts the closed-form solution into the head; gives the audit of the split."""
    samples = job.table.of("train")
    targets = np.stack([job.model.task.encode(sample.truth, (1, 1))["labels"].numpy() for sample in samples])
    multilabel = bool(job.recipe.task.settings.get("multilabel"))
    groups = [job.groups[place] for place in job.places("train")]
    labels = [_names(sample) for sample in samples]
    folds = group_folds(labels, groups, _FOLDS, job.recipe.seed)
    solution = solve(features, targets, folds, multilabel)
    with torch.no_grad():
        head: Any = job.model.head
        head.middle.copy_(torch.from_numpy(solution.middle))
        head.scale.copy_(torch.from_numpy(solution.scale))
        head.linear.weight.copy_(torch.from_numpy(solution.weight))
        head.linear.bias.copy_(torch.from_numpy(solution.bias))
    tried = ", ".join(f"{c:g}: {loss:.3f}" for c, loss in solution.tried.items())
    note_choice(job.run, "head.C", solution.strength, f"least log loss over {_FOLDS} folds by group ({tried})")
    if multilabel or not job.recipe.data.audit or len(set(groups)) == len(groups):
        return []
    return _audit(features, targets, labels, groups, solution, job.recipe.seed)


def _audit(
    features: np.ndarray, targets: np.ndarray, labels: list[tuple[str, ...]], groups: list[str], solution: Solution, seed: int
) -> list[dict[str, Any]]:
    """How much a random split would flatter: the same probe, folds that divide groups against folds that do not."""
    found = []
    for name, by, meaning in (
        ("random folds", [str(place) for place in range(len(groups))], "near-copies of a picture may be on both sides"),
        ("folds by group", groups, "near-copies, or what the data groups, stay together"),
    ):
        chances = out_of_fold(features, targets, group_folds(labels, by, _FOLDS, seed), solution.strength, False)
        hits = int((chances.argmax(1) == targets.argmax(1)).sum())
        low, high = wilson(hits, len(labels))
        score = Score(hits / len(labels), low, high, len(labels))
        console.say(f"accuracy of a probe inside the training images, {name}: {score}")
        found.append({"name": name, "score": asdict(score), "meaning": meaning})
    return found


def _solved(job: Job, start: float) -> Outcome:
    tensors = {name: tensor.detach().clone() for name, tensor in job.model.changed().items()}
    return Outcome(tensors, 0, -1, 0, time.perf_counter() - start, "solved in closed form")


def _trained(job: Job) -> Outcome:
    train, val = job.pictures("train", augmented=True), job.pictures("val")
    return Trainer(job.model, job.recipe, job.run, train, val if len(val) else None, job.device).train()


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

"""Pretraining: a backbone that learns from unlabeled images, and whether that has helped."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.api.fit.resume import resumed_recipe
from foveate.api.pretrain.images import (
    HELD_OUT,
    LABELS,
    TRAIN,
    PretrainingImages,
    collect_images,
    reopen_images,
    require_images,
)
from foveate.api.pretrain.page import build_page, neighbor_rows, reconstruction_rows
from foveate.api.pretrain.verdict import Verdict, decide_verdict, verdict_from
from foveate.data.dataset import ImageDataset
from foveate.data.multicrop import Crops, multicrop_transform
from foveate.data.streaming import Stream
from foveate.data.transforms import evaluation_transform
from foveate.errors import Diverged, RunError, UsageError
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.modeling.weights import check_weights, weights_fingerprint
from foveate.recipe import Recipe
from foveate.reporting.pretraining_page import write_pretraining_report
from foveate.run.folder import BACKBONE_FILE, CLASSES_FILE, Run
from foveate.training.clock import AfterTraining, TimeBudget, warn_if_exceeded
from foveate.training.collapse_guard import CollapseGuard
from foveate.training.feature_quality import FeatureQuality
from foveate.training.objectives import objective_task
from foveate.training.planning import MEASURING_SHARE, choose_mode
from foveate.training.resolve import Resolution, resolve_pretraining
from foveate.training.state import TrainingResult
from foveate.training.throughput import Throughput, measure_throughput
from foveate.training.trainer import Trainer
from foveate.types import Decision
from foveate.utils import log
from foveate.utils.device import ComputeMode, resolve_device, to_device
from foveate.utils.distributed import DistributedContext, join_processes, single_process
from foveate.utils.invocation import shell_command

_GUARD_PASSES = 3  # of each held-out image: itself and two copies
_GUARD_SHARE = 0.03  # of a time budget, for one measurement of the held-out images
_TIMED_IMAGES = 8
# mild distortions, for the self-retrieval of the guard
_MILD = Crops(global_views=2, global_area=(0.5, 1.0), color=0.3)


@dataclass(frozen=True)
class PretrainResult:
    """A pretrained backbone.

    Attributes:
        run: The run folder, a backbone for `fit`.
        verdict: Whether it helped.
        start: Measures of the features of held-out images before training, by name.
        end: The same after training.
        outcome: What finished.json says.
    """

    run: Path
    verdict: Verdict
    start: dict[str, float]
    end: dict[str, float]
    outcome: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        return ["held-out images", "start", "end"]

    @property
    def rows(self) -> list[list[str]]:
        return [[name, f"{self.start[name]:.3f}", f"{self.end[name]:.3f}"] for name in self.start]

    def numbers(self) -> dict[str, Any]:
        measures = {f"start_{name}": value for name, value in self.start.items()}
        measures |= {f"end_{name}": value for name, value in self.end.items()}
        return {
            "run": str(self.run),
            "verdict": self.verdict.outcome,
            "rolled_back": self.verdict.rolled_back,
            **measures,
            "gain": asdict(self.verdict.gain) if self.verdict.gain else None,
            "seconds": self.outcome["seconds"],
        }

    def lines(self) -> list[str]:
        return [
            f"run: {self.run}",
            f"verdict: {self.verdict.headline} ({self.verdict.explanation})",
            f"report: {self.run / 'report.html'}",
            f"next: {shell_command('fit', 'DATA', '--backbone', self.run)}",
        ]


def pretrain_recipe(
    recipe: Recipe, labels: Path | None, out: Path | None, resume: Path | None, dry_run: bool
) -> PretrainResult | Throughput | None:
    """Pretrain by the objective of the recipe (`task.name`), and leave a backbone in a run folder.

    Under torchrun the processes share every batch; the first one returns the result, the others
    None. A loss that becomes NaN or infinite ends the training; the last good state stays.

    Args:
        recipe: What to do.
        labels: Labeled data for the evaluation; it is never trained on.
        out: Run folder to create.
        resume: Unfinished run to resume by its own recipe, as with fit.
        dry_run: Measure the throughput only.

    Raises:
        UsageError: The settings do not fit together.
        DataError: There are too few images, or all are alike.
        Interrupted: A signal asked to stop.
    """
    device = Run.open(resume).recipe().device if resume else recipe.device
    with join_processes(device) as processes:
        if processes.is_main:
            return _pretrain(recipe, labels, out, resume, dry_run, processes)
        with log.errors_only():
            return _pretrain(recipe, labels, out, resume, dry_run, processes)


def _pretrain(
    recipe: Recipe,
    labels: Path | None,
    out: Path | None,
    resume: Path | None,
    dry_run: bool,
    processes: DistributedContext,
) -> PretrainResult | Throughput | None:
    """Pretrain in one of the processes; the main one prepares the run for all."""
    run: Run | Throughput | PretrainResult | None = None
    if processes.is_main and resume:
        run = _open_unfinished(resume)
    elif processes.is_main:
        run = _prepare_run(recipe, labels, out, dry_run, processes.size)
    run = processes.broadcast(run)
    if not isinstance(run, Run):
        return run
    with run.locked() if processes.is_main else nullcontext():
        if processes.is_main:
            run.remove_partial_files()
        own_recipe = resumed_recipe(run, recipe if resume else None, note=processes.is_main)
        return _train_run(run, own_recipe, processes)


def _open_unfinished(folder: Path) -> Run | PretrainResult:
    """Return the run to resume; its result if it is finished."""
    run = Run.open(folder)
    if not run.finished:
        return run
    outcome = run.outcome()
    if not run.is_pretraining:
        hint = "foveate runs lists the runs that exist"
        raise UsageError("this run is not a pretraining", where=folder, hint=hint)
    log.info(f"{run.folder} is finished: nothing to do")
    verdict = verdict_from(outcome["verdict"])
    return PretrainResult(run.folder, verdict, outcome["start"], outcome["end"], outcome)


def _prepare_run(
    recipe: Recipe, labels: Path | None, out: Path | None, dry_run: bool, processes: int
) -> Run | Throughput:
    """Create the run folder with everything that is decided before the first step."""
    Run.require_free(out, recipe.data.path)
    require_images(Path(recipe.data.path))
    check_weights(recipe.backbone.weights)
    device = resolve_device(recipe.device)
    resolution = Resolution(*resolve_pretraining(recipe))
    recipe = resolution.recipe
    model = objective_task(recipe)
    log.info(f"backbone: {recipe.backbone.name}, weights from {model.backbone.origin}")
    budget = _budget(recipe, resolution.decisions)
    max_held_out = None if budget is None else _held_out_in_time(model, device, budget)
    with tempfile.TemporaryDirectory() as lists:
        images, source = collect_images(recipe, labels, model, Path(lists), max_held_out)
        _limit_batch_size(resolution, len(images.train), processes)
        dataset = _training_views(model, images, recipe)
        with single_process():
            allowed = None if budget is None else MEASURING_SHARE * budget.left()
            for decision in choose_mode(model, dataset, resolution.recipe, device, allowed):
                resolution.decide(*decision)
            if dry_run:
                return measure_throughput(model, dataset, resolution.recipe, device)
        run = Run.create(out, f"{Path(recipe.data.path).stem}-{recipe.task.name}")
        for name in (TRAIN, HELD_OUT):
            shutil.copyfile(Path(lists) / name, run.folder / name)
    run.write_json(LABELS, None if images.labels is None else images.labels.tolist())
    run.write_environment()
    run.write_json(CLASSES_FILE, [])
    held_out = Decision("held out", len(images.held_out), source)
    run.write_recipe(resolution.recipe, [*resolution.decisions, held_out])
    return run


def _limit_batch_size(resolution: Resolution, images: int, processes: int) -> None:
    """Make batches no larger than the dataset, and large enough for all processes."""
    batch_size = resolution.recipe.training.batch_size
    if batch_size > images:
        text = "there are {images} training images, fewer than a batch of {batch_size}"
        reason = Message("choice.fewer_than_batch", text, images=images, batch_size=batch_size)
        resolution.decide("training.batch_size", images, reason)
    if min(batch_size, images) < processes:
        what = f"a batch of {min(batch_size, images)} cannot be divided among {processes} processes"
        hint = "use a larger --batch-size, or fewer processes"
        raise UsageError(what, where="training.batch_size", hint=hint)


def _budget(recipe: Recipe, decisions: Sequence[Decision]) -> TimeBudget | None:
    """Return the time that there is; its end is open where nobody asked for epochs."""
    decided = {each.field for each in decisions}
    return TimeBudget.of(recipe, open_end="training.epochs" in decided)


def _held_out_in_time(model: Model, device: torch.device, budget: TimeBudget) -> int:
    """Return how many images the guard can measure in a small part of the time."""
    spec, backbone = model.backbone.input, model.backbone.eval().to(device)
    images = torch.zeros(_TIMED_IMAGES, spec.channels, spec.size, spec.size, device=device)
    with torch.inference_mode():
        backbone(images, model.task.needs)  # warms up
        start = time.monotonic()
        backbone(images, model.task.needs)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
    seconds = _GUARD_PASSES * (time.monotonic() - start) / _TIMED_IMAGES
    return int(_GUARD_SHARE * budget.left() / max(seconds, 1e-9))


def _train_run(run: Run, recipe: Recipe, processes: DistributedContext) -> PretrainResult | None:
    """Train in all processes; the main one evaluates and writes."""
    model = objective_task(recipe)
    images = reopen_images(run, recipe, model)
    device, mode = resolve_device(recipe.device), ComputeMode.for_training(recipe.training)
    guard = _build_guard(model, images, recipe, device, mode)
    start = {name: each.detach().cpu().clone() for name, each in model.trained_tensors().items()}
    frozen = weights_fingerprint(model.frozen_tensors())
    to_device(model, device, mode)
    if processes.is_main:
        guard.measure_start(model, run.read_metrics())
    dataset = _training_views(model, images, recipe)
    trainer = Trainer(
        model,
        recipe,
        run,
        dataset,
        guard,
        device,
        budget=_budget(recipe, run.decisions()),
        # the guard measures the weights that are kept, then their features once more for the report
        after=AfterTraining((1 + 1 / _GUARD_PASSES) * guard.images, evaluations=1),
        distributed=processes,
        command="pretrain",
    )
    result = _train(trainer, start)
    if not processes.is_main:
        return None
    model.load_tensors(result.tensors)
    if weights_fingerprint(model.frozen_tensors()) != frozen:
        raise RunError("frozen weights have changed: this is a bug in Foveate", where=run.folder)
    end = guard.measure(model)
    assert guard.start is not None
    harm = result.reason if any(row["worse"] for row in run.read_metrics()[-1:]) else None
    verdict = decide_verdict(guard.start, end, guard.report_indices, guard.from_scratch, harm)
    if verdict.rolled_back:
        model.load_tensors(start)
    with single_process():
        reconstructions = reconstruction_rows(model, dataset, device)
        neighbors = neighbor_rows(guard, model, images)
    outcome = _write_outcome(run, model.cpu(), guard, end, verdict, result, images)
    page = build_page(run, recipe, verdict, outcome, neighbors, reconstructions)
    write_pretraining_report(page, run.folder / "report.html")
    warn_if_exceeded(trainer.plan.budget)
    return PretrainResult(run.folder, verdict, outcome["start"], outcome["end"], outcome)


def _training_views(model: Model, images: PretrainingImages, recipe: Recipe) -> ImageDataset:
    """Return the training images as the views that the objective compares."""
    objective: Any = model.task
    spec, crops = model.backbone.input, objective.crops
    size = local_size(model) if crops.local_views else spec.size
    transform = multicrop_transform(spec, crops, size)
    return Stream(images.train, images.cache, transform, recipe.seed)


def local_size(model: Model) -> int:
    """Return half the side of the network's input, px, if it accepts that; else all of it."""
    half = model.backbone.input.size // 2
    try:
        with torch.inference_mode():
            model.backbone.eval()(torch.zeros(1, 3, half, half), model.task.needs)
    except (AssertionError, RuntimeError, ValueError):
        return model.backbone.input.size
    return half


def _build_guard(
    model: Model,
    images: PretrainingImages,
    recipe: Recipe,
    device: torch.device,
    mode: ComputeMode,
) -> CollapseGuard:
    spec, batch_size = model.backbone.input, recipe.training.batch_size
    whole = evaluation_transform(spec, "crop")
    copies = multicrop_transform(spec, _MILD, spec.size)
    return CollapseGuard(
        Stream(images.held_out, images.cache, whole, recipe.seed),
        Stream(images.held_out, images.cache, copies, recipe.seed),
        images.labels,
        device,
        mode,
        batch_size,
        from_scratch=recipe.backbone.weights == "none",
    )


def _train(trainer: Trainer, start: dict[str, Tensor]) -> TrainingResult:
    """Train; if the loss becomes NaN or infinite, return the last good state."""
    try:
        return trainer.train()
    except Diverged as error:
        state, hint = trainer.state, error.hint or ""
        reason = Message("training.diverged", "{error}: {hint}", error=error.what, hint=hint)
        log.warning(reason)
        return TrainingResult(
            trainer.kept or start, state.epoch, state.best_epoch, state.step, state.seconds, reason
        )


def _write_outcome(
    run: Run,
    model: Model,
    guard: CollapseGuard,
    end: FeatureQuality,
    verdict: Verdict,
    result: TrainingResult,
    images: PretrainingImages,
) -> dict[str, Any]:
    """Write the backbone, as plain as any other, and finished.json."""
    if not model.tuning.unmergeable:
        model.merge()
    run.write_tensors(BACKBONE_FILE, model.backbone.state_dict())
    assert guard.start is not None
    outcome = {
        **result.row(),
        "origin": model.backbone.origin,
        "images": {"train": len(images.train), "val": len(images.held_out)},
        "verdict": verdict.row(),
        "start": guard.start.row(),
        "end": end.row(),
    }
    run.finish(outcome)
    return outcome

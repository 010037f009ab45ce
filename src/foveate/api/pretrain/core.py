"""pretrain IMAGES: a backbone that has learnt from pictures without labels, and a verdict on whether that has helped."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.api.fit.resume import going_on
from foveate.api.pretrain.page import build_page, neighbor_rows, reconstruction_rows
from foveate.api.pretrain.pictures import HELD, LABELS, TRAIN, Unlabelled, gathered, reopened
from foveate.api.pretrain.verdict import Verdict, decide_verdict, verdict_from
from foveate.data.dataset import ImageDataset
from foveate.data.multicrop import Crops, multicrop_transform
from foveate.data.streaming import Catalogue, Stream
from foveate.data.transforms import evaluation_transform
from foveate.errors import Diverged, RunError, UsageError
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.modeling.weights import weights_fingerprint
from foveate.recipe import Recipe
from foveate.reporting.pretraining_page import write_pretraining_report
from foveate.run.folder import BACKBONE_FILE, CLASSES_FILE, Run
from foveate.training.collapse_guard import CollapseGuard
from foveate.training.feature_quality import FeatureQuality
from foveate.training.objectives import objective_task
from foveate.training.planning import choose_mode
from foveate.training.resolve import Resolution, resolve_pretraining
from foveate.training.state import TrainingResult
from foveate.training.throughput import Throughput, measure_throughput
from foveate.training.trainer import Trainer
from foveate.types import Decision
from foveate.utils import log
from foveate.utils.device import ComputeMode, resolve_device, to_device
from foveate.utils.distributed import DistributedContext, join_processes, single_process

_MILD = Crops(global_views=2, global_area=(0.5, 1.0), color=0.3)  # for the guard's self-retrieval


@dataclass(frozen=True)
class PretrainResult:
    """`run`: the run folder, a backbone for fit; `start` and `end`: what features of held-out images are like, before and after."""

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
        both = (("start", self.start), ("end", self.end))
        measured = {f"{word}_{name}": value for word, row in both for name, value in row.items()}
        told = {
            "run": str(self.run),
            "verdict": self.verdict.outcome,
            "rolled_back": self.verdict.rolled_back,
            **measured,
        }
        return {
            **told,
            "gain": asdict(self.verdict.gain) if self.verdict.gain else None,
            "seconds": self.outcome["seconds"],
        }

    def lines(self) -> list[str]:
        return [
            f"run: {self.run}",
            f"verdict: {self.verdict.outcome} ({self.verdict.explanation})",
            f"report: {self.run / 'report.html'}",
            f"next: foveate fit DATA --backbone {self.run}",
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
    with (
        join_processes(device) as processes,
        nullcontext() if processes.is_main else log.errors_only(),
    ):
        begun: Run | Throughput | PretrainResult | None = None
        if processes.is_main:
            begun = (
                _unfinished(resume)
                if resume
                else _begun(recipe, labels, out, dry_run, processes.size)
            )
        begun = processes.broadcast(begun)
        if not isinstance(begun, Run):
            return begun
        with begun.locked() if processes.is_main else nullcontext():
            if processes.is_main:
                begun.remove_partial_files()
            own = going_on(begun, recipe if resume else None, note=processes.is_main)
            return _learnt(begun, own, processes)


def _unfinished(folder: Path) -> Run | PretrainResult:
    """The run; what came of it, where nothing is left to do."""
    run = Run.open(folder)
    if not run.finished:
        return run
    told = run.outcome()
    if not run.is_pretraining:
        raise UsageError(
            "this run is no pre-training", where=folder, hint="foveate runs lists what there is"
        )
    log.info(f"{run.folder} is finished: nothing to do")
    verdict = verdict_from(told["verdict"])
    return PretrainResult(run.folder, verdict, told["start"], told["end"], told)


def _begun(
    recipe: Recipe, labels: Path | None, out: Path | None, dry_run: bool, processes: int
) -> Run | Throughput:
    """Create the run folder with everything that is decided before the first step."""
    Run.require_free(out)
    resolution = Resolution(*resolve_pretraining(recipe))
    recipe = resolution.recipe
    model, device = objective_task(recipe), resolve_device(recipe.device)
    log.info(f"backbone: {recipe.backbone.name}, weights from {model.backbone.origin}")
    with tempfile.TemporaryDirectory() as lists:
        images, how = gathered(recipe, labels, model, Path(lists))
        _limit_batch_size(resolution, len(images.train), processes)
        dataset = _shown(model, images, recipe)
        with single_process():
            for decision in choose_mode(model, dataset, resolution.recipe, device):
                resolution.decide(*decision)
            if dry_run or recipe.training.minutes:
                throughput = measure_throughput(model, dataset, resolution.recipe, device)
                if dry_run:
                    return throughput
                _limit_epochs(resolution, throughput)
        run = Run.create(out, f"{Path(recipe.data.path).stem}-{recipe.task.name}")
        for name in (TRAIN, HELD):
            shutil.copyfile(Path(lists) / name, run.folder / name)
    run.write_json(LABELS, None if images.labels is None else images.labels.tolist())
    run.write_environment()
    run.write_json(CLASSES_FILE, [])
    held_out = Decision("held out", len(images.held), how)
    run.write_recipe(resolution.recipe, [*resolution.decisions, held_out])
    return run


def _limit_batch_size(resolution: Resolution, images: int, processes: int) -> None:
    """Make batches no larger than the dataset, and large enough for all processes."""
    batch_size = resolution.recipe.training.batch_size
    if batch_size > images:
        reason = f"there are {images} training images, fewer than a batch of {batch_size}"
        resolution.decide("training.batch_size", images, reason)
    if min(batch_size, images) < processes:
        what = f"a batch of {min(batch_size, images)} cannot be divided among {processes} processes"
        hint = "use a larger --batch-size, or fewer processes"
        raise UsageError(what, where="training.batch_size", hint=hint)


def _limit_epochs(resolution: Resolution, throughput: Throughput) -> None:
    """Reduce the epochs to those that fit into the time budget."""
    training = resolution.recipe.training
    epochs = throughput.epochs_within(training.minutes) if training.minutes else training.epochs
    if epochs < training.epochs:
        reason = f"an epoch takes {throughput.epoch_seconds:.0f} s, "
        reason += f"the budget is {training.minutes:g} minutes"
        resolution.decide("training.epochs", epochs, reason)


def _learnt(run: Run, recipe: Recipe, processes: DistributedContext) -> PretrainResult | None:
    """All processes train, the first one judges, writes and tells."""
    model = objective_task(recipe)
    pictures = reopened(run, recipe, model)
    device = resolve_device(recipe.device)
    mode = ComputeMode.for_training(recipe.training)
    guard = _guard(model, pictures, recipe, device, mode)
    start = {
        name: tensor.detach().cpu().clone() for name, tensor in model.trained_tensors().items()
    }
    frozen = weights_fingerprint(model.frozen_tensors())
    to_device(model, device, mode)
    if processes.is_main:
        guard.measure_start(model, run.read_metrics())
    train = _shown(model, pictures, recipe)
    outcome = _trained(
        Trainer(
            model, recipe, run, train, guard, device, distributed=processes, command="pretrain"
        ),
        start,
    )
    if not processes.is_main:
        return None
    model.load_tensors(outcome.tensors)
    if weights_fingerprint(model.frozen_tensors()) != frozen:
        raise RunError("frozen weights moved: this is a bug in Foveate", where=run.folder)
    end = guard.measure(model)
    assert guard.start is not None
    harm = outcome.reason if any(row["worse"] for row in run.read_metrics()[-1:]) else None
    verdict = decide_verdict(guard.start, end, guard.report_indices, guard.from_scratch, harm)
    if verdict.rolled_back:
        model.load_tensors(start)
    with single_process():
        reconstructions = reconstruction_rows(model, train, device)
        neighbors = neighbor_rows(guard, model, pictures)
    told = _written(run, model.cpu(), guard, end, verdict, outcome)
    page = build_page(run, recipe, verdict, told, neighbors, reconstructions)
    write_pretraining_report(page, run.folder / "report.html")
    return PretrainResult(run.folder, verdict, told["start"], told["end"], told)


def _shown(model: Model, pictures: Unlabelled, recipe: Recipe) -> ImageDataset:
    """The pictures to learn from, as views."""
    return Stream(pictures.train, pictures.pixels, _views(model), recipe.seed)


def _views(model: Model) -> Any:
    objective: Any = model.task
    spec, crops = model.backbone.input, objective.crops
    return multicrop_transform(spec, crops, local_size(model) if crops.local_views else spec.size)


def local_size(model: Model) -> int:
    """Half the network's side, px, where it takes that; else all of it."""
    half = model.backbone.input.size // 2
    try:
        with torch.inference_mode():
            model.backbone.eval()(torch.zeros(1, 3, half, half), model.task.needs)
    except (AssertionError, RuntimeError, ValueError):
        return model.backbone.input.size
    return half


def _guard(
    model: Model, pictures: Unlabelled, recipe: Recipe, device: torch.device, way: ComputeMode
) -> CollapseGuard:
    spec = model.backbone.input
    held = Stream(pictures.held, pictures.pixels, evaluation_transform(spec, "crop"), recipe.seed)
    copies = Stream(
        pictures.held, pictures.pixels, multicrop_transform(spec, _MILD, spec.size), recipe.seed
    )
    random = recipe.backbone.weights == "none"
    return CollapseGuard(
        held, copies, pictures.labels, device, way, recipe.training.batch_size, random
    )


def _trained(trainer: Trainer, start: dict[str, Tensor]) -> TrainingResult:
    """What the loop came to; the last good state where the loss became no number."""
    try:
        return trainer.train()
    except Diverged as error:
        state = trainer.state
        reason = Message(
            "training.diverged", "{error}: {hint}", error=error.what, hint=error.hint or ""
        )
        log.warning(reason)
        return TrainingResult(
            trainer.kept or start, state.epoch, state.best_epoch, state.step, state.seconds, reason
        )


def _written(
    run: Run,
    model: Model,
    guard: CollapseGuard,
    end: FeatureQuality,
    verdict: Verdict,
    outcome: TrainingResult,
) -> dict[str, Any]:
    """The backbone, plain as any other, and what finished.json says."""
    if not model.tuning.unmergeable:
        model.merge()
    run.write_tensors(BACKBONE_FILE, model.backbone.state_dict())
    told = outcome.row()
    assert guard.start is not None
    measured = {"start": guard.start.row(), "end": end.row()}
    counts = {"train": len(Catalogue(run.folder / TRAIN)), "val": len(guard.held_out)}
    told |= {
        "origin": model.backbone.origin,
        "images": counts,
        "verdict": verdict.row(),
        **measured,
    }
    run.finish(told)
    return told

"""pretrain IMAGES: a backbone that has learnt from pictures without labels, and a verdict on whether that has helped."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.api.fit.resume import going_on
from foveate.api.pretrain.page import nearest, page_of, painted
from foveate.api.pretrain.pictures import HELD, LABELS, TRAIN, Unlabelled, gathered, reopened
from foveate.data.dataset import ImageDataset
from foveate.data.multicrop import Crops, views
from foveate.data.streaming import Catalogue, Stream
from foveate.data.transforms import evaluation_transform
from foveate.errors import Diverged, RunError, UsageError
from foveate.modeling.model import Model
from foveate.modeling.weights import weights_fingerprint
from foveate.recipe import Recipe, with_settings, with_suggestions
from foveate.reporting.pages import write_pretraining_report
from foveate.run.folder import BACKBONE_FILE, Run, environment, note_choice
from foveate.training.collapse_guard import CollapseGuard, Measures, collapsed, fallen, gained
from foveate.training.objectives import OBJECTIVES, objective_task
from foveate.training.planning import choose_mode
from foveate.training.throughput import Pace, paced
from foveate.training.trainer import Outcome, Trainer
from foveate.types import Score
from foveate.utils import log
from foveate.utils.device import ComputeMode, resolve_device
from foveate.utils.distributed import Team, alone, team

DEFAULT = "lejepa"
_GENTLE = Crops(wide=2, wide_area=(0.5, 1.0), colours=0.3)  # of the copies that the guard looks for
_USUAL: dict[str, Any] = {
    "training.epochs": 100,
    "training.patience": 0,
    "training.ema": 0,
    "training.head_start": "random",
    "augment.policy": "none",
    "training.layer_decay": 1.0,
}
_FROM_RANDOM: dict[str, Any] = {"tuning": "full", "training.norm": "learn", "training.lr": 1e-3}
_FROM_PRETRAINED: dict[str, Any] = {
    "tuning": "explora",
    "training.norm": "keep",
    "training.lr": 3e-4,
    "training.l2_sp": 0.01,
    "training.epochs": 20,
    "training.head_epochs": 1,
}


@dataclass(frozen=True)
class Verdict:
    """`word`: helped, no difference, did not help, or cannot tell. `sentence`: what was seen. `gain`: of k-NN accuracy on the half
    of the labelled images that chose nothing; None without labels. `rolled_back`: whether the backbone is that of the start."""

    word: str
    sentence: str
    gain: Score | None
    rolled_back: bool


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
            "verdict": self.verdict.word,
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
            f"verdict: {self.verdict.word} ({self.verdict.sentence})",
            f"report: {self.run / 'report.html'}",
            f"next: foveate fit DATA --backbone {self.run}",
        ]


def settled(recipe: Recipe) -> tuple[Recipe, list[tuple[str, Any, str]]]:
    """The recipe with what was not stated decided, by the objective and by where the weights come from."""
    name = recipe.task.name if recipe.task.name != "auto" else DEFAULT
    found: list[tuple[str, Any, str]] = [
        ("task", name, "as asked" if name == recipe.task.name else "suits every backbone")
    ]
    recipe = with_settings(recipe, {"task": {"name": name, **recipe.task.settings}})
    random = recipe.backbone.weights == "none"
    reason = (
        "from random weights everything is to be learnt"
        if random
        else "pretrained weights are to be kept in reach"
    )
    suggestions: dict[str, tuple[Any, str]] = {}
    objective = OBJECTIVES.get(name)
    for values, why in (
        (_USUAL, "usual for pre-training"),
        (_FROM_RANDOM if random else _FROM_PRETRAINED, reason),
        (objective.default_overrides, f"suits the objective {name}"),
        (
            objective.suggests_anew if random else {},
            f"suits the objective {name} from random weights",
        ),
    ):
        suggestions |= {field: (value, why) for field, value in values.items()}
    recipe, taken = with_suggestions(recipe, suggestions)
    found += taken
    return with_settings(recipe, {"data.path": str(Path(recipe.data.path).resolve())}), found


def pretrain_recipe(
    recipe: Recipe, labels: Path | None, out: Path | None, resume: Path | None, dry_run: bool
) -> PretrainResult | Pace | None:
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
    with team(device) as processes, nullcontext() if processes.leads else log.errors_only():
        begun: Run | Pace | PretrainResult | None = None
        if processes.leads:
            begun = (
                _unfinished(resume)
                if resume
                else _begun(recipe, labels, out, dry_run, processes.size)
            )
        begun = processes.told(begun)
        if not isinstance(begun, Run):
            return begun
        with begun.locked() if processes.leads else nullcontext():
            if processes.leads:
                begun.remove_partial_files()
            own = going_on(begun, recipe if resume else None, note=processes.leads)
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
    verdict = dict(told["verdict"])
    gain = Score(**verdict.pop("gain")) if verdict["gain"] else verdict.pop("gain")
    return PretrainResult(
        run.folder, Verdict(gain=gain, **verdict), told["start"], told["end"], told
    )


def _begun(
    recipe: Recipe, labels: Path | None, out: Path | None, dry_run: bool, size: int
) -> Run | Pace:
    """A run folder with all that is decided before the first step."""
    Run.require_free(out)
    recipe, choices = settled(recipe)
    model = objective_task(recipe)
    log.info(f"backbone: {recipe.backbone.name}, weights from {model.backbone.origin}")
    with tempfile.TemporaryDirectory() as lists:
        pictures, how = gathered(recipe, labels, model, Path(lists))
        recipe, more = _fitted(recipe, pictures, size)
        shown, device = _shown(model, pictures, recipe), resolve_device(recipe.device)
        with alone():
            way = choose_mode(model, shown, recipe, device)
            recipe = with_settings(recipe, {field: value for field, value, _ in way})
            more += way
            if dry_run or recipe.training.minutes:
                pace = paced(model, shown, recipe, device)
                if dry_run:
                    return pace
                recipe, cut = _cut(recipe, pace)
                more += cut
        run = Run.create(out, f"{Path(recipe.data.path).stem}-{recipe.task.name}")
        for name in (TRAIN, HELD):
            shutil.copyfile(Path(lists) / name, run.folder / name)
    run.write_json(LABELS, None if pictures.labels is None else pictures.labels.tolist())
    run.write_json("environment.json", environment())
    run.write_json("classes.json", [])
    for choice in [*choices, *more, ("held out", len(pictures.held), how)]:
        note_choice(run, *choice)
    run.write_text("recipe.yaml", recipe.to_yaml())
    return run


def _fitted(
    recipe: Recipe, pictures: Unlabelled, size: int
) -> tuple[Recipe, list[tuple[str, Any, str]]]:
    """Batches no larger than the set."""
    count, asked = len(pictures.train), recipe.training
    found: list[tuple[str, Any, str]] = []
    if asked.batch_size > count:
        why = f"{count} pictures to learn from are fewer than the {asked.batch_size} of a batch"
        found.append(("training.batch_size", count, why))
    if min(asked.batch_size, count) < size:
        what = f"a batch of {min(asked.batch_size, count)} cannot be shared out to {size} processes"
        raise UsageError(
            what, where="training.batch_size", hint="a larger --batch-size, or fewer processes"
        )
    return with_settings(recipe, {field: value for field, value, _ in found}), found


def _learnt(run: Run, recipe: Recipe, processes: Team) -> PretrainResult | None:
    """All processes train, the first one judges, writes and tells."""
    model = objective_task(recipe)
    pictures = reopened(run, recipe, model)
    device = resolve_device(recipe.device)
    way = ComputeMode(recipe.training.precision, bool(recipe.training.channels_last))
    guard = _guard(model, pictures, recipe, device, way)
    start = {name: tensor.detach().cpu().clone() for name, tensor in model.trained_tensors().items()}
    frozen = weights_fingerprint(model.frozen_tensors())
    model.to(device=device, memory_format=way.memory_format)  # type: ignore[call-overload]
    if processes.leads:
        guard.measure_start(model, run.read_metrics())
    train = _shown(model, pictures, recipe)
    outcome = _trained(
        Trainer(model, recipe, run, train, guard, device, team=processes, verb="pretrain"), start
    )
    if not processes.leads:
        return None
    model.load_tensors(outcome.tensors)
    if weights_fingerprint(model.frozen_tensors()) != frozen:
        raise RunError("frozen weights moved: this is a bug in Foveate", where=run.folder)
    end = guard.measured(model)
    assert guard.start is not None
    harm = outcome.reason if any(row["worse"] for row in run.read_metrics()[-1:]) else ""
    verdict = judged(guard.start, end, guard.telling, recipe.backbone.weights == "none", harm)
    if verdict.rolled_back:
        model.load_tensors(start)
    with alone():
        sheet, neighbours = painted(model, train, device), nearest(guard, model, pictures)
    told = _written(run, model.cpu(), guard, end, verdict, outcome)
    write_pretraining_report(
        page_of(run, recipe, asdict(verdict), told, neighbours, sheet),
        run.folder / "report.html",
    )
    return PretrainResult(run.folder, verdict, told["start"], told["end"], told)


def _cut(recipe: Recipe, pace: Pace) -> tuple[Recipe, list[tuple[str, Any, str]]]:
    """Fewer epochs where the minutes that were given ask for that."""
    minutes = recipe.training.minutes
    epochs = pace.fitting(minutes) if minutes else recipe.training.epochs
    if epochs >= recipe.training.epochs:
        return recipe, []
    why = f"{pace.epoch_seconds:.0f} s an epoch, {minutes:g} minutes given"
    return with_settings(recipe, {"training.epochs": epochs}), [("training.epochs", epochs, why)]


def _shown(model: Model, pictures: Unlabelled, recipe: Recipe) -> ImageDataset:
    """The pictures to learn from, as views."""
    return Stream(pictures.train, pictures.pixels, _views(model), recipe.seed)


def _views(model: Model) -> Any:
    objective: Any = model.task
    spec = model.backbone.input
    return views(spec, objective.crops, narrow_side(model) if objective.crops.narrow else spec.size)


def narrow_side(model: Model) -> int:
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
    copies = Stream(pictures.held, pictures.pixels, views(spec, _GENTLE, spec.size), recipe.seed)
    random = recipe.backbone.weights == "none"
    return CollapseGuard(held, copies, pictures.labels, device, way, recipe.training.batch_size, random)


def _trained(trainer: Trainer, start: dict[str, Tensor]) -> Outcome:
    """What the loop came to; the last good state where the loss became no number."""
    try:
        return trainer.train()
    except Diverged as error:
        state = trainer.state
        reason = f"{error.what}: {error.hint}"
        log.warning(reason)
        return Outcome(
            trainer.kept or start, state.epoch, state.best_epoch, state.step, state.seconds, reason
        )


def judged(start: Measures, end: Measures, telling: Any, random: bool, harm: str) -> Verdict:
    """What came of it. `telling`: places of the held-out images that chose nothing; `random`: whether it began from random weights,
    which nobody loses; `harm`: why the guard ended the training, if it did."""
    gone, gain = collapsed(end, start, random), gained(end.part(telling), start.part(telling))
    helped = gain is not None and gain.low is not None and gain.low > 0
    worse = gone or fallen(end.part(telling), start.part(telling)) or (harm if not helped else "")
    if worse:
        return Verdict("did not help", f"{worse}: the backbone of the start stays", gain, True)
    if gain is None or gain.low is None:
        return Verdict(
            "cannot tell",
            "without labels there is no sign of harm, and none of help: --labels DATA",
            None,
            False,
        )
    told = f"k-NN accuracy {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] on {gain.count} images that chose nothing"
    if helped:
        return Verdict("helped", told, gain, False)
    kept = (
        "what was learnt stays, for it began from random weights"
        if random
        else "the backbone of the start stays"
    )
    return Verdict("no difference", f"{told}, within the noise: {kept}", gain, not random)


def _written(
    run: Run, model: Model, guard: CollapseGuard, end: Measures, verdict: Verdict, outcome: Outcome
) -> dict[str, Any]:
    """The backbone, plain as any other, and what finished.json says."""
    if not model.tuning.unmergeable:
        model.merge()
    run.write_tensors(BACKBONE_FILE, model.backbone.state_dict())
    told = {
        key: value
        for key, value in asdict(replace(outcome, tensors={})).items()
        if key != "tensors"
    }
    assert guard.start is not None
    measured = {"start": guard.start.row(), "end": end.row()}
    counts = {"train": len(Catalogue(run.folder / TRAIN)), "val": len(guard.held)}
    told |= {
        "origin": model.backbone.origin,
        "images": counts,
        "verdict": asdict(verdict),
        **measured,
    }
    run.finish(told)
    return told

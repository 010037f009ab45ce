"""`--minutes`: a budget for all that a command does, on a clock that tests turn."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from conftest import caption_recipe
from foveate.api.fit import pipeline
from foveate.api.fit.core import fit_recipe
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import Interrupted
from foveate.inference import engine, features, predictor
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.training import collapse_guard, planning
from foveate.training.clock import AfterTraining, TimeBudget, TrainingPlan, warn_if_exceeded
from foveate.training.data import read_data
from foveate.training.resolve import resolve_pretraining, resolve_recipe
from foveate.training.state import TrainingState
from foveate.training.trainer import Trainer
from foveate.utils.invocation import invocation

START = 1000.0  # seconds


class Machine:
    """A clock that stands still but for what computing costs.

    Args:
        image: Seconds of an image in a step; a forward pass takes a third of it.
        evaluation: Seconds of an evaluation, besides inference.
        slower: From which moment, and by what factor, everything takes longer.
    """

    def __init__(
        self, image: float, evaluation: float = 2.0, slower: tuple[float, float] = (math.inf, 1.0)
    ) -> None:
        self.now, self.image, self.evaluation, self.slower = START, image, evaluation, slower
        self.log: list[tuple[str, float]] = []

    def spend(self, name: str, seconds: float) -> None:
        since, factor = self.slower
        self.now += seconds * (factor if self.now - START >= since else 1.0)
        self.log.append((name, self.now - START))

    def install(self, patch: pytest.MonkeyPatch) -> Machine:
        for name in ("monotonic", "perf_counter"):
            patch.setattr(time, name, lambda: self.now)
        forward = self.image / 3
        self._charge(patch, Trainer, "_step", lambda _, batch: self.image * len(batch))
        for module in (engine, predictor):
            self._charge(
                patch, module, "predict_batches", lambda model, images, *_: forward * len(images)
            )
        for module in (features, collapse_guard):
            self._charge(patch, module, "extract_features", self._extraction_cost)
        self._charge(patch, planning, "time_step", self._step_cost)
        self._charge(patch, pipeline, "evaluate", lambda *_, **__: self.evaluation)
        self._charge(
            patch, pipeline, "scan_with_progress", lambda table, *_: 0.05 * len(table.samples)
        )
        return self

    def _step_cost(
        self, model: Any, batch: Any, mode: Any, device: Any, gradients: bool = True
    ) -> float:
        return (self.image if gradients else self.image / 3) * len(batch)

    def _extraction_cost(self, network: Any, batches: Any, *_: Any, **__: Any) -> float:
        count = sum(map(len, batches)) if isinstance(batches, list) else batches.sampler.count
        return self.image / 3 * count

    def _charge(
        self, patch: pytest.MonkeyPatch, owner: Any, name: str, cost: Callable[..., float]
    ) -> None:
        original = getattr(owner, name)

        def charged(*args: Any, **options: Any) -> Any:
            self.spend(name, cost(*args, **options))
            return original(*args, **options)

        patch.setattr(owner, name, charged)

    def share(self, minutes: float) -> float:
        return (self.now - START) / (60 * minutes)


def fit_in_time(recipe: Recipe, folder: Any, minutes: float) -> Any:
    with invocation("a test", START):
        return fit_recipe(with_settings(recipe, {"training.minutes": minutes}), folder)


@pytest.fixture
def steps(quick) -> Recipe:
    """Steps of a second and more, by the costs of `Machine(0.2)`; the user names no epochs."""
    settings = quick.model_dump(exclude_unset=True)
    del settings["training"]["epochs"]
    return with_settings(Recipe.model_validate(settings), {"training.patience": 0})


# --- fit


@pytest.mark.parametrize(("minutes", "slower"), [(1, 1.0), (3, 2.0), (5, 2.0)])
def test_t66_fit_takes_the_time_that_it_is_given(steps, tmp_path, monkeypatch, minutes, slower):
    """Also where everything takes twice as long from the middle on: another program has begun."""
    machine = Machine(0.15 * minutes, slower=(30.0 * minutes, slower)).install(monkeypatch)
    result = fit_in_time(steps, tmp_path / "run", minutes)
    assert 0.85 < machine.share(minutes) < 1.05
    assert result.outcome["reason"]["id"] == "training.time_is_up"
    rows = Run(result.run).read_metrics()
    assert 3 <= len(rows) <= 25
    rates = [row["lr"] for row in rows]
    assert rates[-1] < 0.05 * max(rates)  # the schedule ends when time does
    checks = [now for name, now in machine.log if name == "predict_batches"]
    assert len(checks) >= len(rows)


def write_voc(root, objects=lambda number: 1):
    """Red squares, `objects` of them in the image of each number."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for number in range(24):
        pixels, boxes = rng.integers(0, 60, (48, 48, 3)).astype(np.uint8), ""
        for _ in range(objects(number)):
            x = int(rng.integers(0, 20))
            pixels[x : x + 24, x : x + 24] = (250, 20, 20)
            corners = "".join(f"<{side}min>{x}</{side}min>" for side in "xy")
            corners += "".join(f"<{side}max>{x + 24}</{side}max>" for side in "xy")
            boxes += f"<object><name>red</name><bndbox>{corners}</bndbox></object>"
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{number}.png")
        size = "<size><width>48</width><height>48</height><depth>3</depth></size>"
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename>{size}{boxes}</annotation>"
        )
    return root


def write_masks(root):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(24):
        pixels, x = rng.integers(0, 60, (48, 48, 3)).astype(np.uint8), int(rng.integers(0, 20))
        mask = np.zeros((48, 48), np.uint8)
        mask[x : x + 24, x : x + 24] = 1
        pixels[mask == 1] = (250, 20, 20)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


@pytest.mark.parametrize("kind", ["boxes", "masks", "captions"])
def test_t66_every_task_keeps_its_time(captioned_stripes, tmp_path, monkeypatch, kind):
    """What comes after training differs: thresholds of boxes, calibration of classes."""
    if kind == "captions":
        recipe = caption_recipe(captioned_stripes, **{"training.patience": 0})
    else:
        data = {"boxes": write_voc, "masks": write_masks}[kind](tmp_path / "data")
        settings = {
            "data.path": str(data), "backbone.name": "test_resnet", "backbone.weights": "none",
            "backbone.size": 64, "device": "cpu", "training.precision": "fp32",
            "training.channels_last": False, "training.patience": 0, "data.near_duplicates": 1,
        }  # fmt: skip
        if kind == "boxes":
            settings |= {"task": "detect", "task.width": 32, "task.depth": 1}
        recipe = with_settings(Recipe(), settings)
    machine = Machine(0.8).install(monkeypatch)
    result = fit_in_time(recipe, tmp_path / "run", 3)
    assert 0.85 < machine.share(3) < 1.05
    assert result.outcome["steps"] > 10


def test_t66_epochs_that_are_asked_for_are_the_most(steps, tmp_path, monkeypatch):
    machine = Machine(0.1).install(monkeypatch)
    few = fit_in_time(with_settings(steps, {"training.epochs": 2}), tmp_path / "few", 3)
    assert few.outcome["reason"]["id"] == "training.all_epochs"
    assert few.outcome["epochs"] == 2
    assert machine.share(3) < 0.3
    machine.now = START
    many = fit_in_time(with_settings(steps, {"training.epochs": 500}), tmp_path / "many", 1)
    assert 0.85 < machine.share(1) < 1.05
    assert 5 < many.outcome["epochs"] < 30
    assert many.lines()[0].startswith("training: ended by the time budget after ")
    assert many.lines()[0].endswith(" of 500 epochs")


def test_t66_without_validation_images_steps_tell_what_comes_after(steps, tmp_path, monkeypatch):
    machine = Machine(0.3).install(monkeypatch)
    fit_in_time(with_settings(steps, {"data.val": 0}), tmp_path / "run", 3)
    assert 0.85 < machine.share(3) < 1.05
    assert len(Run(tmp_path / "run").read_metrics()) <= 25


def test_t66_a_resumed_fit_has_the_time_that_is_left(steps, tmp_path, monkeypatch):
    machine, original = Machine(0.5).install(monkeypatch), Trainer._step

    def step_and_stop(self, batch):
        original(self, batch)
        if self.state.step == 20:
            self._save()
            raise Interrupted("as a test asked", hint="another place")

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    with pytest.raises(Interrupted):
        fit_in_time(steps, tmp_path / "run", 3)
    monkeypatch.setattr(Trainer, "_step", original)
    used = machine.now - START
    with invocation("another test", machine.now):
        result = fit_recipe(None, resume=tmp_path / "run")
    assert 0.2 < used / 180 < 0.5
    assert 0.85 < machine.share(3) < 1.05
    assert result.outcome["steps"] > 30
    rates = [row["lr"] for row in Run(result.run).read_metrics()]
    assert rates[-1] < 0.05 * max(rates)


@pytest.mark.parametrize("image", [2.0, 12.0])
def test_t66_the_features_of_a_head_do_not_take_all_of_the_time(
    quick, tmp_path, monkeypatch, image
):
    """The head is fitted to a part of the images, or not at all, and the run says so."""
    monkeypatch.setattr(planning, "_MIN_HEAD_IMAGES", 8)
    Machine(image).install(monkeypatch)
    recipe = with_settings(quick, {"training.head_init": "probe", "tuning": "full"})
    fit_in_time(recipe, tmp_path / "run", 1)
    decided = {each.field: each.value for each in Run(tmp_path / "run").decisions()}
    if image < 10:
        assert 8 <= decided["head.images"] < 19
    else:
        assert decided["training.head_init"] == "random"
        # nor does an evaluation on the validation images beside that on the test images
        assert decided["evaluated"] == "test"
        folders = (tmp_path / "run" / "evaluations").iterdir()
        assert [folder.name for folder in folders] == ["test"]


# --- pretraining and the search over tunings


@pytest.mark.parametrize("minutes", [1, 5])
def test_t66_pretraining_takes_the_time_that_it_is_given(stripes, tmp_path, monkeypatch, minutes):
    machine = Machine(0.1 * minutes).install(monkeypatch)
    with invocation("a test", START):
        result = foveate.pretrain(
            stripes, objective="simclr", out=tmp_path / "run", minutes=minutes, batch_size=4,
            backbone="test_efficientnet", weights="none", size=32, device="cpu", settings={"training.precision": "fp32", "training.channels_last": False},
        )  # fmt: skip
    assert 0.85 < machine.share(minutes) < 1.05
    assert result.outcome["steps"] > 10


@pytest.mark.parametrize("minutes", [1, 5])
def test_t66_the_search_over_tunings_keeps_its_time(steps, tmp_path, monkeypatch, minutes):
    machine = Machine(0.3 * minutes).install(monkeypatch)
    recipe = with_settings(steps, {"tuning": "auto", "data.val": 0.25})
    fit_in_time(recipe, tmp_path / "run", minutes)
    assert machine.share(minutes) < 1.05
    rows = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    assert sum("seconds" in row for row in rows) >= 2


# --- the plan itself


def run_plan(
    patch: pytest.MonkeyPatch,
    seconds: Callable[[float], float],
    *,
    images: int = 500,
    minutes: float = 5,
) -> tuple[list[float], list[float], float]:
    """Run a plan; return the progress after each step, the moments of validations, and the end."""
    now = [START]
    patch.setattr(time, "monotonic", lambda: now[0])
    budget = TimeBudget(minutes, START, open_end=True)
    plan, state = TrainingPlan(15, 10, budget, AfterTraining(2 * images, 1)), TrainingState()
    plan.expect_validation(0.01, plan.fitting_images(images, 0.01))
    scored = round(plan.validation_seconds / 0.01)
    progress, validations = [], []
    plan.begin()
    while True:
        now[0] += seconds(now[0] - START)
        state.step += 1
        turn = plan.count_step(state)
        state.progress, plan.planned = turn.progress, turn.steps
        progress.append(turn.progress)
        if turn.validate or turn.is_last:
            validations.append(now[0] - START)
            now[0] += 0.01 * scored
            plan.note_validation(0.01 * scored, scored)
            plan.begin_round()
        if turn.is_last:
            return progress, validations, now[0] + 0.01 * 2 * images + 1.2 - START


@pytest.mark.parametrize(
    "seconds",
    [
        lambda _: 0.5,
        lambda _: 11.0,
        lambda now: 0.5 if now < 100 else 1.5,
        lambda now: 1.5 if now < 100 else 0.5,
        lambda now: 0.5 + (2.0 if 100 < now < 130 else 0.0),
        lambda now: 0.3 + 0.4 * (math.sin(now) > 0),
    ],
)
def test_t67_the_schedule_ends_when_time_does_whatever_steps_take(monkeypatch, seconds):
    progress, validations, end = run_plan(monkeypatch, seconds)
    assert progress == sorted(progress)
    assert progress[-1] > 0.95
    assert 0.85 * 300 < end < 1.02 * 300
    assert 3 <= len(validations) <= 25


@pytest.mark.parametrize("images", [20, 500, 5000])
def test_t67_validations_take_a_bounded_share_of_the_time(monkeypatch, images):
    _, validations, end = run_plan(monkeypatch, lambda _: 0.5, images=images)
    scored = min(
        images,
        TrainingPlan(1, 1, TimeBudget(5, START), AfterTraining(2 * images, 1)).fitting_images(
            images, 0.01
        ),
    )
    taken = 0.01 * scored * len(validations)
    assert len(validations) >= 3
    assert taken < 0.2 * 300
    assert end < 1.05 * 300


# --- the size of small images


def small_images(folder, size):
    for number in range(24):
        name = ("a", "b")[number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def chosen_size(data, **settings):
    base = {"data.path": str(data), "backbone.name": "resnet18", "backbone.weights": "none"}
    recipe = with_settings(Recipe(), {**base, "task": "classify", "tuning": "full", **settings})
    recipe, decisions = resolve_recipe(recipe, read_data(recipe))
    return recipe.backbone.size, {each.field: str(each.reason) for each in decisions}


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((32, 40), {}, 64),  # the last map has 2 x 2 cells
        ((70, 100), {}, 96),
        ((300, 400), {}, None),  # the network's own
        ((32, 40), {"backbone.size": 128}, 128),
        ((32, 40), {"backbone.weights": "hub"}, None),
        ((32, 40), {"backbone.name": "vit_tiny_patch16_224"}, None),  # of one size only
    ],
)
def test_t68_small_images_are_seen_small_by_networks_without_weights(
    tmp_path, size, settings, expected
):
    chosen, reasons = chosen_size(small_images(tmp_path / "data", size), **settings)
    assert chosen == expected
    decided = expected is not None and "backbone.size" not in settings
    assert ("backbone.size" in reasons) == decided
    if decided:
        assert f"the short side of these is about {min(size)} px" in reasons["backbone.size"]


def test_t68_where_whole_images_are_shown_the_long_side_has_to_fit(tmp_path):
    (tmp_path / "data").mkdir()
    data = write_voc(tmp_path / "data" / "voc")  # 48 px
    recipe = with_settings(Recipe(), {"data.path": str(data), "backbone.weights": "none"})
    recipe, decisions = resolve_recipe(recipe, read_data(recipe))
    assert recipe.task.name == "detect"
    assert recipe.backbone.size == 64
    reasons = {each.field: str(each.reason) for each in decisions}
    assert "the long side of these is about 48 px" in reasons["backbone.size"]


def test_t68_pretraining_sees_small_images_small(tmp_path):
    data = small_images(tmp_path / "data", (32, 32))
    settings = {"data.path": str(data), "backbone": {"name": "resnet18", "weights": "none"}}
    assert resolve_pretraining(with_settings(Recipe(), settings))[0].backbone.size == 64


# --- memory of detectors


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_t69_the_gradient_of_a_divided_batch_is_that_of_the_whole(tmp_path, head):
    """Also where the parts have different numbers of objects, over which the losses are means."""
    data = write_voc(tmp_path / "data", objects=lambda number: number % 3)
    settings = {
        "data.path": str(data), "task": {"name": "detect", "head": head, "width": 32, "depth": 1},
        "backbone": {"name": "test_resnet", "weights": "none", "size": 64}, "device": "cpu",
        "training.batch_norm": "keep", "training.precision": "fp32", "training.channels_last": False,
        "training.batch_size": 8, "data.near_duplicates": 1, "training.clip_norm": 0,
    }  # fmt: skip
    gradients = []
    for micro_batch in (None, 3):
        recipe = with_settings(Recipe(), {**settings, "training.micro_batch": micro_batch})
        job = pipeline.prepare_job(recipe, read_data(recipe), tmp_path / str(micro_batch))
        dataset = job.dataset("train")
        own = Trainer(job.model, job.recipe, job.run, dataset, None, job.device)
        own.model.train()
        batch = next(iter(make_loader(dataset, BatchSampler(len(dataset), 8))))
        loss, _ = own.compute_gradients(batch, [])
        gradients.append([loss, *(each.grad for each in own.model.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for whole, divided in zip(gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(whole, divided, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backbone.size": 416, "training.batch_size": 32}, 12),
        ({"backbone.size": 512}, None),  # the default batch
        ({"backbone.size": 416, "training.batch_size": 32, "training.micro_batch": 32}, 32),
        ({"backbone.size": 416, "training.batch_size": 32, "backbone.weights": "none"}, None),
    ],
)
def test_t69_large_batches_of_a_detector_are_divided(tmp_path, settings, expected):
    data = {"data.path": str(write_voc(tmp_path / "data"))}
    recipe = with_settings(Recipe(), {**data, **settings})
    assert resolve_recipe(recipe, read_data(recipe))[0].training.micro_batch == expected


def test_a_budget_that_was_not_kept_is_said(monkeypatch, capsys):
    for seconds, said in ((62, False), (75, True)):
        monkeypatch.setattr(time, "monotonic", lambda now=START + seconds: now)
        warn_if_exceeded(TimeBudget(1, START))
        assert ("took 1.2 minutes and not 1" in capsys.readouterr().out) is said
    warn_if_exceeded(None)


@pytest.mark.parametrize("tuning", ["probe", "full"])
def test_a_budget_that_is_over_before_training_gives_a_run(stripes, tmp_path, tuning):
    settings = {
        "data.path": str(stripes),
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "tuning": tuning,
        "training.minutes": 1e-9,
        "device": "cpu",
    }
    result = fit_recipe(with_settings(Recipe(), settings), tmp_path / "run")
    assert Run(result.run).finished


def test_stated_epochs_are_the_most_that_are_shown():
    budget = TimeBudget(5, time.monotonic())
    plan, state = TrainingPlan(1, 4, budget), TrainingState()
    assert plan.epochs(state) == 1
    state.epoch, state.step, state.progress = 1, 4, 1.0
    assert plan.epochs(state) == 1

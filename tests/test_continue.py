"""continue: new images, new classes, and forgetting."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from conftest import stripe_image
from foveate.api.continue_ import continue_
from foveate.api.evaluate import evaluate
from foveate.api.fit import pipeline
from foveate.cli.main import _run
from foveate.errors import RunError, UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.weights import read_tensors
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.training.continual import Teacher
from foveate.types import Batch
from helpers import fit_unevaluated, probe_of


@pytest.fixture(scope="module")
def first_run(stripes, tmp_path_factory):
    """A run of a small network trained on stripes."""
    from foveate.recipe import Recipe

    settings = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "tuning": "full",
        "device": "cpu",
    }
    settings |= {
        "training.epochs": 30,
        "training.batch_size": 8,
        "training.head_init": "random",
        "training.precision": "fp32",
    }
    settings |= {
        "training.channels_last": False,
        "training.patience": 0,
        "data.val": 0.25,
        "data.test": 0.15,
        "augment.crop": 1,
    }
    recipe = with_settings(Recipe(), {"data.path": str(stripes), **settings})
    return fit_unevaluated(recipe, tmp_path_factory.mktemp("runs") / "first").run


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Images of a new class: flat colors in noise."""
    rng, root = np.random.default_rng(5), tmp_path_factory.mktemp("plain")
    (root / "plain").mkdir()
    for number in range(16):
        pixels = rng.uniform(40, 220, 3) + rng.normal(0, 12, (40, 40, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
            root / "plain" / f"{number:02d}.png"
        )
    return root


def write_more_stripes(root, per_class: int, seed: int):
    rng = np.random.default_rng(seed)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            Image.fromarray(stripe_image(rng, name == "upright")).save(
                root / name / f"new{number:02d}.png"
            )
    return root


QUICK = {"training.epochs": 6}


def test_a_new_class_is_learned_beside_the_old_ones(first_run, plain, tmp_path):
    result = continue_(first_run, plain, out=tmp_path / "run", settings=QUICK)
    run = Run(result.run)
    assert run.classes() == ("lying", "upright", "plain")
    numbers = result.numbers()
    assert numbers["before_new"] < 0.5  # the run does not know this class
    assert numbers["after_new"] > 0.5
    assert numbers["after_old"] >= numbers["before_old"] - 0.25
    rows = run.read_metrics()
    assert all(
        {"val_accuracy", "val_accuracy_old", "val_accuracy_new"} <= row.keys() for row in rows
    )
    assert any("before" in line and "after" in line for line in result.lines())
    assert set(load_predictor(run.folder, "cpu").classes) == {"lying", "upright", "plain"}


def test_before_are_the_scores_of_the_earlier_run_itself(first_run, plain, tmp_path, monkeypatch):
    """Not those of a head that has a row for the new class already, whatever that row answers."""
    initialize = pipeline.initialize_from_run

    def with_a_strong_new_row(model, recipe, run) -> None:
        initialize(model, recipe, run)
        model.head.linear.bias.data[-1] = 100

    monkeypatch.setattr(pipeline, "initialize_from_run", with_a_strong_new_row)
    result = continue_(first_run, plain, out=tmp_path / "run", settings={"training.epochs": 1})
    val = read_run_table(Run(result.run)).in_split("val")
    old = [sample for sample in val if sample.target.names != ("plain",)]
    answers = foveate.predict(first_run, [sample.path for sample in old])
    hits = [
        answer.row()["prediction"] == sample.target.names[0]
        for answer, sample in zip(answers, old, strict=True)
    ]
    assert result.numbers()["before_old"] == pytest.approx(np.mean(hits))
    assert result.numbers()["before_new"] == 0.0


def test_old_images_stay_in_their_splits(first_run, plain, tmp_path):
    run = Run(
        continue_(
            first_run, plain, out=tmp_path / "run", settings={**QUICK, "training.epochs": 1}
        ).run
    )
    old = {row["path"]: row["split"] for row in Run(first_run).splits()}
    earlier = {
        row["path"].removeprefix("earlier:"): row["split"]
        for row in run.splits()
        if row["path"].startswith("earlier:")
    }
    assert earlier == old
    assert {sample.split for sample in read_run_table(run).samples} == {"train", "val", "test"}
    assert evaluate(run.folder, split="test").scores.numbers["accuracy"].count == sum(
        row["split"] == "test" for row in run.splits()
    )


def test_forgetting_is_measured_without_replay(first_run, plain, tmp_path):
    result = continue_(
        first_run,
        plain,
        out=tmp_path / "run",
        settings={"training.epochs": 12, "training.lr": 3e-3, "start.replay": 0},
    )
    assert not any(
        row["path"].startswith("earlier:") and row["split"] == "train"
        for row in Run(result.run).splits()
    )
    last = Run(result.run).read_metrics()[-1]
    assert (
        last["val_accuracy_old"] < result.numbers()["before_old"]
    )  # it was not trained on stripes any more


def test_distillation_keeps_predictions_that_training_would_change(first_run):
    """All images are labeled upright; with a teacher, predictions on other images change less."""
    start = Run(first_run).recipe().start.model_copy(update={"distill": 3.0})
    teacher, generator = (
        Teacher(Run(first_run), start, torch.device("cpu")),
        torch.Generator().manual_seed(0),
    )
    training_batch, other_batch = (
        make_batch(torch.randn(16, 3, 32, 32, generator=generator)) for _ in range(2)
    )
    changes = []
    for with_teacher in (False, True):
        student = load_predictor(first_run, "cpu").model.requires_grad_(True)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.005)
        for _ in range(40):
            output = student(training_batch)
            loss = torch.nn.functional.cross_entropy(output, torch.ones(16, dtype=torch.int64))
            (loss + teacher(output, training_batch) if with_teacher else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            changes.append(float(teacher(student(other_batch), other_batch)))
    assert changes[1] < 0.5 * changes[0]


def make_batch(images):
    count = len(images)
    return Batch(
        images, [{}] * count, torch.zeros(count, 4), torch.full((count, 2), 32), torch.arange(count)
    )


def test_distillation_loss_of_the_teacher_itself_is_zero(first_run):
    run = Run(first_run)
    predictor = load_predictor(first_run, "cpu")
    batch = make_batch(torch.randn(4, 3, 32, 32))
    start = run.recipe().start.model_copy(update={"distill": 1.0})
    teacher = Teacher(run, start, torch.device("cpu"))
    with torch.no_grad():
        logits = predictor.model(batch)
    assert float(teacher(logits, batch)) == pytest.approx(0, abs=1e-6)
    extended = torch.cat([logits, torch.zeros(4, 1)], 1)
    assert float(teacher(extended, batch)) == pytest.approx(0, abs=1e-6)
    temperature = start.temperature
    other = torch.randn(4, 2)
    p, q = (logits / temperature).softmax(1), (other / temperature).softmax(1)
    assert float(teacher(other, batch)) == pytest.approx(
        float(temperature**2 * (p * (p / q).log()).sum(1).mean()), rel=1e-5
    )


def test_more_images_of_known_classes(first_run, tmp_path):
    result = continue_(
        first_run,
        write_more_stripes(tmp_path / "more", 8, seed=3),
        out=tmp_path / "run",
        settings={**QUICK, "start.replay": 0.5},
    )
    assert Run(result.run).classes() == Run(first_run).classes()
    assert {"before_old", "after_old", "before_new", "after_new"} <= result.numbers().keys()
    replayed = [
        row
        for row in Run(result.run).splits()
        if row["path"].startswith("earlier:") and row["split"] == "train"
    ]
    trained = [row for row in Run(first_run).splits() if row["split"] == "train"]
    assert len(replayed) == round(len(trained) / 2)


def test_files_of_the_earlier_run_are_used_once(first_run, stripes, tmp_path):
    extended = tmp_path / "stripes"
    shutil.copytree(stripes, extended)
    write_more_stripes(extended, 4, seed=4)
    run = Run(
        continue_(
            first_run, extended, out=tmp_path / "run", settings={**QUICK, "training.epochs": 1}
        ).run
    )
    digests = [row["sha256"] for row in run.splits()]
    assert len(digests) == len(set(digests))
    assert sum(not row["path"].startswith("earlier:") for row in run.splits()) == 8
    with pytest.raises(UsageError, match="belong to the earlier run already"):
        continue_(first_run, stripes, out=tmp_path / "again")


def test_a_run_can_be_continued_twice_and_earlier_runs_are_not_changed(first_run, plain, tmp_path):
    before = {
        name: value.clone() for name, value in read_tensors(first_run / "model.safetensors").items()
    }
    second = continue_(
        first_run, plain, out=tmp_path / "second", settings={**QUICK, "training.epochs": 1}
    ).run
    third = continue_(
        second,
        write_more_stripes(tmp_path / "more", 8, seed=6),
        out=tmp_path / "third",
        settings={**QUICK, "training.epochs": 1},
    ).run
    assert Run(third).classes() == ("lying", "upright", "plain")
    assert any(row["path"].startswith("earlier:earlier:") for row in Run(third).splits())
    assert load_predictor(third, "cpu").classes == ("lying", "upright", "plain")
    after = read_tensors(first_run / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_probe_is_refit_on_all_images(quick, plain, tmp_path):
    base = fit_unevaluated(
        probe_of(quick, {"tuning": "probe", "data.val": 0.25}), tmp_path / "probe"
    ).run
    result = continue_(base, plain, out=tmp_path / "run")
    assert result.numbers()["after_new"] > 0.5
    with pytest.raises(UsageError, match="needs all its old images"):
        continue_(base, plain, out=tmp_path / "not", settings={"start.replay": 0.5})


def test_runs_that_cannot_be_continued(first_run, plain, tmp_path):
    with pytest.raises(UsageError, match="another backbone"):
        continue_(first_run, plain, out=tmp_path / "a", settings={"backbone.name": "test_resnet"})
    with pytest.raises(UsageError, match="another tuning"):
        continue_(first_run, plain, out=tmp_path / "b", settings={"tuning": "lora"})
    with pytest.raises(UsageError, match="no run at this path"):
        continue_(tmp_path / "nowhere", plain, out=tmp_path / "c")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(first_run, unfinished)
    (unfinished / "finished.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        continue_(unfinished, plain, out=tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_the_command_line_has_the_options(first_run, plain, tmp_path, capsys):
    arguments = [
        "continue",
        str(first_run),
        str(plain),
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "1",
        "--replay",
        "0.5",
        "--json",
    ]
    assert _run(arguments) == 0
    assert '"after_new"' in capsys.readouterr().out.splitlines()[-1]
    recipe = Run(tmp_path / "run").recipe()
    assert (recipe.start.replay, recipe.training.epochs) == (0.5, 1)

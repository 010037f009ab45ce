"""The loop: exact resume, steps that leave no trace, the best weights kept, signals, time."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from foveate import trainer
from foveate.backbones import FAMILIES
from foveate.errors import Interrupted, RunError
from foveate.judging import Judgement
from foveate.model import build
from foveate.optimizer import factor, optimizer
from foveate.recipe import Recipe, TrainingRecipe, with_settings
from foveate.run import Run
from foveate.types import Batch
from foveate.verbs.fit import fit
from foveate.weights import read_tensors

HARD = {
    "training.batch_size": 8,
    "training.micro_batch": 3,
    "training.epochs": 3,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "augment.erase": 0.3,
    "task": {"name": "classify", "dropout": 0.3},
    "training.ema": 0.9,
}


@dataclass
class Fuse:
    """Asks to stop, as a signal would, when the trainer looks for the n-th time."""

    after: int
    looked: int = 0

    def __call__(self, real):
        def look(self_, stop):
            self.looked += 1
            if self.looked == self.after:
                stop.signal = signal.SIGTERM
            return real(self_, stop)

        return look


@pytest.mark.parametrize(  # inside an epoch, at its end, in validation, between epochs
    ("optimizer", "after"), [*(("adamw", after) for after in (1, 2, 4, 5, 7, 9)), ("sgd", 4)]
)
def test_resume_is_exact(quick, tmp_path, monkeypatch, after, optimizer):
    recipe = with_settings(quick, {**HARD, "training.optimizer": optimizer})
    whole = fit(recipe, tmp_path / "whole")
    real = trainer.Trainer._asked
    monkeypatch.setattr(trainer.Trainer, "_asked", Fuse(after)(real))
    with pytest.raises(Interrupted) as caught:
        fit(recipe, tmp_path / "cut")
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert not Run(tmp_path / "cut").finished
    monkeypatch.setattr(trainer.Trainer, "_asked", real)
    fit(recipe, resume=tmp_path / "cut")
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert max(float((one[key].double() - other[key].double()).abs().max()) for key in one) == 0.0
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in Run(tmp_path / name).logged()] for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    assert whole.outcome["steps"] == Run(tmp_path / "cut").outcome()["steps"]


def test_workers_change_nothing(quick, tmp_path):
    fit(with_settings(quick, HARD), tmp_path / "none")
    fit(with_settings(quick, {**HARD, "data.workers": 2}), tmp_path / "two")
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("none", "two"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_run_is_left_alone(quick, tmp_path, capsys):
    fit(quick, tmp_path / "run")
    before = (tmp_path / "run" / "finished.json").read_bytes()
    fit(quick, resume=tmp_path / "run")
    assert "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "run" / "finished.json").read_bytes() == before


def test_it_learns_what_a_coin_does_not_know(stripes, quick, tmp_path):
    """Stripes upright or lying, from random weights: a held-out accuracy far from one half."""
    recipe = with_settings(quick, {"training.epochs": 12, "augment.policy": "none", "augment.crop": 1.0, "training.lr": 0.003})
    found = fit(recipe, tmp_path / "run")
    rows = Run(tmp_path / "run").logged()
    assert rows[-1]["train_loss"] < 0.75 * rows[0]["train_loss"]
    assert found.evaluation.scores.numbers["accuracy"].value >= 0.8


def test_a_step_without_a_finite_loss_leaves_no_trace(quick, tmp_path, monkeypatch):
    """The third step's images are not numbers; it must not reach weights, statistics or the average."""
    real, seen = trainer.mixed, []

    def poisoned(batch, recipe):
        seen.append(1)
        batch = real(batch, recipe)
        if len(seen) == 3:
            batch.images.fill_(float("nan"))
        return batch

    monkeypatch.setattr(trainer, "mixed", poisoned)
    fit(quick, tmp_path / "run")
    assert len(seen) > 4
    assert all(tensor.isfinite().all() for tensor in read_tensors(tmp_path / "run" / "model.safetensors").values())


def test_a_loss_that_stays_infinite_ends_the_run_with_a_reason(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "mixed", lambda batch, recipe: (batch.images.fill_(float("inf")), batch)[1])
    with pytest.raises(RunError, match="no finite number"):
        fit(with_settings(quick, {"training.bad_steps": 2}), tmp_path / "run")
    assert not Run(tmp_path / "run").finished


def test_the_best_epoch_is_kept(quick, tmp_path, monkeypatch):
    """Scores are told to fall after the first epoch: its weights must be the ones that are saved."""
    scores = iter([0.9, 0.5, 0.4, 0.3])
    kept = []
    real = trainer.Trainer._compare

    def told(self, score):
        real(self, Judgement([next(scores), 0.0]))
        kept.append({key: value.clone() for key, value in self._to_keep().items()})

    monkeypatch.setattr(trainer.Trainer, "_compare", told)
    found = fit(with_settings(quick, {"training.epochs": 4, "training.patience": 2}), tmp_path / "run")
    saved = read_tensors(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[key], kept[0][key]) for key in saved)
    assert len(kept) == 3
    assert found.outcome["best_epoch"] == 0
    assert "no better" in found.outcome["reason"]


def test_accumulation_is_the_same_gradient(quick, tmp_path):
    """A network without batch statistics gets the same gradient from 8 images as from 3 + 3 + 2."""
    losses = []
    for micro in (None, 3):
        words = {"backbone.name": "test_vit", "backbone.size": 160, "training.epochs": 1, "training.micro_batch": micro}
        fit(with_settings(quick, words), tmp_path / str(micro))
        losses.append(read_tensors(tmp_path / str(micro) / "model.safetensors"))
    difference = max(float((losses[0][key] - losses[1][key]).abs().max()) for key in losses[0])
    assert difference < 2e-5


def test_the_head_moves_alone_at_first(quick, tmp_path):
    """One epoch in which the backbone stands still to the bit, but for statistics; the next one moves it."""
    words = {"training.head_epochs": 1, "training.ema": 0, "training.norm": "keep"}
    start = build(quick if quick.task.name != "auto" else with_settings(quick, {"task": "classify"}), ("lying", "upright")).state_dict()
    for epochs, moves in ((1, False), (2, True)):
        run = fit(with_settings(quick, {**words, "training.epochs": epochs, "data.val": 0}), tmp_path / str(epochs)).run
        now = read_tensors(run / "model.safetensors", own=True)
        moved = {name for name, tensor in now.items() if not torch.equal(tensor, start[name])}
        assert any(name.startswith("head.") for name in moved)
        assert any(name.startswith("backbone.") for name in moved) == moves


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_activations_computed_again_are_the_same_gradient_in_less_memory(quick, name):
    found = []
    for again in (False, True):
        words = {"backbone.name": name, "task": "classify", "training.checkpointing": again}
        model = build(with_settings(quick, words), ("a", "b")).train()
        kept: list[int] = []
        torch.manual_seed(0)
        images, targets = torch.randn(4, 3, 32, 32), [{"labels": torch.eye(2)[place % 2]} for place in range(4)]
        batch = Batch(images, targets, torch.zeros(4, 4), torch.full((4, 2), 32), torch.arange(4))
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, kept=kept: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
            loss = sum(model.task.loss(model(batch), batch).values())
        loss.backward()
        found.append((sum(kept), [each.grad for each in model.parameters() if each.grad is not None]))
    (much, plain), (little, again) = found
    assert little < 0.7 * much
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(plain, again, strict=True))


def test_a_real_signal_saves_and_leaves(quick, tmp_path, monkeypatch):
    real = trainer.Trainer._step

    def struck(self, batch):
        real(self, batch)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "_step", struck)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        fit(quick, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == before
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_time_is_kept(quick, tmp_path):
    found = fit(with_settings(quick, {"training.epochs": 5000, "training.minutes": 0.05}), tmp_path / "run")
    assert found.outcome["seconds"] < 8
    assert Run(tmp_path / "run").recipe().training.epochs < 5000


def test_damaged_checkpoints_are_passed_over(quick, tmp_path, capsys):
    recipe = with_settings(quick, {"training.epochs": 3})
    fit(recipe, tmp_path / "run")
    run = tmp_path / "run"
    (run / "finished.json").unlink()
    newest = sorted((run / "checkpoints").iterdir())[-1]
    with (newest / "tensors.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01\x02\x03")
    whole = read_tensors(run / "model.safetensors")
    fit(recipe, resume=run)
    assert "damaged" in capsys.readouterr().out
    again = read_tensors(run / "model.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_pictures_that_changed_stop_a_resume(quick, tmp_path):
    from conftest import stripes_folder

    data = stripes_folder(tmp_path / "data")
    fit(with_settings(quick, {"data.path": str(data)}), tmp_path / "run")
    (tmp_path / "run" / "finished.json").unlink()
    picture = data / "lying" / "00.png"
    picture.write_bytes((data / "upright" / "00.png").read_bytes())
    with pytest.raises(RunError, match="changed"):
        fit(quick, resume=tmp_path / "run")


def test_rates_warm_up_and_fall():
    recipe = TrainingRecipe(warmup=0.1)
    rates = [factor(recipe, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize("name", ["densenet121", "test_efficientnet", "vit_tiny_patch16_224"])
def test_rates_fall_towards_the_input_but_never_to_nothing(name):
    recipe = with_settings(Recipe(), {"backbone.name": name, "backbone.weights": "none", "backbone.size": 32, "task": "classify", "tuning": "full", "training.layer_decay": 0.75})
    model = build(recipe, ("a", "b"))
    groups = optimizer(model, recipe.training).param_groups
    scale = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    blocks = model.backbone.blocks()
    ordered = [scale[id(next(block.parameters()))] for block in blocks]
    assert ordered == sorted(ordered)
    assert ordered[-1] == 1.0
    assert 0.75**12 <= ordered[0] < 1.0
    assert all((decay[id(parameter)] == 0) == (parameter.squeeze().ndim < 2) for parameter in model.parameters())


@pytest.mark.parametrize(("epochs", "policy"), [(2, "none"), (400, "trivial")])
def test_distorted_pictures_only_in_a_long_training(quick, tmp_path, epochs, policy):
    """23 training images in batches of 8 make 3 steps an epoch; the run is stopped before its first one."""
    words = {"training.epochs": epochs, "training.minutes": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "train", lambda self: (_ for _ in ()).throw(Interrupted("enough")))
        with pytest.raises(Interrupted):
            fit(with_settings(quick, words), tmp_path / "run")
    assert Run(tmp_path / "run").recipe().augment.policy == policy


@pytest.mark.parametrize(
    ("name", "start", "decay"),
    [("test_efficientnet", "probe", 0.75), ("test_efficientnet", "random", 1.0), ("test_convnext", "random", 0.75), (None, "probe", 1.0)],
)
def test_early_layers_are_spared_where_the_head_is_solved_or_there_is_no_batch_normalisation(quick, tmp_path, name, start, decay):
    """Weights of a file count as pretrained; random ones (None) move alike."""
    words = {"training.epochs": 1, "training.head_start": start}
    if name:
        file = tmp_path / "weights.safetensors"
        save_file(FAMILIES.load("timm")().open(name, "none", 32).network.state_dict(), file)
        words |= {"backbone.name": name, "backbone.weights": str(file)}
    fit(with_settings(quick, words), tmp_path / "run")
    assert Run(tmp_path / "run").recipe().training.layer_decay == decay


def test_a_head_on_random_weights_begins_at_random(stripes, tmp_path):
    """Solved on features under statistics that nothing has measured, it began at losses in the hundreds."""
    words = {"data.path": str(stripes), "backbone": {"name": "resnet10t", "weights": "none", "size": 32}, "tuning": "full", "training.epochs": 1, "device": "cpu"}
    fit(with_settings(Recipe(), words), tmp_path / "run")
    assert Run(tmp_path / "run").recipe().training.head_start == "random"
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["train_loss"] < 2
    fit(with_settings(Recipe(), {**words, "training.head_start": "probe"}), tmp_path / "stated")
    assert Run(tmp_path / "stated").recipe().training.head_start == "probe"


def test_tensorboard_by_flag(quick, tmp_path):
    fit(with_settings(quick, {"training.tensorboard": True, "training.epochs": 1}), tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert {"epoch", "step", "train_loss", "val_loss", "val_accuracy", "lr", "seconds"} <= row.keys()

"""The training loop: learning, best weights, learning rates, time budget.

Interruptions, full disks and memory errors are tested in test_trust_runs.py.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from foveate.api.fit.core import fit_recipe
from foveate.errors import Interrupted
from foveate.modeling.backbones import FAMILIES
from foveate.modeling.model import build_model
from foveate.modeling.weights import read_tensors
from foveate.recipe import Recipe, TrainingRecipe, with_settings
from foveate.run.folder import Run
from foveate.training import trainer
from foveate.training.optimizer import build_optimizer, lr_factor
from foveate.training.validation import ValidationResult
from foveate.types import Batch
from helpers import fit_unevaluated


def test_training_beats_chance(stripes, quick, tmp_path):
    """From random weights, the accuracy on held-out stripes is far above one half."""
    recipe = with_settings(
        quick,
        {
            "training.epochs": 12,
            "augment.policy": "none",
            "augment.crop": 1.0,
            "training.lr": 0.003,
        },
    )
    result = fit_recipe(recipe, tmp_path / "run")
    rows = Run(tmp_path / "run").read_metrics()
    assert rows[-1]["train_loss"] < 0.75 * rows[0]["train_loss"]
    assert result.evaluation.scores.numbers["accuracy"].value >= 0.8


def test_t61_a_training_that_does_harm_leaves_the_start(quick, tmp_path):
    """A fitted head is a candidate as each epoch is; at this rate every epoch is worse."""
    settings = {"training.head_init": "probe", "training.lr": 10.0, "training.epochs": 2}
    result = fit_unevaluated(with_settings(quick, settings), tmp_path / "harm")
    run = Run(tmp_path / "harm")
    rows = run.read_metrics()
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert max(row["val_accuracy"] for row in rows[1:]) <= rows[0]["val_accuracy"]
    assert run.outcome()["kept_start"]
    assert "caution.start_kept" in [row["id"] for row in result.outcome["cautions"]]
    probe = fit_unevaluated(with_settings(quick, {"tuning": "head"}), tmp_path / "head")
    assert not probe.outcome["kept_start"]  # a random head is no start to keep


def test_the_best_epoch_is_kept(quick, tmp_path, monkeypatch):
    """With scores that fall after the first epoch, the weights of that epoch are saved."""
    scores = iter([0.9, 0.5, 0.4, 0.3])
    snapshots = []
    original = trainer.Trainer._keep_if_best

    def keep_with_fixed_score(self, score):
        original(self, ValidationResult([next(scores), 0.0]))
        snapshots.append({key: value.clone() for key, value in self.average.snapshot().items()})

    monkeypatch.setattr(trainer.Trainer, "_keep_if_best", keep_with_fixed_score)
    result = fit_unevaluated(
        with_settings(quick, {"training.epochs": 4, "training.patience": 2}), tmp_path / "run"
    )
    saved = read_tensors(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[key], snapshots[0][key]) for key in saved)
    assert len(snapshots) == 3
    assert result.outcome["best_epoch"] == 0
    assert "no better" in result.outcome["reason"]["text"]


def test_accumulation_is_the_same_gradient(quick, tmp_path):
    """A network without batch statistics gets the same gradient from 8 images as from 3 + 3 + 2."""
    weights = []
    for micro_batch in (None, 3):
        settings = {
            "backbone.name": "test_vit",
            "backbone.size": 160,
            "training.epochs": 1,
            "training.micro_batch": micro_batch,
        }
        fit_unevaluated(with_settings(quick, settings), tmp_path / str(micro_batch))
        weights.append(read_tensors(tmp_path / str(micro_batch) / "model.safetensors"))
    difference = max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0])
    assert difference < 2e-5


def test_the_head_is_trained_alone_at_first(quick, tmp_path):
    """In the first epoch the backbone does not change, except statistics; then it does."""
    settings = {"training.head_epochs": 1, "training.ema": 0, "training.batch_norm": "keep"}
    start = build_model(
        quick if quick.task.name != "auto" else with_settings(quick, {"task": "classify"}),
        ("lying", "upright"),
    ).state_dict()
    for epochs, is_trained in ((1, False), (2, True)):
        run = fit_unevaluated(
            with_settings(quick, {**settings, "training.epochs": epochs, "data.val": 0}),
            tmp_path / str(epochs),
        ).run
        weights = read_tensors(run / "model.safetensors", verbatim=True)
        changed = {name for name, tensor in weights.items() if not torch.equal(tensor, start[name])}
        assert any(name.startswith("head.") for name in changed)
        assert any(name.startswith("backbone.") for name in changed) == is_trained


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_checkpointed_activations_give_the_same_gradient_in_less_memory(quick, name):
    results = []
    for checkpointing in (False, True):
        settings = {
            "backbone.name": name,
            "task": "classify",
            "training.gradient_checkpointing": checkpointing,
        }
        model = build_model(with_settings(quick, settings), ("a", "b")).train()
        saved_sizes: list[int] = []
        torch.manual_seed(0)
        images, targets = (
            torch.randn(4, 3, 32, 32),
            [{"labels": torch.eye(2)[index % 2]} for index in range(4)],
        )
        batch = Batch(images, targets, torch.zeros(4, 4), torch.full((4, 2), 32), torch.arange(4))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved_sizes=saved_sizes: (saved_sizes.append(tensor.numel()), tensor)[1],
            lambda tensor: tensor,
        ):
            loss = sum(model.task.loss(model(batch), batch).values())
        loss.backward()
        results.append(
            (
                sum(saved_sizes),
                [parameter.grad for parameter in model.parameters() if parameter.grad is not None],
            )
        )
    (memory, gradients), (less_memory, recomputed) = results
    assert less_memory < 0.7 * memory
    assert all(
        torch.allclose(one, other, atol=1e-6)
        for one, other in zip(gradients, recomputed, strict=True)
    )


def test_learning_rates_warm_up_and_decay():
    recipe = TrainingRecipe(warmup=0.1)
    rates = [lr_factor(recipe, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize("name", ["densenet121", "test_efficientnet", "vit_tiny_patch16_224"])
def test_learning_rates_decay_towards_the_input_but_stay_positive(name):
    recipe = with_settings(
        Recipe(),
        {
            "backbone.name": name,
            "backbone.weights": "none",
            "backbone.size": 32,
            "task": "classify",
            "tuning": "full",
            "training.layer_decay": 0.75,
        },
    )
    model = build_model(recipe, ("a", "b"))
    groups = build_optimizer(model, recipe.training).param_groups
    scale = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    decay = {
        id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]
    }
    assert len(scale) == len(list(model.parameters()))
    blocks = model.backbone.blocks()
    ordered = [scale[id(next(block.parameters()))] for block in blocks]
    assert ordered == sorted(ordered)
    assert ordered[-1] == 1.0
    assert 0.75**12 <= ordered[0] < 1.0
    assert all(
        (decay[id(parameter)] == 0) == (parameter.squeeze().ndim < 2)
        for parameter in model.parameters()
    )


@pytest.mark.parametrize(("epochs", "policy"), [(2, "none"), (400, "trivial")])
def test_strong_augmentation_only_in_a_long_training(quick, tmp_path, epochs, policy):
    """23 images in batches of 8 make 3 steps per epoch; the run stops before the first."""
    settings = {"training.epochs": epochs, "training.minutes": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainer.Trainer, "train", lambda self: (_ for _ in ()).throw(Interrupted("enough"))
        )
        with pytest.raises(Interrupted):
            fit_recipe(with_settings(quick, settings), tmp_path / "run")
    assert Run(tmp_path / "run").recipe().augment.policy == policy


@pytest.mark.parametrize(
    ("name", "start", "decay"),
    [
        ("test_efficientnet", "probe", 0.75),
        ("test_efficientnet", "random", 1.0),
        ("test_convnext", "random", 0.75),
        (None, "probe", 1.0),
    ],
)
def test_when_layer_decay_is_used(quick, tmp_path, name, start, decay):
    """Weights of a file count as pretrained; random ones (None) do not."""
    settings = {"training.epochs": 1, "training.head_init": start}
    if name:
        file = tmp_path / "weights.safetensors"
        save_file(FAMILIES.get("timm")().open(name, "none", 32).network.state_dict(), file)
        settings |= {"backbone.name": name, "backbone.weights": str(file)}
    fit_unevaluated(with_settings(quick, settings), tmp_path / "run")
    assert Run(tmp_path / "run").recipe().training.layer_decay == decay


def test_a_head_on_random_weights_is_randomly_initialized(stripes, tmp_path):
    """A closed-form head on unmeasured batch statistics started at losses in the hundreds."""
    settings = {
        "data.path": str(stripes),
        "backbone": {"name": "resnet10t", "weights": "none", "size": 32},
        "tuning": "full",
        "training.epochs": 1,
        "device": "cpu",
    }
    fit_unevaluated(with_settings(Recipe(), settings), tmp_path / "run")
    assert Run(tmp_path / "run").recipe().training.head_init == "random"
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["train_loss"] < 2
    fit_unevaluated(
        with_settings(Recipe(), {**settings, "training.head_init": "probe"}), tmp_path / "stated"
    )
    assert Run(tmp_path / "stated").recipe().training.head_init == "probe"


def test_tensorboard_by_flag(quick, tmp_path):
    fit_unevaluated(
        with_settings(quick, {"training.tensorboard": True, "training.epochs": 1}), tmp_path / "run"
    )
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert {
        "epoch",
        "step",
        "train_loss",
        "val_loss",
        "val_accuracy",
        "lr",
        "seconds",
    } <= row.keys()

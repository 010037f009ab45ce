"""Every setting of a training has an effect under a tuning, or is refused by its name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache
from foveate.errors import UsageError
from foveate.modeling.datasets import training_dataset
from foveate.modeling.model import Model, build_model
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import AugmentRecipe, Recipe, TrainingRecipe, with_settings
from foveate.run.folder import Run
from foveate.training.resolve import resolve_recipe, without_unused_settings
from foveate.training.trainer import Trainer
from foveate.types import Table
from foveate.utils.device import ComputeMode

# another value than the default for each setting
OTHER: dict[str, Any] = {
    "training.epochs": 3,
    "training.minutes": 5.0,
    "training.batch_size": 3,
    "training.micro_batch": 2,
    "training.optimizer": "sgd",
    "training.lr": 0.02,
    "training.layer_decay": 0.5,
    "training.weight_decay": 0.9,
    "training.l2_sp": 0.5,
    "training.momentum": 0.3,
    "training.warmup": 0.8,
    "training.schedule": "constant",
    "training.clip_norm": 0.01,
    "training.ema": 0.1,
    "training.head_init": "random",
    "training.head_epochs": 1,
    "training.gradient_checkpointing": True,
    "training.patience": 2,
    "training.batch_norm": "learn",
    "training.drop_path": 0.5,
    "training.precision": "bf16",
    "training.channels_last": True,
    "training.checkpoint_minutes": 3.0,
    "training.max_bad_steps": 2,
    "training.tensorboard": True,
    "augment.policy": "rand",
    "augment.crop": 0.2,
    "augment.flip": 1.0,
    "augment.flip_vertical": 1.0,
    "augment.color": 0.5,
    "augment.rotate": 30.0,
    "augment.scale": 0.4,
    "augment.erase": 1.0,
    "augment.mosaic": 1.0,
    "augment.mixup": 1.0,
    "augment.cutmix": 1.0,
}
DISTILLATION = {"start.distill": 1.0, "start.temperature": 3.0}
# settings of a closed form: how its features are computed, and a limit that it keeps
CLOSED_FORM = {f"training.{name}" for name in ("batch_size", "minutes", "precision")}
CLOSED_FORM.add("training.channels_last")
OF_BACKBONE = {"l2_sp", "drop_path", "head_epochs", "gradient_checkpointing", "layer_decay"}
# what no weight shows, and the test of it
TESTED_ELSEWHERE = {
    "training.minutes": "test_t66_every_task_keeps_its_time",
    "training.head_init": "test_t61_a_training_that_does_harm_leaves_the_start",
    "training.patience": "test_the_best_epoch_is_kept",
    "training.gradient_checkpointing": "test_checkpointed_activations_give_the_same_gradient_in",
    "training.checkpoint_minutes": "test_t1_resume_is_exact",
    "training.max_bad_steps": "test_t17_training_stops_after_several_in_a_row",
    "training.tensorboard": "test_tensorboard_by_flag",
    "training.micro_batch": "test_accumulation_is_the_same_gradient",
    "augment.mosaic": "test_a_mosaic_keeps_every_mask_on_its_object",
}
# what else a setting needs to matter
WHERE_IT_COUNTS: dict[str, dict[str, Any]] = {
    "training.momentum": {"training.optimizer": "sgd"},
    "training.drop_path": {"backbone.name": "test_convnext"},
}
STEPS = [name for name in TUNINGS.names() if TUNINGS.get(name).needs_steps]
OF_TRANSFORMERS = ("vpt", "adaptformer", "vera", "fourierft")
TEXT = ("zeroshot", "tip", "tip_f", "coop", "cocoop", "clip_lora")


@pytest.fixture(scope="module")
def table(stripes) -> Table:
    """Eight images of two classes."""
    table = read_table(stripes)
    samples = (*table.samples[:4], *table.samples[-4:])
    return replace(table, samples=samples)


def recipe_of(table: Table, tuning: str, **settings: Any) -> Recipe:
    values = {"data.path": str(table.root), "task": "classify", "tuning": tuning, **settings}
    return with_settings(Recipe(), values)


def test_every_setting_is_listed_here():
    fields = {f"training.{name}" for name in TrainingRecipe.model_fields}
    fields |= {f"augment.{name}" for name in AugmentRecipe.model_fields}
    assert fields == OTHER.keys()


# --- refused


def expected_refusals(tuning: str) -> set[str]:
    """What a tuning cannot honor, by what it trains."""
    kind = TUNINGS.get(tuning)
    if not kind.needs_steps:
        return (OTHER.keys() | DISTILLATION.keys()) - CLOSED_FORM
    refused = set() if kind.layerwise else {"training.layer_decay"}
    if not kind.trains_norms:
        refused.add("training.batch_norm")
    if not kind.trains_backbone:
        refused |= {f"training.{name}" for name in OF_BACKBONE}
    return refused


@pytest.mark.parametrize("tuning", TUNINGS.names())
def test_t76_a_setting_that_a_tuning_cannot_honor_is_refused_by_name(table, tuning):
    settings = {**OTHER, **DISTILLATION}
    settings.pop("augment.mosaic")  # refused for classes, whatever the tuning
    resolve_recipe(recipe_of(table, tuning), table)
    for name, value in settings.items():
        optimizer = "sgd" if name == "training.momentum" else "adamw"
        recipe = recipe_of(table, tuning, **{"training.optimizer": optimizer, name: value})
        if not TUNINGS.get(tuning).needs_steps:
            recipe = recipe_of(table, tuning, **{name: value})
        if name in expected_refusals(tuning):
            with pytest.raises(
                UsageError, match=rf"{name}( \(--[a-z-]+\))? has no effect"
            ) as error:
                resolve_recipe(recipe, table)
            assert tuning in str(error.value)
            assert "--tuning full" in str(error.value)
        else:
            resolve_recipe(recipe, table)


def test_t76_the_momentum_of_another_optimizer_is_refused(table):
    with pytest.raises(UsageError, match=r"adamw, where training.momentum has no effect") as error:
        resolve_recipe(recipe_of(table, "full", **{"training.momentum": 0.5}), table)
    assert "--set training.optimizer=sgd" in str(error.value)


@pytest.mark.parametrize("tuning", ["probe", "knn", "head", "lora", "full"])
def test_t76_defaults_and_recipes_that_a_run_wrote_are_never_refused(table, tuning):
    """Also those of a continued run, and settings that say what would be so anyway."""
    resolved, _ = resolve_recipe(recipe_of(table, tuning), table)
    written = Recipe.model_validate(resolved.model_dump(mode="json"))  # every field is set
    assert resolve_recipe(written, table)[0] == resolved
    usual = {name: TrainingRecipe.model_fields[name].default for name in ("lr", "epochs", "l2_sp")}
    stated = {f"training.{name}": value for name, value in usual.items()}
    resolve_recipe(recipe_of(table, tuning, **stated), table)


def test_t76_a_trial_of_several_leaves_out_what_it_cannot_honor(table):
    settings = {"training.lr": 0.5, "training.batch_size": 4, "augment.flip": 0.0}
    settings["task.smoothing"] = 0.3
    recipe, unused = without_unused_settings(recipe_of(table, "probe", **settings), table)
    assert unused == ["augment.flip", "training.lr", "task.smoothing"]
    assert (recipe.training.lr, recipe.training.batch_size, recipe.augment.flip) == (1e-3, 4, 0.5)
    resolve_recipe(recipe, table)
    full = recipe_of(table, "full", **settings)
    assert without_unused_settings(full, table) == (full, [])


# --- the facts on which refusals rest


def build(table: Table, tuning: str, **settings: Any) -> Model:
    return build_model(step_recipe(table, tuning, **settings), table.classes)


def step_recipe(table: Table, tuning: str, **settings: Any) -> Recipe:
    values = {
        "backbone": {"name": "test_efficientnet", "weights": "none", "size": 32},
        "training.epochs": 2,
        "training.batch_size": 4,
        "training.batch_norm": "keep",
        "training.precision": "fp32",
        "training.channels_last": False,
        "training.ema": 0.9,
        "augment.policy": "none",
        "augment.crop": 1.0,
        "augment.flip": 0.0,
        "device": "cpu",
        **settings,
    }
    return recipe_of(table, tuning, **values)


@pytest.mark.parametrize("tuning", [name for name in STEPS if name not in (*TEXT, "peft")])
def test_what_a_tuning_states_of_itself_is_what_it_trains(table, tuning):
    network = "test_vit" if tuning in OF_TRANSFORMERS else "test_efficientnet"
    size = 160 if network == "test_vit" else 32
    settings = {"backbone": {"name": network, "weights": "none", "size": size}}
    model, kind = build(table, tuning, **settings), TUNINGS.get(tuning)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert any(name.startswith("backbone.") for name in trained) == kind.trains_backbone
    model.train()
    model.keep_norms = False
    learns = [each.training for each in model.train().modules() if hasattr(each, "running_mean")]
    assert any(learns) == (kind.trains_norms and bool(learns))


def weights_after(
    table: Table, tuning: str, folder: Path, monkeypatch: Any, **settings: Any
) -> dict[str, torch.Tensor]:
    """Train for a few steps, refuse nothing, and return the trained weights."""
    recipe = step_recipe(table, tuning, **settings)
    model = build_model(recipe, table.classes)
    cache = ImageCache(32, model.task.framing, keep=False)
    dataset = training_dataset(model, table.samples, cache, recipe.augment, recipe.seed)
    monkeypatch.setattr(Trainer, "_save", lambda self: None)
    run = Run.create(folder, "run")
    trainer = Trainer(model, recipe, run, dataset, None, torch.device("cpu"))
    return trainer.train().tensors


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_t76_what_is_not_refused_has_an_effect(table, tmp_path, monkeypatch):
    """On the weights that `full` ends with, or on what is listed above with its test."""
    sources = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name, value in OTHER.items():
        if name in TESTED_ELSEWHERE:
            assert re.search(rf"def {TESTED_ELSEWHERE[name]}", sources), name
        elif name in ("training.precision", "training.channels_last"):
            training = step_recipe(table, "full", **{name: value}).training
            usual = step_recipe(table, "full").training
            assert ComputeMode.for_training(training) != ComputeMode.for_training(usual), name
        else:
            base = WHERE_IT_COUNTS.get(name, {})
            folders = (tmp_path / f"{name}-{word}" for word in ("usual", "other"))
            usual, other = (
                weights_after(table, "full", folder, monkeypatch, **base, **more)
                for folder, more in zip(folders, ({}, {name: value}), strict=True)
            )
            assert not equal(usual, other), name


def test_t76_what_is_refused_has_no_effect(table, tmp_path, monkeypatch):
    """Settings of the backbone where it is frozen, and what adapters cannot honor."""
    refused = {
        "head": [*sorted(OF_BACKBONE), "batch_norm"],
        "lora": ["layer_decay", "batch_norm"],
    }
    for tuning, names in refused.items():
        assert {f"training.{name}" for name in names} == expected_refusals(tuning)
        plain = weights_after(table, tuning, tmp_path / tuning, monkeypatch)
        for name in names:
            settings = {f"training.{name}": OTHER[f"training.{name}"]}
            folder = tmp_path / f"{tuning}-{name}"
            assert equal(plain, weights_after(table, tuning, folder, monkeypatch, **settings)), name

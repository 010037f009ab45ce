"""Tunings: which weights are trained, which are saved, and what merging changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveate.errors import UnknownName, UsageError
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import build_model
from foveate.modeling.tunings import TUNINGS
from foveate.modeling.weights import weights_fingerprint
from foveate.recipe import Recipe, with_settings
from foveate.types import Batch

CLASSES = ("a", "b", "c")
NETWORKS = ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"]


def make_recipe(name: str, tuning: str) -> Recipe:
    size = 160 if "vit" in name else 32
    return with_settings(
        Recipe(),
        {
            "backbone.name": name,
            "backbone.weights": "none",
            "backbone.size": size,
            "task": "classify",
            "tuning": tuning,
        },
    )


def make_batch(size: int, count: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    targets = [{"labels": torch.eye(3)[index % 3]} for index in range(count)]
    return Batch(
        images, targets, torch.zeros(count, 4), torch.full((count, 2), size), torch.arange(count)
    )


def train(model, size: int, steps: int = 3):
    """Train for a few steps; if a tuning takes no steps, fit its head in closed form."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        batch = make_batch(size)
        with torch.inference_mode():
            features = model.head.feature_vector(
                model.backbone(batch.images, model.task.needs)
            ).clone()
        model.tuning.fit_head(
            model, LabeledFeatures(features.numpy(), np.eye(3)[np.arange(6) % 3], np.arange(6) // 3)
        )
        return model.eval()
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    model.train()
    for step in range(steps):
        batch = make_batch(size, seed=step)
        optimizer.zero_grad()
        sum(model.task.loss(model(batch), batch).values()).backward()
        optimizer.step()
    return model.eval()


CONVOLUTIONAL = {"test_efficientnet", "test_resnet"}
REFUSED = {  # tuning -> networks that it cannot be applied to
    "vera": CONVOLUTIONAL,
    "fourierft": CONVOLUTIONAL,
    "adaptformer": CONVOLUTIONAL,
    "peft": CONVOLUTIONAL,
    "vpt": CONVOLUTIONAL | {"test_convnext"},
    **{
        tuning: set(NETWORKS)
        for tuning in ("zeroshot", "tip", "tip_f", "coop", "clip_lora", "cocoop")
    },  # they need a text encoder
}
PAIRS = [
    (name, tuning)
    for name in NETWORKS
    for tuning in TUNINGS.names()
    if name not in REFUSED.get(tuning, ())
]


@pytest.mark.parametrize(
    ("name", "tuning"),
    [(name, tuning) for tuning, names in REFUSED.items() for name in sorted(names)],
)
def test_unsupported_tunings_are_refused_with_an_alternative(name, tuning):
    with pytest.raises(UsageError) as error:
        build_model(make_recipe(name, tuning), CLASSES)
    assert error.value.hint


@pytest.mark.parametrize(("name", "tuning"), PAIRS)
def test_frozen_weights_do_not_change_and_the_rest_is_trained_and_saved(name, tuning):
    model = build_model(make_recipe(name, tuning), CLASSES)
    before, initial = (
        weights_fingerprint(model.frozen_tensors()),
        {key: value.clone() for key, value in model.trained_tensors().items()},
    )
    frozen = model.frozen_tensors()
    train(model, model.backbone.input.size, steps=4)
    assert weights_fingerprint(model.frozen_tensors()) == before
    after = model.trained_tensors()
    assert set(frozen) | set(after) == set(model.state_dict())
    parameters = dict(model.named_parameters())
    unchanged = [
        key for key in after if key in parameters and torch.equal(after[key], initial[key])
    ]
    assert len(unchanged) <= (
        0 if tuning in ("probe", "head") else 0.8 * len(after)
    )  # branches that start at zero pass no gradient

    restored = build_model(make_recipe(name, tuning), CLASSES)
    assert weights_fingerprint(restored.frozen_tensors()) == before
    restored.load_tensors({key: value.clone() for key, value in after.items()})
    batch = make_batch(model.backbone.input.size, seed=9)
    with torch.inference_mode():
        assert torch.equal(model(batch), restored(batch))
        if not model.tuning.unmergeable:
            _assert_merged(restored, model(batch), batch, make_recipe(name, "full"))
        else:
            with pytest.raises(UsageError, match="cannot be merged"):
                restored.merge()


def _assert_merged(model, before, batch, plain):
    model.merge()
    assert set(model.backbone.state_dict()) == set(
        build_model(plain, CLASSES).backbone.state_dict()
    )
    torch.testing.assert_close(
        model(batch), before, rtol=1e-4, atol=1e-4
    )  # random networks amplify rounding: see test_adapters.py


def test_last_trains_exactly_the_last_blocks():
    model = build_model(
        with_settings(make_recipe("test_efficientnet", "last"), {"tuning.blocks": 1}), CLASSES
    )
    blocks = model.backbone.blocks()
    assert all(parameter.requires_grad for parameter in blocks[-1].parameters())
    assert not any(
        parameter.requires_grad for block in blocks[:-1] for parameter in block.parameters()
    )
    with pytest.raises(UsageError, match="blocks"):
        build_model(
            with_settings(make_recipe("test_efficientnet", "last"), {"tuning.blocks": 99}), CLASSES
        )


def test_frozen_norms_do_not_change_and_others_do():
    model = build_model(
        with_settings(make_recipe("test_resnet", "last"), {"tuning.blocks": 1}), CLASSES
    ).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {True, False}
    assert all(norm.training == norm.weight.requires_grad for norm in norms)


def test_settings_are_checked():
    with pytest.raises(UnknownName, match="rank"):
        build_model(with_settings(make_recipe("test_resnet", "lora"), {"tuning.ranks": 4}), CLASSES)
    with pytest.raises(UnknownName, match="lora"):
        build_model(make_recipe("test_resnet", "lara"), CLASSES)

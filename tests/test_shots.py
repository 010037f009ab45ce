"""Heads from a formula: the numbers of scikit-learn, the same run when it is loaded, one sentence for what they cannot take."""

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


def blobs(each: int, spread: float, seed: int = 0, width: int = 12) -> LabeledFeatures:
    """`each` images of four classes round four points, always the same ones; folds that leave some of every class."""
    middles, noise = (
        np.random.default_rng(7).normal(size=(CLASSES, width)),
        np.random.default_rng(seed),
    )
    answers = np.repeat(np.arange(CLASSES), each)
    features = middles[answers] + spread * noise.normal(size=(len(answers), width))
    return LabeledFeatures(
        features.astype(np.float32), np.eye(CLASSES)[answers], np.arange(len(answers)) % 5
    )


def logits(solution, features: np.ndarray, unit: bool) -> np.ndarray:
    rows = features - solution.mean
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows
    return rows @ solution.weight.T + solution.bias


def test_centroids_answer_as_scikit_learn_does():
    known, asked = blobs(8, 1.0), blobs(30, 1.0, seed=1).features
    found = logits(solve_few_shot(known, centroids, False, 1.0)[0], asked, False).argmax(1)
    reference = NearestCentroid().fit(known.features, known.targets.argmax(1))
    assert found.tolist() == reference.predict(asked).tolist()


def test_ridge_weighs_as_scikit_learn_does():
    known = blobs(8, 1.0)
    rows = known.features.astype(np.float64) - known.features.mean(0)
    weight, bias = ridge(0.3)(rows, known.targets)
    reference = Ridge(alpha=0.3 * (rows**2).sum() / len(rows)).fit(rows, known.targets)
    np.testing.assert_allclose(weight, reference.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, reference.intercept_, rtol=1e-6)


def test_the_penalty_is_the_best_of_those_tried():
    noisy, clear = blobs(6, 3.0), blobs(6, 0.05)
    chosen, tried = best_penalty(noisy, False)
    assert tried[chosen] == min(tried.values())
    assert best_penalty(clear, False)[0] < chosen


def test_votes_are_those_of_scikit_learn():
    known, asked = blobs(10, 1.0), blobs(5, 1.5, seed=1).features
    weigh = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
    reference = KNeighborsClassifier(7, metric="cosine", weights=weigh).fit(
        known.features, known.targets.argmax(1)
    )
    found = knn_vote(
        *(torch.from_numpy(each) for each in (asked, known.features, known.targets)), 7
    )
    np.testing.assert_allclose(found.numpy(), reference.predict_proba(asked), atol=1e-5)


def test_lpplus_descends_from_the_class_means():
    known = blobs(8, 1.5)
    rows = known.features.astype(np.float64) - known.features.mean(0)

    def loss(weight: np.ndarray) -> float:
        return float(-(log_softmax(rows @ weight.T, axis=1) * known.targets).sum(1).mean())

    means = centroids(rows, known.targets)[0]
    weight, bias = lpplus(1.0)(rows, known.targets)
    assert loss(weight) < 0.8 * loss(means)
    assert not bias.any()


@pytest.mark.parametrize(
    "fitter", [centroids, ridge(1.0), lpplus(1.0)], ids=["centroid", "ridge", "lpplus"]
)
def test_chances_are_calibrated_on_left_out_images(fitter):
    """About as sure as it is right, on new images: those who know a fold less are a little less sure."""
    known, other = blobs(40, 1.6), blobs(300, 1.6, seed=1)
    chances = softmax(
        logits(solve_few_shot(known, fitter, True, 1.0)[0], other.features, True), axis=1
    )
    right = (chances.argmax(1) == other.targets.argmax(1)).mean()
    assert 0.5 < right < 0.99
    assert abs(chances.max(1).mean() - right) < 0.12


def test_a_single_image_of_each_class_leaves_none_out():
    known = blobs(1, 0.5)
    assert best_scale(known, centroids, True, 3.0) == 3.0
    assert best_penalty(known, False) == (1.0, {})


def test_a_class_without_an_image_is_never_the_answer():
    known = blobs(6, 1.0)
    without = LabeledFeatures(known.features[6:], known.targets[6:], known.folds[6:])
    for fitter in (centroids, ridge(1.0), lpplus(1.0)):
        assert 0 not in logits(
            solve_few_shot(without, fitter, True, 1.0)[0], known.features, True
        ).argmax(1)


@pytest.fixture
def tiny(stripes) -> Recipe:
    words = {
        "data.path": str(stripes),
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 40,
    }
    return with_settings(
        Recipe(),
        {**words, "data.val": 0.25, "data.test": 0.25, "task.features": "maps", "device": "cpu"},
    )


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_loaded_as_it_was_solved(tiny, tmp_path, head):
    """Its head comes back tensor by tensor, those that are as large as the training set too."""
    result = fit_recipe(with_settings(tiny, {"tuning": head}), tmp_path / "run")
    assert result.numbers()["accuracy"] > 0.6  # of two classes; even a random network sees stripes
    model = load_predictor(result.run, "cpu").model
    features = torch.randn(5, model.backbone.width)
    found = model.head(
        Features(
            pooled=features, maps=[torch.randn(5, each, 4, 4) for each in model.backbone.map_widths]
        )
    )
    assert found.shape == (5, 2)
    again = build_model(
        with_settings(tiny, {"tuning": head, "task": json.loads(json.dumps(_task(result.run)))}),
        ("lying", "upright"),
    )
    again.load_tensors(model.trained_tensors())
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )


def _task(run) -> dict:
    from foveate.run.folder import Run

    return Run(run).recipe().task.model_dump()


@pytest.mark.parametrize("head", HEADS)
def test_several_classes_an_image_are_refused(head):
    words = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "task": "classify",
        "tuning": head,
    }
    model = build_model(with_settings(Recipe(), words), ("a", "b", "c", "d"))
    known = blobs(3, 1.0)
    with pytest.raises(UsageError, match="one class per image"):
        model.tuning.fit_head(
            model, LabeledFeatures(known.features, known.targets, known.folds, multilabel=True)
        )


def test_boxes_are_refused():
    words = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "task": "detect",
    }
    for head in HEADS:
        with pytest.raises(UsageError):
            build_model(with_settings(Recipe(), {**words, "tuning": head}), ("a", "b"))

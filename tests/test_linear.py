"""The closed-form head against scikit-learn's own pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from foveate.modeling.classifiers import logistic as linear
from foveate.modeling.classifiers.logistic import out_of_fold, rotate, solve


def blobs(
    count: int, width: int, classes: int, seed: int = 0, apart: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    middles = np.random.default_rng(99).normal(0, apart, (classes, width))
    return (middles[labels] + rng.normal(0, 1, (count, width)) * 3 + 5).astype(np.float32), np.eye(
        classes
    )[labels]


@pytest.mark.parametrize(("count", "width", "classes"), [(60, 200, 4), (300, 20, 3), (80, 120, 2)])
def test_equals_scikit_learn(count, width, classes):
    features, targets = blobs(count, width, classes)
    found = solve(features, targets, np.arange(count) % 5, False)
    spread = features.std(0)
    middle, scale = features.mean(0), np.sqrt(spread**2 + np.median(spread) ** 2)
    reference = LogisticRegression(C=found.strength, max_iter=2000, tol=1e-8).fit(
        (features - middle) / scale, targets.argmax(1)
    )
    fresh, _ = blobs(50, width, classes, seed=1)
    logits = (fresh - found.mean) / found.scale @ found.weight.T + found.bias
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    np.testing.assert_allclose(
        chances, reference.predict_proba((fresh - middle) / scale), atol=5e-3
    )


def test_what_hardly_varies_is_not_stretched():
    """A feature that is all but constant, and a picture on which it is not, must not shout down the others."""
    features, targets = blobs(90, 10, 3, apart=4)
    features[:, 0] = 1e-4 * np.random.default_rng(0).normal(size=90)
    found = solve(features, targets, np.arange(90) % 5, False)
    odd = features.copy()
    odd[:, 0] = 1.0
    answers = ((odd - found.mean) / found.scale @ found.weight.T + found.bias).argmax(1)
    assert (answers == targets.argmax(1)).mean() > 0.9


def test_noise_is_regularised_away():
    rng = np.random.default_rng(0)
    features, targets = (
        rng.normal(size=(100, 50)).astype(np.float32),
        np.eye(2)[rng.integers(0, 2, 100)],
    )
    found = solve(features, targets, np.arange(100) % 5, False)
    chances = 1 / (
        1 + np.exp(-np.diff((features - found.mean) / found.scale @ found.weight.T + found.bias))
    )
    assert (
        np.abs(chances - 0.5).max() < 0.2
    )  # unregularised, 50 directions tell 100 images apart perfectly


def test_a_class_without_images_is_never_the_answer():
    features, targets = blobs(60, 10, 3)
    found = solve(
        features, np.concatenate([targets, np.zeros((60, 1))], 1), np.arange(60) % 5, False
    )
    assert ((features - found.mean) / found.scale @ found.weight.T + found.bias).argmax(
        1
    ).max() == 2


def test_multilabel_solves_each_label_alone():
    features, targets = blobs(90, 10, 3, apart=4)
    several = np.stack([targets[:, 0], targets[:, 0] + targets[:, 1], np.ones(90)], 1)
    found = solve(features, several, np.arange(90) % 5, True)
    answers = (features - found.mean) / found.scale @ found.weight.T + found.bias > 0
    assert (answers == several).mean() > 0.8
    assert answers[:, 2].all()


def test_multilabel_equals_scikit_learn_label_by_label():
    features, targets = blobs(120, 40, 3)
    several = np.stack([targets[:, 0], targets[:, 0] + targets[:, 1]], 1)
    found = solve(features, several, np.arange(120) % 5, True)
    rows = (features - found.mean) / found.scale
    for place in range(2):
        reference = LogisticRegression(C=found.strength, max_iter=2000, tol=1e-8).fit(
            rows, several[:, place]
        )
        logits = rows @ found.weight[place] + found.bias[place]
        np.testing.assert_allclose(
            1 / (1 + np.exp(-logits)), reference.predict_proba(rows)[:, 1], atol=5e-3
        )


@pytest.mark.parametrize(("count", "width"), [(60, 200), (300, 20)])
def test_turned_features_are_the_same_question(count, width):
    features, targets = blobs(count, width, 3)
    folds = np.arange(count) % 5
    known = rotate(features)
    assert solve(known, targets, folds, False).tried == solve(features, targets, folds, False).tried
    assert (
        out_of_fold(known, targets, folds, 0.1, False)
        == out_of_fold(features, targets, folds, 0.1, False)
    ).all()


def test_out_of_fold_never_saw_the_image():
    """Labels without any meaning: seen images would be remembered, left-out ones are guessed."""
    rng = np.random.default_rng(0)
    features, targets = (
        rng.normal(size=(200, 300)).astype(np.float32),
        np.eye(2)[rng.integers(0, 2, 200)],
    )
    answers = out_of_fold(features, targets, np.arange(200) % 5, 10.0, False)
    assert 0.35 < (answers.argmax(1) == targets.argmax(1)).mean() < 0.65


@pytest.mark.parametrize("classes", [2, 4])
def test_where_it_begins_does_not_leak(classes):
    """The same labels without meaning: begun at the classifier that has seen all images, it must forget those that are left out."""
    rng, folds = np.random.default_rng(1), np.arange(200) % 5
    features, targets = (
        rng.normal(size=(200, 300)).astype(np.float32),
        np.eye(classes)[rng.integers(0, classes, 200)],
    )
    found = solve(features, targets, folds, False)
    cold = out_of_fold(features, targets, folds, found.strength, False)
    warm = out_of_fold(features, targets, folds, found.strength, False, initial=found)
    assert abs(warm - cold).max() < 0.02
    assert abs(found.out_of_fold - cold).max() < 0.02
    assert (warm.argmax(1) == targets.argmax(1)).mean() < 1 / classes + 0.1


def test_back_and_forth_between_directions_and_features():
    for count, width in ((40, 90), (90, 40)):
        known = rotate(blobs(count, width, 3)[0])
        coefficients = np.random.default_rng(0).normal(size=(3, known.rows.shape[1]))
        assert np.allclose(
            known.from_features(known.to_features(coefficients)), coefficients, atol=1e-4
        )


def test_many_images_are_turned_in_parts(monkeypatch):
    features = blobs(300, 20, 3)[0]
    whole = rotate(features)
    monkeypatch.setattr(linear, "_CHUNK", 64)
    parts = rotate(features)
    assert np.allclose(
        abs(whole.rows), abs(parts.rows), atol=1e-3
    )  # a direction may point the other way
    assert np.allclose(
        parts.rows @ parts.rotation, (features - parts.mean) / parts.scale, atol=1e-4
    )

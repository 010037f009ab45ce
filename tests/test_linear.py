"""The closed-form head equals scikit-learn's pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from foveate.modeling.classifiers import solution
from foveate.modeling.classifiers.logistic import LabeledFeatures, out_of_fold, rotate, solve
from foveate.modeling.tunings import reason_of_strength
from foveate.utils.device import ComputeMode, fastest_mode


def clusters(
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
    features, targets = clusters(count, width, classes)
    solution = solve(features, targets, np.arange(count) % 5, False)
    spread = features.std(0)
    center, scale = features.mean(0), np.sqrt(spread**2 + np.median(spread) ** 2)
    reference = LogisticRegression(C=solution.strength, max_iter=2000, tol=1e-8).fit(
        (features - center) / scale, targets.argmax(1)
    )
    test_features, _ = clusters(50, width, classes, seed=1)
    logits = (test_features - solution.mean) / solution.scale @ solution.weight.T + solution.bias
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    np.testing.assert_allclose(
        probabilities, reference.predict_proba((test_features - center) / scale), atol=5e-3
    )


def test_nearly_constant_features_are_not_scaled_up():
    """A nearly constant feature must not dominate on an image where it differs."""
    features, targets = clusters(90, 10, 3, apart=4)
    features[:, 0] = 1e-4 * np.random.default_rng(0).normal(size=90)
    solution = solve(features, targets, np.arange(90) % 5, False)
    shifted = features.copy()
    shifted[:, 0] = 1.0
    predicted = (
        (shifted - solution.mean) / solution.scale @ solution.weight.T + solution.bias
    ).argmax(1)
    assert (predicted == targets.argmax(1)).mean() > 0.9


def test_noise_is_regularized_away():
    rng = np.random.default_rng(0)
    features, targets = (
        rng.normal(size=(100, 50)).astype(np.float32),
        np.eye(2)[rng.integers(0, 2, 100)],
    )
    solution = solve(features, targets, np.arange(100) % 5, False)
    probabilities = 1 / (
        1
        + np.exp(
            -np.diff(
                (features - solution.mean) / solution.scale @ solution.weight.T + solution.bias
            )
        )
    )
    assert (
        np.abs(probabilities - 0.5).max() < 0.2
    )  # unregularized, 50 features separate 100 images perfectly


def test_a_class_without_images_is_never_predicted():
    features, targets = clusters(60, 10, 3)
    solution = solve(
        features, np.concatenate([targets, np.zeros((60, 1))], 1), np.arange(60) % 5, False
    )
    assert ((features - solution.mean) / solution.scale @ solution.weight.T + solution.bias).argmax(
        1
    ).max() == 2


def test_multilabel_solves_each_label_alone():
    features, targets = clusters(90, 10, 3, apart=4)
    multilabel_targets = np.stack([targets[:, 0], targets[:, 0] + targets[:, 1], np.ones(90)], 1)
    solution = solve(features, multilabel_targets, np.arange(90) % 5, True)
    predicted = (features - solution.mean) / solution.scale @ solution.weight.T + solution.bias > 0
    assert (predicted == multilabel_targets).mean() > 0.8
    assert predicted[:, 2].all()


def test_multilabel_equals_scikit_learn_label_by_label():
    features, targets = clusters(120, 40, 3)
    multilabel_targets = np.stack([targets[:, 0], targets[:, 0] + targets[:, 1]], 1)
    solution = solve(features, multilabel_targets, np.arange(120) % 5, True)
    rows = (features - solution.mean) / solution.scale
    for index in range(2):
        reference = LogisticRegression(C=solution.strength, max_iter=2000, tol=1e-8).fit(
            rows, multilabel_targets[:, index]
        )
        logits = rows @ solution.weight[index] + solution.bias[index]
        np.testing.assert_allclose(
            1 / (1 + np.exp(-logits)), reference.predict_proba(rows)[:, 1], atol=5e-3
        )


@pytest.mark.parametrize(("count", "width"), [(60, 200), (300, 20)])
def test_rotated_features_give_the_same_solution(count, width):
    features, targets = clusters(count, width, 3)
    folds = np.arange(count) % 5
    rotated = rotate(features)
    assert (
        solve(rotated, targets, folds, False).tried == solve(features, targets, folds, False).tried
    )
    assert (
        out_of_fold(rotated, targets, folds, 0.1, False)
        == out_of_fold(features, targets, folds, 0.1, False)
    ).all()


def test_out_of_fold_predictions_do_not_use_the_image():
    """Random labels: training images would be memorized, held-out ones are guessed."""
    rng = np.random.default_rng(0)
    features, targets = (
        rng.normal(size=(200, 300)).astype(np.float32),
        np.eye(2)[rng.integers(0, 2, 200)],
    )
    predictions = out_of_fold(features, targets, np.arange(200) % 5, 10.0, False)
    assert 0.35 < (predictions.argmax(1) == targets.argmax(1)).mean() < 0.65


@pytest.mark.parametrize("classes", [2, 4])
def test_the_warm_start_does_not_leak(classes):
    """Random labels: started at the classifier of all images, it forgets the held-out ones."""
    rng, folds = np.random.default_rng(1), np.arange(200) % 5
    features, targets = (
        rng.normal(size=(200, 300)).astype(np.float32),
        np.eye(classes)[rng.integers(0, classes, 200)],
    )
    solution = solve(features, targets, folds, False)
    cold = out_of_fold(features, targets, folds, solution.strength, False)
    warm = out_of_fold(features, targets, folds, solution.strength, False, initial=solution)
    assert abs(warm - cold).max() < 0.02
    assert abs(solution.out_of_fold - cold).max() < 0.02
    assert (warm.argmax(1) == targets.argmax(1)).mean() < 1 / classes + 0.1


def test_the_rotation_round_trips():
    for count, width in ((40, 90), (90, 40)):
        rotated = rotate(clusters(count, width, 3)[0])
        coefficients = np.random.default_rng(0).normal(size=(3, rotated.rows.shape[1]))
        assert np.allclose(
            rotated.from_features(rotated.to_features(coefficients)), coefficients, atol=1e-4
        )


def test_many_images_are_rotated_in_chunks(monkeypatch):
    features = clusters(300, 20, 3)[0]
    at_once = rotate(features)
    monkeypatch.setattr(solution, "_CHUNK", 64)
    in_chunks = rotate(features)
    assert np.allclose(
        abs(at_once.rows), abs(in_chunks.rows), atol=1e-3
    )  # the sign of a direction is arbitrary
    assert np.allclose(
        in_chunks.rows @ in_chunks.rotation,
        (features - in_chunks.mean) / in_chunks.scale,
        atol=1e-4,
    )


def test_the_reason_of_a_strength_names_the_range_and_its_end():
    folds = np.array([0, 1, 2, 0])
    plain = LabeledFeatures(np.zeros((4, 2)), np.eye(4), folds)
    grouped = LabeledFeatures(np.zeros((4, 2)), np.eye(4), folds, grouped=True)
    tried = {0.01: 0.5, 0.1: 0.3, 1.0: 0.2}
    text = "log loss 0.200 over 3 folds, the lowest for 3 values from 0.01 to 1"
    assert str(reason_of_strength(1.0, tried, plain)) == f"{text}, of which it is the largest"
    assert "3 folds that keep near-duplicates" in str(reason_of_strength(1.0, tried, grouped))
    assert str(reason_of_strength(0.1, tried, plain)).endswith("from 0.01 to 1")
    unknown = str(reason_of_strength(0.01, {0.01: float("nan")}, plain))
    assert "two classes outside each fold" in unknown
    assert "nan" not in unknown


def test_a_small_speedup_does_not_change_the_mode_and_the_threshold_is_stated(monkeypatch):
    seconds, clock = {False: 1.0, True: 0.9}, [0.0]
    monkeypatch.setattr("foveate.utils.device.time.perf_counter", lambda: clock[0])

    def step(mode: ComputeMode) -> None:
        clock[0] += seconds[mode.channels_last]

    modes = [ComputeMode("fp32", False), ComputeMode("fp32", True)]
    mode, reason = fastest_mode(modes, step)
    assert (mode, str(reason)) == (
        modes[0],
        "measured: fp32 1000 ms, fp32 channels_last 900 ms; a change must save at least 15 % of "
        "the time",
    )
    seconds[True] = 0.5
    mode, reason = fastest_mode(modes, step)
    assert (mode, str(reason)) == (modes[1], "measured: fp32 1000 ms, fp32 channels_last 500 ms")

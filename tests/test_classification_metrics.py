"""Classification metrics equal scikit-learn to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstrap, wilson
from foveate.evaluation.metrics import METRICS, metric_for, paired_difference
from foveate.evaluation.metrics.labels import LabelMetric
from foveate.predictions import Labels

NAMES = tuple("abcdefgh")


def compute_scores(
    classes: tuple[str, ...], targets: np.ndarray, scores: np.ndarray, multilabel: bool = False
):
    metric = metric_for(Labels, classes, multilabel)
    for target, row_scores in zip(targets, scores, strict=True):
        if multilabel:
            target_names = tuple(name for name, bit in zip(classes, target, strict=True) if bit)
            predicted_names = tuple(
                name for name, score in zip(classes, row_scores, strict=True) if score >= 0.5
            )
        else:
            target_names, predicted_names = (classes[target],), (classes[row_scores.argmax()],)
        metric.update(Labels(predicted_names, row_scores), Labels(target_names))
    return metric.compute()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 8])
def test_single_labels_equal_scikit_learn(k, seed):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, k - (seed % 2 and k > 2), 60)  # with odd seeds one class never occurs
    scores = rng.dirichlet(np.ones(k), 60)
    scores[np.arange(60), target] += rng.uniform(0, 0.8, 60)
    scores /= scores.sum(1, keepdims=True)
    result, predicted = compute_scores(NAMES[:k], target, scores), scores.argmax(1)
    expected = {
        "accuracy": reference.accuracy_score(target, predicted),
        "balanced_accuracy": np.mean(
            [(predicted[target == c] == c).mean() for c in np.unique(target)]
        ),
        "macro_f1": reference.f1_score(target, predicted, average="macro", zero_division=0),
        "weighted_f1": reference.f1_score(target, predicted, average="weighted", zero_division=0),
        "log_loss": reference.log_loss(target, scores, labels=range(k)),
    }
    if k > 5:
        expected["top_5"] = reference.top_k_accuracy_score(target, scores, k=5, labels=range(k))
    if k == 2:
        expected["auroc"] = reference.roc_auc_score(target, scores[:, 1])
        expected["average_precision"] = reference.average_precision_score(target, scores[:, 1])
    for name, value in expected.items():
        score = result.numbers[name]
        assert score.value == pytest.approx(value, abs=1e-6), name
        assert score.low is None or score.low <= score.value + 1e-9 <= score.high + 2e-9
    assert result.main == "accuracy"
    rows = reference.classification_report(
        target, predicted, labels=range(k), output_dict=True, zero_division=0
    )
    for index, row in enumerate(result.per_class):
        assert [row["precision"], row["recall"], row["f1"], row["count"]] == pytest.approx(
            list(rows[str(index)].values()), abs=1e-6
        )
    assert (
        result.tables["confusion"]
        == reference.confusion_matrix(target, predicted, labels=range(k)).tolist()
    )


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, (50, 4))
    scores = np.clip(target * 0.3 + rng.uniform(0, 0.8, (50, 4)), 0, 1)
    result, predicted = compute_scores(NAMES[:4], target, scores, multilabel=True), scores >= 0.5
    assert result.main == "mean_average_precision"
    expected = {
        "mean_average_precision": reference.average_precision_score(
            target, scores, average="macro"
        ),
        "auroc": reference.roc_auc_score(target, scores, average="macro"),
        "macro_f1": reference.f1_score(target, predicted, average="macro", zero_division=0),
        "micro_f1": reference.f1_score(target, predicted, average="micro", zero_division=0),
        "exact_match": reference.accuracy_score(target, predicted),
    }
    for name, value in expected.items():
        assert result.numbers[name].value == pytest.approx(value, abs=1e-6), name


def test_undefined_metrics_are_omitted():
    rng = np.random.default_rng(0)
    result = compute_scores(("a", "b"), np.zeros(20, int), rng.dirichlet([1, 1], 20))
    assert "auroc" not in result.numbers
    assert all(np.isfinite(score.value) for score in result.numbers.values())
    with pytest.raises(DataError):
        metric_for(Labels, ("a", "b")).compute()
    with pytest.raises(DataError, match="zebra"):
        metric_for(Labels, ("a", "b")).update(
            Labels(("a",), np.array([1.0, 0.0])), Labels(("zebra",))
        )


def test_wilson_by_hand():
    """8 of 10: center (0.8 + z²/20) / (1 + z²/10), in textbooks 0.490 to 0.943."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert wilson(10, 10)[1] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 10, 37, 1000])
def test_wilson_equals_scipy(count):
    from scipy.stats import binomtest

    for successes in {0, 1, count // 3, count // 2, count}:
        expected = binomtest(successes, count).proportion_ci(method="wilson")
        assert wilson(successes, count) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_bootstrap_equals_scipy():
    from scipy.stats import bootstrap as reference

    values = np.random.default_rng(0).normal(size=50)
    expected = reference(
        (np.arange(50),),
        lambda indices: values[indices].mean(),
        n_resamples=400,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ends = bootstrap(lambda indices: float(values[indices].mean()), 50)
    assert ends == pytest.approx(tuple(expected), abs=1e-12)


def test_the_bootstrap_covers_a_mean():
    """Its width for a mean is near 2 * 1.96 standard errors."""
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda indices: float(values[indices].mean()), 400)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_every_metric_declares_its_prediction_type():
    assert all(isinstance(METRICS.get(name).reads, type) for name in METRICS.names())


def test_badness_is_the_confidence_in_the_wrong_class():
    scores = np.array([0.2, 0.7, 0.1], np.float32)
    single, multilabel_metric = (
        metric_for(Labels, ("a", "b", "c"), multilabel) for multilabel in (False, True)
    )
    assert single.sample_loss(Labels(("b",), scores), Labels(("b",))) == 0
    assert single.sample_loss(Labels(("b",), scores), Labels(("a",))) == pytest.approx(0.7)
    scores = np.array([0.6, 0.9, 0.3], np.float32)
    assert multilabel_metric.sample_loss(
        Labels(("a", "b"), scores), Labels(("b", "c"))
    ) == pytest.approx(0.7)


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_resample_of_every_image_once_equals_compute(multilabel):
    metric = filled_metric(multilabel, seed=0)
    everything = np.arange(60)
    scores = metric.compute()
    assert metric.resampler()(everything) == pytest.approx(
        scores.numbers[scores.main].value, abs=1e-12
    )
    indices = np.random.default_rng(1).integers(0, 60, 60)
    resampled = filled_metric(multilabel, seed=0, indices=indices).compute()
    assert metric.resampler()(indices) == pytest.approx(
        resampled.numbers[resampled.main].value, abs=1e-9
    )


def test_a_gain_is_measured_on_the_same_images():
    """One metric has 40 of 60 right, the other these and 10 more: the gain is significant."""
    better, worse = LabelMetric(("a", "b")), LabelMetric(("a", "b"))
    for number in range(60):
        better.update(Labels(("a" if number < 50 else "b",)), Labels(("a",)))
        worse.update(Labels(("a" if number < 40 else "b",)), Labels(("a",)))
    gain = paired_difference(better, worse, 60)
    assert gain.value == pytest.approx(10 / 60)
    assert 0.05 < gain.low < gain.value < gain.high < 0.3
    no_gain = paired_difference(better, better, 60)
    assert (no_gain.value, no_gain.low, no_gain.high) == (0, 0, 0)


def filled_metric(multilabel: bool, seed: int, indices=None) -> LabelMetric:
    rng = np.random.default_rng(seed)
    metric = LabelMetric(("a", "b", "c"), multilabel)
    scores, targets = rng.random((60, 3)).astype(np.float32), rng.random((60, 3)) > 0.5
    for index in range(60) if indices is None else indices:
        row = scores[index]
        if multilabel:
            pair = [
                tuple(name for name, is_set in zip("abc", flags, strict=True) if is_set)
                for flags in (row > 0.5, targets[index])
            ]
        else:
            pair = [("abc"[int(row.argmax())],), ("abc"[int(targets[index].argmax())],)]
        metric.update(Labels(pair[0], row), Labels(pair[1]))
    return metric

"""The numbers of labels against scikit-learn, to 1e-6."""

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


def measured(
    classes: tuple[str, ...], truth: np.ndarray, scores: np.ndarray, multilabel: bool = False
):
    metric = metric_for(Labels, classes, multilabel)
    for row, chances in zip(truth, scores, strict=True):
        if multilabel:
            held = tuple(name for name, bit in zip(classes, row, strict=True) if bit)
            said = tuple(
                name for name, chance in zip(classes, chances, strict=True) if chance >= 0.5
            )
        else:
            held, said = (classes[row],), (classes[chances.argmax()],)
        metric.update(Labels(said, chances), Labels(held))
    return metric.compute()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 8])
def test_single_labels_equal_scikit_learn(k, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k - (seed % 2 and k > 2), 60)  # at times a class that never occurs
    scores = rng.dirichlet(np.ones(k), 60)
    scores[np.arange(60), truth] += rng.uniform(0, 0.8, 60)
    scores /= scores.sum(1, keepdims=True)
    found, answer = measured(NAMES[:k], truth, scores), scores.argmax(1)
    expected = {
        "accuracy": reference.accuracy_score(truth, answer),
        "balanced_accuracy": np.mean([(answer[truth == c] == c).mean() for c in np.unique(truth)]),
        "macro_f1": reference.f1_score(truth, answer, average="macro", zero_division=0),
        "weighted_f1": reference.f1_score(truth, answer, average="weighted", zero_division=0),
        "log_loss": reference.log_loss(truth, scores, labels=range(k)),
    }
    if k > 5:
        expected["top_5"] = reference.top_k_accuracy_score(truth, scores, k=5, labels=range(k))
    if k == 2:
        expected["auroc"] = reference.roc_auc_score(truth, scores[:, 1])
        expected["average_precision"] = reference.average_precision_score(truth, scores[:, 1])
    for name, value in expected.items():
        score = found.numbers[name]
        assert score.value == pytest.approx(value, abs=1e-6), name
        assert score.low is None or score.low <= score.value + 1e-9 <= score.high + 2e-9
    assert found.main == "accuracy"
    rows = reference.classification_report(
        truth, answer, labels=range(k), output_dict=True, zero_division=0
    )
    for place, row in enumerate(found.per_class):
        assert [row["precision"], row["recall"], row["f1"], row["count"]] == pytest.approx(
            list(rows[str(place)].values()), abs=1e-6
        )
    assert (
        found.tables["confusion"]
        == reference.confusion_matrix(truth, answer, labels=range(k)).tolist()
    )


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (50, 4))
    scores = np.clip(truth * 0.3 + rng.uniform(0, 0.8, (50, 4)), 0, 1)
    found, answer = measured(NAMES[:4], truth, scores, multilabel=True), scores >= 0.5
    assert found.main == "mean_average_precision"
    expected = {
        "mean_average_precision": reference.average_precision_score(truth, scores, average="macro"),
        "auroc": reference.roc_auc_score(truth, scores, average="macro"),
        "macro_f1": reference.f1_score(truth, answer, average="macro", zero_division=0),
        "micro_f1": reference.f1_score(truth, answer, average="micro", zero_division=0),
        "exact_match": reference.accuracy_score(truth, answer),
    }
    for name, value in expected.items():
        assert found.numbers[name].value == pytest.approx(value, abs=1e-6), name


def test_what_cannot_be_said_is_left_out():
    rng = np.random.default_rng(0)
    found = measured(("a", "b"), np.zeros(20, int), rng.dirichlet([1, 1], 20))
    assert "auroc" not in found.numbers
    assert all(np.isfinite(score.value) for score in found.numbers.values())
    with pytest.raises(DataError):
        metric_for(Labels, ("a", "b")).compute()
    with pytest.raises(DataError, match="zebra"):
        metric_for(Labels, ("a", "b")).update(
            Labels(("a",), np.array([1.0, 0.0])), Labels(("zebra",))
        )


def test_wilson_by_hand():
    """8 of 10: centre (.8 + z²/20) / (1 + z²/10), the textbook's .490 to .943."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert wilson(10, 10)[1] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 10, 37, 1000])
def test_wilson_is_that_of_scipy(count):
    from scipy.stats import binomtest

    for successes in {0, 1, count // 3, count // 2, count}:
        expected = binomtest(successes, count).proportion_ci(method="wilson")
        assert wilson(successes, count) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_bootstrap_is_that_of_scipy():
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
    low, high = bootstrap(lambda drawn: float(values[drawn].mean()), 400)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_every_metric_names_what_it_reads():
    assert all(isinstance(METRICS.get(name).reads, type) for name in METRICS.names())


def test_badness_is_the_confidence_of_what_is_wrong():
    scores = np.array([0.2, 0.7, 0.1], np.float32)
    single, several = (
        metric_for(Labels, ("a", "b", "c"), multilabel) for multilabel in (False, True)
    )
    assert single.sample_loss(Labels(("b",), scores), Labels(("b",))) == 0
    assert single.sample_loss(Labels(("b",), scores), Labels(("a",))) == pytest.approx(0.7)
    scores = np.array([0.6, 0.9, 0.3], np.float32)
    assert several.sample_loss(Labels(("a", "b"), scores), Labels(("b", "c"))) == pytest.approx(0.7)


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_resample_of_every_image_once_says_what_compute_says(multilabel):
    metric = filled(multilabel, seed=0)
    everything = np.arange(60)
    scores = metric.compute()
    assert metric.resampler()(everything) == pytest.approx(
        scores.numbers[scores.main].value, abs=1e-12
    )
    some = np.random.default_rng(1).integers(0, 60, 60)
    part = filled(multilabel, seed=0, places=some).compute()
    assert metric.resampler()(some) == pytest.approx(part.numbers[part.main].value, abs=1e-9)


def test_a_gain_is_measured_on_the_same_images():
    """Of 60 images one metric has 40 right and the other the same 40 and 10 more: no resample says the second is worse."""
    ours, theirs = LabelMetric(("a", "b")), LabelMetric(("a", "b"))
    for number in range(60):
        ours.update(Labels(("a" if number < 50 else "b",)), Labels(("a",)))
        theirs.update(Labels(("a" if number < 40 else "b",)), Labels(("a",)))
    found = paired_difference(ours, theirs, 60)
    assert found.value == pytest.approx(10 / 60)
    assert 0.05 < found.low < found.value < found.high < 0.3
    same = paired_difference(ours, ours, 60)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def filled(multilabel: bool, seed: int, places=None) -> LabelMetric:
    rng = np.random.default_rng(seed)
    metric = LabelMetric(("a", "b", "c"), multilabel)
    scores, truths = rng.random((60, 3)).astype(np.float32), rng.random((60, 3)) > 0.5
    for place in range(60) if places is None else places:
        row = scores[place]
        if multilabel:
            pair = [
                tuple(name for name, held in zip("abc", flags, strict=True) if held)
                for flags in (row > 0.5, truths[place])
            ]
        else:
            pair = [("abc"[int(row.argmax())],), ("abc"[int(truths[place].argmax())],)]
        metric.update(Labels(pair[0], row), Labels(pair[1]))
    return metric

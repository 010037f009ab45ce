"""Classification metrics equal scikit-learn to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from foveate.api.evaluate import evaluate
from foveate.api.evaluate.cautions import score_cautions
from foveate.api.evaluate.result import FIRST_CAUTIONS
from foveate.errors import DataError, UsageError
from foveate.evaluation.intervals import wilson
from foveate.evaluation.metrics import METRICS, metric_for, paired_difference
from foveate.evaluation.metrics.labels import LabelMetric
from foveate.evaluation.operating_point import OperatingPoint
from foveate.modeling.tasks import DataFacts
from foveate.modeling.tasks._positive import choose_positive
from foveate.modeling.tasks.classify import Classify
from foveate.predictions import Labels
from foveate.recipe import with_settings
from foveate.reporting import plots
from foveate.run.folder import Run
from helpers import fit_unevaluated

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


# --- two classes: the positive one, its ROC curve and a threshold


def binary_metric(scores, positive, settings=None):
    """The metric of classes 'ok' and 'bad'; `scores`: probabilities of 'bad'."""
    metric = metric_for(Labels, ("ok", "bad"), settings=settings)
    for score, is_bad in zip(scores, positive, strict=True):
        row = np.array([1 - score, score], dtype=np.float32)
        metric.update(
            Labels(("bad" if score >= 0.5 else "ok",), row), Labels(("bad" if is_bad else "ok",))
        )
    return metric


def draw_binary(count=80, seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    scores = np.round((0.3 * positive + rng.random(count) * 0.7), 2)  # with ties
    return scores, positive


def test_the_roc_curve_agrees_with_scikit_learn():
    scores, positive = draw_binary()
    result = binary_metric(scores, positive).compute()
    rates, sensitivities = result.tables["binary"]["roc"]
    expected = reference.roc_curve(
        positive, np.float32(scores).astype(float), drop_intermediate=False
    )
    np.testing.assert_allclose(rates, expected[0], atol=1e-12)
    np.testing.assert_allclose(sensitivities, expected[1], atol=1e-12)


def test_sensitivity_and_specificity_have_the_images_of_their_class():
    scores, positive = draw_binary()
    numbers = binary_metric(scores, positive).compute().numbers
    predicted = np.float32(scores) >= 0.5
    sensitivity, specificity = numbers["sensitivity"], numbers["specificity"]
    assert sensitivity.value == reference.recall_score(positive, predicted)
    assert specificity.value == reference.recall_score(positive, predicted, pos_label=False)
    assert (sensitivity.count, specificity.count) == (positive.sum(), (~positive).sum())
    low, high = wilson(int((predicted & positive).sum()), int(positive.sum()))
    assert (sensitivity.low, sensitivity.high) == (low, high)


def test_another_positive_class_swaps_the_two():
    scores, positive = draw_binary()
    one, other = (
        binary_metric(scores, positive, settings).compute().numbers
        for settings in (None, {"positive": "ok"})
    )
    assert other["sensitivity"] == one["specificity"]
    assert other["auroc"].value == pytest.approx(one["auroc"].value, abs=1e-6)
    assert other["average_precision"].value == pytest.approx(
        reference.average_precision_score(~positive, 1 - np.float32(scores)), abs=1e-6
    )


def test_one_class_alone_has_no_curve():
    result = binary_metric([0.2, 0.8], [True, True]).compute()
    assert "binary" not in result.tables
    assert not {"auroc", "sensitivity", "specificity"} & result.numbers.keys()


@pytest.mark.parametrize("value", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("goal", ["sensitivity", "specificity"])
def test_the_threshold_reaches_its_goal_and_no_better_one_does(goal, value):
    scores, positive = draw_binary()
    chosen = OperatingPoint.choose(scores, positive, goal, value)

    def reached(threshold):
        predicted = scores >= threshold
        sensitivity, specificity = predicted[positive].mean(), (~predicted)[~positive].mean()
        return (sensitivity, specificity) if goal == "sensitivity" else (specificity, sensitivity)

    own, rest = reached(chosen.threshold)
    assert own >= value
    others = [reached(each) for each in [*np.unique(scores), 1.5]]
    assert rest == max(other for each, other in others if each >= value)


def test_a_class_without_validation_images_gives_no_threshold():
    assert OperatingPoint.choose(np.array([0.5]), np.array([False]), "sensitivity", 0.9) is None


def test_scores_at_the_threshold_count_from_it_on():
    scores, positive = np.array([0.1, 0.3, 0.6, 0.7]), np.array([False, True, False, True])
    chosen = OperatingPoint(0.25, "sensitivity", 0.9, 40)
    result = binary_metric(scores, positive, {"operating_point": chosen}).compute()
    assert result.numbers["sensitivity_at_threshold"].value == 1.0
    assert result.numbers["specificity_at_threshold"].value == 0.5
    assert result.tables["binary"]["points"][1] == {"sensitivity": 1.0, "specificity": 0.5}
    assert result.tables["binary"]["operating_point"]["threshold"] == 0.25


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        (("normal", "tumor"), "tumor"),
        (("pneumonia", "Normal"), "pneumonia"),
        (("crack", "no_crack"), "crack"),
        (("crack", "nocrack"), "crack"),
        (("abnormal", "normal"), "abnormal"),
        (("not_normal", "normal"), "not_normal"),
        (("benign tissue", "malignant tissue"), "malignant tissue"),
        (("0", "1"), "1"),
        (("defect", "ok"), "defect"),
        (("缺陷", "正常"), "缺陷"),
        (("cat", "dog"), "dog"),  # the names do not tell
        (("good", "ok"), "ok"),
    ],
)
def test_the_positive_class_is_chosen_by_the_names(classes, positive):
    decision = choose_positive(classes)
    assert (decision.field, decision.value) == ("positive", positive)
    told = "the names do not tell" not in str(decision.reason)
    assert told == (classes not in {("cat", "dog"), ("good", "ok")})


def resolved(settings, classes=("cat", "dog"), multilabel=False):
    facts = DataFacts(multilabel, closed_form=True)
    targets = [Labels((name,)) for name in classes]
    decisions = Classify.resolve_settings(settings, targets, classes, facts)
    return {decision.field: decision.value for decision in decisions}


def test_a_stated_positive_class_is_kept_and_must_exist():
    assert "positive" not in resolved({"positive": "cat"})
    with pytest.raises(UsageError, match=r"no class is called 'cats'(.|\n)*cat"):
        resolved({"positive": "cats"})
    assert "positive" not in resolved({}, ("a", "b", "c"))
    assert resolved({"positive": "a"}, ("a", "b", "c"))["positive"] == ""
    with pytest.raises(UsageError, match="a threshold needs two classes"):
        resolved({"at_sensitivity": 0.9}, ("a", "b", "c"))
    with pytest.raises(UsageError, match="a threshold needs two classes"):
        resolved({"at_specificity": 0.9}, multilabel=True)
    with pytest.raises(UsageError, match="cannot be chosen by both"):
        resolved({"at_sensitivity": 0.9, "at_specificity": 0.9})


def test_a_run_chooses_the_threshold_on_validation_images(stripes, quick, tmp_path):
    recipe = with_settings(
        quick,
        {"task": "classify", "task.positive": "lying", "task.at_sensitivity": 0.8, "data.val": 0.4},
    )
    run = Run.open(fit_unevaluated(recipe, tmp_path / "run").run)
    point = run.outcome()["operating_point"]
    assert (point["goal"], point["value"]) == ("sensitivity", 0.8)
    val, test = (evaluate(run.folder, split=split).scores for split in ("val", "test"))
    assert val.numbers["sensitivity_at_threshold"].value >= 0.8
    assert test.tables["binary"]["operating_point"] == point
    assert test.tables["binary"]["positive"] == "lying"
    assert test.numbers["sensitivity_at_threshold"].low is not None
    (report,) = run.folder.glob("evaluations/test/report.html")
    text = report.read_text(encoding="utf-8")
    assert "The positive class is lying" in text
    assert "which reached the sensitivity 0.80" in text


@pytest.mark.figures
def test_the_roc_plot_shows_both_points():
    point = {"sensitivity": 0.8, "specificity": 0.7}
    one, both = (plots.roc_curve(([0, 1], [0, 1]), [point] * n) for n in (1, 2))
    assert one.count("#d1603d") == 0 < both.count("#d1603d")


def scores_of(target: list[int], predicted: list[int]):
    metric = LabelMetric(("healthy", "ill"))
    for truth, answer in zip(target, predicted, strict=True):
        metric.update(Labels((metric.classes[answer],)), Labels((metric.classes[truth],)))
    return metric.compute()


def test_t65_the_first_number_is_none_that_one_answer_reaches():
    rare = [0] * 192 + [1] * 8
    scores = scores_of(rare, [0] * 200)
    assert scores.numbers["accuracy"].value == scores.numbers["majority_accuracy"].value == 0.96
    assert (scores.headline, scores.numbers[scores.headline].value) == ("balanced_accuracy", 0.5)
    assert scores.main == "accuracy"  # by which epochs and runs are compared
    assert scores_of([0, 1] * 50, [0, 1] * 50).headline == "accuracy"


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([0] * 200, "answers 'healthy' for every image"),
        ([0] * 185 + [1] * 15, "always answering 'healthy' would be right for 0.960"),
        ([0] * 192 + [1] * 8, None),
    ],
)
def test_t65_a_run_that_is_no_better_than_one_answer_is_told_so(predicted, expected):
    cautions = score_cautions(scores_of([0] * 192 + [1] * 8, predicted))
    assert [each.id in FIRST_CAUTIONS for each in cautions] == [True] * bool(expected)
    assert all(expected in str(each) for each in cautions)

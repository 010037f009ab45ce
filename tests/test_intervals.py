"""Intervals of scores: how often they hold the true value, over what, and when there are none."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

import foveate
from foveate.evaluation.intervals import (
    PLAIN,
    Quantity,
    Statistics,
    Units,
    degrees_of_freedom,
    effective_size,
    estimate,
    freedom_of_classes,
    paired_mean_difference,
)
from foveate.evaluation.metrics import Metric, metric_for, paired_difference
from foveate.evaluation.metrics._ranking import ranking_statistics
from foveate.evaluation.proportions import class_averages, proportion
from foveate.predictions import Labels, NoInterval, Number, Regions
from foveate.types import Score
from helpers import fit_unevaluated

DRAWS = 200


def coverage(draw: Callable[[np.random.Generator], tuple[Score, float]]) -> float:
    """Return the share of drawn intervals that hold the true value; draws without one are left
    out."""
    rng, held = np.random.default_rng(0), []
    for _ in range(DRAWS):
        score, truth = draw(rng)
        if score.low is not None and score.high is not None:
            held.append(score.low <= truth <= score.high)
    assert len(held) > DRAWS / 2
    return float(np.mean(held))


# --- how often they hold
# of 200 intervals that hold in 95 % of draws, fewer than 180 (0.9) do in one of 700 samples; bounds
# lie between that and what the percentile bootstrap over images had


def patients(rng: np.random.Generator) -> tuple[Score, float]:
    """Nine patients with ten frames each, the log odds of whose accuracy vary by 1.5."""
    chance = 1 / (1 + np.exp(-rng.normal(1.7, 1.5, 9)))
    hits = rng.random((9, 10)) < chance[:, None]
    return proportion(hits.ravel(), Units.of(np.repeat(list("abcdefghi"), 10).tolist())), TRUE_SHARE


TRUE_SHARE = float((1 / (1 + np.exp(-np.random.default_rng(1).normal(1.7, 1.5, 1_000_000)))).mean())


def rare_class(rng: np.random.Generator) -> tuple[Score, float]:
    """Balanced accuracy of 54 images of a class and 6 of another, of which 0.9 and 0.8 are found."""
    target = np.repeat([0, 1], [54, 6])
    right = rng.random(60) < np.where(target == 0, 0.9, 0.8)
    predicted = np.where(right, target, 1 - target)
    return class_averages(target, predicted, 2, Units.single(60))["balanced_accuracy"], 0.85


def rare_positives(rng: np.random.Generator) -> tuple[Score, float]:
    """The AUROC of 6 positives among 60 images, normal scores two deviations apart: 0.921."""
    positive = np.arange(60) < 6
    statistics = ranking_statistics(positive, rng.normal(2.0 * positive))
    return estimate(statistics, Units.single(60))["auroc"], 0.9214


def few_masks(rng: np.random.Generator) -> tuple[Score, float]:
    """The mean IoU of 15 images: of a quarter a tenth of the foreground is found, else 0.96."""
    metric = copy(MASKS)
    drawn = (rng.random(15) < 0.25).astype(int)
    metric._images = [MASKS._images[index] for index in drawn]
    found = 0.75 * 48 + 0.25 * 5
    return metric.compute().numbers["mean_iou"], (found / 50 + 50 / (100 - found)) / 2


def masks_of(found: tuple[int, ...]) -> Metric:
    """The metric of images of 100 pixels, of whose 50 of the foreground `found` are found."""
    metric, target = metric_for(Regions, ("a", "b")), np.repeat([[1], [0]], 50, 0).reshape(10, 10)
    for count in found:
        predicted = np.where(np.arange(100).reshape(10, 10) < count, target, 0)
        metric.update(Regions(predicted), Regions(target))
    return metric


MASKS = masks_of((48, 5))


def few_errors(rng: np.random.Generator) -> tuple[Score, float]:
    """The mean absolute error of 15 numbers with exponential errors."""
    metric = metric_for(Number, ())
    for error in rng.exponential(1, 15):
        metric.update(Number(error), Number(0.0))
    return metric.compute().numbers["mae"], 1.0


@pytest.mark.parametrize(
    ("draw", "least"),
    [
        (patients, 0.9),
        (rare_class, 0.91),
        (rare_positives, 0.91),
        (few_masks, 0.94),
        (few_errors, 0.9),
    ],
)
def test_t53_intervals_hold_the_true_value(draw, least):
    assert coverage(draw) >= least


def test_the_interval_of_a_mean_is_that_of_student():
    """On uniform numbers, whose kurtosis is low, the degrees of freedom are all."""
    values = np.random.default_rng(0).uniform(size=40)
    statistics = Statistics(
        (Quantity("mean", PLAIN),), lambda indices: values[indices].mean(keepdims=True)
    )
    score = estimate(statistics, Units.single(40))["mean"]
    expected = ttest_1samp(values, 0).confidence_interval()
    assert (score.low, score.high) == (
        pytest.approx(expected.low, abs=0.01),
        pytest.approx(expected.high, abs=0.01),
    )


def test_degrees_of_freedom_are_those_of_the_parts_that_count():
    rng = np.random.default_rng(0)
    assert degrees_of_freedom(rng.uniform(size=50)) == 49
    few = np.concatenate([rng.normal(size=4), np.zeros(96)])
    assert 1 <= degrees_of_freedom(few) < 8
    assert freedom_of_classes(np.array([4, 100])) == pytest.approx(3.8, abs=0.1)
    assert freedom_of_classes(np.array([2, 100])) < 3
    assert effective_size(np.array([10, 10])) == 20


def test_many_images_are_left_out_in_blocks_and_quickly():
    """More units than blocks: the standard error is that of the mean nevertheless."""
    values, calls = np.random.default_rng(0).normal(size=5000), []

    def mean(indices: np.ndarray) -> np.ndarray:
        calls.append(len(indices))
        return values[indices].mean(keepdims=True)

    score = estimate(Statistics((Quantity("mean", PLAIN),), mean), Units.single(5000))["mean"]
    assert len(calls) == 251
    assert score.high - score.low == pytest.approx(2 * 1.96 / 5000**0.5, rel=0.1)


# --- groups


def classified(hits: np.ndarray, groups: list[str | None]) -> Metric:
    metric = metric_for(Labels, ("a", "b"))
    for index, hit in enumerate(hits):
        target = "ab"[index % 2]
        scores = np.where(np.array(["a", "b"]) == target, 0.8, 0.2)
        scores = scores if hit else scores[::-1]
        metric.update(Labels(("ab"[int(scores.argmax())],), scores), Labels((target,)))
    metric.groups = groups
    return metric


def test_t54_intervals_are_over_groups_which_are_counted():
    """Nine patients of ten frames, two of which are wrong in nearly all: wider than Wilson's."""
    hits = np.ones(90, dtype=bool)
    hits[:18] = False
    groups = [f"patient {index // 10}" for index in range(90)]
    single, grouped = (
        classified(hits, each).compute().numbers["accuracy"] for each in ([], groups)
    )
    assert single.value == grouped.value == 0.8
    assert grouped.high - grouped.low > 1.8 * (single.high - single.low)
    assert (single.groups, grouped.groups) == (0, 9)
    assert str(single).endswith("(n = 90)")
    assert str(grouped).endswith("(n = 90 images of 9 groups)")
    assert all(
        score.groups == 9
        for name, score in classified(hits, groups).compute().numbers.items()
        if score.low is not None and name not in ("sensitivity", "specificity")
    )


def test_t54_differences_are_over_groups():
    """One patient's ten frames are right in one and wrong in the other: significant only alone."""
    better, worse = np.ones(90, dtype=bool), np.ones(90, dtype=bool)
    worse[:10] = False
    groups = [str(index // 10) for index in range(90)]
    _, low, _ = paired_mean_difference(better, worse)
    _, low_of_groups, _ = paired_mean_difference(better, worse, Units.of(groups))
    assert low_of_groups < 0 < low
    gains = [
        paired_difference(classified(better, each), classified(worse, each), 90)
        for each in ([None] * 90, groups)
    ]
    assert gains[1].low < 0 < gains[0].low
    assert (gains[0].groups, gains[1].groups) == (0, 9)


def test_an_image_without_a_group_is_its_own():
    units = Units.of(["a", None, "a", None, "b"])
    assert (units.count, units.grouped, units.groups) == (4, True, 4)
    assert Units.of([None, None]).groups == 0
    assert units.subset(np.array([1, 3])).count == 2


# --- none where none can hold


def test_t55_no_interval_is_printed_where_none_can_hold_and_the_score_says_why():
    hits = np.arange(90) % 7 > 0
    few = classified(hits, [str(index // 30) for index in range(90)]).compute().numbers
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"):
        assert few[name].low is None
        assert few[name].no_interval is NoInterval.FEW_GROUPS
    assert str(few["accuracy"]).endswith(
        "(n = 90 images of 3 groups; no interval: too few groups to tell how much they vary)"
    )
    assert classified(hits[:4], []).compute().numbers["log_loss"].no_interval is (
        NoInterval.FEW_IMAGES
    )
    target = np.repeat([0, 1], [58, 2])
    rare = class_averages(target, target, 2, Units.single(60))
    assert rare["balanced_accuracy"].no_interval is NoInterval.RARE_CLASS
    assert rare["weighted_f1"].low is not None
    same = metric_for(Number, ())
    for _ in range(10):
        same.update(Number(1.0), Number(2.0))
    assert same.compute().numbers["mae"].no_interval is NoInterval.CONSTANT


def test_all_right_has_an_interval():
    """Nothing varies, but the number of images says how far the value could be below 1."""
    numbers = classified(np.ones(40, dtype=bool), []).compute().numbers
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc"):
        assert numbers[name].high == 1
        assert 0.75 < numbers[name].low < 0.95


def test_t54_an_evaluation_counts_groups_in_text_and_report(quick, stripes, tmp_path):
    images = sorted(stripes.rglob("*.png"))
    rows = [f"{path},{path.parent.name},video {n % 9}" for n, path in enumerate(images)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")
    run = fit_unevaluated(quick, tmp_path / "run").run
    result = foveate.evaluate(run, table, split="all", allow_outside=True)
    score = result.scores.numbers["accuracy"]
    assert 5 <= score.groups <= 9 < score.count
    assert result.numbers()["groups"] == score.groups
    for text in ("\n".join(result.lines()), page_of(result.folder)):
        assert f"{score.count} images of the data in {score.groups} groups" in text


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_classes_that_the_run_knows_and_no_image_shows_change_no_interval():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 60)
    predicted = np.where(rng.random(60) < 0.8, target, (target + 1) % 3)
    few, many = (class_averages(target, predicted, size, Units.single(60)) for size in (3, 30))
    for name, score in few.items():
        assert (score.low, score.high) == pytest.approx((many[name].low, many[name].high))

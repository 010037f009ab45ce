"""The numbers of regions against scikit-learn and torchmetrics, to 1e-6; outlines against a slow and plain version."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_jaccard_index

from foveate.errors import DataError
from foveate.evaluation.metrics import metric_for
from foveate.predictions import Regions
from foveate.reporting import plots

NAMES = tuple("abcde")


def masks(
    seed: int, k: int, images: int = 4, ignored: float = 0.1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(answer, truth) of blocks of classes, some pixels wrong, some ignored; sizes differ; the last class never occurs."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(images):
        height, width = rng.integers(9, 40, 2)
        blocks = rng.integers(0, max(1, k - 1) if k > 2 else k, (height // 5 + 1, width // 5 + 1))
        truth = np.kron(blocks, np.ones((5, 5), dtype=int))[:height, :width]
        answer = np.where(
            rng.random(truth.shape) < 0.1,
            rng.integers(0, max(1, k - 1), truth.shape),
            np.roll(truth, rng.integers(0, 3), 1),
        )
        found.append((answer, np.where(rng.random(truth.shape) < ignored, -1, truth)))
    return found


def collected(pairs: list[tuple[np.ndarray, np.ndarray]], k: int):
    metric = metric_for(Regions, NAMES[:k])
    for answer, truth in pairs:
        metric.update(Regions(answer), Regions(lambda truth=truth: truth))
    return metric


def measured(pairs: list[tuple[np.ndarray, np.ndarray]], k: int):
    return collected(pairs, k).compute()


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_the_metric_of_its_images(seed):
    pairs = masks(seed, 5, images=6)
    for places in (np.arange(6), np.array([0, 0, 3, 5, 5, 5])):
        drawn = measured([pairs[place] for place in places], 5)
        assert collected(pairs, 5).resampler()(places) == pytest.approx(
            drawn.numbers["mean_iou"].value, abs=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_numbers_equal_the_references(k, seed):
    pairs = masks(seed, k)
    found = measured(pairs, k)
    answer, truth = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    answer, truth = answer[truth >= 0], truth[truth >= 0]
    assert (
        found.tables["confusion"]
        == reference.confusion_matrix(truth, answer, labels=range(k)).tolist()
    )
    present = sorted({*truth.tolist(), *answer.tolist()})
    by_sklearn = reference.jaccard_score(
        truth, answer, labels=present, average="macro", zero_division=0
    )
    assert found.numbers["mean_iou"].value == pytest.approx(by_sklearn, abs=1e-6)
    by_torch = multiclass_jaccard_index(
        torch.tensor(answer), torch.tensor(truth), k, average="none"
    ).numpy()
    assert found.numbers["mean_iou"].value == pytest.approx(by_torch[present].mean(), abs=1e-6)
    f1 = reference.f1_score(truth, answer, labels=present, average=None, zero_division=0)
    assert found.numbers["dice"].value == pytest.approx(
        f1[present.index(1)] if k == 2 else f1.mean(), abs=1e-6
    )
    assert found.numbers["pixel_accuracy"].value == pytest.approx(
        reference.accuracy_score(truth, answer), abs=1e-6
    )
    assert [*found.numbers] == ["mean_iou", "dice", "pixel_accuracy", "boundary_f1"]
    rows = reference.classification_report(
        truth, answer, labels=range(k), output_dict=True, zero_division=0
    )
    for place, row in enumerate(found.per_class):
        expected = rows[str(place)]
        assert [
            row["precision"] or 0,
            row["recall"] or 0,
            row["dice"] or 0,
            row["count"],
        ] == pytest.approx(list(expected.values()), abs=1e-6)


def slow_outline(mask: np.ndarray, place: int) -> list[tuple[int, int]]:
    """Pixels of the class with one of another class among their eight neighbours, one by one."""
    height, width = mask.shape
    found = []
    for y, x in np.ndindex(height, width):
        around = mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if mask[y, x] == place and ((around != place) & (around != -1)).any():
            found.append((y, x))
    return found


def slow_boundary_f1(answer: np.ndarray, truth: np.ndarray, place: int) -> float | None:
    answer = np.where(truth == -1, -1, answer)
    if not (answer == place).any() and not (truth == place).any():
        return None
    mine, theirs = slow_outline(answer, place), slow_outline(truth, place)
    if not mine or not theirs:
        return float(not mine and not theirs)
    reach = math.ceil(0.0075 * math.hypot(*truth.shape))

    def near(points, others):
        return sum(
            any(math.dist(point, other) <= reach for other in others) for point in points
        ) / len(points)

    precision, recall = near(mine, theirs), near(theirs, mine)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_outlines_equal_the_slow_version(seed):
    pairs = masks(seed, 3, ignored=0.05 * (seed % 2))
    found = measured(pairs, 3)
    by_class = [
        [share for pair in pairs if (share := slow_boundary_f1(*pair, place)) is not None]
        for place in range(3)
    ]
    expected = [np.mean(shares) if shares else None for shares in by_class]
    assert [row["boundary_f1"] for row in found.per_class] == pytest.approx(expected)
    assert found.numbers["boundary_f1"].value == pytest.approx(
        np.mean([share for share in expected if share is not None])
    )


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_an_outline_may_be_off_by_the_tolerance(shift, expected):
    """120 x 160 has a diagonal of 200 pixels: 1.5, rounded up to 2. A straight edge is two columns, one of each class."""
    truth = (np.arange(160) >= 80).astype(int) * np.ones((120, 1), dtype=int)
    found = measured([(np.roll(truth, shift, 1) * (np.arange(160) > 40), truth)], 2)
    assert found.numbers["boundary_f1"].value == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_order_does_not_matter(seed):
    pairs = masks(seed, 4)
    one, two = measured(pairs, 4), measured(pairs[::-1], 4)
    assert {name: score.value for name, score in one.numbers.items()} == pytest.approx(
        {name: score.value for name, score in two.numbers.items()}
    )
    assert one.tables == two.tables


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_truth_as_an_answer_is_perfect(seed, k):
    pairs = [(np.where(truth < 0, 0, truth), truth) for _, truth in masks(seed, k)]
    found = measured(pairs, k)
    assert all(score.value == 1 for score in found.numbers.values())
    metric = metric_for(Regions, NAMES[:k])
    assert all(metric.sample_loss(Regions(answer), Regions(truth)) == 0 for answer, truth in pairs)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_rows_of_the_confusion_matrix_are_the_counts(seed):
    found = measured(masks(seed, 4), 4)
    assert np.array(found.tables["confusion"]).sum(1).tolist() == [
        row["count"] for row in found.per_class
    ]
    assert found.tables["classes"] == list("abcd")
    json.dumps([found.tables, found.per_class], allow_nan=False)


def test_ignored_pixels_count_nowhere():
    truth = np.zeros((20, 20), dtype=int)
    truth[:, 10:], truth[:, 9:11] = 1, -1
    answer = (np.arange(20) >= 10).astype(np.uint8) * np.ones((20, 1), dtype=np.uint8)
    one, two = (measured([(said, truth)], 2) for said in (answer, np.where(truth == -1, 0, answer)))
    assert one.numbers == two.numbers
    assert one.numbers["boundary_f1"].value == 1, "neither side has an outline"
    assert sum(map(sum, one.tables["confusion"])) == 20 * 18


def test_a_class_that_never_occurs_is_left_out():
    found = measured([(np.zeros((6, 6), dtype=int), np.zeros((6, 6), dtype=int))], 2)
    assert "dice" not in found.numbers, "there is no foreground"
    assert found.numbers["mean_iou"].value == 1
    assert found.per_class[1] == {
        "class": "b",
        "iou": None,
        "dice": None,
        "precision": None,
        "recall": None,
        "boundary_f1": None,
        "count": 0,
    }


def test_intervals_hold_their_value():
    numbers = measured(masks(0, 4, images=40), 4).numbers
    for score in numbers.values():
        assert 0 <= score.low < score.value < score.high <= 1
        assert score.count == 40


def test_a_worse_answer_ranks_higher():
    truth = np.arange(100).reshape(10, 10) // 50
    metric = metric_for(Regions, ("a", "b"))
    found = [
        metric.sample_loss(Regions(np.roll(truth, shift, 0)), Regions(truth)) for shift in range(5)
    ]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[1] == pytest.approx(1 - 40 / 60)
    assert metric.sample_loss(Regions(truth), Regions(np.full((10, 10), -1))) == 0


MASK = np.zeros((4, 5), dtype=int)


@pytest.mark.parametrize(
    ("answer", "truth", "words"),
    [
        (MASK, MASK.T, "4 x 5 and 5 x 4 pixels"),
        (MASK + 7, MASK, "the prediction has pixels of a class"),
        (MASK - 1, MASK, "the prediction has pixels of a class"),
        (MASK, MASK + 7, "the target has pixels of a class"),
        (MASK / 2, MASK, "integers"),
        (MASK[None], MASK, "\\(H, W\\)"),
    ],
)
def test_bad_masks_are_refused(answer, truth, words):
    metric = metric_for(Regions, ("a", "b"))
    for compare in (metric.update, metric.sample_loss):
        with pytest.raises(DataError, match=words):
            compare(Regions(answer), Regions(truth))
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute()


def test_nothing_but_ignored_pixels_is_nothing_to_score():
    with pytest.raises(DataError, match="ignored"):
        measured([(MASK, MASK - 1)], 2)


def words_of(figure: str) -> int:
    """How many texts a figure holds: letters are drawn as paths, each text in a group of its own."""
    return len(re.findall(r'<g id="text_\d+">', figure))


@pytest.mark.parametrize("count", [0, 1, 2, 20, 45])
def test_precision_and_recall_are_drawn(count):
    curves = {
        f"$class_{number} <b>": np.linspace(1, number / 50, 101).tolist() for number in range(count)
    }
    figure = plots.pr_curves(curves)
    lines = min(count, 20) + (count > 1)
    assert figure.startswith("<svg")
    assert "<b>" not in figure
    assert words_of(figure) == 6 + 6 + 2 + lines + (count > 20)
    assert figure == plots.pr_curves(curves)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (7, "7"),
        (9_999, "9999"),
        (12_345, "12k"),
        (999_600, "1.0M"),
        (1_234_567, "1.2M"),
        (5 * 10**8, "500M"),
        (10**13, "1e+13"),
    ],
)
def test_large_counts_are_short_in_a_cell(count, text):
    assert plots._short_count(count) == text
    assert (
        words_of(plots.confusion_matrix(np.array([[count, 0], [0, 1]]), ["a", "background"]))
        == 2 + 2 + 2 + 2
    )

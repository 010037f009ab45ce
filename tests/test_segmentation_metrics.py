"""Segmentation metrics equal scikit-learn, torchmetrics and a slow version."""

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
from foveate.reporting.evaluation_page import describe_regions

pytestmark = pytest.mark.figures

NAMES = tuple("abcde")


def random_masks(
    seed: int, k: int, images: int = 4, ignored: float = 0.1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make (prediction, target) pairs of blocks of classes with wrong and ignored pixels.

    Sizes differ, and with more than two classes the last one never occurs.
    """
    rng, pairs = np.random.default_rng(seed), []
    for _ in range(images):
        height, width = rng.integers(9, 40, 2)
        blocks = rng.integers(0, max(1, k - 1) if k > 2 else k, (height // 5 + 1, width // 5 + 1))
        target = np.kron(blocks, np.ones((5, 5), dtype=int))[:height, :width]
        prediction = np.where(
            rng.random(target.shape) < 0.1,
            rng.integers(0, max(1, k - 1), target.shape),
            np.roll(target, rng.integers(0, 3), 1),
        )
        pairs.append((prediction, np.where(rng.random(target.shape) < ignored, -1, target)))
    return pairs


def filled_metric(pairs: list[tuple[np.ndarray, np.ndarray]], k: int):
    metric = metric_for(Regions, NAMES[:k])
    for prediction, target in pairs:
        metric.update(Regions(prediction), Regions(lambda target=target: target))
    return metric


def compute_scores(pairs: list[tuple[np.ndarray, np.ndarray]], k: int):
    return filled_metric(pairs, k).compute()


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_equals_the_metric_of_its_images(seed):
    pairs = random_masks(seed, 5, images=6)
    for indices in (np.arange(6), np.array([0, 0, 3, 5, 5, 5])):
        resampled = compute_scores([pairs[index] for index in indices], 5)
        assert filled_metric(pairs, 5).resampler()(indices) == pytest.approx(
            resampled.numbers["mean_iou"].value, abs=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_numbers_equal_the_references(k, seed):
    pairs = random_masks(seed, k)
    result = compute_scores(pairs, k)
    predicted, target = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    predicted, target = predicted[target >= 0], target[target >= 0]
    assert (
        result.tables["confusion"]
        == reference.confusion_matrix(target, predicted, labels=range(k)).tolist()
    )
    present = sorted({*target.tolist(), *predicted.tolist()})
    by_sklearn = reference.jaccard_score(
        target, predicted, labels=present, average="macro", zero_division=0
    )
    assert result.numbers["mean_iou"].value == pytest.approx(by_sklearn, abs=1e-6)
    by_torch = multiclass_jaccard_index(
        torch.tensor(predicted), torch.tensor(target), k, average="none"
    ).numpy()
    assert result.numbers["mean_iou"].value == pytest.approx(by_torch[present].mean(), abs=1e-6)
    f1 = reference.f1_score(target, predicted, labels=present, average=None, zero_division=0)
    assert result.numbers["dice"].value == pytest.approx(
        f1[present.index(1)] if k == 2 else f1.mean(), abs=1e-6
    )
    assert result.numbers["pixel_accuracy"].value == pytest.approx(
        reference.accuracy_score(target, predicted), abs=1e-6
    )
    names = ["mean_iou", "dice", "dice_per_image", "pixel_accuracy", "boundary_f1"]
    assert [*result.numbers] == names
    rows = reference.classification_report(
        target, predicted, labels=range(k), output_dict=True, zero_division=0
    )
    for index, row in enumerate(result.per_class):
        expected = rows[str(index)]
        assert [
            row["precision"] or 0,
            row["recall"] or 0,
            row["dice"] or 0,
            row["count"],
        ] == pytest.approx(list(expected.values()), abs=1e-6)


def slow_boundary(mask: np.ndarray, class_index: int) -> list[tuple[int, int]]:
    """Pixels of a class with a pixel of another class among their eight neighbors, one by one."""
    height, width = mask.shape
    points = []
    for y, x in np.ndindex(height, width):
        neighborhood = mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if (
            mask[y, x] == class_index
            and ((neighborhood != class_index) & (neighborhood != -1)).any()
        ):
            points.append((y, x))
    return points


def slow_boundary_f1(prediction: np.ndarray, target: np.ndarray, class_index: int) -> float | None:
    prediction = np.where(target == -1, -1, prediction)
    if not (prediction == class_index).any() and not (target == class_index).any():
        return None
    predicted_points, target_points = (
        slow_boundary(prediction, class_index),
        slow_boundary(target, class_index),
    )
    if not predicted_points or not target_points:
        return float(not predicted_points and not target_points)
    tolerance = math.ceil(0.0075 * math.hypot(*target.shape))

    def share_near(points, others):
        return sum(
            any(math.dist(point, other) <= tolerance for other in others) for point in points
        ) / len(points)

    precision, recall = (
        share_near(predicted_points, target_points),
        share_near(target_points, predicted_points),
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_boundaries_equal_the_slow_version(seed):
    pairs = random_masks(seed, 3, ignored=0.05 * (seed % 2))
    result = compute_scores(pairs, 3)
    by_class = [
        [score for pair in pairs if (score := slow_boundary_f1(*pair, class_index)) is not None]
        for class_index in range(3)
    ]
    expected = [np.mean(shares) if shares else None for shares in by_class]
    assert [row["boundary_f1"] for row in result.per_class] == pytest.approx(expected)
    assert result.numbers["boundary_f1"].value == pytest.approx(
        np.mean([score for score in expected if score is not None])
    )


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_boundaries_may_be_off_by_the_tolerance(shift, expected):
    """120 x 160 has a diagonal of 200 pixels, so the tolerance is 1.5, rounded up to 2.

    The boundary of a straight edge is two columns, one of each class.
    """
    target = (np.arange(160) >= 80).astype(int) * np.ones((120, 1), dtype=int)
    result = compute_scores([(np.roll(target, shift, 1) * (np.arange(160) > 40), target)], 2)
    assert result.numbers["boundary_f1"].value == pytest.approx(expected)


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_order_does_not_matter(seed):
    pairs = random_masks(seed, 4)
    first, second = compute_scores(pairs, 4), compute_scores(pairs[::-1], 4)
    assert {name: score.value for name, score in first.numbers.items()} == pytest.approx(
        {name: score.value for name, score in second.numbers.items()}
    )
    assert first.tables == second.tables


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_target_as_a_prediction_is_perfect(seed, k):
    pairs = [(np.where(target < 0, 0, target), target) for _, target in random_masks(seed, k)]
    result = compute_scores(pairs, k)
    assert all(score.value == 1 for score in result.numbers.values())
    metric = metric_for(Regions, NAMES[:k])
    assert all(
        metric.sample_loss(Regions(prediction), Regions(target)) == 0
        for prediction, target in pairs
    )


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_the_rows_of_the_confusion_matrix_are_the_counts(seed):
    result = compute_scores(random_masks(seed, 4), 4)
    assert np.array(result.tables["confusion"]).sum(1).tolist() == [
        row["count"] for row in result.per_class
    ]
    assert result.tables["classes"] == list("abcd")
    json.dumps([result.tables, result.per_class], allow_nan=False)


def test_ignored_pixels_are_not_counted():
    target = np.zeros((20, 20), dtype=int)
    target[:, 10:], target[:, 9:11] = 1, -1
    prediction = (np.arange(20) >= 10).astype(np.uint8) * np.ones((20, 1), dtype=np.uint8)
    first, second = (
        compute_scores([(predicted, target)], 2)
        for predicted in (prediction, np.where(target == -1, 0, prediction))
    )
    assert first.numbers == second.numbers
    assert first.numbers["boundary_f1"].value == 1, "neither side has a boundary"
    assert sum(map(sum, first.tables["confusion"])) == 20 * 18


def test_a_class_that_never_occurs_is_omitted():
    result = compute_scores([(np.zeros((6, 6), dtype=int), np.zeros((6, 6), dtype=int))], 2)
    assert "dice" not in result.numbers, "there is no foreground"
    assert result.numbers["mean_iou"].value == 1
    assert result.per_class[1] == {
        "class": "b",
        "iou": None,
        "dice": None,
        "precision": None,
        "recall": None,
        "boundary_f1": None,
        "count": 0,
    }


def test_intervals_contain_their_value():
    numbers = compute_scores(random_masks(0, 4, images=40), 4).numbers
    for score in numbers.values():
        assert 0 <= score.low < score.value < score.high <= 1
        assert score.count == 40


def test_worse_predictions_have_a_higher_badness():
    target = np.arange(100).reshape(10, 10) // 50
    metric = metric_for(Regions, ("a", "b"))
    losses = [
        metric.sample_loss(Regions(np.roll(target, shift, 0)), Regions(target))
        for shift in range(5)
    ]
    assert losses == sorted(losses)
    assert losses[0] == 0
    assert losses[1] == pytest.approx(1 - 40 / 60)
    assert metric.sample_loss(Regions(target), Regions(np.full((10, 10), -1))) == 0


MASK = np.zeros((4, 5), dtype=int)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (MASK, MASK.T, "4 x 5 and 5 x 4 pixels"),
        (MASK + 7, MASK, "the prediction has pixels of a class"),
        (MASK - 1, MASK, "the prediction has pixels of a class"),
        (MASK, MASK + 7, "the target has pixels of a class"),
        (MASK / 2, MASK, "integers"),
        (MASK[None], MASK, "\\(H, W\\)"),
    ],
)
def test_bad_masks_are_refused(prediction, target, message):
    metric = metric_for(Regions, ("a", "b"))
    for compare in (metric.update, metric.sample_loss):
        with pytest.raises(DataError, match=message):
            compare(Regions(prediction), Regions(target))
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute()


def test_only_ignored_pixels_give_no_score():
    with pytest.raises(DataError, match="ignored"):
        compute_scores([(MASK, MASK - 1)], 2)


def count_texts(figure: str) -> int:
    """Count the texts of a figure: letters are paths, and each text is a group."""
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
    assert count_texts(figure) == 6 + 6 + 2 + lines + (count > 20)
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
def test_large_counts_are_abbreviated(count, text):
    assert plots._short_count(count) == text
    assert (
        count_texts(plots.confusion_matrix(np.array([[count, 0], [0, 1]]), ["a", "background"]))
        == 2 + 2 + 2 + 2
    )


# --- objects, and the mean image


def defects(found: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, target) of one large and ten small defects on images of 200 px.

    The large one is found but for its edge, and `found` of the small ones by one pixel each.
    """
    target = np.zeros((200, 200), int)
    target[20:170, 20:170] = 1
    prediction = np.roll(target, 1, 0)
    pairs = [(prediction, target)]
    for index in range(10):
        target = np.zeros((200, 200), int)
        target[50:56, 50:56] = 1
        prediction = np.zeros_like(target)
        prediction[55, 55] = index < found
        pairs.append((prediction, target))
    return pairs


def scores_of(pairs: list[tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...]):
    metric = metric_for(Regions, classes)
    for prediction, target in pairs:
        metric.update(Regions(prediction), Regions(target))
    return metric.compute()


def test_t77_what_pooled_pixels_hide_is_said_first():
    result = scores_of(defects(found=2), ("background", "defect"))
    numbers = {name: score.value for name, score in result.numbers.items()}
    assert [*numbers][:3] == ["dice", "dice_per_image", "object_recall"]
    assert numbers["dice"] > 0.97  # one large defect
    large, small = 2 * 150 * 149 / (2 * 150**2), 2 / (36 + 1)
    assert numbers["dice_per_image"] == pytest.approx((large + 2 * small) / 11)
    assert numbers["object_recall"] == pytest.approx(3 / 11)
    assert numbers["object_recall_small"] == pytest.approx(0.2)
    assert numbers["object_recall_large"] == 1
    assert "object_recall_medium" not in numbers  # there are none
    assert result.tables["objects"] == {"small": [2, 10], "medium": [0, 0], "large": [1, 1]}
    assert result.numbers["object_recall_small"].low < 0.2 < result.numbers["object_recall"].high
    assert result.numbers["object_recall_large"].low is None  # of one image
    sentence = str(describe_regions(result))
    assert sentence.startswith("Dice 0.9")
    assert "in the mean image; 3 of 11 objects found (small: 2 of 10, medium: 0 of 0" in sentence


def slow_objects(prediction: np.ndarray, target: np.ndarray) -> list[tuple[int, bool]]:
    """Area of each connected region of class 1, and whether a pixel of it is predicted."""
    left, objects = {tuple(each) for each in np.argwhere(target == 1)}, []
    while left:
        stack, area, hit = [left.pop()], 0, False
        while stack:
            y, x = stack.pop()
            area, hit = area + 1, hit or prediction[y, x] == 1
            near = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            stack += near
        objects.append((area, bool(hit)))
    return objects


@pytest.mark.parametrize("seed", range(3))
def test_objects_equal_the_slow_version(seed):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(6):
        target = (rng.random((60, 70)) < 0.1).astype(int)
        target[5 : 5 + int(rng.integers(10, 40)), 5:45] = 1
        target[rng.random(target.shape) < 0.05] = -1
        pairs.append(((rng.random(target.shape) < 0.02).astype(int), target))
    objects = [each for pair in pairs for each in slow_objects(*pair)]
    result = scores_of(pairs, ("background", "thing"))
    assert result.numbers["object_recall"].value == pytest.approx(
        np.mean([hit for _, hit in objects])
    )
    small = [hit for area, hit in objects if area <= 32**2]
    medium = [hit for area, hit in objects if 32**2 < area <= 96**2]
    assert result.tables["objects"]["small"] == [sum(small), len(small)]
    assert result.tables["objects"]["medium"] == [sum(medium), len(medium)]


def test_images_without_foreground_count_in_no_mean_and_false_alarms_as_zero():
    empty, spot = np.zeros((9, 9), int), np.zeros((9, 9), int)
    spot[2:4, 2:4] = 1
    classes = ("background", "spot")
    assert scores_of([(spot, spot), (empty, empty)], classes).numbers["dice_per_image"].value == 1
    both = scores_of([(spot, spot), (spot, empty)], classes).numbers
    assert both["dice_per_image"].value == 0.5
    assert both["object_recall"].value == 1


def test_scenes_without_a_background_have_no_objects():
    pairs = random_masks(0, 3)
    numbers = scores_of(pairs, ("sky", "road", "car")).numbers
    assert [*numbers] == ["mean_iou", "dice", "dice_per_image", "pixel_accuracy", "boundary_f1"]
    several = scores_of(pairs, ("background", "road", "car")).numbers
    assert next(iter(several)) == "mean_iou"
    assert "object_recall" in several


@pytest.mark.parametrize("classes", [("background", "spot"), ("a", "b", "c")])
def test_the_main_score_of_a_resample_is_that_of_its_images(classes):
    pairs = random_masks(1, len(classes), images=5)
    metric = metric_for(Regions, classes)
    for prediction, target in pairs:
        metric.update(Regions(prediction), Regions(target))
    indices = np.array([0, 1, 1, 4])
    expected = scores_of([pairs[index] for index in indices], classes)
    assert metric.resampler()(indices) == pytest.approx(
        expected.numbers[expected.main].value, abs=1e-12
    )

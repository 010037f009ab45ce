"""Detection metrics equal pycocotools to 1e-6."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import DataError
from foveate.evaluation.metrics import metric_for
from foveate.predictions import Boxes
from helpers import pycocotools_evaluation

NAMES = ("ant", "bee", "cow", "dog")


def random_corners(rng: np.random.Generator, count: int, max_size: float = 140) -> np.ndarray:
    low = rng.uniform(0, 150, (count, 2))
    return np.concatenate([low, low + rng.uniform(4, max_size, (count, 2))], axis=1).astype(
        np.float32
    )


def class_names(indices: np.ndarray) -> tuple[str, ...]:
    return tuple(NAMES[index] for index in indices)


def random_pair(
    rng: np.random.Generator, objects: int, predictions: int, crowd: float = 0.15
) -> tuple[Boxes, Boxes]:
    """Make predictions near the targets or anywhere, often of the right class, and targets.

    All scores differ, and the last class is never a target.
    """
    boxes, class_indices = random_corners(rng, objects), rng.integers(0, len(NAMES) - 1, objects)
    target = Boxes(boxes, class_names(class_indices), crowd=rng.random(objects) < crowd)
    predicted_corners, predicted_classes = (
        random_corners(rng, predictions),
        rng.integers(0, len(NAMES), predictions),
    )
    if objects:
        is_near, source = rng.random(predictions) < 0.8, rng.integers(0, objects, predictions)
        shifted = boxes[source] + rng.normal(0, 6, (predictions, 4)).astype(np.float32)
        predicted_corners[is_near] = np.concatenate(
            [
                np.minimum(shifted[:, :2], shifted[:, 2:]),
                np.maximum(shifted[:, :2], shifted[:, 2:]),
            ],
            1,
        )[is_near]
        predicted_classes = np.where(
            is_near & (rng.random(predictions) < 0.85), class_indices[source], predicted_classes
        )
    return Boxes(
        predicted_corners,
        class_names(predicted_classes),
        rng.permutation(predictions).astype(np.float32) / max(1, predictions) * 0.9
        + rng.random() * 0.1,
    ), target


def random_pairs(seed: int, images: int = 30, max_size: int = 8) -> list[tuple[Boxes, Boxes]]:
    """Make images with and without targets and predictions, and one with more than COCO uses."""
    rng = np.random.default_rng(seed)
    pairs = [
        random_pair(rng, int(rng.integers(0, max_size)), int(rng.integers(0, 20)))
        for _ in range(images)
    ]
    return [
        *pairs,
        random_pair(rng, 0, 9),
        random_pair(rng, 5, 0),
        random_pair(rng, 0, 0),
        random_pair(rng, 12, 450),
    ]


def filled_metric(pairs: list[tuple[Boxes, Boxes]]):
    metric = metric_for(Boxes, NAMES)
    for pair in pairs:
        metric.update(*pair)
    return metric


def compute_scores(pairs: list[tuple[Boxes, Boxes]]):
    return filled_metric(pairs).compute()


@pytest.mark.parametrize("seed", range(6))
def test_the_numbers_equal_pycocotools(seed):
    pairs = random_pairs(seed)
    scores, expected = compute_scores(pairs), pycocotools_evaluation(pairs, NAMES)
    order = {
        "map": 0,
        "map_50": 1,
        "map_75": 2,
        "map_small": 3,
        "map_medium": 4,
        "map_large": 5,
        "mar_100": 8,
    }
    for name, index in order.items():
        assert scores.numbers[name].value == pytest.approx(expected.stats[index], abs=1e-6), name
    assert [*scores.numbers] == [*order, "f1"]
    assert scores.main == "map"
    precision = expected.eval["precision"][..., 0, -1]
    for index, row in enumerate(scores.per_class):
        if row["count"]:
            assert (row["map"], row["map_50"]) == pytest.approx(
                (precision[:, :, index].mean(), precision[0, :, index].mean()), abs=1e-6
            )
            assert scores.tables["pr"][row["class"]] == pytest.approx(
                precision[0, :, index].tolist(), abs=5.1e-5
            )
    assert scores.per_class[-1]["map"] is None
    assert scores.per_class[-1]["recall"] is None
    assert NAMES[-1] not in scores.tables["pr"]


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_of_every_image_once_equals_coco(seed):
    """The bootstrap sums matches in its own way; with each image drawn once it is COCO's value."""
    from foveate.evaluation.metrics.boxes import _Curve, _Ranked

    metric, expected = (
        filled_metric(random_pairs(seed)),
        pycocotools_evaluation(random_pairs(seed), NAMES),
    )
    classes, images = metric._target_boxes()
    count = len(metric._targets)
    ranked = _Ranked.of(metric._predictions, metric._matches)
    for index in np.unique(classes):
        curve = _Curve(ranked, index, images[classes == index]).measure(np.ones(count))
        assert curve[0] == pytest.approx(
            expected.eval["precision"][:, :, index, 0, -1].mean(1), abs=1e-6
        )
        assert curve[1] == pytest.approx(expected.eval["recall"][:, index, 0, -1], abs=1e-6)
    assert metric.resampler()(np.arange(count)) == pytest.approx(expected.stats[0], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_better_f1(seed):
    """Every threshold is tried by hand, on pycocotools' matches at IoU 0.5."""
    result, expected = (
        compute_scores(random_pairs(seed)),
        pycocotools_evaluation(random_pairs(seed), NAMES),
    )
    images = [
        evaluated
        for evaluated in expected.evalImgs
        if evaluated is not None and tuple(evaluated["aRng"]) == tuple(expected.params.areaRng[0])
    ]
    scores = np.concatenate([evaluated["dtScores"] for evaluated in images])
    hit = np.concatenate([evaluated["dtMatches"][0] > 0 for evaluated in images])
    counted = ~np.concatenate([evaluated["dtIgnore"][0] for evaluated in images]).astype(bool)
    boxes = sum(int((np.array(evaluated["gtIgnore"]) == 0).sum()) for evaluated in images)

    def f1(threshold: float) -> float:
        predicted = counted & (scores >= threshold)
        return 2 * (hit & predicted).sum() / (predicted.sum() + boxes)

    assert result.numbers["f1"].value == pytest.approx(max(map(f1, scores)), abs=1e-9)
    assert result.numbers["f1"].value == pytest.approx(f1(result.tables["threshold"]), abs=1e-9)
    hits = sum(row["recall"] * row["count"] for row in result.per_class if row["count"])
    predictions = sum(
        class_hits / row["precision"]
        for row in result.per_class
        if row["precision"] and (class_hits := row["recall"] * row["count"])
    )
    assert (
        2 * hits / (predictions + boxes) >= result.numbers["f1"].value - 1e-9
    )  # classes without a hit add false alarms only


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng, 4, 8) for _ in range(5)]
    scores = (
        rng.permutation(40).reshape(5, 8) / 40
    )  # all different: of equal ones COCO takes the first
    pairs = [
        (Boxes(prediction.xyxy, prediction.names, row), target)
        for (prediction, target), row in zip(pairs, scores, strict=True)
    ]

    def shuffled(boxes: Boxes) -> Boxes:
        order = rng.permutation(len(boxes.names))
        parts = [
            None if part is None else part[order]
            for part in (boxes.xyxy, boxes.scores, boxes.crowd)
        ]
        return Boxes(parts[0], tuple(boxes.names[index] for index in order), parts[1], parts[2])

    other = [(shuffled(pairs[index][0]), shuffled(pairs[index][1])) for index in rng.permutation(5)]
    first, second = compute_scores(pairs), compute_scores(other)
    assert {name: score.value for name, score in first.numbers.items()} == pytest.approx(
        {name: score.value for name, score in second.numbers.items()}
    )
    assert first.tables["confusion"] == second.tables["confusion"]
    assert first.tables["threshold"] == second.tables["threshold"]


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_the_target_as_a_prediction_is_perfect(seed, objects):
    rng = np.random.default_rng(seed)
    targets = [random_pair(rng, objects, 0, crowd=0)[1] for _ in range(3)]
    metric = filled_metric(
        [
            (Boxes(target.xyxy, target.names, rng.uniform(0.1, 1, objects)), target)
            for target in targets
        ]
    )
    result = metric.compute()
    assert all(
        score.value == pytest.approx(1) and score.low is None for score in result.numbers.values()
    )
    confusion = np.array(result.tables["confusion"])
    assert (confusion == np.diag(np.diag(confusion))).all()
    assert (
        metric.sample_loss(Boxes(targets[0].xyxy, targets[0].names, np.ones(objects)), targets[0])
        == 0
    )


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_every_target_box_has_one_cell_in_the_confusion_matrix(seed):
    result = compute_scores(random_pairs(seed, images=6))
    confusion = np.array(result.tables["confusion"])
    assert confusion[:-1].sum(1).tolist() == [row["count"] for row in result.per_class]
    assert confusion[-1, -1] == 0
    assert result.tables["classes"] == [*NAMES, "background"]
    json.dumps(result.tables, allow_nan=False)
    json.dumps(result.per_class, allow_nan=False)


def test_the_confusion_matrix_by_hand():
    """An ant predicted as bee, a missed cow, a false dog, a crowd that ignores ants but no bees."""
    square = np.array([0, 0, 10, 10], dtype=np.float32)
    target = Boxes(
        np.stack([square, square + 50, square * 5 + 100]),
        ("ant", "cow", "ant"),
        crowd=np.array([False, False, True]),
    )
    prediction = Boxes(
        np.stack([square + 1, square + 200, square + 110, square + 130]),
        ("bee", "dog", "ant", "bee"),
        np.array([0.9, 0.8, 0.7, 0.6]),
    )
    metric = filled_metric([(prediction, target)])
    assert metric.sample_loss(prediction, target) == pytest.approx(4 + 4 / 5)
    assert np.array(metric.compute().tables["confusion"]).tolist() == [
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 1, 0],
    ]


def test_worse_predictions_have_a_higher_badness():
    rng = np.random.default_rng(0)
    target = random_pair(rng, 5, 0, crowd=0)[1]
    predictions = [
        Boxes(target.xyxy[:count], target.names[:count], np.ones(count)) for count in range(6)
    ]
    metric = metric_for(Boxes, NAMES)
    losses = [metric.sample_loss(prediction, target) for prediction in predictions]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0
    small = Boxes(target.xyxy[:1], target.names[:1])
    assert (
        metric.sample_loss(predictions[0], small) < metric.sample_loss(predictions[4], target) + 1
    )
    assert metric.sample_loss(predictions[0], small) > metric.sample_loss(predictions[4], target), (
        "one of one is worse than one of five"
    )


def test_intervals_contain_their_value():
    numbers = compute_scores(random_pairs(0, images=80)).numbers
    for name in ("map", "map_50", "map_75", "mar_100"):
        assert 0 <= numbers[name].low <= numbers[name].value <= numbers[name].high <= 1
        assert numbers[name].high - numbers[name].low < 0.5  # some classes are in few images
    assert numbers["f1"].low is None
    assert numbers["map"].count == 84


def test_no_predictions_at_all():
    target = random_pair(np.random.default_rng(0), 4, 0, crowd=0)[1]
    result = compute_scores([(Boxes(np.zeros((0, 4)), (), np.zeros(0)), target)])
    assert {score.value for score in result.numbers.values()} == {0.0}
    assert result.tables["threshold"] == 0.5


BOX = np.array([[0, 0, 5, 5]], dtype=np.float32)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (Boxes(BOX, ("zebra",), np.ones(1)), "zebra"),
        (Boxes(BOX, ("ant",), np.array([np.nan])), "finite"),
        (Boxes(BOX, ("ant",), np.array([1.5])), "in \\[0, 1\\]"),
        (Boxes(BOX, ("ant",)), "score"),
        (Boxes(BOX[:, [2, 1, 0, 3]], ("ant",), np.ones(1)), "the prediction has an invalid box"),
        (Boxes(BOX + np.inf, ("ant",), np.ones(1)), "finite"),
        (Boxes(BOX[:, :3], ("ant",), np.ones(1)), "four numbers"),
    ],
)
def test_bad_predictions_are_refused(prediction, message):
    metric = metric_for(Boxes, NAMES)
    with pytest.raises(DataError, match=message):
        metric.update(prediction, Boxes(BOX, ("ant",)))
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute()


def test_bad_targets_are_refused():
    prediction = Boxes(BOX, ("ant",), np.ones(1))
    for target in (Boxes(BOX, ("zebra",)), Boxes(BOX[:, [0, 3, 2, 1]] - [[0, 0, 0, 1]], ("ant",))):
        with pytest.raises(DataError, match="the target"):
            metric_for(Boxes, NAMES).update(prediction, target)
    with pytest.raises(DataError, match="crowd"):
        compute_scores([(prediction, Boxes(BOX, ("ant",), crowd=np.array([True])))])


def test_nothing_is_printed(capfd):
    compute_scores(random_pairs(1))
    assert capfd.readouterr() == ("", "")

"""The numbers of boxes against pycocotools, to 1e-6."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import DataError
from foveate.evaluation.metrics import metric_for
from foveate.predictions import Boxes
from helpers import refereed

NAMES = ("ant", "bee", "cow", "dog")


def corners(rng: np.random.Generator, count: int, most: float = 140) -> np.ndarray:
    low = rng.uniform(0, 150, (count, 2))
    return np.concatenate([low, low + rng.uniform(4, most, (count, 2))], axis=1).astype(np.float32)


def told(places: np.ndarray) -> tuple[str, ...]:
    return tuple(NAMES[place] for place in places)


def image(
    rng: np.random.Generator, objects: int, answers: int, crowd: float = 0.15
) -> tuple[Boxes, Boxes]:
    """Answers near the truth or anywhere, often of the right class; scores all differ. The last class is never true."""
    boxes, places = corners(rng, objects), rng.integers(0, len(NAMES) - 1, objects)
    truth = Boxes(boxes, told(places), crowd=rng.random(objects) < crowd)
    said, named = corners(rng, answers), rng.integers(0, len(NAMES), answers)
    if objects:
        near, source = rng.random(answers) < 0.8, rng.integers(0, objects, answers)
        moved = boxes[source] + rng.normal(0, 6, (answers, 4)).astype(np.float32)
        said[near] = np.concatenate(
            [np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], 1
        )[near]
        named = np.where(near & (rng.random(answers) < 0.85), places[source], named)
    return Boxes(
        said,
        told(named),
        rng.permutation(answers).astype(np.float32) / max(1, answers) * 0.9 + rng.random() * 0.1,
    ), truth


def some(seed: int, images: int = 30, most: int = 8) -> list[tuple[Boxes, Boxes]]:
    """Images of all kinds: crowded, with no truth, no answer, neither, and with more answers than COCO looks at."""
    rng = np.random.default_rng(seed)
    pairs = [
        image(rng, int(rng.integers(0, most)), int(rng.integers(0, 20))) for _ in range(images)
    ]
    return [*pairs, image(rng, 0, 9), image(rng, 5, 0), image(rng, 0, 0), image(rng, 12, 450)]


def collected(pairs: list[tuple[Boxes, Boxes]]):
    metric = metric_for(Boxes, NAMES)
    for pair in pairs:
        metric.update(*pair)
    return metric


def measured(pairs: list[tuple[Boxes, Boxes]]):
    return collected(pairs).compute()


@pytest.mark.parametrize("seed", range(6))
def test_the_numbers_equal_pycocotools(seed):
    pairs = some(seed)
    found, judge = measured(pairs), refereed(pairs, NAMES)
    order = {
        "map": 0,
        "map_50": 1,
        "map_75": 2,
        "map_small": 3,
        "map_medium": 4,
        "map_large": 5,
        "mar_100": 8,
    }
    for name, place in order.items():
        assert found.numbers[name].value == pytest.approx(judge.stats[place], abs=1e-6), name
    assert [*found.numbers] == [*order, "f1"]
    assert found.main == "map"
    precision = judge.eval["precision"][..., 0, -1]
    for place, row in enumerate(found.per_class):
        if row["count"]:
            assert (row["map"], row["map_50"]) == pytest.approx(
                (precision[:, :, place].mean(), precision[0, :, place].mean()), abs=1e-6
            )
            assert found.tables["pr"][row["class"]] == pytest.approx(
                precision[0, :, place].tolist(), abs=5.1e-5
            )
    assert found.per_class[-1]["map"] is None
    assert found.per_class[-1]["recall"] is None
    assert NAMES[-1] not in found.tables["pr"]


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_of_every_image_once_is_coco_again(seed):
    """The bootstrap has matches and running sums of its own; with each image drawn once it must say what pycocotools says."""
    from foveate.evaluation.metrics.boxes import _Curve, _Ranked

    metric, judge = collected(some(seed)), refereed(some(seed), NAMES)
    classes, images = metric._target_boxes()
    count = len(metric._targets)
    ranked = _Ranked.of(metric._predictions, metric._matches)
    for index in np.unique(classes):
        found = _Curve(ranked, index, images[classes == index]).measure(np.ones(count))
        assert found[0] == pytest.approx(
            judge.eval["precision"][:, :, index, 0, -1].mean(1), abs=1e-6
        )
        assert found[1] == pytest.approx(judge.eval["recall"][:, index, 0, -1], abs=1e-6)
    assert metric.resampler()(np.arange(count)) == pytest.approx(judge.stats[0], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_better_f1(seed):
    """Every threshold tried by hand: pycocotools' matches at IoU 0.5, counted."""
    found, judge = measured(some(seed)), refereed(some(seed), NAMES)
    images = [
        each
        for each in judge.evalImgs
        if each is not None and tuple(each["aRng"]) == tuple(judge.params.areaRng[0])
    ]
    scores = np.concatenate([each["dtScores"] for each in images])
    hit = np.concatenate([each["dtMatches"][0] > 0 for each in images])
    counted = ~np.concatenate([each["dtIgnore"][0] for each in images]).astype(bool)
    boxes = sum(int((np.array(each["gtIgnore"]) == 0).sum()) for each in images)

    def f1(threshold: float) -> float:
        said = counted & (scores >= threshold)
        return 2 * (hit & said).sum() / (said.sum() + boxes)

    assert found.numbers["f1"].value == pytest.approx(max(map(f1, scores)), abs=1e-9)
    assert found.numbers["f1"].value == pytest.approx(f1(found.tables["threshold"]), abs=1e-9)
    right = sum(row["recall"] * row["count"] for row in found.per_class if row["count"])
    answered = sum(
        right_ / row["precision"]
        for row in found.per_class
        if row["precision"] and (right_ := row["recall"] * row["count"])
    )
    assert (
        2 * right / (answered + boxes) >= found.numbers["f1"].value - 1e-9
    )  # classes without a hit add false alarms only


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    pairs = [image(rng, 4, 8) for _ in range(5)]
    scores = (
        rng.permutation(40).reshape(5, 8) / 40
    )  # no two alike: of equal ones COCO takes the first
    pairs = [
        (Boxes(said.xyxy, said.names, row), truth)
        for (said, truth), row in zip(pairs, scores, strict=True)
    ]

    def shuffled(boxes: Boxes) -> Boxes:
        order = rng.permutation(len(boxes.names))
        parts = [
            None if part is None else part[order]
            for part in (boxes.xyxy, boxes.scores, boxes.crowd)
        ]
        return Boxes(parts[0], tuple(boxes.names[place] for place in order), parts[1], parts[2])

    other = [(shuffled(pairs[place][0]), shuffled(pairs[place][1])) for place in rng.permutation(5)]
    one, two = measured(pairs), measured(other)
    assert {name: score.value for name, score in one.numbers.items()} == pytest.approx(
        {name: score.value for name, score in two.numbers.items()}
    )
    assert one.tables["confusion"] == two.tables["confusion"]
    assert one.tables["threshold"] == two.tables["threshold"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_the_truth_as_an_answer_is_perfect(seed, objects):
    rng = np.random.default_rng(seed)
    truths = [image(rng, objects, 0, crowd=0)[1] for _ in range(3)]
    metric = collected(
        [(Boxes(truth.xyxy, truth.names, rng.uniform(0.1, 1, objects)), truth) for truth in truths]
    )
    found = metric.compute()
    assert all(
        score.value == pytest.approx(1) and score.low is None for score in found.numbers.values()
    )
    confusion = np.array(found.tables["confusion"])
    assert (confusion == np.diag(np.diag(confusion))).all()
    assert (
        metric.sample_loss(Boxes(truths[0].xyxy, truths[0].names, np.ones(objects)), truths[0]) == 0
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_every_true_box_has_one_place_in_the_confusion_matrix(seed):
    found = measured(some(seed, images=6))
    confusion = np.array(found.tables["confusion"])
    assert confusion[:-1].sum(1).tolist() == [row["count"] for row in found.per_class]
    assert confusion[-1, -1] == 0
    assert found.tables["classes"] == [*NAMES, "background"]
    json.dumps(found.tables, allow_nan=False)
    json.dumps(found.per_class, allow_nan=False)


def test_the_confusion_matrix_by_hand():
    """An ant taken for a bee, a cow missed, a dog from nowhere, and a crowd that excuses an ant within it but no bee."""
    square = np.array([0, 0, 10, 10], dtype=np.float32)
    truth = Boxes(
        np.stack([square, square + 50, square * 5 + 100]),
        ("ant", "cow", "ant"),
        crowd=np.array([False, False, True]),
    )
    said = Boxes(
        np.stack([square + 1, square + 200, square + 110, square + 130]),
        ("bee", "dog", "ant", "bee"),
        np.array([0.9, 0.8, 0.7, 0.6]),
    )
    metric = collected([(said, truth)])
    assert metric.sample_loss(said, truth) == pytest.approx(4 + 4 / 5)
    assert np.array(metric.compute().tables["confusion"]).tolist() == [
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 1, 0],
    ]


def test_a_worse_answer_ranks_higher():
    rng = np.random.default_rng(0)
    truth = image(rng, 5, 0, crowd=0)[1]
    kept = [Boxes(truth.xyxy[:count], truth.names[:count], np.ones(count)) for count in range(6)]
    metric = metric_for(Boxes, NAMES)
    found = [metric.sample_loss(answer, truth) for answer in kept]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0
    small = Boxes(truth.xyxy[:1], truth.names[:1])
    assert metric.sample_loss(kept[0], small) < metric.sample_loss(kept[4], truth) + 1
    assert metric.sample_loss(kept[0], small) > metric.sample_loss(kept[4], truth), (
        "one of one is worse than one of five"
    )


def test_intervals_hold_their_value():
    numbers = measured(some(0, images=80)).numbers
    for name in ("map", "map_50", "map_75", "mar_100"):
        assert 0 <= numbers[name].low <= numbers[name].value <= numbers[name].high <= 1
        assert numbers[name].high - numbers[name].low < 0.3
    assert numbers["f1"].low is None
    assert numbers["map"].count == 84


def test_no_answers_at_all():
    truth = image(np.random.default_rng(0), 4, 0, crowd=0)[1]
    found = measured([(Boxes(np.zeros((0, 4)), (), np.zeros(0)), truth)])
    assert {score.value for score in found.numbers.values()} == {0.0}
    assert found.tables["threshold"] == 0.5


BOX = np.array([[0, 0, 5, 5]], dtype=np.float32)


@pytest.mark.parametrize(
    ("said", "words"),
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
def test_bad_answers_are_refused(said, words):
    metric = metric_for(Boxes, NAMES)
    with pytest.raises(DataError, match=words):
        metric.update(said, Boxes(BOX, ("ant",)))
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute()


def test_bad_truths_are_refused():
    fine = Boxes(BOX, ("ant",), np.ones(1))
    for bad in (Boxes(BOX, ("zebra",)), Boxes(BOX[:, [0, 3, 2, 1]] - [[0, 0, 0, 1]], ("ant",))):
        with pytest.raises(DataError, match="the target"):
            metric_for(Boxes, NAMES).update(fine, bad)
    with pytest.raises(DataError, match="crowd"):
        measured([(fine, Boxes(BOX, ("ant",), crowd=np.array([True])))])


def test_nothing_is_printed(capfd):
    measured(some(1))
    assert capfd.readouterr() == ("", "")

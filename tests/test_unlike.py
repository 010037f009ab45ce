"""What a score could fall to on unlike images: clusters of look-alikes that are left out."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from PIL import Image

from foveate.api.evaluate import evaluate
from foveate.api.evaluate.unlike import describe_unlike
from foveate.api.fit.core import fit_recipe
from foveate.data.splits import group_folds
from foveate.modeling.classifiers.logistic import out_of_fold, solve
from foveate.modeling.classifiers.solution import rotate
from foveate.recipe import with_settings
from foveate.training.unlike_images import held_out_clusters, look_alike_folds, measure_unlike
from foveate.types import Score, Scores
from helpers import probe_of

CLASSES, DIRECTIONS = 4, 24


def features_of(centers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of `count` images around each center (K, clusters, D), and their classes."""
    rng = np.random.default_rng(1)
    features = centers[:, :, None] + rng.normal(size=(*centers.shape[:2], count, DIRECTIONS))
    classes = np.repeat(np.arange(len(centers)), centers.shape[1] * count)
    return features.reshape(-1, DIRECTIONS).astype(np.float32), classes


def solved(features, classes, groups=None):
    """Features and targets, the groups, and the solution as `fit` finds it."""
    groups = groups or [str(index) for index in range(len(classes))]
    targets, rotated = np.eye(CLASSES)[classes], rotate(features)
    folds = group_folds([(str(each),) for each in classes], groups, 5, 0)
    return rotated, targets, groups, solve(rotated, targets, folds, False)


def score(solution, classes) -> float:
    return float((solution.out_of_fold.argmax(1) == classes).mean())


def test_t64_a_score_that_rests_on_look_alikes_is_told():
    """Nothing that the clusters of a class share tells it from others, and random folds say 1."""
    centers = 3 * np.random.default_rng(0).normal(size=(CLASSES, 3, DIRECTIONS))
    features, classes = features_of(centers, 25)
    known = solved(features, classes)
    found = measure_unlike(*known, seed=0)
    assert score(known[3], classes) > 0.98
    assert found.images == len(classes)
    assert found.low < 0.5
    assert found.low == found.by_clusters[3] < found.by_clusters[5] == found.high
    assert found == measure_unlike(*known, seed=0)


def test_t64_the_range_is_near_the_score_where_a_class_has_no_clusters():
    centers = np.random.default_rng(0).normal(size=(CLASSES, 1, DIRECTIONS))
    features, classes = features_of(centers, 75)
    known = solved(features, classes)
    found = measure_unlike(*known, seed=0)
    assert 0.9 < score(known[3], classes) < 1
    assert found.low == pytest.approx(score(known[3], classes), abs=0.05)
    assert found.high == pytest.approx(score(known[3], classes), abs=0.05)


def test_folds_leave_out_one_cluster_of_each_class_and_divide_no_group():
    centers = 10 * np.random.default_rng(0).normal(size=(CLASSES, 3, DIRECTIONS))
    features, classes = features_of(centers, 20)
    cluster = np.repeat(np.arange(3 * CLASSES), 20)
    # groups of two images; one group is of two classes
    groups = [str(index // 2) for index in range(len(classes))]
    groups[0] = groups[-1] = "shared"
    folds = look_alike_folds(features, classes, groups, 3, np.random.default_rng(0))
    assert set(folds) == {0, 1, 2}
    inner = slice(1, len(classes) - 1)
    for fold, own in product(range(3), range(CLASSES)):
        assert len(set(cluster[inner][(folds[inner] == fold) & (classes[inner] == own)])) == 1
    for group in set(groups):
        assert len({folds[index] for index, each in enumerate(groups) if each == group}) == 1


def test_t70_whole_clusters_are_held_out_and_each_class_keeps_two_thirds_of_its_groups():
    """Classes of 60, 60, 60 and 4 groups of two images; one group is of two classes."""
    centers = 10 * np.random.default_rng(0).normal(size=(CLASSES, 15, DIRECTIONS))
    features, classes = features_of(centers, 8)
    kept = np.flatnonzero((classes < 3) | (np.arange(len(classes)) < 3 * 120 + 8))
    cluster = np.repeat(np.arange(15 * CLASSES), 8)[kept]
    features, classes = features[kept], classes[kept]
    groups = [str(index // 2) for index in range(len(kept))]
    groups[0] = groups[150] = "shared"
    held = held_out_clusters(features, classes, groups, seed=0)
    assert held == held_out_clusters(features, classes, groups, seed=0)
    out = np.array([each is not None for each in held])
    assert not out[classes == 3].any()
    for own in range(3):
        inside = {group for index, group in enumerate(groups) if classes[index] == own}
        gone = {group for index, group in enumerate(groups) if classes[index] == own and out[index]}
        assert 0 < len(gone) <= len(inside) / 3
    for group in set(groups):
        assert len({held[index] for index, each in enumerate(groups) if each == group}) == 1
    single = np.array([groups.count(group) == 2 for group in groups]) & (np.arange(len(kept)) > 1)
    for one in set(cluster.tolist()):
        assert len(set(out[single & (cluster == one)])) <= 1
    few = held_out_clusters(features[:40], classes[:40], groups[:40], seed=0)
    assert few == [None] * 40


def test_classes_with_few_groups_are_trained_on_and_not_scored():
    centers = 3 * np.random.default_rng(0).normal(size=(CLASSES, 3, DIRECTIONS))
    features, classes = features_of(centers, 20)
    kept = np.flatnonzero((classes > 0) | (np.arange(len(classes)) < 4))
    known = solved(features[kept], classes[kept])
    assert measure_unlike(*known, seed=0).images == len(kept) - 4
    rotated, targets, _, solution = known
    folds = np.where(classes[kept] == 0, -1, np.arange(len(kept)) % 3)
    probabilities = out_of_fold(rotated, targets, folds, solution.strength, False)
    assert not probabilities[folds < 0].any()
    assert probabilities[folds >= 0].sum(1) == pytest.approx(1)


def test_nothing_is_said_where_it_would_tell_nothing():
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(CLASSES, 3, DIRECTIONS))
    features, classes = features_of(centers, 20)
    # most classes are one long video each
    groups = [str(each) if each else str(index) for index, each in enumerate(classes.tolist())]
    rotated, targets, _, solution = solved(features, classes)
    assert measure_unlike(rotated, targets, groups, solution, seed=0) is None
    noise = rng.normal(size=features.shape).astype(np.float32)
    assert measure_unlike(*solved(noise, classes), seed=0) is None


@pytest.mark.filterwarnings("error")
def test_equal_features_are_one_cluster():
    classes, groups = np.repeat([0, 1], 8), [str(index) for index in range(16)]
    features = np.repeat(np.eye(2, 5, dtype=np.float32), 8, axis=0)
    folds = look_alike_folds(features, classes, groups, 3, np.random.default_rng(0))
    assert all(len(set(folds[classes == each])) == 1 for each in (0, 1))


def test_a_range_above_the_score_says_that_nothing_is_lost():
    scores = Scores({"accuracy": Score(0.9, 0.85, 0.95, 100)})
    assert "may fall to 0.60 to 0.90" in str(describe_unlike(scores, {"low": 0.6, "high": 0.95}))
    assert "does not lower it" in str(describe_unlike(scores, {"low": 0.91, "high": 0.95}))


COLORS = {
    "one": [(220, 30, 30), (220, 220, 30), (30, 220, 220)],
    "two": [(30, 220, 30), (30, 30, 220), (220, 30, 220)],
}


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """Two classes of three colors each, that nothing but the color tells apart."""
    root, rng = tmp_path_factory.mktemp("data") / "colors", np.random.default_rng(0)
    for name, each in COLORS.items():
        (root / name).mkdir(parents=True)
        for color, _ in product(each, range(16)):
            noise = Image.fromarray(rng.integers(60, 256, (6, 6), np.uint8)).resize((32, 32))
            pixels = np.asarray(noise)[..., None] / 255 * np.array(color)
            path = root / name / f"{rng.integers(10**9)}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def test_t64_every_fit_of_classes_says_what_to_expect_of_unlike_images(quick, colors, tmp_path):
    """In the terminal, JSON, the report in two languages and the model card; or it is turned off."""
    settings = {"data.path": str(colors), "data.test": 0.3}
    recipe = probe_of(quick, settings)
    result = fit_recipe(recipe, tmp_path / "run")
    row = json.loads((tmp_path / "run" / "finished.json").read_text())["unlike"]
    accuracy = result.evaluation.scores.numbers["accuracy"].value
    assert accuracy > 0.9
    assert row["low"] < 0.6
    fallen = f"on unlike ones it may fall to {row['low']:.2f} to "
    sentence = f"is {accuracy:.3f} on images like these; {fallen}"
    assert sentence in "\n".join(result.lines())
    assert result.numbers()["unlike"] == result.outcome["unlike"] == row
    assert sentence in (result.evaluation.folder / "report.html").read_text()
    assert sentence in (tmp_path / "run" / "README.md").read_text()
    chinese = evaluate(tmp_path / "run", split="test", lang="zh")
    assert "在不相似的图片上可能降至" in (chinese.folder / "report.html").read_text()
    assert evaluate(tmp_path / "run", split="train").unlike is None
    assert evaluate(tmp_path / "run", colors).unlike is None

    recipe = with_settings(recipe, {"data.leakage_audit": False})
    silent = fit_recipe(recipe, tmp_path / "silent")
    assert silent.outcome["unlike"] is None
    assert "unlike" not in silent.numbers()
    assert "unlike ones" not in "\n".join(silent.lines())

"""Splits keep groups together, train every class, keep proportions and ignore the order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from foveate.data.duplicates import colors_agree, gray_thumbnail, near_duplicates, tint
from foveate.data.scan import ScannedTable
from foveate.data.split_names import split_from_name
from foveate.data.splits import group_folds, make_splits, subsample_shots
from foveate.errors import DataError, UsageError
from foveate.images.encoding import encode_jpeg
from foveate.predictions import Labels
from foveate.types import Sample, Table


def random_labels_and_groups(
    count: int, classes: int, groups: int, seed: int = 0
) -> tuple[list[tuple[str, ...]], list[str]]:
    rng = random.Random(seed)
    labels = [(f"c{rng.randrange(classes)}",) for _ in range(count)]
    return labels, [f"g{rng.randrange(groups)}" for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split_and_proportions_hold(seed):
    labels, groups = random_labels_and_groups(600, 5, 120, seed)
    splits = make_splits(labels, groups, 0.2, 0.1, seed)
    splits_of_group = {
        group: {split for split, other in zip(splits, groups, strict=True) if other == group}
        for group in groups
    }
    assert all(len(group_splits) == 1 for group_splits in splits_of_group.values())
    counts = Counter(splits)
    largest = max(Counter(groups).values())
    assert abs(counts["val"] - 120) <= largest
    assert abs(counts["test"] - 60) <= largest


def test_single_images_are_stratified():
    labels = [("a",)] * 100 + [("b",)] * 40
    splits = make_splits(labels, [str(index) for index in range(140)], 0.15, 0.15, 0)
    assert Counter(splits[:100]) == {"train": 70, "val": 15, "test": 15}
    assert Counter(splits[100:]) == {"train": 28, "val": 6, "test": 6}


def test_splits_depend_on_the_seed_and_not_on_the_order():
    labels, groups = random_labels_and_groups(300, 4, 80)
    order = list(range(300))
    random.Random(1).shuffle(order)
    splits = make_splits(labels, groups, 0.2, 0.2, 3)
    shuffled = make_splits([labels[i] for i in order], [groups[i] for i in order], 0.2, 0.2, 3)
    assert [splits[i] for i in order] == shuffled
    assert splits != make_splits(labels, groups, 0.2, 0.2, 4)


@pytest.mark.parametrize(("val", "test"), [(0.15, 0.15), (0.6, 0.3), (0.5, 0.0), (0.0, 0.0)])
def test_every_class_has_training_images(val, test):
    labels = [(f"c{index // 3}",) for index in range(60)]
    splits = make_splits(labels, [str(index) for index in range(60)], val, test, 0)
    train_classes = {
        name for (name,), split in zip(labels, splits, strict=True) if split == "train"
    }
    assert len(train_classes) == 20
    assert set(splits) == {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())


def test_many_tiny_classes_still_fill_val_and_test():
    labels = [(f"c{index // 2}",) for index in range(200)]
    counts = Counter(make_splits(labels, [str(index) for index in range(200)], 0.15, 0.15, 0))
    assert abs(counts["val"] - counts["test"]) <= 4
    assert counts["test"] >= 15


def test_tiny_data_still_get_val_and_test_images():
    labels = [("a",), ("a",), ("b",), ("b",)]
    assert Counter(make_splits(labels, list("1234"), 0.15, 0.15, 0)) == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    assert make_splits([("a",)], ["1"], 0.15, 0.15, 0) == ["train"]
    assert make_splits([], [], 0.15, 0.15, 0) == []


def test_multilabel_splits_keep_each_label_proportion():
    rng = random.Random(0)
    labels = [
        tuple(
            name
            for name, probability in (("x", 0.5), ("y", 0.2), ("z", 0.05))
            if rng.random() < probability
        )
        for _ in range(1000)
    ]
    splits = make_splits(labels, [str(index) for index in range(1000)], 0.2, 0.0, 0)
    for name in "xyz":
        has = [split for names, split in zip(labels, splits, strict=True) if name in names]
        assert abs(has.count("val") / len(has) - 0.2) < 0.03
    assert abs(splits.count("val") - 200) <= 10


def test_bad_proportions_are_refused():
    with pytest.raises(UsageError):
        make_splits([("a",)], ["1"], 0.6, 0.4, 0)
    with pytest.raises(UsageError):
        group_folds([("a",)], ["1"], 1, 0)


def test_folds_keep_groups_together_and_are_stratified():
    labels, groups = random_labels_and_groups(500, 4, 100)
    folds = group_folds(labels, groups, 5, 0)
    assert set(folds.tolist()) == set(range(5))
    assert all(
        len({int(fold) for fold, other in zip(folds, groups, strict=True) if other == group}) == 1
        for group in set(groups)
    )
    assert max(np.bincount(folds)) - min(np.bincount(folds)) <= 2 * max(Counter(groups).values())
    pairs = group_folds(
        [(f"c{index // 2}",) for index in range(40)], [str(index) for index in range(40)], 5, 0
    )
    assert all(pairs[2 * index] != pairs[2 * index + 1] for index in range(20))
    assert np.bincount(pairs).tolist() == [8] * 5


def test_near_duplicates_finds_copies_and_nothing_else():
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 255, (40, 32, 32)).astype(np.float32)
    copies = (base[:10] * 0.8 + 10 + rng.normal(0, 2, (10, 32, 32))).astype(np.float32)
    clusters = near_duplicates(np.concatenate([base, copies]), 0.97)
    assert clusters.dtype == np.int64
    assert clusters.tolist() == [*range(40), *range(10)]


def edited_drawings() -> dict[str, np.ndarray]:
    """Make one shape in two colors, and edited versions of the red one."""
    rng = np.random.default_rng(0)
    shape = (rng.random((8, 8)) < 0.4).repeat(10, 0).repeat(10, 1)[..., None]
    red, blue = (
        np.where(shape, np.array(color), np.array([250, 250, 245])).astype(np.uint8)
        for color in ([210, 40, 30], [20, 60, 220])
    )
    gray = np.asarray(Image.fromarray(red).convert("L").convert("RGB"))
    warm = np.clip(red * np.array([1.05, 1.0, 0.85]) - 5, 0, 255).astype(np.uint8)
    return {
        "red": red,
        "blue": blue,
        "gray": gray,
        "warm": warm,
        "dark": (red * 0.6).astype(np.uint8),
        "jpeg": encode_jpeg(red, 40),
    }


def test_one_shape_in_two_colors_is_two_images():
    images = edited_drawings()
    thumbs, tints = (
        np.stack([compute(pixels) for pixels in images.values()])
        for compute in (gray_thumbnail, tint)
    )
    assert near_duplicates(thumbs, 0.97).tolist() == [0] * 6  # by gray levels alone
    first, second = np.array([0, 0, 0, 0, 0, 1]), np.array([1, 2, 3, 4, 5, 2])
    assert colors_agree(tints, first, second).tolist() == [False, True, True, True, True, True]
    selected = np.array([0, 1, 3, 4, 5])  # a gray image may be a copy of both, and would join them
    assert near_duplicates(thumbs[selected], 0.97, tints[selected]).tolist() == [0, 1, 0, 0, 0]
    flat = np.stack(
        [np.full((40, 40, 3), color, np.uint8) for color in ([200, 0, 0], [0, 102, 0], [200, 0, 0])]
    )
    thumbs, tints = (
        np.stack([compute(pixels) for pixels in flat]) for compute in (gray_thumbnail, tint)
    )
    assert (thumbs[0] == thumbs[1]).all()
    assert near_duplicates(thumbs, 0.97, tints).tolist() == [0, 1, 0]


def test_uniform_images_join_only_their_equals():
    flat = np.stack([np.full((32, 32), value, dtype=np.float32) for value in (0, 255, 0, 7, 255)])
    assert near_duplicates(flat, 0.9).tolist() == [0, 1, 0, 2, 1]
    assert near_duplicates(flat[:0], 0.9).tolist() == []


def test_equal_images_join_even_at_threshold_one():
    base = np.random.default_rng(0).uniform(0, 255, (3, 32, 32)).astype(np.float32)
    assert near_duplicates(np.concatenate([base, base]), 1.0).tolist() == [0, 1, 2, 0, 1, 2]


def test_blocks_do_not_change_the_clusters(monkeypatch):
    thumbs = np.random.default_rng(1).uniform(0, 255, (50, 32, 32)).astype(np.float32)
    thumbs[25:] = thumbs[:25] + np.random.default_rng(2).normal(0, 15, (25, 32, 32))
    whole = near_duplicates(thumbs, 0.95)
    monkeypatch.setattr("foveate.data.duplicates._BLOCK", 150)
    assert (near_duplicates(thumbs, 0.95) == whole).all()
    assert whole.max() == 24


@pytest.mark.parametrize("many", [0.0, 1.0])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_the_bound_misses_no_pair(monkeypatch, threshold, many):
    """Compare with all products, by candidate pairs and by whole blocks."""
    rng = np.random.default_rng(3)
    coarse = np.repeat(np.repeat(rng.uniform(0, 255, (60, 8, 8)), 4, 1), 4, 2)
    thumbs = (
        coarse[rng.integers(0, 60, 300)]
        + rng.normal(0, 1, (300, 32, 32)) * rng.uniform(0, 80, (300, 1, 1))
    ).clip(0, 255)
    rows = thumbs.reshape(300, -1) - thumbs.reshape(300, -1).mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = connected_components(rows @ rows.T >= threshold)[1]
    monkeypatch.setattr("foveate.data.duplicates._MANY", many)
    assert (near_duplicates(thumbs.astype(np.float32), threshold) == expected).all()
    assert 1 < expected.max() + 1 < 300


def test_thumbnails_and_names_of_splits():
    thumb = gray_thumbnail(np.full((100, 60, 3), 128, dtype=np.uint8))
    assert (thumb.shape, thumb.dtype, float(thumb.mean())) == ((64, 64), np.uint8, 128.0)
    assert [split_from_name(word) for word in ("Training", "valid", "DEV", "testing", "cat")] == [
        "train",
        "val",
        "val",
        "test",
        None,
    ]


def scanned_table(groups: list[str], labels: list[str]) -> ScannedTable:
    samples = tuple(
        Sample(
            Path(f"{n}.png"), f"{n}.png", Labels((label,)), split="test" if n % 5 == 4 else "train"
        )
        for n, label in enumerate(labels)
    )
    table = Table(samples, tuple(sorted(set(labels))), "table", Path())
    return ScannedTable(
        table, tuple(map(str, range(len(labels)))), np.zeros((len(labels), 2, 2)), None, ()
    )


def test_shots_are_drawn_by_class_and_from_different_groups():
    labels = ["a", "b"] * 20
    groups = [
        f"{label}{n // 8}" for n, label in enumerate(labels)
    ]  # five of each class, four images in each
    subsample, kept_groups = subsample_shots(scanned_table(groups, labels), groups, 4, 0)
    train = [
        (sample, group)
        for sample, group in zip(subsample.table.samples, kept_groups, strict=True)
        if sample.split == "train"
    ]
    assert Counter(sample.target.names[0] for sample, _ in train) == {"a": 4, "b": 4}
    assert len({group for _, group in train}) == 8
    assert sum(sample.split == "test" for sample in subsample.table.samples) == 8
    assert [sample.key for sample in subsample.table.samples] == [
        f"{digest}.png" for digest in subsample.hashes
    ]
    same_seed, other = (
        subsample_shots(scanned_table(groups, labels), groups, 4, seed)[0].hashes for seed in (0, 1)
    )
    assert same_seed == subsample.hashes != other


def test_more_shots_than_images_are_refused():
    labels = ["a", "b"] * 5 + ["a"] * 5
    with pytest.raises(DataError, match="'b' has 4 training images, 5 are requested"):
        subsample_shots(scanned_table(labels, labels), labels, 5, 0)
    table = scanned_table(["x"] * 4, ["a", "b", "a", "b"])
    multilabel = tuple(replace(sample, target=Labels(("a", "b"))) for sample in table.table.samples)
    with pytest.raises(DataError, match="from images with one class each"):
        subsample_shots(replace(table, table=table.table.with_samples(multilabel)), ["x"] * 4, 1, 0)

"""How often the 95 % intervals of scores hold the true value, simulated.

    python bench/intervals.py --out OUT [--cases classes labels masks boxes captions numbers]
        [--draws 1000] [--seeds 0]

For each case, a large set of answers is made; what the metric says of all of them is the truth.
Test sets of 15 to 200 images are drawn from it, with replacement, in whole groups where there are
groups, and scored as `foveate evaluate` scores them. Answers to images of a group are correlated
(0.5 on the scale of the normal deviates that they are made from). In `rare` sets some classes are
ten times as rare as others.

A drawn set in which a class is missing measures something else and is counted with those whose
score has no interval. The truth of CIDEr, whose weights depend on the set, is its mean over sets of
the same size.

Rows are appended to OUT/intervals.jsonl; those already there are not measured again. Prints for
each score and kind of set: coverage, median width, and the share of sets without an interval.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common import ResultFile, parse_options
from foveate.evaluation.metrics import METRICS, Metric
from foveate.predictions import Boxes, Labels, Number, Regions, Text

Pairs = list[tuple[Any, Any]]
POOL = 6000  # images of a population
SINGLE = [(15, 1), (30, 1), (60, 1), (200, 1)]  # images, and images of a group
GROUPED = [(15, 3), (30, 5), (60, 5), (90, 10), (200, 10)]
CORRELATION = 0.5
SIDE = 32  # of masks, px


@dataclass(frozen=True)
class Population:
    """Answers to many images.

    Attributes:
        metric: Updated with all of them.
        members: The indices of the images of each group.
        classes: (N, K) bool, the classes of each image; a drawn set needs all of them.
        size: N.
    """

    metric: Metric
    members: list[np.ndarray]
    classes: np.ndarray
    size: int = field(default=POOL)

    def draw(self, rng: np.random.Generator, groups: int) -> tuple[np.ndarray, list[str | None]]:
        """Return the indices of the images of drawn groups, and the group of each image."""
        drawn = [self.members[index] for index in rng.integers(0, len(self.members), groups)]
        single = all(len(each) == 1 for each in self.members)
        names = [None if single else str(number) for number, each in enumerate(drawn) for _ in each]
        return np.concatenate(drawn), names

    def score(self, images: np.ndarray, groups: list[str | None]) -> dict[str, Any]:
        """Return the scores of some of the images."""
        metric = copy.copy(self.metric)
        for name, values in vars(self.metric).items():
            if isinstance(values, list) and len(values) == self.size:
                setattr(metric, name, [values[index] for index in images])
        metric.groups = groups
        return metric.compute().numbers


class Source:
    """Random numbers of the images of a population, correlated inside groups."""

    def __init__(self, seed: int, images: int, size: int, rare: bool) -> None:
        self.rng, self.rare, self.images = np.random.default_rng(seed), rare, images
        # groups of unequal sizes, from 1 to twice the mean, where there are more than ten of them
        sizes = self.rng.integers(1, 2 * size, images) if size in (5, 10) else np.full(images, size)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self.groups = np.searchsorted(starts, np.arange(images), side="right") - 1
        self.members = np.split(np.arange(images), np.flatnonzero(np.diff(self.groups)) + 1)

    def normal(self, columns: int) -> np.ndarray:
        """(N, columns) standard normal."""
        own = self.rng.normal(size=(self.images, columns))
        if len(self.members) == self.images:
            return own
        shared = self.rng.normal(size=(len(self.members), columns))[self.groups]
        return np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own

    def classes(self, size: int) -> np.ndarray:
        """(N,) classes; if rare, the first is ten times as frequent as each of the others."""
        weights = np.ones(size)
        weights[0] = 10 if self.rare else 1
        return self.rng.choice(size, self.images, p=weights / weights.sum())


def _filled(name: str, classes: tuple[str, ...], pairs: Pairs, multilabel: bool = False) -> Metric:
    metric = METRICS.get(name)(classes, multilabel)
    for prediction, target in pairs:
        metric.update(prediction, target)
    return metric


def _names(size: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(size))


def class_answers(source: Source, size: int) -> Population:
    """One class per image, found in 77 to 92 % of its images."""
    target, names = source.classes(size), _names(size)
    logits = source.normal(size)
    logits[np.arange(source.images), target] += np.resize([2.0, 1.2], size)[target] + 0.25 * (
        size - 2
    )
    scores = np.exp(1.5 * logits)
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    pairs = [
        (Labels((names[row.argmax()],), row), Labels((names[index],)))
        for row, index in zip(scores, target, strict=True)
    ]
    return Population(
        _filled("labels", names, pairs), source.members, np.eye(size, dtype=bool)[target]
    )


def label_answers(source: Source) -> Population:
    """Any of four classes per image; if rare, two of them in 4 % of the images."""
    names, scores = _names(4), source.normal(4)
    shares = np.array([0.4, 0.4, *[0.04 if source.rare else 0.4] * 2])
    target = source.rng.random((source.images, 4)) < shares
    scores = (1 / (1 + np.exp(1 - scores - 2 * target))).astype(np.float32)

    def named(row: np.ndarray) -> tuple[str, ...]:
        return tuple(names[index] for index in np.flatnonzero(row))

    pairs = [
        (Labels(named(row > 0.5), row), Labels(named(truth)))
        for row, truth in zip(scores, target, strict=True)
    ]
    return Population(_filled("labels", names, pairs, True), source.members, target)


def mask_answers(source: Source) -> Population:
    """Disks of two classes on a background; one of twenty is missed."""
    names, quality = ("background", *_names(2)), source.normal(2)
    radius = np.clip(6 * np.exp(0.35 * source.normal(2)), 2, 14)
    shares = np.array([0.9, 0.09 if source.rare else 0.9])
    present = source.rng.random((source.images, 2)) < shares
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pairs, has = [], np.ones((source.images, 3), dtype=bool)
    for image in range(source.images):
        masks = np.zeros((2, SIDE, SIDE), dtype=np.int64)
        for index in np.flatnonzero(present[image]):
            center, r = source.rng.uniform(6, SIDE - 6, 2), radius[image, index]
            miss = source.rng.random() < 0.05
            shift = source.rng.normal(size=2) * r * 0.25 * np.exp(-0.5 * quality[image, index])
            for mask, (y, x), size in (
                (masks[1], center, r),
                (masks[0], center + shift, 0 if miss else r * np.exp(0.1 * source.rng.normal())),
            ):
                mask[(rows - y) ** 2 + (columns - x) ** 2 < size * size] = index + 1
        pairs.append((Regions(masks[0]), Regions(masks[1])))
        has[image] = np.bincount(masks[1].ravel(), minlength=3) > 0
    return Population(_filled("regions", names, pairs), source.members, has)


def box_answers(source: Source) -> Population:
    """One to five objects an image of three classes, with misses, errors and false alarms."""
    names, ease, rng = _names(3), source.normal(2), source.rng
    weights = np.array([10, 1, 1] if source.rare else [1, 1, 1]) / (12 if source.rare else 3)
    pairs, has = [], np.zeros((source.images, 3), dtype=bool)
    for image in range(source.images):
        count, extra = rng.integers(1, 6), rng.poisson(np.exp(0.4 * ease[image, 1]))
        classes = rng.choice(3, count, p=weights)
        corners, sides = rng.uniform(0, 400, (count, 2)), rng.uniform(20, 120, (count, 2))
        boxes = np.concatenate([corners, corners + sides], 1)
        own = ease[image, 0] + 0.7 * rng.normal(size=count)
        moved = boxes + rng.normal(size=(count, 4)) * sides.mean(1, keepdims=True) * 0.06 * np.exp(
            -0.3 * own[:, None]
        )
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found = own > -1.3
        false = rng.uniform(0, 400, (extra, 2))
        false = np.concatenate([false, false + rng.uniform(20, 120, (extra, 2))], 1)
        said = np.where(rng.random(count) < 0.9, classes, rng.integers(0, 3, count))[found]
        said = np.concatenate([said, rng.choice(3, extra, p=weights)])
        logits = np.concatenate(
            [(1 + own + rng.normal(size=count))[found], rng.normal(size=extra) - 0.7]
        )
        predicted = Boxes(
            np.concatenate([moved[found], false]).astype(np.float32),
            tuple(names[index] for index in said),
            (1 / (1 + np.exp(-logits))).astype(np.float32),
        )
        target = Boxes(boxes.astype(np.float32), tuple(names[index] for index in classes))
        pairs.append((predicted, target))
        has[image, classes] = True
    return Population(_filled("boxes", names, pairs), source.members, has)


SUBJECTS = "a dog,a cat,a man,a woman,two children,a horse,a small bird,a red car,a boat,the train"
ACTIONS = "running,sitting,standing,sleeping,jumping over a fence,playing,eating,waiting,turning"
PLACES = "on the grass,in the street,near the water,on a table,in a field,by a window,at the beach"


def caption_answers(source: Source) -> Population:
    """Three references an image; the caption has part of its subject, action and place right."""
    parts = [each.split(",") for each in (SUBJECTS, ACTIONS, PLACES)]
    rng, ranks, quality = source.rng, source.normal(3), source.normal(1)[:, 0]
    # some things are much more frequent than others
    picked = np.minimum(
        np.exp(0.8 * np.abs(ranks)).astype(int) - 1, [len(each) - 1 for each in parts]
    )
    pairs = []
    for image in range(source.images):
        subject, action, place = (part[i] for part, i in zip(parts, picked[image], strict=True))
        references = (
            f"{subject} {action} {place}",
            f"{subject} is {action} {place} in daylight",
            f"{place} {subject} can be seen {action}",
        )
        right = rng.random(3) < 1 / (1 + np.exp(-0.3 - 1.2 * quality[image]))
        said = [
            word if ok else str(rng.choice(part))
            for word, ok, part in zip((subject, action, place), right, parts, strict=True)
        ]
        pairs.append((Text((" ".join(said),)), Text(references)))
    return Population(_filled("text", (), pairs), source.members, np.ones((source.images, 1), bool))


def number_answers(source: Source) -> Population:
    """Normal numbers and errors; if rare, one image of ten has errors three times as large."""
    target, error = source.normal(2).T
    if source.rare:
        error = error * np.where(source.rng.random(source.images) < 0.1, 3, 1)
    pairs = [
        (Number(float(value)), Number(float(truth)))
        for value, truth in zip(0.9 * target + 0.5 * error, target, strict=True)
    ]
    metric = _filled("numbers", (), pairs)
    metric.settings = {"median": 0.1, "mean": 0.1}
    return Population(metric, source.members, np.ones((source.images, 1), bool))


MAKERS: dict[str, Callable[[Source], Population]] = {
    "classes": lambda source: class_answers(source, 2),
    "many classes": lambda source: class_answers(source, 6),
    "labels": label_answers,
    "masks": mask_answers,
    "boxes": box_answers,
    "captions": caption_answers,
    "numbers": number_answers,
}


def simulate(
    case: str, rare: bool, images: int, size: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """Return a row for each score of a case."""
    pool = 3000 if case in ("masks", "boxes", "captions") else POOL
    made = MAKERS[case](Source(seed, pool, size, rare))
    population = Population(made.metric, made.members, made.classes, pool)
    truth = population.score(np.arange(pool), [None] * pool)
    rng, drawn = np.random.default_rng(seed + 1), []
    start = time.process_time()
    for _ in range(draws):
        indices, groups = population.draw(rng, images // size)
        complete = population.classes[indices].any(0).all()
        drawn.append(population.score(indices, groups) if complete else {})
    seconds = (time.process_time() - start) / draws
    rows = []
    for name, score in truth.items():
        own = [each[name] for each in drawn if name in each]
        known = [each for each in own if each.low is not None]
        expected = float(np.mean([each.value for each in own])) if name == "cider" else score.value
        if score.low is not None and len(known) > draws / 50:
            held = float(np.mean([each.low <= expected <= each.high for each in known]))
            width = float(np.median([each.high - each.low for each in known]))
            rows.append({"metric": name, "truth": expected, "coverage": held, "width": width})
        elif score.low is not None:
            rows.append({"metric": name, "truth": expected, "coverage": None, "width": None})
        else:
            continue
        rows[-1] |= {"without": 1 - len(known) / draws, "seconds": seconds}
    return rows


def main() -> None:
    options = parse_options(__doc__, [], list(MAKERS), threads=1, draws=1000.0)
    results, draws = ResultFile(options.out / "intervals.jsonl"), int(options.draws)
    for case in options.cases:
        for rare in (False,) if case == "captions" else (False, True):
            for images, size in SINGLE + GROUPED:
                key = {"case": case, "rare": rare, "images": images, "size": size}
                key |= {"draws": draws, "seed": options.seeds[0]}
                if not results.has(**key):
                    for row in simulate(case, rare, images, size, draws, options.seeds[0]):
                        results.add(key | row)
                for row in results.rows:
                    if all(row[name] == value for name, value in key.items()):
                        _print(row)


def _print(row: dict[str, Any]) -> None:
    groups = "" if row["size"] == 1 else f" in {row['images'] // row['size']} groups"
    kind = f"{row['case']}{', rare' if row['rare'] else ''}, {row['images']} images{groups}"
    held = "none" if row["coverage"] is None else f"{100 * row['coverage']:.1f} %"
    width = "" if row["width"] is None else f", width {row['width']:.3f}"
    print(
        f"{kind}: {row['metric']} {row['truth']:.3f}: {held}{width}, without {row['without']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

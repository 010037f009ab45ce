"""How often prediction sets hold the true class: simulated, and on real images over many splits.

    python bench/sets.py --data ../shared/data

Simulated: classifiers of 5 classes whose scores are distorted and noisy, calibrated on n images and
asked about 2,000 others; each image of a group of 5 has the same error in the third part. The
promise is the interval of `evaluation.coverage.Promise`; "below" is the share of the calibrations
whose coverage lies under it, which is 0.025 if the promise is exact.

Real: a probe on the features of the default backbone, fitted anew for each of 30 random splits
(0.7 train, 0.15 for validation, 0.15 for test, no group divided) and calibrated as it was before
(on the validation images alone, sets may be empty) and as `fit` does now (out-of-fold scores
beside them). "broken" is the share of test parts of which `evaluate` says that the promise is
broken.

Prints the tables of docs/benchmarks/calibration.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
from scipy.special import softmax

from foveate.data.grouping import find_groups
from foveate.data.splits import group_folds, make_splits
from foveate.evaluation.calibration import (
    COVERAGE,
    Calibration,
    FeatureSpace,
    apply_temperature,
    fit_temperature,
)
from foveate.evaluation.coverage import Promise, conformal_limit
from foveate.modeling.classifiers.logistic import solve
from foveate.modeling.classifiers.solution import rotate
from foveate.recipe import Recipe
from random_splits import probe_features
from unlike import CASES

NO_SPACE, CLASSES, ASKED, GROUP = FeatureSpace(np.zeros(1), np.zeros((1, 1))), 5, 2000, 5


@dataclass(frozen=True)
class Part:
    """Scores (N, K), targets (N,) and the group of each image."""

    scores: np.ndarray
    targets: np.ndarray
    groups: list[str]

    def __add__(self, other: Part) -> Part:
        scores, targets = (
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("scores", "targets")
        )
        return Part(scores, targets, self.groups + other.groups)

    def calibration(self, temperature: float) -> Calibration:
        no_features = np.zeros((len(self.targets), 1))
        return Calibration.fit(
            self.scores, self.targets, no_features, NO_SPACE, temperature, len(set(self.groups))
        )

    def sets(self, calibration: Calibration) -> np.ndarray:
        return calibration.prediction_sets(apply_temperature(self.scores, calibration.temperature))

    def covered(self, sets: np.ndarray) -> float:
        return float(sets[np.arange(len(self.targets)), self.targets].mean())


def draw(rng: np.random.Generator, count: int, sharpness: float, group: int) -> Part:
    """Draw images; those of a group have the same logits but for noise, and the same class."""
    groups = np.arange(count) // group
    logits = sharpness * rng.normal(size=(groups[-1] + 1, CLASSES))
    drawn = softmax(logits, axis=1).cumsum(1) > rng.random((len(logits), 1))
    noise = 0.5 * rng.normal(size=(count, CLASSES))
    scores = softmax(2 * logits[groups] + noise, axis=1)
    return Part(scores, drawn.argmax(1)[groups], [str(each) for each in groups])


def simulate(count: int, sharpness: float, group: int, draws: int) -> None:
    rng, coverages, sizes = np.random.default_rng(0), list[float](), list[float]()
    for _ in range(draws):
        known, asked = draw(rng, count, sharpness, group), draw(rng, ASKED, sharpness, 1)
        sets = asked.sets(known.calibration(fit_temperature(known.scores, known.targets)))
        assert sets.any(1).all()
        coverages.append(asked.covered(sets))
        sizes.append(float(sets.sum(1).mean()))
    promise = Promise.of(COVERAGE, count // group)
    accuracy = float((asked.scores.argmax(1) == asked.targets).mean())
    low, high = ("none", "none") if promise is None else (promise.low, promise.high)
    below = "" if promise is None else f"{np.mean(np.array(coverages) < promise.low):.3f}"
    cells = [f"{count}", f"{count // group}", f"{accuracy:.2f}", f"{mean(coverages):.3f}"]
    cells += [low if promise is None else f"{low:.3f} to {high:.3f}", below, f"{mean(sizes):.2f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def measure(name: str, data: Path, seeds: range) -> None:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        scanned, features = probe_features(case.read(data, Path(folder)), case.size)
    samples, classes = scanned.table.samples, scanned.table.classes
    labels = [sample.target.names for sample in samples]
    targets = np.array([classes.index(names[0]) for names in labels])
    unstated = scanned.table.with_samples(tuple(replace(each, group=None) for each in samples))
    groups = find_groups(replace(scanned, table=unstated), Recipe().data).names
    rows: dict[str, list[list[float]]] = {"before": [], "now": []}
    for seed in seeds:
        train, val, test = fit_probe(features, targets, labels, groups, seed, len(classes))
        both = train + val
        temperature = fit_temperature(both.scores, both.targets)
        for way, calibration in (
            ("before", val.calibration(temperature)),
            ("now", both.calibration(temperature)),
        ):
            sets = test.sets(calibration)
            if way == "before":  # the limit alone
                sets = within_limit(test, calibration)
            promise = Promise.of(COVERAGE, calibration.units)
            covered, count = test.covered(sets), len(set(test.groups))
            broken = promise is not None and promise.is_broken(covered, count)
            empty = float((~sets.any(1)).mean())
            rows[way].append([covered, empty, sets.sum(1).mean(), broken, calibration.units])
    for way, values in rows.items():
        covered = [row[0] for row in values]
        means = np.mean(values, axis=0)
        cells = [name, way, f"{means[4]:.0f}", f"{len(test.targets)}"]
        cells.append(f"{means[0]:.3f} ({min(covered):.3f} to {max(covered):.3f})")
        cells += [f"{means[1]:.3f}", f"{means[2]:.2f}", f"{means[3]:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def within_limit(part: Part, calibration: Calibration) -> np.ndarray:
    """Sets without the rule that the most probable class is always in."""
    known = calibration.nonconformity
    limit = conformal_limit(known, len(known), COVERAGE)
    return 1 - apply_temperature(part.scores, calibration.temperature) <= limit + 1e-12


def fit_probe(
    features: np.ndarray,
    targets: np.ndarray,
    labels: list[tuple[str, ...]],
    groups: list[str],
    seed: int,
    classes: int,
) -> list[Part]:
    """Return training images (out of fold), validation and test images with their scores."""
    splits = np.array(make_splits(labels, groups, 0.15, 0.15, seed))
    members = {name: np.flatnonzero(splits == name) for name in ("train", "val", "test")}
    train = members["train"]
    own_labels, own_groups = [labels[index] for index in train], [groups[index] for index in train]
    folds = group_folds(own_labels, own_groups, 5, seed)
    solution = solve(rotate(features[train]), np.eye(classes)[targets[train]], folds, False)
    parts = []
    for name, indices in members.items():
        scaled = (features[indices] - solution.mean) / solution.scale
        scores = softmax(scaled @ solution.weight.T + solution.bias, axis=1)
        if name == "train":
            assert solution.out_of_fold is not None
            scores = solution.out_of_fold
        own = [groups[index] for index in indices]
        parts.append(Part(scores.astype(float), targets[indices], own))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--datasets", nargs="*", choices=CASES, default=["brain_mri", "faces_orl"])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    print("| images | groups | accuracy | mean coverage | promise | below | set size |")
    print("|---|---|---|---|---|---|---|")
    for group in (1, GROUP):
        for sharpness in (2.0, 6.0):
            for count in (30, 60, 200):
                simulate(count, sharpness, group, options.draws)
    print("\n| data | sets | calibrated on | test images | coverage | empty | set size | broken |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.datasets:
        measure(name, options.data, range(options.seeds))


if __name__ == "__main__":
    main()

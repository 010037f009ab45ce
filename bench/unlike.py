"""Whether left-out clusters of look-alikes tell what a score falls to on unlike images.

    python bench/unlike.py --data ../shared/data

Probes on the features of the default backbone are cross-validated in folds that leave out clusters
of look-alikes (2, 3, 5 and 8 of each class), as if nothing were known of how the images were taken,
and in folds that leave out what the images truly belong to: tracks of traffic_signs, films of
fights, styles and subcategories of emoji (classified by category, and as emoji_fine by
subcategory). For grocery and brain_mri, whose images of other places
are not here, and for faces_orl, which states nothing beyond the person, there are only clusters.

`--normalize` changes the features in which clusters are sought: length (each image scaled to
length 1), white (each direction scaled to variance 1).

Each value is the mean of the seeds, with the lowest and the highest; the accuracy of a true
grouping has Wilson's 95 % interval for the mean of the seeds. Prints the tables of
docs/benchmarks/unlike.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np

from foveate.data.formats import read_table
from foveate.data.grouping import find_groups
from foveate.data.splits import group_folds
from foveate.evaluation.intervals import wilson
from foveate.modeling.classifiers.logistic import out_of_fold, solve
from foveate.modeling.classifiers.solution import RotatedFeatures, Solution, rotate
from foveate.predictions import Labels
from foveate.recipe import Recipe
from foveate.training.unlike_images import look_alike_folds, measure_unlike
from foveate.types import Sample, Table
from random_splits import brain_mri, emoji, fights, probe_features, traffic_signs

FOLDS, CLUSTERS, DIRECTIONS = 5, (2, 3, 5, 8), 256


def grocery(data: Path, out: Path) -> Table:
    folder = data / "grocery"
    with (folder / "classes.csv").open(encoding="utf-8") as file:
        names = [row["Class Name (str)"] for row in csv.DictReader(file)]
    samples = []
    for part in ("train", "val"):
        for line in (folder / f"{part}.txt").read_text(encoding="utf-8").splitlines():
            path, number, _ = line.split(", ")
            samples.append(Sample(folder / path, path, Labels((names[int(number)],)), None, None))
    return Table(tuple(samples), tuple(names), "folder", folder)


def faces_orl(data: Path, out: Path) -> Table:
    return read_table(data / "faces_orl", "folder")


@dataclass(frozen=True)
class Case:
    """A data set.

    Attributes:
        read: Called with the folder of the data sets and a temporary folder.
        truths: Name -> called with the folder of the data sets and the samples; returns the true
            group of each.
        size: Input size, px.
    """

    read: Callable[[Path, Path], Table]
    truths: dict[str, Callable[[Path, Sequence[Sample]], list[str]]]
    size: int = 224


def stated(data: Path, samples: Sequence[Sample]) -> list[str]:
    return [str(sample.group) for sample in samples]


def style(data: Path, samples: Sequence[Sample]) -> list[str]:
    return [sample.key.partition("/")[0] for sample in samples]


def subcategory(data: Path, samples: Sequence[Sample]) -> list[str]:
    entries = json.loads((data / "emoji" / "emoji.json").read_text(encoding="utf-8"))
    names = {entry["image"]: entry["subcategory"] for entry in entries}
    return [names[sample.key.partition("/")[2]] for sample in samples]


def emoji_fine(data: Path, out: Path) -> Table:
    """The same drawings with narrower classes: the subcategories."""
    table = emoji(data, out)
    names = subcategory(data, table.samples)
    samples = [
        replace(sample, target=Labels((name,)))
        for sample, name in zip(table.samples, names, strict=True)
    ]
    return Table(tuple(samples), tuple(sorted(set(names))), "folder", table.root)


CASES = {
    "traffic_signs": Case(traffic_signs, {"track": stated}),
    "grocery": Case(grocery, {}),
    "brain_mri": Case(brain_mri, {}),
    "fights": Case(fights, {"film": stated}),
    "emoji": Case(emoji, {"style": style, "subcategory": subcategory}, 128),
    "emoji_fine": Case(emoji_fine, {"style": style}, 128),
    "faces_orl": Case(faces_orl, {}),
}


@dataclass(frozen=True)
class Probe:
    """A probe of a data set; the targets are (N, K)."""

    features: RotatedFeatures
    targets: np.ndarray
    labels: list[tuple[str, ...]]
    solution: Solution

    def accuracy(self, folds: np.ndarray) -> float:
        """On the images that are left out once."""
        probabilities = out_of_fold(
            self.features, self.targets, folds, self.solution.strength, False, self.solution
        )
        hits = probabilities.argmax(1) == self.targets.argmax(1)
        return float(hits[folds >= 0].mean())

    def by_groups(self, groups: list[str], seeds: list[int]) -> list[float]:
        folds = min(FOLDS, len(set(groups)))
        return [self.accuracy(group_folds(self.labels, groups, folds, seed)) for seed in seeds]

    def by_clusters(self, clusters: int, seeds: list[int], normalize: str) -> list[float]:
        rows, classes = normalized(self.features.rows, normalize), self.targets.argmax(1)
        singles = [str(index) for index in range(len(rows))]
        return [
            self.accuracy(
                look_alike_folds(rows, classes, singles, clusters, np.random.default_rng(seed))
            )
            for seed in seeds
        ]


def normalized(rows: np.ndarray, normalize: str) -> np.ndarray:
    if normalize == "length":
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / rows.std(0) if normalize == "white" else rows


def measure(name: str, data: Path, seeds: list[int], normalize: str) -> None:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        scanned, features = probe_features(case.read(data, Path(folder)), case.size)
    table, samples = scanned.table, scanned.table.samples
    labels = [sample.target.names for sample in samples]
    targets = np.eye(len(table.classes))[[table.classes.index(names[0]) for names in labels]]
    unstated = table.with_samples(tuple(replace(sample, group=None) for sample in samples))
    found = find_groups(replace(scanned, table=unstated), Recipe().data).names
    rotated = rotate(features).leading(DIRECTIONS)
    solution = solve(rotated, targets, group_folds(labels, found, FOLDS, 0), False)
    probe = Probe(rotated, targets, labels, solution)
    random = probe.by_groups([sample.key for sample in samples], seeds)
    clusters = [spread(probe.by_clusters(count, seeds, normalize)) for count in CLUSTERS]
    truths = []
    for kind, groups_of in case.truths.items():
        values = probe.by_groups(groups_of(data, samples), seeds)
        low, high = wilson(mean(values) * len(samples), len(samples))
        truths.append(f"{kind} {mean(values):.3f} [{low:.3f}, {high:.3f}]")
    cells = [name, f"{len(samples)}", f"{len(table.classes)}", spread(random), *clusters]
    print(f"| {' | '.join(cells)} | {', '.join(truths) or 'not here'} |", flush=True)
    for seed in seeds:
        start = time.perf_counter()
        found_range = measure_unlike(rotated, targets, found, solution, seed)
        seconds = time.perf_counter() - start
        print(f"{name}, as fit says it, seed {seed}: {found_range}, {seconds:.1f} s", flush=True)


def measure_speed(images: int = 5000, width: int = 1024) -> None:
    """Seconds on planted features: five clusters of each class."""
    rng = np.random.default_rng(0)
    for count in (2, 10, 100):
        classes = np.arange(images) % count
        centers = rng.normal(size=(count, 5, width))
        features = centers[classes, rng.integers(5, size=images)] + rng.normal(size=(images, width))
        targets, groups = np.eye(count)[classes], [str(index) for index in range(images)]
        rotated = rotate(features.astype(np.float32)).leading(DIRECTIONS)
        folds = group_folds([(str(each),) for each in classes], groups, FOLDS, 0)
        solution = solve(rotated, targets, folds, False)
        start = time.perf_counter()
        found_range = measure_unlike(rotated, targets, groups, solution, 0)
        print(f"{count} classes: {time.perf_counter() - start:.1f} s, {found_range}", flush=True)


def spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--datasets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--normalize", choices=("none", "length", "white"), default="none")
    parser.add_argument("--speed", action="store_true", help="time 5,000 planted images instead")
    options = parser.parse_args()
    if options.speed:
        measure_speed()
        return
    print(
        f"| data | images | classes | random folds | {' | '.join(f'k = {k}' for k in CLUSTERS)} | "
        f"true grouping |\n|{'---|' * (5 + len(CLUSTERS))}"
    )
    for name in options.datasets:
        measure(name, options.data, options.seeds, options.normalize)


if __name__ == "__main__":
    main()

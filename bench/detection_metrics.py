"""CPU time of detection metrics: 500 images, 44,000 predicted and 7,000 target boxes.

    python bench/detection_metrics.py --out OUT [--cases foveate pycocotools] [--repeats 5]
        [--threads 1]

The boxes are random, of 20 classes. Foveate's metric (average precisions with bootstraps over
images, F1, the confusion of classes, a row for each class) alternates with pycocotools (average
precisions alone). Measured is the CPU time from boxes in memory to numbers. The benchmark fails if
the two average precisions differ.

Rows are appended to OUT/detection_metrics.jsonl; those already there are not measured again. Prints
the median and the range of each case.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np

from common import BENCH, ResultFile, parse_options
from foveate.evaluation.metrics.boxes import BoxMetric
from foveate.predictions import Boxes

IMAGES, TARGETS, PREDICTIONS, CLASSES = 500, 14, 88, 20
NAMES = tuple(f"class {index}" for index in range(CLASSES))


def random_boxes() -> list[tuple[Boxes, Boxes]]:
    """Return predictions and targets of each image.

    The predictions are noisy copies of the targets, 7 of 10 of the right class, with random scores.
    """
    rng, pairs = np.random.default_rng(0), []
    for _ in range(IMAGES):
        corners, sides = rng.uniform(0, 500, (TARGETS, 2)), rng.uniform(10, 150, (TARGETS, 2))
        targets = np.concatenate([corners, corners + sides], 1).astype(np.float32)
        classes = rng.integers(0, CLASSES, TARGETS)
        owners = rng.integers(0, TARGETS, PREDICTIONS)
        boxes = targets[owners] + rng.normal(0, 12, (PREDICTIONS, 4)).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        predicted = np.where(
            rng.uniform(size=PREDICTIONS) < 0.7,
            classes[owners],
            rng.integers(0, CLASSES, PREDICTIONS),
        )
        predictions = Boxes(
            boxes,
            tuple(NAMES[index] for index in predicted),
            rng.uniform(size=PREDICTIONS).astype(np.float32),
        )
        pairs.append((predictions, Boxes(targets, tuple(NAMES[index] for index in classes))))
    return pairs


def foveate_map(pairs: list[tuple[Boxes, Boxes]]) -> float:
    """Return the mean average precision by Foveate."""
    metric = BoxMetric(NAMES)
    for predictions, targets in pairs:
        metric.update(predictions, targets)
    return metric.compute().numbers["map"].value


def pycocotools_map(pairs: list[tuple[Boxes, Boxes]]) -> float:
    """Return the mean average precision by pycocotools."""
    sys.path.append(str(BENCH.parent / "tests"))
    from helpers import pycocotools_evaluation

    return float(pycocotools_evaluation(pairs, NAMES).stats[0])


def main() -> None:
    options = parse_options(__doc__, [], ["foveate", "pycocotools"], threads=1, repeats=5)
    results, pairs = ResultFile(options.out / "detection_metrics.jsonl"), random_boxes()
    measures: dict[str, Any] = {"foveate": foveate_map, "pycocotools": pycocotools_map}
    for repeat in range(options.repeats):
        for case in options.cases:
            if not results.has(case=case, repeat=repeat):
                start = time.process_time()
                value = measures[case](pairs)
                results.add(
                    {
                        "case": case,
                        "repeat": repeat,
                        "cpu_seconds": time.process_time() - start,
                        "map": value,
                    }
                )
    if len({round(row["map"], 6) for row in results.rows}) > 1:
        sys.exit("Foveate and pycocotools disagree about the average precision")
    for case in options.cases:
        seconds = [row["cpu_seconds"] for row in results.rows if row["case"] == case]
        print(
            f"{case}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        )


if __name__ == "__main__":
    main()

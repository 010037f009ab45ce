"""What the numbers of boxes cost: 500 images with 44,000 answers and 7,000 true boxes of 20
classes, made up.

    python bench/boxes.py --out OUT [--repeats 5] [--threads 1]

Foveate's metric (average precisions with bootstraps over images, F1, the confusion of classes, a
row a class) in turns with pycocotools (average precisions alone), seconds of the processor from
boxes in memory to numbers. Both say the same average precision, or it ends with an error. Rows land
in OUT/boxes.jsonl, and a row that is there is not measured again.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np

from foveate.evaluation.metrics.boxes import BoxMetric
from foveate.predictions import Boxes
from spine import HERE, Rows, words

IMAGES, TRUE, ANSWERED, CLASSES = 500, 14, 88, 20
NAMES = tuple(f"class {place}" for place in range(CLASSES))


def made_up() -> list[tuple[Boxes, Boxes]]:
    """Answers that lie about the true boxes, 7 of 10 in the right class, with scores that mean
    nothing; and the true boxes.
    """
    rng, pairs = np.random.default_rng(0), []
    for _ in range(IMAGES):
        corners, sides = rng.uniform(0, 500, (TRUE, 2)), rng.uniform(10, 150, (TRUE, 2))
        true, places = (
            np.concatenate([corners, corners + sides], 1).astype(np.float32),
            rng.integers(0, CLASSES, TRUE),
        )
        owners = rng.integers(0, TRUE, ANSWERED)
        near = true[owners] + rng.normal(0, 12, (ANSWERED, 4)).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        told = np.where(
            rng.uniform(size=ANSWERED) < 0.7, places[owners], rng.integers(0, CLASSES, ANSWERED)
        )
        answers = Boxes(
            near,
            tuple(NAMES[place] for place in told),
            rng.uniform(size=ANSWERED).astype(np.float32),
        )
        pairs.append((answers, Boxes(true, tuple(NAMES[place] for place in places))))
    return pairs


def own(pairs: list[tuple[Boxes, Boxes]]) -> float:
    metric = BoxMetric(NAMES)
    for answers, truth in pairs:
        metric.update(answers, truth)
    return metric.compute().numbers["map"].value


def referee(pairs: list[tuple[Boxes, Boxes]]) -> float:
    sys.path.append(str(HERE.parent / "tests"))
    from helpers import pycocotools_evaluation

    return float(pycocotools_evaluation(pairs, NAMES).stats[0])


def main() -> None:
    options = words(__doc__, [], ["foveate", "pycocotools"], threads=1, repeats=5)
    rows, pairs = Rows(options.out / "boxes.jsonl"), made_up()
    measures: dict[str, Any] = {"foveate": own, "pycocotools": referee}
    for repeat in range(options.repeats):
        for way in options.ways:
            if not rows.has(way=way, repeat=repeat):
                start = time.process_time()
                found = measures[way](pairs)
                rows.add(
                    {
                        "way": way,
                        "repeat": repeat,
                        "processor": time.process_time() - start,
                        "map": found,
                    }
                )
    if len({round(row["map"], 6) for row in rows.rows}) > 1:
        sys.exit("the two do not agree")
    for way in options.ways:
        seconds = [row["processor"] for row in rows.rows if row["way"] == way]
        print(
            f"{way}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        )


if __name__ == "__main__":
    main()

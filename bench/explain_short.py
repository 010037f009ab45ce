"""How often the short test of a map agrees with the thorough one, and what both cost.

    python bench/explain_short.py --out OUT [--data DATA] [--cases clothing brain_mri bccd]
        [--count 40] [--threads 2]

The maps are Grad-CAM and HiResCAM of the default probe on held-out images of clothing and
brain_mri, and of a detector (256 px, `--minutes 14`) on the validation part of bccd. Each map is
tested thoroughly, with the random orders of two seeds, and by shorter tests with those of the first
seed. The verdict is whether a map is better than random orders by two standard deviations. How
often two thorough tests agree is the most that can be expected of a shorter one.

Runs are kept in OUT, and fitted if they are missing. Rows go to OUT/explain_short.jsonl. Prints a
table of docs/benchmarks/explanations.md.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveate
from common import ResultFile, parse_options, prepare_datasets
from foveate.data.image_sources import find_samples_at
from foveate.evaluation.intervals import wilson
from foveate.explainability.faithfulness import (
    THOROUGH_TEST,
    CurveTest,
    ExplainTarget,
    FaithfulnessTest,
)
from foveate.explainability.methods import EXPLAINERS
from foveate.inference.predictor import Predictor, load_predictor
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.types import Sample

METHODS = ("gradcam", "hirescam")
MAX_SCORES = 3
TESTS = [CurveTest(*each) for each in ((2, 5), (3, 5), (4, 5), (7, 5))]


def main() -> None:
    options = parse_options(__doc__, [], ["clothing", "brain_mri", "bccd"], threads=2, count=40)
    results = ResultFile(options.out / "explain_short.jsonl")
    torch.set_num_threads(options.threads)
    for case in options.cases:
        predictor, samples = prepare(case, options)
        order = np.random.default_rng(0).permutation(len(samples))[: options.count]
        for index in order.tolist():
            if not results.has(case=case, image=samples[index].key):
                for row in measure(predictor, samples[index]):
                    results.add({"case": case, "image": samples[index].key, **row})
    print(summary(results.rows, options.cases))


def prepare(case: str, options: Any) -> tuple[Predictor, list[Sample]]:
    """Fit a run if it is missing; return it with images that it was not trained on."""
    run: Path = options.out / f"run-{case}"
    if case == "bccd":
        if not run.exists():
            settings = {"task.width": 64}
            foveate.fit(options.data / case, out=run, size=256, minutes=14, settings=settings)
        samples = [each for each in read_run_table(Run.open(run)).samples if each.split == "val"]
    else:
        train, held_out = prepare_datasets(options.data, options.out)[case]
        if not run.exists():
            foveate.fit(train, out=run, weights="offline")
        samples = list(find_samples_at([held_out]))
    return load_predictor(run, "cpu"), samples


def measure(predictor: Predictor, sample: Sample) -> list[dict[str, Any]]:
    """Return a row for each test of all maps of an image."""
    target = ExplainTarget.from_sample(predictor, sample)
    scores = target.explainable_scores()[:MAX_SCORES]
    if not scores:
        return []
    maps = [
        (index, EXPLAINERS.get(method)().explain(target.request(score)).detach())
        for index, score in enumerate(scores)
        for method in METHODS
    ]
    rows = []
    for seed, test in [(0, THOROUGH_TEST), (1, THOROUGH_TEST), *((0, test) for test in TESTS)]:
        start = time.perf_counter(), time.process_time()
        measured = FaithfulnessTest(target, scores, test, seed).measure(maps)
        rows.append(
            {
                "steps": test.steps,
                "random_orders": test.random_orders,
                "seed": seed,
                "gains": [each.gain for each in measured],
                "deviations": [each.random[1] for each in measured],
                "seconds": time.perf_counter() - start[0],
                "cpu_seconds": time.process_time() - start[1],
            }
        )
    return rows


def summary(rows: list[dict[str, Any]], cases: list[str]) -> str:
    """Return a Markdown table of the agreement with the thorough test of seed 0."""
    lines = [
        "| run | steps | random orders | the same verdict | better than random | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        own = [row for row in rows if row["case"] == case]
        tests = dict.fromkeys((row["steps"], row["random_orders"], row["seed"]) for row in own)
        reference = verdicts(own, (THOROUGH_TEST.steps, THOROUGH_TEST.random_orders, 0))
        for test in tests:
            found = verdicts(own, test)
            low, high = wilson(int((found == reference).sum()), len(found))
            seconds = np.median([row["cpu_seconds"] for row in own if key(row) == test])
            agreement = f"{(found == reference).mean():.2f} [{low:.2f}, {high:.2f}]"
            label = f"{test[0]}{', other seed' if test[2] else ''}"
            cells = (case, label, test[1], agreement, f"{found.mean():.2f}", f"{seconds:.2f}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def key(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["steps"], row["random_orders"], row["seed"]


def verdicts(rows: list[dict[str, Any]], test: tuple[int, int, int]) -> np.ndarray:
    """Whether each map is better than random, by one of the tests."""
    own = [row for row in rows if key(row) == test]
    gains, deviations = (
        np.concatenate([row[name] for row in own]) for name in ("gains", "deviations")
    )
    return np.asarray(gains > 2 * deviations)


if __name__ == "__main__":
    main()

"""Faithfulness of explanations: insertion minus deletion, compared with random orders.

    python bench/explain.py --data DATA --out OUT [--datasets clothing brain_mri]
        [--cases gradcam ...] [--seeds 0] [--count 100]

The cases are explanation methods of a probe of EfficientNet-Lite0 and, as `full:gradcam` and
`full:hirescam`, of a network whose weights are all trained. `--count` images of clothing's
validation folder, or of the test split of brain_mri, are drawn among those that were classified
correctly. Reported are the proportion of images on which the map is better than the mean of random
orders, and on which it is so by two standard deviations.

Rows are appended to OUT/explain.jsonl; those already there are not measured again. Prints the
table of docs/benchmarks/explanations.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveate
from common import ResultFile, parse_options, prepare_datasets
from foveate.data.formats import read_table
from foveate.evaluation.intervals import wilson

METHODS = ["gradcam", "hirescam", "layercam", "occlusion", "integrated_gradients"]


def main() -> None:
    options = parse_options(
        __doc__,
        ["clothing", "brain_mri"],
        [*METHODS, "full:gradcam", "full:hirescam"],
        threads=1,
        count=100,
    )
    results = ResultFile(options.out / "explain.jsonl")
    torch.set_num_threads(options.threads)
    folders = prepare_datasets(options.data, options.out)
    for name in options.datasets:
        for seed in options.seeds:
            for tuning in ("probe", "full"):
                cases = [case for case in options.cases if ("full:" in case) == (tuning == "full")]
                missing = [
                    case for case in cases if not results.has(dataset=name, seed=seed, case=case)
                ]
                run, count = options.out / f"explain-{name}-{tuning}-{seed}", options.count
                for row in (
                    measure(folders[name], tuning, seed, count, missing, run) if missing else []
                ):
                    results.add({"dataset": name, "seed": seed, "tuning": tuning, **row})
    print(summary(results.rows))


def measure(
    folders: tuple[Path, Path], tuning: str, seed: int, count: int, cases: list[str], run: Path
) -> list[dict[str, Any]]:
    """Fit if need be, and return a row for each explanation method."""
    if not (run / "finished.json").is_file():
        settings = {"data.val": 0 if tuning == "probe" else 0.15, "data.test": 0}
        foveate.fit(
            folders[0],
            tuning=tuning,
            weights="offline",
            seed=seed,
            device="cpu",
            out=run,
            settings=settings,
        )
    samples = read_table(folders[1]).samples
    predictions = foveate.predict(run, [sample.path for sample in samples], device="cpu")
    correct = [
        sample.path
        for sample, result in zip(samples, predictions, strict=True)
        if result.prediction.names == sample.target.names
    ]
    chosen = [
        correct[index]
        for index in np.random.default_rng(seed).permutation(len(correct))[:count].tolist()
    ]
    methods = [case.removeprefix("full:") for case in cases]
    explanations = foveate.explain(
        run, chosen, methods=methods, thorough=True, device="cpu", out=run / "explanations"
    ).explanations
    return [
        {"case": case, **summarize([each for each in explanations if each.method == name])}
        for case, name in zip(cases, methods, strict=True)
    ]


def summarize(explanations: list[Any]) -> dict[str, Any]:
    """Return means and proportions over the explanations of one method."""
    better = sum(each.faithfulness.gain > 0 for each in explanations)
    means = {
        name: float(np.mean([getattr(each.faithfulness, name) for each in explanations]))
        for name in ("insertion", "deletion", "gain")
    }
    proportions = {
        "better_than_random": better / len(explanations),
        "better_than_random_interval": list(wilson(better, len(explanations))),
    }
    by_two_sd = sum(each.faithfulness.better_than_random for each in explanations) / len(
        explanations
    )
    return {
        "count": len(explanations),
        **means,
        **proportions,
        "better_by_two_sd": by_two_sd,
        "randomization_similarity": float(
            np.mean([each.randomization_similarity for each in explanations])
        ),
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    header = (
        "data set | case | insertion | deletion | better than random | by two deviations | "
        "like random weights"
    )
    lines = [f"| {header} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["better_than_random_interval"]
        proportions = (
            f"{row['better_than_random']:.2f} [{low:.2f}, {high:.2f}] | "
            f"{row['better_by_two_sd']:.2f} | {row['randomization_similarity']:+.2f}"
        )
        lines.append(
            f"| {row['dataset']} | {row['case']} | {row['insertion']:.3f} | "
            f"{row['deletion']:.3f} | {proportions} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

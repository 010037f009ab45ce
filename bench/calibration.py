"""Confidence of a classifier: calibration, prediction sets, OOD detection and planted label errors.

    python bench/calibration.py --data DATA --out OUT [--datasets clothing brain_mri]
        [--cases calibration label_errors] [--seeds 0 1 2] [--threads 1]

The default probe of EfficientNet-Lite0 on the training images of bench/baseline.py, calibrated on
its own validation images, is scored on test images that were not used before.

calibration   ECE before is that of the same predictions with the temperature taken out. Coverage
              of prediction sets: the test images are divided into halves 20 times; one half sets
              the thresholds, the other is counted. Out-of-distribution images are scikit-learn's
              digits.
label_errors  5 % of the training images get another label before the fit; recall is that of the
              first tenth of the list of `foveate audit`.

Rows are appended to OUT/calibration.jsonl; those already there are not measured again. Prints the
table of docs/benchmarks/calibration.md.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

import foveate
from common import ResultFile, parse_options, prepare_datasets
from foveate.data.formats import read_table
from foveate.evaluation.calibration import (
    Calibration,
    FeatureSpace,
    apply_temperature,
    calibration_error,
    fit_temperature,
)
from foveate.images.encoding import write_image

COVERAGE, SPLITS, ERROR_SHARE = 0.9, 20, 0.05


def main() -> None:
    options = parse_options(
        __doc__, ["clothing", "brain_mri"], ["calibration", "label_errors"], threads=1
    )
    results = ResultFile(options.out / "calibration.jsonl")
    torch.set_num_threads(options.threads)
    folders = prepare_datasets(options.data, options.out)
    for name in options.datasets:
        for seed in options.seeds:
            for case, measure in MEASURES.items():
                if case in options.cases and not results.has(dataset=name, seed=seed, case=case):
                    run = options.out / f"calibration-{case}-{name}-{seed}"
                    results.add(
                        {
                            "dataset": name,
                            "seed": seed,
                            "case": case,
                            **measure(folders[name], seed, run),
                        }
                    )
    print(summary(results.rows))


def fit_probe(data: Path, seed: int, run: Path) -> Any:
    shutil.rmtree(run, ignore_errors=True)
    return foveate.fit(data, weights="offline", seed=seed, device="cpu", out=run)


def measure_calibration(folders: tuple[Path, Path], seed: int, run: Path) -> dict[str, Any]:
    """Fit a probe, and score its probabilities, prediction sets and OOD scores."""
    temperature = fit_probe(folders[0], seed, run).outcome["calibration"]["temperature"]
    digits = write_digits(run.parent / "digits-all")
    numbers = foveate.evaluate(run, folders[1], ood=digits).numbers()
    samples = read_table(folders[1]).samples
    paths = [sample.path for sample in samples]
    predictions = [each.prediction for each in foveate.predict(run, paths, device="cpu")]
    classes = foveate.load(run).classes
    scores = np.stack([prediction.scores for prediction in predictions]).astype(float)
    targets = np.array([classes.index(sample.target.names[0]) for sample in samples])
    uncalibrated = apply_temperature(scores, 1 / temperature)
    before = calibration_error(uncalibrated.max(1), uncalibrated.argmax(1) == targets)
    row = {"count": len(samples), "accuracy": numbers["accuracy"], "temperature": temperature}
    row |= {"ece_before": before, "ece_after": numbers["expected_calibration_error"]}
    row |= {
        "ece_by_chance": numbers["calibration_error_by_chance"],
        "set_coverage": numbers["set_coverage"],
    }
    row |= {"set_size": numbers["set_size"], "coverages": split_coverages(scores, targets, seed)}
    return row | {"ood_auroc": numbers["ood"]["auroc"]}


def split_coverages(scores: np.ndarray, targets: np.ndarray, seed: int) -> list[float]:
    """Return the coverage of prediction sets on the second half of each random split."""
    no_features, coverages = FeatureSpace(np.zeros(1), np.zeros((1, 1))), []
    for split in range(SPLITS):
        order = np.random.default_rng([seed, split]).permutation(len(targets))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        temperature = fit_temperature(scores[first], targets[first])
        calibration = Calibration.fit(
            scores[first], targets[first], np.zeros((len(first), 1)), no_features, temperature
        )
        sets = calibration.prediction_sets(
            apply_temperature(scores[second], calibration.temperature), COVERAGE
        )
        coverages.append(float(sets[np.arange(len(second)), targets[second]].mean()))
    return coverages


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's digits as PNG files."""
    folder.mkdir(exist_ok=True)
    for index, gray in enumerate(load_digits().images):
        write_image(
            np.repeat((gray * 255 / 16).round().astype(np.uint8)[..., None], 3, 2),
            folder / f"{index:04d}.png",
        )
    return folder


def measure_label_errors(folders: tuple[Path, Path], seed: int, run: Path) -> dict[str, Any]:
    """Plant label errors, and return the recall of the first tenth of the audit's list."""
    data = run.with_name(f"{run.name}-data")
    shutil.rmtree(data, ignore_errors=True)
    samples = read_table(folders[0]).samples
    classes = sorted({sample.target.names[0] for sample in samples})
    rng = np.random.default_rng(seed)
    wrong = set(rng.permutation(len(samples))[: round(ERROR_SHARE * len(samples))].tolist())
    planted = set()
    for index, sample in enumerate(samples):
        label = sample.target.names[0]
        if index in wrong:
            label = str(rng.choice([each for each in classes if each != label]))
        link = data / label / f"{index:05d}{sample.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path.resolve())
        if index in wrong:
            planted.add(f"{label}/{link.name}")
    fitted = fit_probe(data, seed, run)
    numbers = foveate.audit(fitted.run, device="cpu").numbers()
    first = {row["path"] for row in numbers["label_issues"][: round(0.1 * numbers["images"])]}
    return {
        "count": numbers["images"],
        "planted": len(planted),
        "recall": len(planted & first) / len(planted),
        "strong": numbers["strong"],
    }


MEASURES = {"calibration": measure_calibration, "label_errors": measure_label_errors}


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each data set."""
    means_of = ("accuracy", "ece_before", "ece_after", "ece_by_chance")
    lines = [
        "| data set | accuracy | ECE before | after | by chance | coverage of 20 splits | AUROC of "
        "digits | recall of planted errors |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["dataset"] for row in rows):
        group = [row for row in rows if (row["dataset"], row["case"]) == (name, "calibration")]
        planted = [
            row["recall"] for row in rows if (row["dataset"], row["case"]) == (name, "label_errors")
        ]
        means = [f"{statistics.mean(row[name] for row in group):.3f}" for name in means_of]
        covered = statistics.mean(value for row in group for value in row["coverages"])
        area = statistics.mean(row["ood_auroc"]["value"] for row in group)
        recalls = ", ".join(f"{each:.2f}" for each in planted)
        lines.append(f"| {name} | {' | '.join(means)} | {covered:.3f} | {area:.3f} | {recalls} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""How sure a classifier is, and whether it is right to be: calibration, sets, strangers and planted
label errors.

    python bench/sure.py --data DATA --out OUT [--sets clothing brain_mri] [--seeds 0 1 2]
    [--threads 1]

The default probe of EfficientNet-Lite0 on the training images of bench/sets.py, calibrated on its
own validation images; asked are test images that nothing has seen. ECE before is that of the same
answers with the temperature taken out. Sets: the test images are divided into halves 20 times, one
half for the limits and one to count. Strangers: scikit-learn's digits. Errors: of the training
images 5 % get another label before the fit; recall is that of the first tenth of the audit's list.

Rows land in OUT/sure.jsonl, and a row that is there is not measured again.
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
from foveate.data.formats import read_table
from foveate.evaluation.calibration import (
    Calibration,
    FeatureSpace,
    apply_temperature,
    calibration_error,
)
from foveate.evaluation.calibration import fit_temperature as fitted_temperature
from foveate.images import codec as images
from spine import Rows, sets, words

COVERAGE, SPLITS, WRONG = 0.9, 20, 0.05


def main() -> None:
    options = words(__doc__, ["clothing", "brain_mri"], ["sure", "errors"], threads=1)
    rows = Rows(options.out / "sure.jsonl")
    torch.set_num_threads(options.threads)
    known = sets(options.data, options.out)
    for name in options.sets:
        for seed in options.seeds:
            for way, measure in (("sure", sure), ("errors", errors)):
                if way in options.ways and not rows.has(set=name, seed=seed, way=way):
                    run = options.out / f"sure-{way}-{name}-{seed}"
                    rows.add(
                        {"set": name, "seed": seed, "way": way, **measure(known[name], seed, run)}
                    )
    print(summary(rows.rows))


def fitted(data: Path, seed: int, run: Path) -> Any:
    shutil.rmtree(run, ignore_errors=True)
    return foveate.fit(data, weights="offline", seed=seed, device="cpu", out=run)


def sure(parts: tuple[Path, Path], seed: int, run: Path) -> dict[str, Any]:
    temperature = fitted(parts[0], seed, run).outcome["calibration"]["temperature"]
    told = foveate.evaluate(run, parts[1], ood=digits(run.parent / "digits-whole")).numbers()
    samples = read_table(parts[1]).samples
    answers = [
        answer.prediction
        for answer in foveate.predict(run, [sample.path for sample in samples], device="cpu")
    ]
    classes = foveate.load(run).classes
    scores = np.stack([answer.scores for answer in answers]).astype(float)
    truths = np.array([classes.index(sample.target.names[0]) for sample in samples])
    plain = apply_temperature(scores, 1 / temperature)
    before = calibration_error(plain.max(1), plain.argmax(1) == truths)
    row = {"count": len(samples), "accuracy": told["accuracy"], "temperature": temperature}
    row |= {"ece_before": before, "ece_after": told["expected_calibration_error"]}
    row |= {
        "ece_by_chance": told["calibration_error_by_chance"],
        "set_coverage": told["set_coverage"],
    }
    row |= {"set_size": told["set_size"], "coverages": coverages(scores, truths, seed)}
    return row | {"auroc_of_digits": told["ood"]["auroc"]}


def coverages(scores: np.ndarray, truths: np.ndarray, seed: int) -> list[float]:
    nothing, found = FeatureSpace(np.zeros(1), np.zeros((1, 1))), []
    for split in range(SPLITS):
        order = np.random.default_rng([seed, split]).permutation(len(truths))
        one, other = order[: len(order) // 2], order[len(order) // 2 :]
        temperature = fitted_temperature(scores[one], truths[one])
        calibration = Calibration.fit(
            scores[one], truths[one], np.zeros((len(one), 1)), nothing, temperature
        )
        among = calibration.prediction_sets(
            apply_temperature(scores[other], calibration.temperature), COVERAGE
        )
        found.append(float(among[np.arange(len(other)), truths[other]].mean()))
    return found


def digits(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for place, grey in enumerate(load_digits().images):
        images.write_image(
            np.repeat((grey * 255 / 16).round().astype(np.uint8)[..., None], 3, 2),
            folder / f"{place:04d}.png",
        )
    return folder


def errors(parts: tuple[Path, Path], seed: int, run: Path) -> dict[str, Any]:
    data = run.with_name(f"{run.name}-data")
    shutil.rmtree(data, ignore_errors=True)
    samples = read_table(parts[0]).samples
    classes = sorted({sample.target.names[0] for sample in samples})
    rng = np.random.default_rng(seed)
    wrong, planted = (
        set(rng.permutation(len(samples))[: round(WRONG * len(samples))].tolist()),
        set(),
    )
    for place, sample in enumerate(samples):
        name = sample.target.names[0]
        label = (
            str(rng.choice([each for each in classes if each != name])) if place in wrong else name
        )
        link = data / label / f"{place:05d}{sample.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path.resolve())
        planted |= {f"{label}/{link.name}"} if place in wrong else set()
    found = fitted(data, seed, run)
    told = foveate.audit(found.run, device="cpu").numbers()
    first = {row["path"] for row in told["label_issues"][: round(0.1 * told["images"])]}
    recall = len(planted & first) / len(planted)
    return {
        "count": told["images"],
        "planted": len(planted),
        "recall": recall,
        "strong": told["strong"],
    }


def summary(rows: list[dict[str, Any]]) -> str:
    numbers = ("accuracy", "ece_before", "ece_after", "ece_by_chance")
    lines = [
        "| set | accuracy | ECE before | after | by chance | coverage of 20 splits | AUROC of "
        "digits | planted errors found |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if (row["set"], row["way"]) == (name, "sure")]
        planted = [row["recall"] for row in rows if (row["set"], row["way"]) == (name, "errors")]
        means = [f"{statistics.mean(row[word] for row in own):.3f}" for word in numbers]
        covered = statistics.mean(value for row in own for value in row["coverages"])
        area = statistics.mean(row["auroc_of_digits"]["value"] for row in own)
        recalls = ", ".join(f"{each:.2f}" for each in planted)
        lines.append(f"| {name} | {' | '.join(means)} | {covered:.3f} | {area:.3f} | {recalls} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

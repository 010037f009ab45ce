"""Domain shift: the loss on another domain, and what adaptation without labels recovers.

    python bench/shift.py --data DATA --out OUT [--datasets emoji brain_mri] [--cases probe full]
        [--seeds 0 1 2 3 4] [--threads 1] [--size 96] [--epochs 6] [--validate]

The cases are fine-tuning methods.

emoji      The category of an emoji, trained on Google's drawings and tested on Twitter's. The names
           are divided into five parts, one for each seed: those of one part are tested, in both
           styles, the others are used for training. The run is adapted to the Twitter drawings of
           the training names. The names that bench/small_clip.py keeps for validation are always
           used for training, and tested only with --validate, by which settings were selected.
brain_mri  The quarter of bench/baseline.py is tested, as it is and as another scanner might give
           it (darker, blurred, noisy: simulated, as the data set names no scanner). The run is
           adapted to the training images, changed in the same way.

Measured are `foveate fit`, `evaluate --shift` and `adapt` with their defaults, except for the size
and the epochs of methods that train. Rows are appended to OUT/shift.jsonl, with a 1 for each image
that was classified correctly; those already there are not measured again. Prints the table of
docs/benchmarks/shift.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import foveate
from common import ResultFile, parse_options, prepare_datasets
from foveate.data.discovery import find_images
from foveate.evaluation.intervals import PLAIN, Quantity, Statistics, Units, estimate
from foveate.images.codec import read_image
from foveate.training.test_time import TEST_TIME_METHODS
from small_clip import rows_by_name, split_names

PARTS = 5
SOURCE, TARGET = "google", "twitter"
GAMMA, BLUR, NOISE = 1.6, 1.5, 8.0  # exponent, px, of 255


@dataclass(frozen=True)
class DomainPair:
    """Tables for training and for testing in both domains, and unlabeled images to adapt to."""

    train: Path
    source: Path
    target: Path
    unlabeled: list[Path]


def emoji(folder: Path, seed: int, validate: bool, out: Path) -> DomainPair:
    """Write the tables of a seed; those of the validation names if `validate`."""
    by_name = rows_by_name(folder)
    unseen, validation, rest = split_names(sorted(by_name))
    tested = validation if validate else (unseen + rest)[seed % PARTS :: PARTS]
    training = sorted(by_name.keys() - set(tested))

    def table(names: Iterable[str], style: str, stem: str) -> Path:
        pairs = (
            (folder / style / by_name[name]["image"], by_name[name]["category"]) for name in names
        )
        return write_table(pairs, out / f"{stem}.tsv")

    unlabeled = [folder / TARGET / by_name[name]["image"] for name in training]
    return DomainPair(
        table(training, SOURCE, "train"),
        table(tested, SOURCE, "source"),
        table(tested, TARGET, "target"),
        unlabeled,
    )


def write_table(pairs: Iterable[tuple[Path, str]], file: Path) -> Path:
    """Write a table of paths and labels."""
    file.write_text(
        "\n".join(["path\tlabel", *(f"{path}\t{label}" for path, label in pairs)]), encoding="utf-8"
    )
    return file


def brain_mri(train: Path, test: Path, out: Path) -> DomainPair:
    """Write the images of both folders as another scanner might give them."""
    changed = out / "other"
    for folder in (train, test):
        for number, path in enumerate(sorted(find_images(folder))):
            file = changed / folder.name / path.parent.name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(simulate_scanner(read_image(path)[0], number)).save(file)
    return DomainPair(train, test, changed / test.name, sorted(find_images(changed / train.name)))


def simulate_scanner(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return an image (H, W, 3) uint8 that is darker, blurred and noisy."""
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR)), np.float64)
    noise = np.random.default_rng(seed).normal(0, NOISE, blurred.shape[:2])[..., None]
    return np.clip(255 * (blurred / 255) ** GAMMA + noise, 0, 255).astype(np.uint8)


def measure(
    data: DomainPair, tuning: str, seed: int, size: int, epochs: int, out: Path
) -> dict[str, str]:
    """Return "1001...", a 1 for each correct prediction.

    Keys: `source`, `target`, and the name of each adaptation method (on the target domain).
    """
    options: dict[str, Any] = {
        "weights": "offline",
        "backbone": "tf_efficientnet_lite0",
        "device": "cpu",
        "seed": seed,
        "size": size,
    }
    settings: dict[str, Any] = {"data.test": 0, "training.epochs": epochs}
    run = foveate.fit(data.train, out=out / "run", tuning=tuning, settings=settings, **options).run
    drop = foveate.evaluate(run, data.source, shift=data.target)
    hits = {"source": read_hits(drop.folder), "target": read_hits(drop.shifted.folder)}  # type: ignore[union-attr]
    for method in TEST_TIME_METHODS.names():
        adapted = foveate.adapt(run, data.unlabeled, method=method, out=out / method).run
        hits[method] = read_hits(foveate.evaluate(adapted, data.target).folder)
    return hits


def read_hits(evaluation: Path) -> str:
    """Return a 1 or 0 for each row of predictions.jsonl."""
    rows = map(
        json.loads, (evaluation / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return "".join(str(int(row["target"] == [row["prediction"]])) for row in rows)


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: accuracies over all images of all seeds, and the recovered share."""
    lines = [
        "| data set | case | images | source | target | drop | adapted by | target | recovered | "
        "share of the drop |",
        "|---|" + "---|" * 9,
    ]
    for name, case, kind in dict.fromkeys(
        (row["dataset"], row["case"], row["names"]) for row in rows
    ):
        group = [
            row for row in rows if (row["dataset"], row["case"], row["names"]) == (name, case, kind)
        ]
        accuracy = {
            key: by_image([row["hits"][key] for row in group], name) for key in group[0]["hits"]
        }
        base = accuracy["source"], accuracy["target"]
        for method in (key for key in accuracy if key not in ("source", "target")):
            source, target, drop, adapted, recovered, share = ratios(*base, accuracy[method])
            first = (
                f"| {name}, {kind} | {case} | {len(base[0])} | {source[0]:.3f} | {target[0]:.3f} | "
                f"{with_interval(drop)}"
            )
            lines.append(
                f"{first} | {method} | {adapted[0]:.3f} | {with_interval(recovered)} | "
                f"{with_interval(share)} |"
            )
    return "\n".join(lines)


def by_image(hits: list[str], dataset: str) -> np.ndarray:
    """Return the accuracy on each image.

    The seeds of emoji test different images, those of brain_mri the same ones.
    """
    rows = [np.array(list(map(int, each)), dtype=np.float64) for each in hits]
    return np.concatenate(rows) if dataset == "emoji" else np.mean(rows, axis=0)


def with_interval(value: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)


def ratios(
    source: np.ndarray, target: np.ndarray, adapted: np.ndarray
) -> list[tuple[float, float, float]]:
    """Return each number with its interval.

    An image is one unit with all its predictions, as both domains show the same objects.
    """

    def numbers(indices: np.ndarray) -> np.ndarray:
        before, shifted, after = (float(each[indices].mean()) for each in (source, target, adapted))
        drop, recovered = before - shifted, after - shifted
        return np.array(
            [before, shifted, drop, after, recovered, recovered / drop if drop else np.nan]
        )

    names = ("before", "shifted", "drop", "after", "recovered", "share")
    statistics = Statistics(tuple(Quantity(name, PLAIN) for name in names), numbers)
    scores = estimate(statistics, Units.single(len(source)))
    return [(scores[name].value, scores[name].low, scores[name].high) for name in names]


def main() -> None:
    options = parse_options(
        __doc__,
        ["emoji", "brain_mri"],
        ["probe", "full"],
        threads=1,
        size=96,
        epochs=6,
        validate=False,
    )
    results = ResultFile(options.out / "shift.jsonl")
    for name, case, seed in product(options.datasets, options.cases, options.seeds):
        kind = "validation" if options.validate else "test"
        key = {
            "dataset": name,
            "case": case,
            "seed": seed,
            "names": kind,
            "size": options.size,
            "epochs": options.epochs,
        }
        if results.has(**key):
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            if name == "emoji":
                data = emoji(options.data / "emoji", seed, options.validate, out)
            else:
                data = brain_mri(*prepare_datasets(options.data, options.out)["brain_mri"], out)
            results.add(
                {**key, "hits": measure(data, case, seed, options.size, options.epochs, out)}
            )
    print(summary(results.rows))


if __name__ == "__main__":
    main()

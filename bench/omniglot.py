"""Omniglot: one-shot classification of new characters (Lake et al. 2015).

    python bench/omniglot.py --data DATA --out OUT [--seeds 0] [--threads 1] [--epochs 6]

`fit` trains a small network from random weights on six background alphabets; each character counts
as eight classes (quarter turns and mirror images). Tagalog selects the number of views, and Early
Aramaic gives the episodes; neither is used for training. The 20 runs of the paper are the test:
each has 20 characters of one alphabet, an image of each by one person, and 20 images by another
person to classify.

The feature of an image is the mean over several slightly rotated, scaled and shifted views;
`centroid` predicts. The trained run is OUT/omniglot-SEED-EPOCHS. Rows are appended to
OUT/omniglot.jsonl; those already there are not measured again. Prints the tables of
docs/benchmarks/few-shot.md.
"""

from __future__ import annotations

import io
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import foveate
from common import ResultFile, parse_options
from foveate.api.episodes.protocol import (
    draw_episodes,
    episode_accuracies,
    fit_and_predict,
    mean_accuracy,
)
from foveate.evaluation.intervals import wilson
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import Model, build_model
from foveate.recipe import Recipe, with_settings
from foveate.types import Provides

SELECTION, EPISODES = "Tagalog", "Early_Aramaic"
SIDE = 64  # px
VIEWS = (1, 10, 30)
EPOCHS = 6
SETTINGS = {
    "backbone.name": "resnet10t",
    "backbone.weights": "none",
    "backbone.size": SIDE,
    "tuning": "full",
    "data.val": 0,
    "data.test": 0,
    "training.batch_size": 64,
    "training.lr": 2e-3,
    "training.head_init": "random",
    "augment": {"policy": "none", "crop": 0.75, "flip": 0, "rotate": 15, "scale": 0.15},
}
# errors on the 20 runs of methods trained on 30 alphabets, and on 5: arXiv 1902.03477, table 1
PUBLISHED = [
    ("people", "4.5 %", ""),
    ("Bayesian program learning (Lake et al. 2015)", "3.3 %", "4.2 %"),
    ("recursive cortical network (George et al. 2017)", "7.3 %", ""),
    ("simple convolutional network (Lake et al. 2015)", "13.5 %", "23.2 %"),
    ("prototypical network (Snell et al. 2017)", "13.7 %", "30.1 %"),
    ("variational homoencoder (Hewitt et al. 2018)", "18.7 %", ""),
    ("deep Siamese network (Koch et al. 2015)", "8.0 %", ""),
    ("hierarchical deep model (Salakhutdinov et al. 2013)", "34.8 %", ""),
]


def read_page(content: bytes) -> Image.Image:
    """Read an image as white ink on black, so that rotation fills in the color of paper."""
    page = Image.open(io.BytesIO(content)).convert("L").point(lambda value: 255 - value)
    return page.resize((SIDE, SIDE), Image.Resampling.BOX)


def read_alphabets(folder: Path) -> dict[str, dict[str, list[Image.Image]]]:
    """Return the 20 images of each character, by alphabet and character.

    The two archives share Greek and Latin, which count once.
    """
    alphabets: dict[str, dict[str, list[Image.Image]]] = {}
    for archive in sorted(folder.glob("images_background_small*.zip")):
        with zipfile.ZipFile(archive) as file:
            earlier = set(alphabets)
            for name in sorted(name for name in file.namelist() if name.endswith(".png")):
                _, alphabet, character, _ = name.split("/")
                if alphabet not in earlier:
                    alphabets.setdefault(alphabet, {}).setdefault(character, []).append(
                        read_page(file.read(name))
                    )
    return alphabets


def write_characters(alphabets: dict[str, dict[str, list[Image.Image]]], folder: Path) -> Path:
    """Write a folder for each character, quarter turn and mirror image."""
    for alphabet in sorted(alphabets.keys() - {SELECTION, EPISODES}):
        for character, pages in alphabets[alphabet].items():
            for orientation in range(8):
                out = folder / f"{alphabet}-{character}-{orientation}"
                out.mkdir(parents=True)
                for number, page in enumerate(pages):
                    turned = page.rotate(90 * (orientation % 4))
                    if orientation > 3:
                        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                    turned.save(out / f"{number:02}.png")
    return folder


class FeatureExtractor:
    """Features (N, D) of pages by a run's backbone, means over the views of each page."""

    def __init__(self, run: Path) -> None:
        self.backbone = foveate.load(run, "cpu").model.backbone
        self.jitter = v2.RandomAffine(
            10, (0.06, 0.06), (0.9, 1.1), 8, interpolation=v2.InterpolationMode.BILINEAR
        )

    def __call__(self, pages: list[Image.Image], views: int) -> np.ndarray:
        planes = torch.from_numpy(
            np.stack([np.asarray(page, dtype=np.float32) / 255 for page in pages])
        )[:, None]
        torch.manual_seed(0)
        augmented = (
            torch.stack([self.jitter(plane) for plane in planes]) for _ in range(views - 1)
        )
        features = [self._features(view) for view in (planes, *augmented)]
        return np.asarray(torch.stack(features).mean(0).numpy())

    def _features(self, planes: Tensor) -> Tensor:
        spec = self.backbone.input
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        with torch.inference_mode():
            pooled = self.backbone(
                (planes.expand(-1, 3, -1, -1) - mean) / std, {Provides.POOLED}
            ).pooled
        assert pooled is not None
        return pooled / pooled.norm(dim=1, keepdim=True)


def classify(known: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the class (Q,) of queries (Q, D) by `centroid`, given one image per class (W, D)."""
    model = centroid_model(len(known))
    return np.asarray(
        fit_and_predict(
            model, LabeledFeatures(known, np.eye(len(known)), np.zeros(len(known), int)), queries
        ).argmax(1)
    )


def centroid_model(ways: int) -> Model:
    task = {"name": "classify", "features": "pooled"}
    backbone = {"backbone.name": SETTINGS["backbone.name"], "backbone.weights": "none"}
    return build_model(
        with_settings(Recipe(), {**backbone, "tuning": "centroid", "task": task}),
        tuple(map(str, range(ways))),
    )


def read_runs(archive: Path) -> Iterator[tuple[list[Image.Image], list[Image.Image], np.ndarray]]:
    """Yield 20 known pages, 20 query pages, and the index of the known page of each query."""
    with zipfile.ZipFile(archive) as file:
        for run in range(1, 21):
            rows = [
                line.split()
                for line in file.read(f"run{run:02}/class_labels.txt").decode().splitlines()
                if line.strip()
            ]
            known = sorted({row[1] for row in rows})
            queries = [read_page(file.read(row[0])) for row in rows]
            yield (
                [read_page(file.read(name)) for name in known],
                queries,
                np.array([known.index(row[1]) for row in rows]),
            )


def one_shot_errors(extract: FeatureExtractor, archive: Path, views: int) -> list[float]:
    """Return the error of each run."""
    errors = []
    for known, queries, targets in read_runs(archive):
        rows = extract([*known, *queries], views)
        errors.append(float((classify(rows[: len(known)], rows[len(known) :]) != targets).mean()))
    return errors


def episode_accuracy(
    extract: FeatureExtractor,
    pages: dict[str, list[Image.Image]],
    ways: int,
    shots: int,
    views: int,
) -> dict[str, float]:
    """Return the mean accuracy over 600 episodes with 15 queries per class."""
    labels = [name for name, images in pages.items() for _ in images]
    rows = extract([page for images in pages.values() for page in images], views)
    score = mean_accuracy(
        episode_accuracies(
            centroid_model(ways), rows, draw_episodes(labels, ways, shots, 15, 600, 0)
        )
    )
    return {"accuracy": score.value, "low": score.low, "high": score.high}


def fit(
    alphabets: dict[str, dict[str, list[Image.Image]]], run: Path, seed: int, epochs: int
) -> float:
    """Train; return the CPU seconds of the training, 0 if the run is already there."""
    if (run / "finished.json").is_file():
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        data, start = write_characters(alphabets, Path(folder) / "characters"), time.process_time()
        foveate.fit(
            data, out=run, settings={**SETTINGS, "training.epochs": epochs}, device="cpu", seed=seed
        )
    return time.process_time() - start


def measure(folder: Path, run: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train, select the number of views, and score runs and episodes."""
    alphabets = read_alphabets(folder)
    seconds, extract = fit(alphabets, run, seed, epochs), FeatureExtractor(run)
    by_views = {
        views: episode_accuracy(extract, alphabets[SELECTION], 15, 1, views)["accuracy"]
        for views in VIEWS
    }
    views = max(by_views, key=lambda count: (by_views[count], -count))
    errors = one_shot_errors(extract, folder / "one-shot-classification" / "all_runs.zip", views)
    settings = ((5, 1), (5, 5), (20, 1))
    episodes = {
        f"{ways}-way {shots}-shot": episode_accuracy(
            extract, alphabets[EPISODES], ways, shots, views
        )
        for ways, shots in settings
    }
    return {
        "views": views,
        "accuracy_by_views": by_views,
        "errors": errors,
        "episodes": episodes,
        "cpu_seconds": seconds,
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """Return two Markdown tables; the interval of the error is Wilson's, for 400 images."""
    lines = ["| method | error, 30 alphabets | error, 5 alphabets |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in PUBLISHED]
    for row in rows:
        wrong = round(20 * sum(row["errors"]))
        low, high = wilson(wrong, 400)
        error = f"{wrong / 400:.1%} [{low:.1%}, {high:.1%}]"
        lines.append(
            f"| Foveate, 6 alphabets, seed {row['seed']}, {row['views']} views | | {error} |"
        )
    lines += ["", f"| episodes of {EPISODES} | seed | accuracy |", "|---|---|---|"]
    for row in rows:
        for name, score in row["episodes"].items():
            lines.append(
                f"| {name} | {row['seed']} | {score['accuracy']:.3f} [{score['low']:.3f}, "
                f"{score['high']:.3f}] |"
            )
    return "\n".join(lines)


def main() -> None:
    options = parse_options(__doc__, [], [], threads=1, epochs=EPOCHS)
    torch.set_num_threads(options.threads)
    results = ResultFile(options.out / "omniglot.jsonl")
    for seed in options.seeds:
        if not results.has(seed=seed, epochs=options.epochs):
            run = options.out / f"omniglot-{seed}-{options.epochs}"
            row = measure(options.data / "omniglot" / "python", run, seed, options.epochs)
            results.add({"seed": seed, "epochs": options.epochs, "threads": options.threads, **row})
    print(summary(results.rows))


if __name__ == "__main__":
    main()

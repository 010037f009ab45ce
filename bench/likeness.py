"""How much a random split flatters: the default probe inside one folder of images, in folds by ever
looser near-copy clusters.

    python bench/likeness.py ../shared/data/brain_mri/Training [--seeds 0 1 2]

A likeness of 1 keeps equal files together only; 'random' divides even those. The strength of the
penalty is the one that cross-validation chooses in the same folds, so all rows are equally (and
hardly) optimistic about it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.duplicates import near_duplicates
from foveate.data.formats import read_table
from foveate.data.scan import scan
from foveate.data.splits import group_folds
from foveate.data.transforms import evaluation_transform
from foveate.evaluation.intervals import wilson
from foveate.inference.features import head_features
from foveate.modeling.classifiers.logistic import solve
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.utils.device import ComputeMode

FOLDS = 5
LIKENESS = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    table = read_table(options.folder)
    task = {"name": "classify", "features": "maps", "multilabel": False, "class_weights": "none"}
    model = build_model(
        with_settings(Recipe(), {"backbone.weights": "offline", "task": task}), table.classes
    )
    scanned = scan(table, model.backbone.input.size, "crop", Recipe().data)
    transform = evaluation_transform(model.backbone.input, model.task.framing)
    pictures = ImageDataset(scanned.table.samples, scanned.cache, transform, model.task.encode, 0)
    place = {
        "batch_size": 32,
        "device": torch.device("cpu"),
        "way": ComputeMode("fp32", channels_last=True),
    }
    features = head_features(model, pictures, scanned.hashes, **place).numpy()
    labels = [sample.target.names for sample in scanned.table.samples]
    targets = np.eye(len(table.classes))[[table.classes.index(names[0]) for names in labels]]

    def accuracy(groups: list[str], seed: int) -> float:
        folds = group_folds(labels, groups, FOLDS, seed)
        chances = solve(features, targets, folds, False).out_of_fold
        assert chances is not None
        return float((chances.argmax(1) == targets.argmax(1)).mean())

    print(
        "| likeness | clusters | largest | accuracy, mean | by seed | 95 % interval "
        "|\n|---|---|---|---|---|---|"
    )
    for likeness in (None, *LIKENESS):
        clusters = (
            np.arange(len(labels))
            if likeness is None
            else near_duplicates(scanned.thumbnails, likeness)
        )
        found = [accuracy([str(cluster) for cluster in clusters], seed) for seed in options.seeds]
        low, high = wilson(mean(found) * len(labels), len(labels))
        each = ", ".join(f"{value:.3f}" for value in found)
        facts = f"{likeness or 'random'} | {len(set(clusters))} | {np.bincount(clusters).max()}"
        print(f"| {facts} | {mean(found):.3f} | {each} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    main()

"""How much a random split flatters: a probe in folds that divide copies, and in folds that do not.

    python bench/random_splits.py brain_mri traffic_signs emoji fights --data ../shared/data

The default probe is cross-validated in 5 folds: random ones; ones that keep near-copies together
that are found by pixels; ones that keep copies and sequences together that are found by names;
both, as `fit` divides; and groups that the data state: the tracks of traffic_signs,
the films of fights. In `emoji` the category of a drawing is learned, and the same emoji is drawn in
two styles, which is taken for the stated group. `fights` are eight frames of each clip; it takes
the package av.

The regularization is selected in the same folds. Intervals are Wilson's for the mean of the seeds.

Prints the table of docs/benchmarks/near-copies.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image

from foveate.data.dataset import ImageDataset
from foveate.data.duplicates import chain_pairs, equal_pairs, standardize, unite
from foveate.data.formats import read_table
from foveate.data.grouping import find_groups, named_copy_pairs, near_copy_pairs
from foveate.data.scan import ScannedTable, scan
from foveate.data.sequences import find_sequences
from foveate.data.splits import group_folds
from foveate.data.transforms import evaluation_transform
from foveate.evaluation.intervals import wilson
from foveate.inference.features import head_features
from foveate.modeling.classifiers.logistic import solve
from foveate.modeling.model import build_model
from foveate.predictions import Labels
from foveate.recipe import Recipe, with_settings
from foveate.types import Sample, Table
from foveate.utils.device import ComputeMode

FOLDS, FRAMES = 5, 8


def brain_mri(data: Path, out: Path) -> Table:
    return read_table(data / "brain_mri" / "Training")


def traffic_signs(data: Path, out: Path) -> Table:
    """The first part of a name is the track, within the folder of its class."""
    table = read_table(data / "traffic_signs", "folder")
    samples = (replace(each, group=each.key.rpartition("_")[0]) for each in table.samples)
    return table.with_samples(tuple(samples))


def emoji(data: Path, out: Path) -> Table:
    folder = data / "emoji"
    names = {
        entry["image"]: entry["category"]
        for entry in json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    }
    samples = [
        Sample(
            file, f"{file.parent.name}/{file.name}", Labels((names[file.name],)), None, file.stem
        )
        for style in ("google", "twitter")
        for file in sorted((folder / style).glob("*.png"))
        if file.name in names
    ]
    classes = tuple(sorted({sample.target.names[0] for sample in samples}))  # type: ignore[union-attr]
    return Table(tuple(samples), classes, "folder", folder)


def fights(data: Path, out: Path) -> Table:
    """Frames at even distances, named as tools name them."""
    import av

    samples = []
    with (data / "fights" / "clips.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with av.open(str(data / "fights" / row["path"])) as video:
                frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            chosen = np.linspace(0, len(frames) - 1, FRAMES).astype(int)
            for number in chosen.tolist():
                key = f"{row['label']}/{Path(row['path']).stem}_{number:04d}.jpg"
                (out / key).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frames[number]).save(out / key, quality=92)
                samples.append(Sample(out / key, key, Labels((row["label"],)), None, row["group"]))
    return Table(tuple(samples), ("calm", "fight"), "folder", out)


DATASETS: dict[str, Callable[[Path, Path], Table]] = {
    function.__name__: function for function in (brain_mri, traffic_signs, emoji, fights)
}


def groupings(scanned: ScannedTable) -> dict[str, list[str]]:
    """The groups of each kind of folds."""
    samples, thumbnails, tints = scanned.table.samples, scanned.thumbnails, scanned.tints
    assert tints is not None
    keys, recipe = [sample.key for sample in samples], Recipe().data
    equal = unite(np.arange(len(keys)), equal_pairs(scanned.hashes))
    pixels = equal
    for pairs in near_copy_pairs(thumbnails, tints, recipe.near_duplicates):
        pixels = unite(pixels, pairs)
    names = unite(equal, named_copy_pairs(keys, thumbnails, tints))
    sequences = find_sequences(keys, standardize(thumbnails))
    if sequences is not None:
        names = unite(names, chain_pairs(sequences.stretches))
    unstated = tuple(replace(sample, group=None) for sample in samples)
    as_fit = find_groups(replace(scanned, table=scanned.table.with_samples(unstated)), recipe).names
    found = {
        "random": keys,
        "by pixels": [str(each) for each in pixels],
        "by names": [str(each) for each in names],
        "as fit divides": as_fit,
    }
    if any(sample.group for sample in samples):
        found["by stated group"] = [str(sample.group) for sample in samples]
        found["by stated group and copies"] = find_groups(scanned, recipe).names
    return found


def probe_features(table: Table, size: int) -> tuple[ScannedTable, np.ndarray]:
    """The scanned images, and the features (N, D) that the default probe reads."""
    task = {"name": "classify", "features": "maps", "multilabel": False, "class_weights": "none"}
    settings = {"backbone.weights": "offline", "backbone.size": size, "task": task}
    settings["tuning.name"] = "probe"
    model = build_model(with_settings(Recipe(), settings), table.classes)
    scanned = scan(table, model.backbone.input.size, "crop", Recipe().data)
    transform = evaluation_transform(model.backbone.input, model.task.framing)
    dataset = ImageDataset(scanned.table.samples, scanned.cache, transform, model.task.encode, 0)
    mode, cpu = ComputeMode("fp32", channels_last=True), torch.device("cpu")
    features = head_features(
        model, dataset, scanned.hashes, batch_size=32, device=cpu, mode=mode
    ).numpy()
    return scanned, features


def measure(name: str, table: Table, seeds: list[int], size: int) -> None:
    scanned, features = probe_features(table, size)
    labels = [sample.target.names for sample in scanned.table.samples]
    targets = np.eye(len(table.classes))[[table.classes.index(names[0]) for names in labels]]
    for kind, groups in groupings(scanned).items():
        scores = []
        for seed in seeds:
            folds = group_folds(labels, groups, FOLDS, seed)
            probabilities = solve(features, targets, folds, False).out_of_fold
            assert probabilities is not None
            scores.append(float((probabilities.argmax(1) == targets.argmax(1)).mean()))
        low, high = wilson(mean(scores) * len(labels), len(labels))
        sizes = np.unique(groups, return_counts=True)[1]
        print(
            f"| {name} | {kind} | {len(sizes)} | {sizes.max()} | {mean(scores):.3f} | "
            f"{', '.join(f'{score:.3f}' for score in scores)} | {low:.3f} to {high:.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", choices=DATASETS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=128, help="input size, px")
    options = parser.parse_args()
    print("| data | folds | groups | largest | accuracy, mean | by seed | 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for name in options.datasets:
        with tempfile.TemporaryDirectory() as folder:
            table = DATASETS[name](options.data, Path(folder))
            measure(name, table, options.seeds, options.size)


if __name__ == "__main__":
    main()

"""Split a folder of images into training and test folders of links.

    python bench/split_dataset.py ../shared/data/brain_mri/Training OUT --test 0.25 --seed 0

Writes OUT/train/CLASS/... and OUT/test/CLASS/.... Near-duplicates stay on one side. They are
clustered by gray levels alone, whatever `foveate fit` does today, so that the splits of the
benchmarks stay what they were.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from foveate.data.duplicates import gray_thumbnail, near_duplicates
from foveate.data.formats import read_table
from foveate.data.splits import make_splits
from foveate.images.codec import read_image
from foveate.recipe import DataRecipe


def link_splits(source: Path, out: Path, test: float, seed: int) -> None:
    """Link every image of `source` into out/train or out/test; nothing is copied."""
    table = read_table(source)
    thumbnails = np.stack([gray_thumbnail(read_image(sample.path)[0]) for sample in table.samples])
    clusters = near_duplicates(thumbnails, DataRecipe().near_duplicates)
    labels = [sample.target.names for sample in table.samples]
    # the group names are part of what the split depends on
    groups = [f"near-copies {cluster}" for cluster in clusters]
    splits = make_splits(labels, groups, 0, test, seed)
    for sample, split in zip(table.samples, splits, strict=True):
        link = out / split / sample.target.names[0] / sample.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path.resolve())
    print(
        f"{len(labels)} images in {len(set(groups))} clusters, the largest with "
        f"{np.bincount(clusters).max()} images"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    link_splits(options.source, options.out, options.test, options.seed)

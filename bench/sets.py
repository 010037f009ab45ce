"""The splits that the measurements stand on, made once as folders of links:
<out>/train/<class>/..., <out>/test/<class>/....

    python bench/sets.py ../shared/data/brain_mri/Training OUT --test 0.25 --seed 0

Near-copies stay on one side, by the same clusters that `foveate fit` uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from foveate.data.duplicates import gray_thumbnail, near_duplicates
from foveate.data.formats import read_table
from foveate.data.splits import make_splits
from foveate.images import codec as images
from foveate.recipe import DataRecipe


def materialise(source: Path, out: Path, test: float, seed: int) -> None:
    """Links every image of `source` into out/train or out/test; nothing is copied."""
    table = read_table(source)
    thumbs = np.stack(
        [gray_thumbnail(images.read_image(sample.path)[0]) for sample in table.samples]
    )
    clusters = near_duplicates(thumbs, DataRecipe().near_duplicates)
    labels = [sample.target.names for sample in table.samples]
    groups = [f"near-copies {cluster}" for cluster in clusters]
    for sample, split in zip(
        table.samples, make_splits(labels, groups, 0, test, seed), strict=True
    ):
        link = out / split / sample.target.names[0] / sample.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path.resolve())
    print(
        f"{len(labels)} images in {len(set(groups))} clusters, the largest of "
        f"{np.bincount(clusters).max()}"
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
    materialise(options.source, options.out, options.test, options.seed)

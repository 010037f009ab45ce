"""Images without a mask that have nothing to segment: the good ones beside defects (MVTec AD).

test/broken/000.png    ground_truth/broken/000_mask.png
test/good/000.png      train/good/000.png
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from foveate.data.formats._mask_config import ImageFile
from foveate.data.formats._mask_pairs import Pairing, key_of
from foveate.images.codec import read_size
from foveate.predictions import Regions
from foveate.types import Issue, Sample, remark

_GOOD = "good"
_MANY = 0.8  # share of the other images that have to have a mask


def find_good_images(pairing: Pairing) -> list[ImageFile]:
    """Return the images in folders `good` without masks, where folders named as defects have them.

    None where many other images lack a mask: then nothing is said by that.
    """
    paired = {pair.image.path for pair in pairing.pairs}
    unpaired = [image for image in pairing.config.images if image.path not in paired]
    good = [image for image in unpaired if image.path.parent.name.casefold() == _GOOD]
    others = len(unpaired) - len(good) + len(pairing.pairs)
    are_defects = all(
        pair.image.path.parent != mask.path.parent
        and pair.image.path.parent.name == mask.path.parent.name
        for pair in pairing.pairs
        for mask in pair.masks
    )
    return good if are_defects and len(pairing.pairs) >= _MANY * others else []


def with_good_images(
    samples: list[Sample], good: list[ImageFile], root: Path, notes: list[Issue]
) -> list[Sample]:
    """Return the samples, and good images as nothing but the first class, the background.

    Where the training images are all good, as in MVTec AD, the splits are those for learning from
    good images alone. They are dropped: nothing could be learned about defects.

    Args:
        samples: The images with masks.
        good: The good images.
        root: Keys are relative to it.
        notes: Notes on this are added here.
    """
    if not good:
        return samples
    text = "{count:image|images} in folders {folder} without a mask: read as background alone"
    notes.append(remark("good_images", text, count=len(good), folder=repr(_GOOD)))
    added = [
        Sample(
            each.path, key_of(each.path, root), Regions(partial(_nothing, each.path)), each.split
        )
        for each in good
    ]
    if "train" in {each.split for each in added} and "train" not in {s.split for s in samples}:
        text = "the training images are all good ones: the splits of the data are not used"
        notes.append(remark("good_training_images", text))
        return [replace(sample, split=None) for sample in (*samples, *added)]
    return [*samples, *added]


def _nothing(path: Path) -> np.ndarray:
    """A mask of the size of an image with nothing in it. Raises BrokenImage."""
    return np.zeros(read_size(path), dtype=np.int64)

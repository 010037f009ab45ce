"""How far painted pictures are from real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.discovery import find_images
from foveate.data.image_cache import ImageCache
from foveate.data.transforms import evaluation_transform
from foveate.errors import BrokenImage, DataError, UsageError
from foveate.evaluation.fid import fid, kid, kid_std
from foveate.images import codec as images
from foveate.inference.features import pooled_features
from foveate.inference.predictor import DecodedImage
from foveate.modeling.backbones import Backbone, family_of
from foveate.types import InputSpec, Provides, Sample
from foveate.utils import log
from foveate.utils.device import resolve_device

_MOST = 2000  # real pictures
_LEAST = 10


@dataclass(frozen=True)
class Distances:
    """`rows`: of painted pictures, of half of the real ones, and of noise, from the (other half of the) real ones, each with
    kid, kid_spread, fid and the count. `features`: whose."""

    features: str
    real: int
    rows: dict[str, dict[str, float]]

    def numbers(self) -> dict[str, Any]:
        painted = {name: value for name, value in self.rows["painted"].items() if name != "count"}
        return {**painted, "features": self.features, "real": self.real, "compare": self.rows}

    def lines(self) -> list[str]:
        found = [
            f"from {self.real} real pictures, by the features of {self.features} (numbers of other features are others):"
        ]
        for name, row in self.rows.items():
            found.append(
                f"  {name}: KID {row['kid']:.4f} ± {row['kid_spread']:.4f}, FID {row['fid']:.1f} (n = {row['count']:.0f})"
            )
        return found


def compared(
    made: Sequence[np.ndarray], real: Path, spec: InputSpec, features: str, device: str
) -> Distances:
    """Painted pictures (S, S, 3) uint8 against those in the folder `real`, which are brought to the painter's square first; beside
    it what noise has, and what real pictures have among themselves. Raises DataError for fewer than ten on either side."""
    if not real.is_dir():
        raise UsageError(
            "real pictures to compare with lie in a folder", where=real, hint="--reference FOLDER"
        )
    files = list(find_images(real))
    chosen = sorted(np.random.default_rng(0).permutation(len(files))[:_MOST].tolist())
    theirs = [pixels for place in chosen if (pixels := _square(files[place], spec)) is not None]
    for count, what, hint in (
        (len(made), "painted", "a larger --count"),
        (len(theirs), "real", "another folder"),
    ):
        if count < _LEAST:
            raise DataError(
                f"{count} {what} pictures are too few to compare", where=real, hint=hint
            )
    backbone = family_of(features).open(features, "auto").eval().to(resolve_device(device))
    if Provides.POOLED not in backbone.provides:
        raise UsageError(
            f"{features!r} describes no pictures", where="--feature-backbone", hint="tf_efficientnet_lite0"
        )
    noise = np.random.default_rng(0).integers(
        0, 256, (len(made), spec.size, spec.size, 3), dtype=np.uint8
    )
    known = _described(theirs, backbone)
    halves = known[::2], known[1::2]
    pairs = {
        "painted": (_described(made, backbone), known),
        "real": halves,
        "noise": (_described(list(noise), backbone), known),
    }
    if min(len(made), len(theirs)) < known.shape[1]:
        log.warning(
            f"FID is too high with fewer than {known.shape[1]} pictures: compare those of equal numbers alone"
        )
    return Distances(features, len(theirs), {name: _row(*pair) for name, pair in pairs.items()})


def _row(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    return {
        "kid": kid(ours, theirs),
        "kid_spread": kid_std(ours, theirs),
        "fid": fid(ours, theirs),
        "count": float(len(ours)),
    }


def _square(file: Path, spec: InputSpec) -> np.ndarray | None:
    """The picture as a painter sees it; None where it cannot be read."""
    try:
        pixels, _ = images.read_image(file)
    except BrokenImage as error:
        log.warning(f"skipped {file.name}: {error.why or error.what}")
        return None
    image, _, _ = evaluation_transform(spec, "crop")(pixels, pixels.shape[:2], {})
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _described(pictures: Sequence[np.ndarray], backbone: Backbone) -> np.ndarray:
    """(N, D)."""
    samples = [
        Sample(DecodedImage(b"", (pixels, (pixels.shape[0], pixels.shape[1]))), f"image {index}")
        for index, pixels in enumerate(pictures)
    ]
    cache = ImageCache(backbone.input.size, "crop", keep=False)
    device = next(backbone.parameters()).device
    return pooled_features(backbone, samples, cache, "crop", device).numpy()

"""KID and FID between generated and real images."""

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
from foveate.images.codec import read_image
from foveate.inference.features import pooled_features
from foveate.inference.predictor import DecodedImage
from foveate.modeling.backbones import Backbone, family_of
from foveate.types import InputSpec, Provides, Sample
from foveate.utils import log
from foveate.utils.device import resolve_device

_MAX_REAL = 2000  # real images
_MIN_IMAGES = 10


@dataclass(frozen=True)
class Distances:
    """Distances to real images.

    Attributes:
        rows: KID, its standard deviation, FID and count of generated images, of noise, and of
            one half of the real images to the other.
        features: Name of the feature backbone.
    """

    features: str
    num_real: int
    rows: dict[str, dict[str, float]]

    def numbers(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in self.rows["generated"].items() if name != "count"},
            "features": self.features,
            "num_real": self.num_real,
            "comparisons": self.rows,
        }

    def lines(self) -> list[str]:
        lines = [
            f"distance to {self.num_real} real images, by features of {self.features} "
            "(not comparable with other features):"
        ]
        for name, row in self.rows.items():
            lines.append(
                f"  {name}: KID {row['kid']:.4f} ± {row['kid_std']:.4f}, "
                f"FID {row['fid']:.1f} (n = {row['count']:.0f})"
            )
        return lines


def compare_to_real(
    generated: Sequence[np.ndarray], real: Path, spec: InputSpec, features: str, device: str
) -> Distances:
    """Compare generated images (S, S, 3) uint8 with those in the folder `real`.

    Real images are preprocessed as for the generator. Noise and the two halves of the real images
    serve as reference points.

    Raises:
        DataError: There are fewer than ten images on either side.
    """
    if not real.is_dir():
        raise UsageError(
            "--reference must be a folder of real images", where=real, hint="--reference FOLDER"
        )
    files = list(find_images(real))
    chosen = sorted(np.random.default_rng(0).permutation(len(files))[:_MAX_REAL].tolist())
    real_images = [
        pixels for index in chosen if (pixels := _load_square(files[index], spec)) is not None
    ]
    for count, what, hint in (
        (len(generated), "generated", "a larger --count"),
        (len(real_images), "real", "another folder"),
    ):
        if count < _MIN_IMAGES:
            raise DataError(f"{count} {what} images are too few to compare", where=real, hint=hint)
    backbone = family_of(features).open(features, "auto").eval().to(resolve_device(device))
    if Provides.POOLED not in backbone.provides:
        raise UsageError(
            f"{features!r} computes no image features",
            where="--feature-backbone",
            hint="tf_efficientnet_lite0",
        )
    noise = np.random.default_rng(0).integers(
        0, 256, (len(generated), spec.size, spec.size, 3), dtype=np.uint8
    )
    real_features = _features(real_images, backbone)
    halves = real_features[::2], real_features[1::2]
    pairs = {
        "generated": (_features(generated, backbone), real_features),
        "real": halves,
        "noise": (_features(list(noise), backbone), real_features),
    }
    if min(len(generated), len(real_images)) < real_features.shape[1]:
        log.warning(
            f"FID is biased upwards with fewer than {real_features.shape[1]} images: "
            "compare only equal counts"
        )
    return Distances(
        features, len(real_images), {name: _row(*pair) for name, pair in pairs.items()}
    )


def _row(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    return {
        "kid": kid(features, real),
        "kid_std": kid_std(features, real),
        "fid": fid(features, real),
        "count": float(len(features)),
    }


def _load_square(file: Path, spec: InputSpec) -> np.ndarray | None:
    """The image preprocessed as for the generator; None if it cannot be read."""
    try:
        pixels, _ = read_image(file)
    except BrokenImage as error:
        log.warning(f"skipped {file.name}: {error.why or error.what}")
        return None
    image, _, _ = evaluation_transform(spec, "crop")(pixels, pixels.shape[:2], {})
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _features(images: Sequence[np.ndarray], backbone: Backbone) -> np.ndarray:
    """Pooled features (N, D)."""
    samples = [
        Sample(DecodedImage(b"", (pixels, (pixels.shape[0], pixels.shape[1]))), f"image {index}")
        for index, pixels in enumerate(images)
    ]
    cache = ImageCache(backbone.input.size, "crop", keep=False)
    device = next(backbone.parameters()).device
    return pooled_features(backbone, samples, cache, "crop", device).numpy()

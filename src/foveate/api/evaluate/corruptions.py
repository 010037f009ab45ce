"""Corruptions of images at five severities, as ImageNet-C defines them (Hendrycks & Dietterich
2019).

Its severities are made for squares of 224 px; lengths scale with the side here. Snow, frost and
elastic transforms are left out. A corruption takes (H, W, 3) float32 in [0, 1], a severity from 1
to 5 and a generator; its result is clipped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are named

from foveate.images.codec import resize
from foveate.images.encoding import encode_jpeg

Array = Any  # NumPy's arrays; its stubs lose the type at every operator
Corruption = Callable[[Array, int, np.random.Generator], Array]
SEVERITIES = (1, 2, 3, 4, 5)
_SIDE = 224  # px, of the paper's images


def corrupt(pixels: Array, name: str, severity: int, seed: int) -> Array:
    """Corrupt an image; the same seed gives the same result.

    Args:
        pixels: (H, W, 3) uint8, or float32 up to 255.
        name: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of the randomness.
    """
    rng = np.random.default_rng(seed)
    corrupted = CORRUPTIONS[name](pixels.astype(np.float32) / 255, severity, rng)
    scaled = 255 * corrupted.clip(0, 1)
    is_deep = pixels.dtype != np.uint8
    return np.asarray(scaled.astype(np.float32) if is_deep else scaled.round().astype(np.uint8))


def _gaussian_noise(image: Array, severity: int, rng: np.random.Generator) -> Array:
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1], image.shape)


def _shot_noise(image: Array, severity: int, rng: np.random.Generator) -> Array:
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: Array, severity: int, rng: np.random.Generator) -> Array:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    drawn = rng.random(image.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, image))


def _defocus_blur(image: Array, severity: int, rng: np.random.Generator) -> Array:
    paper_radius, sigma = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    radius = max(1.0, paper_radius * _scale(image))
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = scipy.ndimage.gaussian_filter((rows**2 + columns**2 <= radius**2).astype(float), sigma)
    return _convolve(image, disk)


def _motion_blur(image: Array, severity: int, rng: np.random.Generator) -> Array:
    length = max(3, round((10, 15, 15, 15, 20)[severity - 1] * _scale(image)))
    angle, kernel = rng.uniform(-np.pi / 4, np.pi / 4), np.zeros((length, length))
    center = (length - 1) / 2
    steps = np.linspace(-center, center, 4 * length)
    rows = (center + steps * np.sin(angle)).round().astype(int)
    columns = (center + steps * np.cos(angle)).round().astype(int)
    sigma = (3, 5, 8, 12, 15)[severity - 1] * _scale(image)
    np.maximum.at(kernel, (rows, columns), np.exp(-0.5 * (steps / max(sigma, 0.5)) ** 2))
    return _convolve(image, kernel)


def _fog(image: Array, severity: int, rng: np.random.Generator) -> Array:
    """Clouds of every size (plasma), the finer the fainter."""
    weight, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    height, width = image.shape[:2]
    clouds = np.zeros((height, width))
    for level in range(1, int(np.log2(max(height, width))) + 1):
        coarse = rng.random((2**level, 2**level))
        fine = scipy.ndimage.zoom(coarse, (height / 2**level, width / 2**level), order=1)
        clouds += fine[:height, :width] / decay**level
    clouds = (clouds - clouds.min()) / max(np.ptp(clouds), 1e-6)
    brightest = image.max()
    return (image + weight * clouds[..., None]) * brightest / (brightest + weight)


def _brightness(image: Array, severity: int, rng: np.random.Generator) -> Array:
    """The value of HSV is raised; hue and saturation remain."""
    value = image.max(-1, keepdims=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clip(0, 1)
    return np.where(value > 0, image * raised / np.maximum(value, 1e-6), raised)


def _contrast(image: Array, severity: int, rng: np.random.Generator) -> Array:
    mean = image.mean((0, 1), keepdims=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] * (image - mean)


def _pixelate(image: Array, severity: int, rng: np.random.Generator) -> Array:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = image.shape[:2]
    small_height, small_width = (max(1, round(side * share)) for side in (height, width))
    rows = np.arange(height) * small_height // height
    columns = np.arange(width) * small_width // width
    pixels = resize(_as_bytes(image), (small_height, small_width))
    return pixels[rows][:, columns].astype(np.float32) / 255


def _jpeg(image: Array, severity: int, rng: np.random.Generator) -> Array:
    quality = (25, 18, 15, 10, 7)[severity - 1]
    return encode_jpeg(_as_bytes(image), quality).astype(np.float32) / 255


def _as_bytes(image: Array) -> Array:
    return (255 * image).round().astype(np.uint8)


def _scale(image: Array) -> float:
    return float(max(image.shape[:2])) / _SIDE


def _convolve(image: Array, kernel: Array) -> Array:
    """Each channel with the normalized kernel."""
    normalized = kernel / kernel.sum()
    channels = [
        scipy.ndimage.convolve(image[..., channel], normalized, mode="reflect")
        for channel in range(3)
    ]
    return np.stack(channels, -1)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}

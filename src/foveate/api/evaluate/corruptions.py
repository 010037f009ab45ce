"""What cameras, weather and files do to pictures, in five strengths, after the definitions of ImageNet-C (Hendrycks & Dietterich
2019), whose strengths are for squares of 224 px; lengths go with the side here. Snow, frost and elastic changes are left out.

A corruption takes (H, W, 3) float32 in [0, 1], a strength from 1 to 5 and a generator; what it gives is clipped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are named

from foveate.images.codec import encode_jpeg, resize

Array = Any  # numpy's arrays; its stubs lose the type at every operator
Corruption = Callable[[Array, int, np.random.Generator], Array]
STRENGTHS = (1, 2, 3, 4, 5)
_SIDE = 224  # px, of the paper's pictures


def corrupted(pixels: Array, name: str, strength: int, seed: int) -> Array:
    """(H, W, 3) uint8 -> the same, corrupted; the same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    found = CORRUPTIONS[name](pixels.astype(np.float32) / 255, strength, rng)
    return np.asarray((255 * found.clip(0, 1)).round().astype(np.uint8))


def _gaussian_noise(image: Array, strength: int, rng: np.random.Generator) -> Array:
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1], image.shape)


def _shot_noise(image: Array, strength: int, rng: np.random.Generator) -> Array:
    photons = (60, 25, 12, 5, 3)[strength - 1]
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: Array, strength: int, rng: np.random.Generator) -> Array:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[strength - 1]
    drawn = rng.random(image.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, image))


def _defocus_blur(image: Array, strength: int, rng: np.random.Generator) -> Array:
    wide, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[strength - 1]
    radius = max(1.0, wide * _scale(image))
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = scipy.ndimage.gaussian_filter((rows**2 + columns**2 <= radius**2).astype(float), soft)
    return _each(
        image, lambda channel: scipy.ndimage.convolve(channel, disk / disk.sum(), mode="reflect")
    )


def _motion_blur(image: Array, strength: int, rng: np.random.Generator) -> Array:
    length = max(3, round((10, 15, 15, 15, 20)[strength - 1] * _scale(image)))
    angle, line = rng.uniform(-np.pi / 4, np.pi / 4), np.zeros((length, length))
    steps = np.linspace(-(length - 1) / 2, (length - 1) / 2, 4 * length)
    middle = (length - 1) / 2
    rows, columns = (
        (middle + steps * np.sin(angle)).round().astype(int),
        (middle + steps * np.cos(angle)).round().astype(int),
    )
    spread = (3, 5, 8, 12, 15)[strength - 1] * _scale(image)
    np.maximum.at(line, (rows, columns), np.exp(-0.5 * (steps / max(spread, 0.5)) ** 2))
    return _each(
        image, lambda channel: scipy.ndimage.convolve(channel, line / line.sum(), mode="reflect")
    )


def _fog(image: Array, strength: int, rng: np.random.Generator) -> Array:
    """Clouds of every size (plasma), the finer the fainter."""
    weight, fall = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[strength - 1]
    clouds, side = np.zeros(image.shape[:2]), max(image.shape[:2])
    for level in range(1, int(np.log2(side)) + 1):
        coarse = rng.random((2**level, 2**level))
        fine = scipy.ndimage.zoom(
            coarse, (image.shape[0] / 2**level, image.shape[1] / 2**level), order=1
        )
        fine = fine[: image.shape[0], : image.shape[1]]
        clouds += fine / fall**level
    clouds = (clouds - clouds.min()) / max(np.ptp(clouds), 1e-6)
    most = image.max()
    return (image + weight * clouds[..., None]) * most / (most + weight)


def _brightness(image: Array, strength: int, rng: np.random.Generator) -> Array:
    """The value of HSV is raised, hue and saturation stay."""
    value = image.max(-1, keepdims=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[strength - 1]).clip(0, 1)
    return np.where(value > 0, image * raised / np.maximum(value, 1e-6), raised)


def _contrast(image: Array, strength: int, rng: np.random.Generator) -> Array:
    middle = image.mean((0, 1), keepdims=True)
    return middle + (0.4, 0.3, 0.2, 0.1, 0.05)[strength - 1] * (image - middle)


def _pixelate(image: Array, strength: int, rng: np.random.Generator) -> Array:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[strength - 1]
    small = [max(1, round(side * share)) for side in image.shape[:2]]
    rows, columns = (
        np.arange(side) * part // side for side, part in zip(image.shape[:2], small, strict=True)
    )
    pixels = resize((255 * image).round().astype(np.uint8), (small[0], small[1]))
    return pixels[rows][:, columns].astype(np.float32) / 255


def _jpeg(image: Array, strength: int, rng: np.random.Generator) -> Array:
    return (
        encode_jpeg((255 * image).round().astype(np.uint8), (25, 18, 15, 10, 7)[strength - 1]).astype(
            np.float32
        )
        / 255
    )


def _scale(image: Array) -> float:
    return float(max(image.shape[:2])) / _SIDE


def _each(image: Array, change: Callable[[Array], Array]) -> Array:
    return np.stack([change(image[..., channel]) for channel in range(3)], -1)


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

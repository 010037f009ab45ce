"""From logits to masks, with NumPy only.

Letters: K classes, S side of the square that the network sees, H and W of the upright image, px.
"""

import numpy as np

_ROWS = 128  # of the image at a time: logits at the size of a photograph would fill the memory


def class_mask(logits: np.ndarray, view_side: float, size: tuple[int, int]) -> np.ndarray:
    """Return the class of every pixel: bilinear interpolation of the logits, then argmax.

    Args:
        logits: (K, S, S) float32.
        view_side: Side of the rectangle that the square shows, px of the image; what is beyond the
            image is padding.
        size: (H, W) of the image.

    Returns:
        (H, W) int16, indices of classes.
    """
    height, width = size
    rows, columns = (max(1, round(logits.shape[-1] * side / view_side)) for side in size)
    left, right, across = _interpolation(columns, width, 0, width)
    mask = np.empty(size, np.int16)
    for start in range(0, height, _ROWS):
        end = min(height, start + _ROWS)
        upper, lower, down = _interpolation(rows, height, start, end)
        first = upper[0]
        part = logits[:, first : lower[-1] + 1, :columns]
        wide = part[..., left] * (1 - across) + part[..., right] * across
        down = down[:, None]
        tall = wide[:, upper - first] * (1 - down) + wide[:, lower - first] * down
        mask[start:end] = tall.argmax(0)
    return mask


def _interpolation(
    cells: int, pixels: int, start: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how to interpolate `cells` values at the pixels `start` to `end` of `pixels`.

    Returns:
        The cells before and after the center of each pixel, and the weight of the second one.
    """
    centers = np.maximum((np.arange(start, end) + 0.5) * (cells / pixels) - 0.5, 0)
    before = np.minimum(centers.astype(np.int64), cells - 1)
    return before, np.minimum(before + 1, cells - 1), (centers - before).astype(np.float32)

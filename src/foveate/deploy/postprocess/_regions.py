"""From logits to masks, with NumPy alone. Letters: K classes, S side of the network's square, H, W of the upright picture, px."""

import numpy as np

_ROWS = 128  # of the picture at once: logits at the size of a photograph would fill the memory


def mask_of(logits: np.ndarray, shown: float, size: tuple[int, int]) -> np.ndarray:
    """(K, S, S) float32 -> (H, W) int16, the place of each pixel's class. `shown`: side of the rectangle that lies on the square,
    in pixels of the picture; what is beyond the picture is padding. `size`: (H, W)."""
    height, width = size
    rows, columns = (max(1, round(logits.shape[-1] * side / shown)) for side in size)
    left, right, across = _between(columns, width, 0, width)
    found = np.empty(size, np.int16)
    for start in range(0, height, _ROWS):
        end = min(height, start + _ROWS)
        upper, lower, down = _between(rows, height, start, end)
        low = upper[0]
        seen = logits[:, low : lower[-1] + 1, :columns]
        wide = seen[..., left] * (1 - across) + seen[..., right] * across
        down = down[:, None]
        found[start:end] = (wide[:, upper - low] * (1 - down) + wide[:, lower - low] * down).argmax(
            0
        )
    return found


def _between(
    cells: int, pixels: int, start: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the pixels `start` to `end` of `pixels` that are laid over `cells`: the cells before and behind each pixel's middle, and
    how near it is to the second one, 0 to 1."""
    places = np.maximum((np.arange(start, end) + 0.5) * (cells / pixels) - 0.5, 0)
    before = np.minimum(places.astype(np.int64), cells - 1)
    return before, np.minimum(before + 1, cells - 1), (places - before).astype(np.float32)

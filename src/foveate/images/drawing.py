"""Predictions drawn into images: boxes with labels, masks, regions with a legend.

Inputs are never changed. Colors go by the index of a class: the first seven are those of Okabe and
Ito ("Color Universal Design", 2008, without the black), then indigo, wine and light cyan of Paul
Tol's ("Colour Schemes", SRON 2021). Under simulated protanopia, deuteranopia and tritanopia
(Machado et al. 2009) no two of the ten are closer in OKLab than the closest two of the first seven:
0.076. Lines and letters grow with the image. Letters: H height, W width in pixels, N boxes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from foveate.images.text import (
    WHITE,
    Color,
    Rectangle,
    contrasting_color,
    draw_text_rows,
    fit_text,
    text_extent,
)
from foveate.predictions import Boxes, Prediction, Regions
from foveate.utils.rle import decode_rle

_COLORS = (
    "E69F00",
    "56B4E9",
    "009E73",
    "F0E442",
    "0072B2",
    "D55E00",
    "CC79A7",
    "332288",
    "882255",
    "99DDFF",
)
_FRAME_COLOR = (86, 180, 233)  # sky blue, which no heat map contains
_FRAME_WIDTH = 2  # of the usual lines, which heat would hide
_GOLDEN_RATIO = 0.618034  # of the hues: the step that keeps the next hue far from all before
_BACKGROUND = "background"  # the class that is not drawn
_OPACITY = 0.5  # of regions
_MAX_HIDDEN = 1 / 3  # share of the image that labels or a legend may cover
_MIN_LEGEND_SIDE = 14  # letters: the short side of an image that has space for a legend
_MIN_FONT_SIZE = 9  # px; smaller letters cannot be read


def class_color(index: int) -> Color:
    """Return the color of a class, always the same for an index."""
    if index < len(_COLORS):
        red, green, blue = bytes.fromhex(_COLORS[index])
        return red, green, blue
    lightness, saturation = (0.42, 0.62, 0.78)[index % 3], (0.85, 0.55)[index // 3 % 2]
    hue = (0.55 + index * _GOLDEN_RATIO) % 1
    channels = colorsys.hls_to_rgb(hue, lightness, saturation)
    red, green, blue = (round(255 * channel) for channel in channels)
    return red, green, blue


def draw_prediction(
    pixels: np.ndarray, prediction: Prediction | None, classes: Sequence[str]
) -> np.ndarray:
    """Return (H, W, 3) uint8 with the boxes or regions of a prediction or a target.

    It is a plain copy where there is nothing to draw.
    """
    if isinstance(prediction, Boxes):
        return draw_boxes(pixels, prediction, 0, classes)
    if isinstance(prediction, Regions):
        return draw_regions(pixels, prediction.mask, classes)
    return pixels.copy()


def draw_boxes(
    pixels: np.ndarray, boxes: Boxes, threshold: float, classes: Sequence[str] = ()
) -> np.ndarray:
    """Return the image with boxes, the highest scores on top, over their half-transparent masks.

    Args:
        pixels: (H, W, 3) uint8.
        boxes: Of a prediction or a target.
        threshold: Score from which boxes are drawn; those of a target are all drawn.
        classes: With them a class has the same color in every image; without them colors go by the
            sorted names in this image.
    """
    classes = classes or sorted(set(boxes.names))
    image = Image.fromarray(_with_masks(pixels, boxes, threshold, classes))
    drawn = [
        box for box in _styled_boxes(boxes, threshold, classes) if _is_visible(box.edge, image.size)
    ]
    draw, width = ImageDraw.Draw(image), line_width(image.size)
    for box in drawn:
        _draw_frame(draw, box, width)
    for box, area, text in _place_labels(drawn, image.size):
        draw_text_rows(draw, area, [(text, box.color)], font_size(image.size))
    return np.array(image)


def draw_frame(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Return the image with a frame around an object that stands out from a heat map.

    Args:
        pixels: (H, W, 3) uint8.
        box: x0, y0, x1, y1, px.
    """
    image = Image.fromarray(pixels)
    left, top, right, bottom = (round(side) for side in box)
    edge = (left, top, max(right, left + 1), max(bottom, top + 1))
    width = _FRAME_WIDTH * line_width(image.size)
    _draw_frame(ImageDraw.Draw(image), _StyledBox(edge, "", _FRAME_COLOR, crowd=False), width)
    return np.array(image)


def draw_regions(pixels: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the image under half-transparent colors, opaque at the borders, and a legend.

    `background` and ignored pixels (-1) remain as they are. The legend names the largest classes.

    Args:
        pixels: (H, W, 3) uint8.
        mask: (H, W) class indices.
        classes: Names in order.
    """
    indices = [index for index, name in enumerate(classes) if name != _BACKGROUND]
    colors = np.array([class_color(index) for index in range(len(classes))], dtype=np.float32)
    colored = np.isin(mask, indices)
    counts = np.bincount(mask[colored], minlength=len(classes))
    image = _blend(pixels, mask, colored, colors.reshape(-1, 3))
    present = [index for index in indices if counts[index]]
    largest = sorted(present, key=lambda index: -counts[index])
    return _with_legend(image, [(classes[index], class_color(index)) for index in largest])


# --- sizes, which go by the side of a square of the same area


def line_width(size: tuple[int, int]) -> int:
    """Return the width of lines, px, for an image of this (width, height)."""
    return max(1, round(math.sqrt(size[0] * size[1]) / 210))


def font_size(size: tuple[int, int]) -> int:
    """Return the size of letters, px, for an image of this (width, height)."""
    by_area = math.sqrt(size[0] * size[1]) / 36
    return max(_MIN_FONT_SIZE, round(min(by_area, min(size) / 6)))


# --- boxes


@dataclass(frozen=True)
class _StyledBox:
    edge: Rectangle
    text: str
    color: Color
    crowd: bool


def _styled_boxes(boxes: Boxes, threshold: float, classes: Sequence[str]) -> Iterator[_StyledBox]:
    """The boxes to draw, the last on top."""
    for index in _drawing_order(boxes, threshold):
        name = boxes.names[index]
        x0, y0, x1, y1 = boxes.xyxy[index].tolist()
        left, top = math.floor(x0), math.floor(y0)
        edge = (left, top, max(math.ceil(x1), left + 1), max(math.ceil(y1), top + 1))
        crowd = boxes.crowd is not None and bool(boxes.crowd[index])
        score = "" if boxes.scores is None else f"{float(boxes.scores[index]):.2f}"
        # a class may have an empty name, whose box still has a score
        words = [name, *([score] if score else []), *(["(crowd)"] if crowd else [])]
        yield _StyledBox(edge, " ".join(words), _color_of(name, classes), crowd)


def _drawing_order(boxes: Boxes, threshold: float) -> list[int]:
    """Indices of the boxes to draw, ascending by score, or descending by area without scores."""
    low, high = boxes.xyxy[:, :2], boxes.xyxy[:, 2:]
    areas = np.prod(high - low, axis=1) if len(boxes.names) else np.zeros(0)
    order = np.argsort(-areas if boxes.scores is None else boxes.scores, kind="stable")
    kept = np.ones(len(order), dtype=bool) if boxes.scores is None else boxes.scores >= threshold
    return [i for i in order.tolist() if kept[i] and np.isfinite(boxes.xyxy[i]).all()]


def _color_of(name: str, classes: Sequence[str]) -> Color:
    return class_color(classes.index(name) if name in classes else len(classes))


def _with_masks(
    pixels: np.ndarray, boxes: Boxes, threshold: float, classes: Sequence[str]
) -> np.ndarray:
    """A copy with masks in the colors of their classes; masks of another size do not fit."""
    owners = np.full(pixels.shape[:2], -1)
    for index in _drawing_order(boxes, threshold) if boxes.masks else []:
        if boxes.masks and tuple(boxes.masks[index]["size"]) == owners.shape:
            owners[decode_rle(boxes.masks[index])] = index
    colors = np.array([_color_of(name, classes) for name in boxes.names], dtype=np.float32)
    return _blend(pixels, owners, owners >= 0, colors.reshape(-1, 3))


def _is_visible(edge: Rectangle, size: tuple[int, int]) -> bool:
    return edge[0] < size[0] and edge[1] < size[1] and edge[2] > 0 and edge[3] > 0


def _draw_frame(draw: ImageDraw.ImageDraw, box: _StyledBox, width: int) -> None:
    """Lines inside the edge; a thin one within sets them off from a background of the same
    color."""
    outer = x0, y0, x1, y1 = _clip(box.edge, draw.im.size)
    inner = (x0 + width, y0 + width, x1 - width, y1 - width)
    dash = 4 * width if box.crowd else max(x1 - x0, y1 - y0)
    if width >= 3 and min(inner[2] - inner[0], inner[3] - inner[1]) > width:
        contrast = _average(box.color, contrasting_color(box.color))
        _draw_edge(draw, inner, width // 3, dash, contrast)
    _draw_edge(draw, outer, min(width, max(1, min(x1 - x0, y1 - y0) // 2)), dash, box.color)


def _draw_edge(
    draw: ImageDraw.ImageDraw, edge: Rectangle, width: int, dash: int, fill: Color
) -> None:
    """Filled bars of `dash` pixels, as far apart.

    Pillow's own outline of a rectangle one pixel high is two pixels high.
    """
    x0, y0, x1, y1 = edge
    for start in range(x0, x1, 2 * dash):
        end = min(start + dash, x1) - 1
        draw.rectangle((start, y0, end, y0 + width - 1), fill=fill)
        draw.rectangle((start, y1 - width, end, y1 - 1), fill=fill)
    for start in range(y0, y1, 2 * dash):
        end = min(start + dash, y1) - 1
        draw.rectangle((x0, start, x0 + width - 1, end), fill=fill)
        draw.rectangle((x1 - width, start, x1 - 1, end), fill=fill)


def _average(one: Color, other: Color) -> Color:
    return (one[0] + other[0]) // 2, (one[1] + other[1]) // 2, (one[2] + other[2]) // 2


def _clip(edge: Rectangle, size: tuple[int, int]) -> Rectangle:
    return max(0, edge[0]), max(0, edge[1]), min(size[0], edge[2]), min(size[1], edge[3])


def _place_labels(
    boxes: list[_StyledBox], size: tuple[int, int]
) -> list[tuple[_StyledBox, Rectangle, str]]:
    """Where each label goes: above, in or below its box, in the image and not on another label.

    The topmost box of each class chooses first, then the others. A label that fits nowhere is left
    out, and so are those that would hide more than a third of a small image: the color of the box
    still names its class.
    """
    letters, taken = font_size(size), list[Rectangle]()
    placed = list[tuple[_StyledBox, Rectangle, str]]()
    free_area = size[0] * size[1] * _MAX_HIDDEN
    first = {box.color: box for box in boxes}  # the last of each class, which is the topmost
    others = [box for box in reversed(boxes) if box is not first[box.color]]
    for box in [*first.values(), *others]:
        text = fit_text(box.text, letters, size[0])
        width, height = text_extent([text], letters)
        if not text or height > size[1] or (placed and width * height > free_area):
            continue
        candidates = _label_areas(_clip(box.edge, size), (width, height), size)
        area = next((one for one in candidates if not any(_overlap(one, t) for t in taken)), None)
        if area is not None:
            free_area -= width * height
            taken.append(area)
            placed.append((box, area, text))
    return placed


def _label_areas(
    edge: Rectangle, extent: tuple[int, int], size: tuple[int, int]
) -> list[Rectangle]:
    """Rectangles in the image for a label of this (width, height), the best first."""
    (x0, y0, x1, y1), (width, height) = edge, extent
    columns = (x0, x1 - width, (x0 + x1 - width) // 2, x1, x0 - width)
    corners = [(x, y) for y in (y0 - height, y0, y1, y1 - height) for x in columns]
    inside = [
        (min(max(0, x), size[0] - width), y) for x, y in corners if 0 <= y <= size[1] - height
    ]
    return [(x, y, x + width, y + height) for x, y in inside]


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- regions


def _blend(
    pixels: np.ndarray, indices: np.ndarray, colored: np.ndarray, colors: np.ndarray
) -> np.ndarray:
    """A copy with half-transparent colors, opaque at the borders.

    Args:
        pixels: (H, W, 3) uint8.
        indices: (H, W) rows of `colors`.
        colored: (H, W) bool, which pixels to color.
        colors: (N, 3) float32.
    """
    image = pixels.copy()
    blended = _OPACITY * colors[indices[colored]] + (1 - _OPACITY) * pixels[colored]
    image[colored] = np.rint(blended).astype(np.uint8)
    border = colored & _border(indices, line_width((indices.shape[1], indices.shape[0])))
    image[border] = colors[indices[border]].astype(np.uint8)
    return image


def _border(mask: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: the pixels within `width` of another class."""
    border = np.zeros(mask.shape, dtype=bool)
    for step in range(1, width + 1):
        for axis in (0, 1):
            near, far = [slice(None)] * 2, [slice(None)] * 2
            near[axis], far[axis] = slice(None, -step), slice(step, None)
            differs = mask[tuple(near)] != mask[tuple(far)]
            border[tuple(near)] |= differs
            border[tuple(far)] |= differs
    return border


def _with_legend(pixels: np.ndarray, entries: list[tuple[str, Color]]) -> np.ndarray:
    """A legend in the lower left corner.

    Entries that do not fit are counted; a very small image has no legend.
    """
    image = Image.fromarray(pixels)
    letters = font_size(image.size)
    if not entries or min(image.size) < _MIN_LEGEND_SIDE * letters:
        return pixels
    rows = [(fit_text(name, letters, image.width // 2), color) for name, color in entries]
    swatch = round(1.2 * letters)
    width = text_extent([text for text, _ in rows], letters)[0] + swatch
    max_height = min(0.9 * image.height, _MAX_HIDDEN * image.height * image.width / width)
    max_rows = max(1, int(max_height) // text_extent(["x"], letters)[1])
    if len(rows) > max_rows:
        rows = [*rows[: max_rows - 1], (f"and {len(rows) - max_rows + 1} more", WHITE)]
    height = text_extent(["x"] * len(rows), letters)[1]
    area = (0, image.height - height, width, image.height)
    draw_text_rows(ImageDraw.Draw(image), area, rows, letters, swatch=True)
    return np.array(image)

"""Answers drawn into pictures: boxes with labels, regions with a legend, two pictures side by side. Inputs are never changed.

Colours go by the place of a class: the first seven are those of Okabe and Ito ("Color Universal Design", 2008, without the
black), then indigo, wine and light cyan of Paul Tol's ("Colour Schemes", SRON 2021). Under simulated protanopia, deuteranopia
and tritanopia (Machado et al. 2009) no two of the ten are nearer in OKLab than the nearest two of the first seven: 0.076.
Lines and letters grow with the picture. Letters: H height, W width, all in pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from foveate.images.text import (
    LABEL_COLOR,
    Color,
    Rectangle,
    contrasting_color,
    draw_text_rows,
    fit_text,
    text_extent,
)
from foveate.predictions import Boxes, Prediction, Regions
from foveate.utils.rle import decoded

_FIRST = (
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
_GOLDEN = 0.618034  # of the circle of hues: the step that keeps the next hue far from all before
_BACKGROUND = "background"  # the class that is left as it is
_OPACITY = 0.5  # of regions
_HIDDEN = 1 / 3  # of the picture, that labels or a legend may cover
_LEGEND = 14  # letters: the short side of a picture that has room for a legend
_SMALLEST = 9  # letters below so many pixels cannot be read


def class_color(place: int) -> Color:
    """The colour of the class at `place`, always the same."""
    if place < len(_FIRST):
        return (
            bytes.fromhex(_FIRST[place])[0],
            bytes.fromhex(_FIRST[place])[1],
            bytes.fromhex(_FIRST[place])[2],
        )
    lightness, saturation = (0.42, 0.62, 0.78)[place % 3], (0.85, 0.55)[place // 3 % 2]
    red, green, blue = colorsys.hls_to_rgb((0.55 + place * _GOLDEN) % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_prediction(pixels: np.ndarray, answer: Prediction | None, classes: Sequence[str]) -> np.ndarray:
    """(H, W, 3) uint8 with the boxes or the regions of an answer or a truth; as it is where there is nothing to draw."""
    if isinstance(answer, Boxes):
        return draw_boxes(pixels, answer, 0, classes)
    return (
        draw_regions(pixels, answer.mask, classes) if isinstance(answer, Regions) else pixels.copy()
    )


def draw_boxes(
    pixels: np.ndarray, boxes: Boxes, threshold: float, classes: Sequence[str] = ()
) -> np.ndarray:
    """(H, W, 3) uint8 -> the same with the boxes whose score reaches `threshold`, or all of a truth, the surest on top; under them
    their masks, half-transparent, with borders in full colour.

    With `classes` a class has the same colour in every picture; without, colours go by the sorted names in this picture.
    """
    classes = classes or sorted(set(boxes.names))
    picture = Image.fromarray(_with_masks(pixels, boxes, threshold, classes))
    shown = [box for box in _drawn(boxes, threshold, classes) if _visible(box.edge, picture.size)]
    draw, width = ImageDraw.Draw(picture), line_width(picture.size)
    for box in shown:
        _frame(draw, box, width)
    for box, spot, text in _labelled(shown, picture.size):
        draw_text_rows(draw, spot, [(text, box.colour)], font_size(picture.size))
    return np.array(picture)


def draw_regions(pixels: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) places -> half-transparent colours, full ones at the borders, and a legend.

    `background` and what nobody cares about (-1) stay as they are. The legend names the largest classes.
    """
    places = [place for place in range(len(classes)) if classes[place] != _BACKGROUND]
    table = np.array([class_color(place) for place in range(len(classes))], dtype=np.float32).reshape(
        -1, 3
    )
    painted = np.isin(mask, places)
    counts = np.bincount(mask[painted], minlength=len(classes))
    picture = _painted(pixels, mask, painted, table)
    largest = sorted((place for place in places if counts[place]), key=lambda place: -counts[place])
    return _with_legend(picture, [(classes[place], class_color(place)) for place in largest])


# --- sizes, which go by the side of a square of the same area


def line_width(size: tuple[int, int]) -> int:
    return max(1, round(math.sqrt(size[0] * size[1]) / 210))


def font_size(size: tuple[int, int]) -> int:
    return max(_SMALLEST, round(min(math.sqrt(size[0] * size[1]) / 36, min(size) / 6)))


# --- boxes


@dataclass(frozen=True)
class _Drawn:
    edge: Rectangle
    text: str
    colour: Color
    crowd: bool


def _drawn(boxes: Boxes, threshold: float, classes: Sequence[str]) -> Iterator[_Drawn]:
    """The boxes to draw, the last on top: the surest, or the smallest where there are no scores."""
    for place in _shown(boxes, threshold):
        name, score = (
            boxes.names[place],
            None if boxes.scores is None else float(boxes.scores[place]),
        )
        x0, y0, x1, y1 = boxes.xyxy[place].tolist()
        edge = (
            math.floor(x0),
            math.floor(y0),
            max(math.ceil(x1), math.floor(x0) + 1),
            max(math.ceil(y1), math.floor(y0) + 1),
        )
        crowd = boxes.crowd is not None and bool(boxes.crowd[place])
        text = " ".join(
            [name, *([] if score is None else [f"{score:.2f}"]), *(["(crowd)"] if crowd else [])]
        )
        yield _Drawn(edge, text, _colour_of(name, classes), crowd)


def _shown(boxes: Boxes, threshold: float) -> list[int]:
    """Places of the boxes to draw, the last on top."""
    areas = (
        np.prod(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], axis=1) if len(boxes.names) else np.zeros(0)
    )
    order = np.argsort(-areas if boxes.scores is None else boxes.scores, kind="stable")
    sure = np.ones(len(order), dtype=bool) if boxes.scores is None else boxes.scores >= threshold
    return [
        place for place in order.tolist() if sure[place] and np.isfinite(boxes.xyxy[place]).all()
    ]


def _colour_of(name: str, classes: Sequence[str]) -> Color:
    return class_color(classes.index(name) if name in classes else len(classes))


def _with_masks(
    pixels: np.ndarray, boxes: Boxes, threshold: float, classes: Sequence[str]
) -> np.ndarray:
    """A copy, with masks in the colours of their classes; those of another size than the picture's do not fit."""
    owners = np.full(pixels.shape[:2], -1)
    for place in _shown(boxes, threshold) if boxes.masks else []:
        if boxes.masks and tuple(boxes.masks[place]["size"]) == owners.shape:
            owners[decoded(boxes.masks[place])] = place
    table = np.array([_colour_of(name, classes) for name in boxes.names], dtype=np.float32).reshape(
        -1, 3
    )
    return _painted(pixels, owners, owners >= 0, table)


def _visible(edge: Rectangle, size: tuple[int, int]) -> bool:
    return edge[0] < size[0] and edge[1] < size[1] and edge[2] > 0 and edge[3] > 0


def _frame(draw: ImageDraw.ImageDraw, box: _Drawn, width: int) -> None:
    """Lines inside the edge; a thin darker or lighter one within sets them off from a ground of the same colour."""
    outer = x0, y0, x1, y1 = _clipped(box.edge, draw.im.size)
    inner = (x0 + width, y0 + width, x1 - width, y1 - width)
    dash = 4 * width if box.crowd else max(x1 - x0, y1 - y0)
    if width >= 3 and min(inner[2] - inner[0], inner[3] - inner[1]) > width:
        _lines(draw, inner, width // 3, dash, _between(box.colour, contrasting_color(box.colour)))
    _lines(draw, outer, min(width, max(1, min(x1 - x0, y1 - y0) // 2)), dash, box.colour)


def _lines(draw: ImageDraw.ImageDraw, edge: Rectangle, width: int, dash: int, fill: Color) -> None:
    """Filled bars of `dash` pixels, as far apart. Pillow's own outline of a rectangle one pixel high is two pixels high."""
    x0, y0, x1, y1 = edge
    for start in range(x0, x1, 2 * dash):
        end = min(start + dash, x1) - 1
        draw.rectangle((start, y0, end, y0 + width - 1), fill=fill)
        draw.rectangle((start, y1 - width, end, y1 - 1), fill=fill)
    for start in range(y0, y1, 2 * dash):
        end = min(start + dash, y1) - 1
        draw.rectangle((x0, start, x0 + width - 1, end), fill=fill)
        draw.rectangle((x1 - width, start, x1 - 1, end), fill=fill)


def _between(one: Color, other: Color) -> Color:
    return (one[0] + other[0]) // 2, (one[1] + other[1]) // 2, (one[2] + other[2]) // 2


def _clipped(edge: Rectangle, size: tuple[int, int]) -> Rectangle:
    return max(0, edge[0]), max(0, edge[1]), min(size[0], edge[2]), min(size[1], edge[3])


def _labelled(boxes: list[_Drawn], size: tuple[int, int]) -> list[tuple[_Drawn, Rectangle, str]]:
    """Where each label goes: above its box, in it or below it, in the picture and not on another one.

    The topmost box of each class chooses first, then the others. A label without room is left out, and so are those that
    would hide more than a third of a small picture: the colour of the box still names its class.
    """
    letters, taken, labelled = (
        font_size(size),
        list[Rectangle](),
        list[tuple[_Drawn, Rectangle, str]](),
    )
    left = size[0] * size[1] * _HIDDEN
    first = {box.colour: box for box in boxes}  # the last of each, which is the topmost
    for box in [*first.values(), *(box for box in reversed(boxes) if box is not first[box.colour])]:
        text = fit_text(box.text, letters, size[0])
        width, height = text_extent([text], letters)
        if not text or height > size[1] or (labelled and width * height > left):
            continue
        x0, y0, x1, y1 = _clipped(box.edge, size)
        columns = (x0, x1 - width, (x0 + x1 - width) // 2, x1, x0 - width)
        spots = [(x, y) for y in (y0 - height, y0, y1, y1 - height) for x in columns]
        inside = [
            (min(max(0, x), size[0] - width), y) for x, y in spots if 0 <= y <= size[1] - height
        ]
        rectangles = [(x, y, x + width, y + height) for x, y in inside]
        free = [spot for spot in rectangles if not any(_overlap(spot, other) for other in taken)]
        if free:
            left -= width * height
            taken.append(free[0])
            labelled.append((box, free[0], text))
    return labelled


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- regions


def _painted(
    pixels: np.ndarray, places: np.ndarray, painted: np.ndarray, table: np.ndarray
) -> np.ndarray:
    """A copy with the `painted` pixels half in the colour that `table` has for their place, and wholly at the borders."""
    picture = pixels.copy()
    picture[painted] = np.rint(
        _OPACITY * table[places[painted]] + (1 - _OPACITY) * pixels[painted]
    ).astype(np.uint8)
    border = painted & _border(places, line_width((places.shape[1], places.shape[0])))
    picture[border] = table[places[border]].astype(np.uint8)
    return picture


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
    """A plate in the lower left corner. The entries left out are counted; a very small picture has no room for any."""
    picture = Image.fromarray(pixels)
    letters = font_size(picture.size)
    if not entries or min(picture.size) < _LEGEND * letters:
        return pixels
    rows = [(fit_text(name, letters, picture.width // 2), ground) for name, ground in entries]
    width = text_extent([text for text, _ in rows], letters)[0] + round(1.2 * letters)  # the swatch
    tall = min(0.9 * picture.height, _HIDDEN * picture.height * picture.width / width)
    room = max(1, int(tall) // text_extent(["x"], letters)[1])
    if len(rows) > room:
        rows = [*rows[: room - 1], (f"and {len(rows) - room + 1} more", LABEL_COLOR)]
    spot = (0, picture.height - text_extent(["x"] * len(rows), letters)[1], width, picture.height)
    draw_text_rows(ImageDraw.Draw(picture), spot, rows, letters, swatch=True)
    return np.array(picture)


# --- text

"""Label Studio's JSON: tasks with annotations or predictions, labeling configs, and brush masks.

A brush mask is a list of bytes: the run lengths of the RGBA values of the image, row by row, as a
stream of bits. 32 bits count the values; 5 state the bits of a value, and four times 4 the bits of
a length, each less one. Then follow blocks: one bit tells whether the block is one value repeated,
two bits which of the four sizes its length has, which is stated less one; then the value or values.
"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from foveate.data.tools import class_masks, masks_of, scores_of
from foveate.predictions import Boxes, Labels, Regions
from foveate.utils.rle import decode_rle

FROM_NAME, TO_NAME = "label", "image"
CONFIG = "label_config.xml"
_LENGTH_BITS = (3, 4, 8, 16)
_VALUE_BITS, _CHANNELS = 8, 4
_MAX_RUN = 2 ** _LENGTH_BITS[-1]

Size = tuple[int, int]


def local_file(path: str) -> str:
    """Return how a task names a file below the document root of local files."""
    return f"/data/local-files/?d={quote(path)}"


def to_results(
    size: Size, target: Labels | Boxes | Regions, classes: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return the regions and choices of an image, as annotations and predictions list them.

    Args:
        size: (H, W) of the image.
        target: What is on it.
        classes: All classes, for scores and regions.
    """
    if isinstance(target, Labels):
        return [_choices(target, classes)]
    if isinstance(target, Regions):
        masks = class_masks(target, classes)
        return [_region(size, "brushlabels", name, _brush(inside)) for name, inside in masks]
    results = []
    parts = zip(target.names, target.xyxy, masks_of(target), scores_of(target), strict=True)
    for name, corners, mask, score in parts:
        if mask is None:
            result = _region(size, "rectanglelabels", name, _rectangle(size, corners))
        else:
            result = _region(size, "brushlabels", name, _brush(decode_rle(mask)))
        results.append(result if score is None else {**result, "score": score})
    return results


def prediction_of(
    results: list[dict[str, Any]], model: str, confidence: float | None = None
) -> dict[str, Any]:
    """Return the prediction of a task, with the mean score of its regions as its score."""
    scores = [result["score"] for result in results if "score" in result]
    mean = sum(scores) / len(scores) if scores else None
    score = mean if confidence is None else confidence
    stated = {} if score is None else {"score": round(float(score), 6)}
    return {"model_version": model, **stated, "result": results}


def labeling_config(
    classes: tuple[str, ...],
    kind: type,
    has_masks: bool = False,
    multilabel: bool = False,
    heading: str = "",
) -> str:
    """Return the labeling config that a project needs for such results.

    Args:
        classes: All classes.
        kind: The type of the targets.
        has_masks: Whether boxes have masks.
        multilabel: Whether an image may have several classes.
        heading: An entry in the data of tasks to show above the image.
    """
    view = ElementTree.Element("View")
    if heading:
        ElementTree.SubElement(view, "Header", {"value": f"${heading}"})
    ElementTree.SubElement(view, "Image", {"name": TO_NAME, "value": "$image"})
    names = {"name": FROM_NAME, "toName": TO_NAME}
    if kind is Labels:
        choice = {"choice": "multiple" if multilabel else "single"}
        control, item = ElementTree.SubElement(view, "Choices", names | choice), "Choice"
    else:
        tag = "BrushLabels" if kind is Regions or has_masks else "RectangleLabels"
        control, item = ElementTree.SubElement(view, tag, names), "Label"
    for name in classes:
        ElementTree.SubElement(control, item, {"value": name})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def config_classes(config: str) -> list[str]:
    """Return the classes of objects in a labeling config, in order; none if it is not XML."""
    try:
        view = ElementTree.fromstring(config) if "<!" not in config else None
    except ElementTree.ParseError:
        view = None
    return [] if view is None else [label.get("value", "") for label in view.iter("Label")]


# --- objects -> JSON


def _region(size: Size, kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex[:10],
        "type": kind,
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {**value, kind: [name]},
    }


def _choices(labels: Labels, classes: tuple[str, ...]) -> dict[str, Any]:
    result = {
        "id": uuid.uuid4().hex[:10],
        "type": "choices",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "value": {"choices": list(labels.names)},
    }
    if labels.scores is None or not labels.names:
        return result
    scores = [float(labels.scores[classes.index(name)]) for name in labels.names]
    return {**result, "score": round(min(scores), 6)}


def _rectangle(size: Size, corners: np.ndarray) -> dict[str, Any]:
    """In percent of the image."""
    x0, y0, x1, y1 = corners.astype(float).tolist()
    return {
        "x": x0 / size[1] * 100,
        "y": y0 / size[0] * 100,
        "width": (x1 - x0) / size[1] * 100,
        "height": (y1 - y0) / size[0] * 100,
        "rotation": 0,
    }


def _brush(inside: np.ndarray) -> dict[str, Any]:
    return {"format": "rle", "rle": encode_brush(inside)}


# --- brush masks


def encode_brush(inside: np.ndarray) -> list[int]:
    """Return a mask, (H, W) bool, as bytes of Label Studio."""
    values = np.repeat(inside.ravel(), _CHANNELS)
    ends = np.append(np.flatnonzero(np.diff(values.astype(np.int8))) + 1, len(values))
    bits = [f"{len(values):032b}", f"{_VALUE_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in _LENGTH_BITS]
    start = 0
    for end in ends.tolist():
        value = f"{255 * int(values[start]):0{_VALUE_BITS}b}"
        while start < end:
            length = min(end - start, _MAX_RUN)
            index = next(i for i, size in enumerate(_LENGTH_BITS) if length <= 2**size)
            bits.append(f"1{index:02b}{length - 1:0{_LENGTH_BITS[index]}b}{value}")
            start += length
    text = "".join(bits)
    padded = np.array(list(text + "0" * (-len(text) % 8)), dtype=np.uint8)
    return np.packbits(padded).tolist()


def decode_brush(content: list[int], size: Size) -> np.ndarray:
    """Return the mask of bytes of Label Studio, (H, W) bool: where the image is not transparent.

    Raises:
        ValueError: They are not such bytes, or of an image of another size.
    """
    bits = _Bits(content)
    total = bits.read(32)
    if total != size[0] * size[1] * _CHANNELS:
        raise ValueError(f"it has {total} values, not those of {size[1]} x {size[0]} px")
    value_bits = bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in _LENGTH_BITS]
    values, start = np.zeros(total, dtype=bool), 0
    while start < total:
        is_run = bits.read(1)
        end = min(start + 1 + bits.read(length_bits[bits.read(2)]), total)
        if is_run:
            values[start:end] = bits.read(value_bits) > 0
        else:
            values[start:end] = [bits.read(value_bits) > 0 for _ in range(end - start)]
        start = end
    return values.reshape(size[0], size[1], _CHANNELS)[..., -1]


class _Bits:
    """A stream of bits, from the highest of each byte."""

    def __init__(self, content: list[int]) -> None:
        self._content, self._position = bytes(content), 0

    def read(self, count: int) -> int:
        """Return the next bits as a number. Raises ValueError at the end."""
        first, self._position = self._position // 8, self._position + count
        last = -(-self._position // 8)
        if last > len(self._content):
            raise ValueError("it ends too early")
        number = int.from_bytes(self._content[first:last], "big")
        return number >> (8 * last - self._position) & ((1 << count) - 1)

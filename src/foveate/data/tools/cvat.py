"""CVAT's XML 1.1 for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

from foveate.data.tools import class_masks, cropped, drawn_classes, masks_of, scores_of
from foveate.predictions import Boxes, Labels, Regions
from foveate.utils.rle import RLE

_SUBSETS = {"train": "Train", "val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class CvatImage:
    """An image and what is annotated or predicted on it.

    Attributes:
        name: Its path in CVAT.
        size: (H, W).
        target: What is on it.
        split: Becomes its subset.
        attributes: Names and texts of attributes of its tag.
    """

    name: str
    size: tuple[int, int]
    target: Labels | Boxes | Regions
    split: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()


def to_xml(
    images: Sequence[CvatImage], classes: tuple[str, ...], task: str, source: str = "manual"
) -> ElementTree.ElementTree[ElementTree.Element]:
    """Return the file of annotations of some images.

    Args:
        images: The images.
        classes: All classes, in order.
        task: The name of the task; for predictions that of the model.
        source: Who drew the shapes: manual or auto.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = _add_meta(root, task)
    for name in drawn_classes(classes, (image.target for image in images)):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, image in enumerate(images):
        height, width = image.size
        subset = {"subset": _SUBSETS[image.split]} if image.split else {}
        stated = {"id": str(number), "name": image.name, **subset}
        stated |= {"width": str(width), "height": str(height)}
        _add_target(ElementTree.SubElement(root, "image", stated), image, classes, source)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add_meta(root: ElementTree.Element, task: str) -> ElementTree.Element:
    """Add what CVAT states about the task; return the element of its labels."""
    element = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(element, "name").text = task
    ElementTree.SubElement(element, "mode").text = "annotation"
    return ElementTree.SubElement(element, "labels")


def _add_target(
    element: ElementTree.Element, image: CvatImage, classes: tuple[str, ...], source: str
) -> None:
    target = image.target
    if isinstance(target, Labels):
        scores = {} if target.scores is None else dict(zip(classes, target.scores, strict=True))
        for name in target.names:
            tag = ElementTree.SubElement(element, "tag", {"label": name, "source": source})
            _add_attributes(tag, _score_of(scores.get(name)) + image.attributes)
    elif isinstance(target, Boxes):
        parts = zip(target.names, target.xyxy, masks_of(target), scores_of(target), strict=True)
        for name, corners, mask, score in parts:
            stated = {"label": name, "source": source, "occluded": "0"}
            kind, geometry = _box(corners) if mask is None else _mask(mask)
            shape = ElementTree.SubElement(element, kind, {**stated, **geometry, "z_order": "0"})
            _add_attributes(shape, _score_of(score))
    else:
        for name, inside in class_masks(target, classes):
            kind, geometry = _mask(inside)
            stated = {"label": name, "source": source, "occluded": "0"}
            ElementTree.SubElement(element, kind, {**stated, **geometry, "z_order": "0"})


def _score_of(score: float | None) -> tuple[tuple[str, str], ...]:
    return () if score is None else (("score", f"{float(score):.4f}"),)


def _add_attributes(element: ElementTree.Element, texts: tuple[tuple[str, str], ...]) -> None:
    for name, text in texts:
        ElementTree.SubElement(element, "attribute", {"name": name}).text = text


def _box(corners: np.ndarray) -> tuple[str, dict[str, str]]:
    values = map(repr, corners.astype(float).tolist())
    return "box", dict(zip(("xtl", "ytl", "xbr", "ybr"), values, strict=True))


def _mask(mask: RLE | np.ndarray) -> tuple[str, dict[str, str]]:
    """Run lengths of the part that is not empty, row by row; the first counts pixels outside."""
    part, top, left = cropped(mask) or (np.zeros((1, 1), dtype=bool), 0, 0)
    flat = part.ravel()
    changes = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    runs = np.diff([0, *changes.tolist(), len(flat)]).tolist()
    geometry = {"left": left, "top": top, "width": part.shape[1], "height": part.shape[0]}
    text = ", ".join(map(str, [0, *runs] if flat[0] else runs))
    return "mask", {"rle": text, **{key: str(value) for key, value in geometry.items()}}

"""Data sets as clouds keep them: Vertex AI and AutoML, SageMaker Ground Truth and Rekognition."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.data.formats._exports import (
    Export,
    ExportedImage,
    as_list,
    csv_rows,
    entry_at,
    file_names,
    json_entries,
)
from foveate.data.split_names import split_from_name, split_in_name
from foveate.types import Split

_USE = "aiplatform.googleapis.com/ml_use"
_BUCKET = "gs://"
_SPLITS = {"training": "train", "validation": "val"}  # of Vertex; others by their usual names


def _split(name: object) -> Split | None:
    text = str(name or "").strip().casefold()
    return split_from_name(_SPLITS.get(text, text))


# --- Vertex AI


def _from_vertex_lines(file: Path) -> Iterator[ExportedImage]:
    for entry, where in json_entries(file):
        with entry_at(where):
            use = (entry.get("dataItemResourceLabels") or {}).get(_USE)
            uri = entry["imageGcsUri"]
            image = ExportedImage(file_names(uri), where, split=_split(use), in_fractions=True)
            single = entry.get("classificationAnnotation")
            tags = as_list(entry.get("classificationAnnotations")) + ([single] if single else [])
            for tag in tags:
                image.add_tag(tag["displayName"])
            for box in as_list(entry.get("boundingBoxAnnotations")):
                with entry_at(where):
                    corners = box["xMin"], box["yMin"], box["xMax"], box["yMax"]
                    image.add_box(corners, box["displayName"])
            if "segmentationAnnotation" in entry:
                image.lost.append("a mask in a file of its own")
            yield image


def _from_vertex_csv(file: Path) -> Iterator[ExportedImage]:
    """Rows of [split], URI, label and, for boxes, eight fractions of which some are empty."""
    images: dict[str, ExportedImage] = {}
    for row, where in csv_rows(file):
        with entry_at(where):
            at = next(index for index, cell in enumerate(row[:2]) if cell.startswith(_BUCKET))
            uri, cells = row[at], row[at + 1 :]
            split = _split(row[0]) if at else None
            new = ExportedImage(file_names(uri), where, split=split, in_fractions=True)
            image = images.setdefault(uri, new)
            corners = _vertex_corners(cells[1:])
            if corners is not None:
                image.add_box(corners, cells[0])
            else:
                for name in filter(None, cells):
                    image.add_tag(name)
    yield from images.values()


def _vertex_corners(cells: list[str]) -> tuple[float, float, float, float] | None:
    """The corners in the eight cells after a label; None if these are no numbers."""
    if len(cells) < 8 and not (len(cells) >= 6 and cells[0] and cells[5]):
        return None
    xs = [float(cell) for cell in cells[0:8:2] if cell]
    ys = [float(cell) for cell in cells[1:8:2] if cell]
    return (min(xs), min(ys), max(xs), max(ys)) if xs and ys else None


def _is_vertex_csv(head: bytes) -> bool:
    first = head.split(b"\n", 1)[0].split(b",")
    return any(cell.strip(b' "').startswith(_BUCKET.encode()) for cell in first[:2])


# --- Ground Truth


def _from_manifest(file: Path) -> Iterator[ExportedImage]:
    for entry, where in json_entries(file):
        with entry_at(where):
            split = split_in_name(file.stem)
            image = ExportedImage(file_names(entry["source-ref"]), where, split=split)
            for name, value in entry.items():
                metadata = entry.get(f"{name}-metadata")
                if isinstance(metadata, dict):
                    _add_attribute(image, value, metadata, where)
            image.is_annotated = any(key.endswith("-metadata") for key in entry)
            yield image


def _add_attribute(image: ExportedImage, value: Any, metadata: dict[str, Any], where: str) -> None:
    """Add what a labeling job said: the value of its attribute, in the terms of its metadata."""
    kind = str(metadata.get("type", "")).removeprefix("groundtruth/")
    names = metadata.get("class-map") or {}
    if kind == "object-detection":
        sizes = as_list(value.get("image_size"))
        image.size = sizes[0] if sizes else None
        for box in as_list(value["annotations"]):
            with entry_at(where):
                sides = box["left"], box["top"], box["width"], box["height"]
                image.add_sized_box(*sides, names[str(box["class_id"])])
    elif kind == "image-classification":
        image.add_tag(metadata.get("class-name", value))
    elif kind == "image-classification-multilabel":
        for number in value:
            image.add_tag(names[str(number)])
    else:
        image.lost.append(kind[:40] or "labels of an unknown kind")


CLOUDS = (
    Export(
        "Vertex AI",
        (".jsonl", ".json", ".ndjson"),
        lambda head: b'"imageGcsUri"' in head,
        _from_vertex_lines,
        objects=re.compile(rb'"boundingBoxAnnotations"\s*:\s*\[\s*\{'),
        tags=re.compile(rb'"classificationAnnotations?"'),
    ),
    Export(
        "Vertex AI (AutoML)",
        (".csv",),
        _is_vertex_csv,
        _from_vertex_csv,
        objects=re.compile(rb"(?:,[ ]*[\d.]*){5,8}\s*$", re.MULTILINE),
        tags=re.compile(rb"gs://[^,\n]*,[^,\n]*[^,\d.\s][^,\n]*\s*$", re.MULTILINE),
    ),
    Export(
        "SageMaker Ground Truth",
        (".manifest", ".jsonl", ".json"),
        lambda head: b'"source-ref"' in head and b"-metadata" in head,
        _from_manifest,
        objects=re.compile(rb"groundtruth/object-detection"),
        tags=re.compile(rb"groundtruth/image-classification"),
    ),
)
"""Exports of clouds."""

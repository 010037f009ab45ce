"""Predictions as pre-annotations of annotation tools: Label Studio, CVAT and LabelMe."""

from __future__ import annotations

import os
from pathlib import Path

from foveate.data.tools import cvat, drawn_classes, labelme, labelstudio
from foveate.images.codec import read_size
from foveate.predictions import Boxes, ImageResult, Labels
from foveate.utils import log
from foveate.utils.files import atomic_write, write_json, write_text
from foveate.utils.paths import printable

NamedResults = list[tuple[str, ImageResult]]


def write_labelstudio(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    """Write tasks.json, which Label Studio imports, and label_config.xml, its labeling config.

    Tasks name the images as local files, by their paths below the folder above the one that holds
    them all: Label Studio serves no images directly in its document root.
    """
    paths = _absolute(named)
    root = _common_folder(paths).parent
    tasks = []
    for path, (_, result) in zip(paths, named, strict=True):
        prediction = result.prediction
        results = labelstudio.to_results(read_size(result.source), prediction, classes)
        task = {"image": labelstudio.local_file(printable(path.relative_to(root)))}
        task |= {"label": result.stated} if result.stated else {}
        tasks.append(
            {"data": task, "predictions": [labelstudio.prediction_of(results, result.model)]}
        )
    write_json(folder / "tasks.json", tasks)
    first = named[0][1] if named else ImageResult("", Boxes)
    has_masks = any(
        isinstance(result.prediction, Boxes) and result.prediction.masks for _, result in named
    )
    config = labelstudio.labeling_config(
        _labels(classes, named),
        type(first.prediction),
        has_masks,
        first.multilabel,
        "label" if first.stated else "",
    )
    write_text(folder / labelstudio.CONFIG, config)
    log.info(
        "to open them, start label-studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and"
        f" LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}, paste {labelstudio.CONFIG} as the"
        " labeling config, add the folder of the images as local storage, and import tasks.json"
    )


def write_cvat(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    """Write annotations.xml (CVAT for images 1.1), and labels.json for the task's raw labels.

    Images are named by their paths below the folder that holds them all.
    """
    paths = _absolute(named)
    root = _common_folder(paths)
    images = [
        cvat.CvatImage(
            printable(path.relative_to(root)),
            read_size(result.source),
            result.prediction,
            attributes=(("label", result.stated),) if result.stated else (),
        )
        for path, (_, result) in zip(paths, named, strict=True)
    ]
    model = named[0][1].model if named else ""
    tree = cvat.to_xml(images, classes, model, source="auto")
    with atomic_write(folder / "annotations.xml") as aside:
        tree.write(aside, encoding="utf-8", xml_declaration=True)
    labels = _labels(classes, named)
    names = ["score", *(["label"] if any(result.stated for _, result in named) else [])]
    attributes = [
        {"name": name, "input_type": "text", "mutable": False, "values": [""]} for name in names
    ]
    specification = [{"name": name, "attributes": attributes} for name in labels]
    write_json(folder / "labels.json", specification)


def write_labelme(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    """Write a .json file for each image, as LabelMe does with --output, and labels.txt."""
    for path, (name, result) in zip(_absolute(named), named, strict=True):
        file = folder / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Path(os.path.relpath(path, file.parent.resolve())).as_posix()
        size = read_size(result.source)
        content = labelme.to_json(image, size, result.prediction, classes)
        if isinstance(result.prediction, Labels) and result.prediction.scores is not None:
            scores = map(float, result.prediction.scores)
            content["scores"] = dict(zip(classes, scores, strict=True))
        stated = {"label": result.stated} if result.stated else {}
        write_json(file, {**content, **stated, "model_version": result.model})
    write_text(folder / labelme.LABELS, "".join(f"{name}\n" for name in _labels(classes, named)))


def _absolute(named: NamedResults) -> list[Path]:
    return [Path(os.path.normpath(Path(result.path).absolute())) for _, result in named]


def _labels(classes: tuple[str, ...], named: NamedResults) -> tuple[str, ...]:
    return drawn_classes(classes, (result.prediction for _, result in named))


def _common_folder(paths: list[Path]) -> Path:
    """The innermost folder that contains all files."""
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else Path("/")

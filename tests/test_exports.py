"""Exports of platforms, clouds and programs, written here as their documentation shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import foveate
from foveate.data.formats import Fit, read_table, sniff_formats
from foveate.data.issues import collecting
from foveate.errors import DataError
from foveate.predictions import Boxes, Labels, Regions
from test_tool_formats import HEIGHT, SQUARE, WIDTH, boxes_of, notes_of, write_image, write_json

SIDES = {"left": 10, "top": 8, "width": 20, "height": 20}
CORNERS = (10.0, 8.0, 30.0, 28.0)
POINTS = [{"x": x, "y": y} for x, y in SQUARE]
FRACTIONS = {"x": 10 / WIDTH, "y": 8 / HEIGHT, "w": 20 / WIDTH, "h": 20 / HEIGHT}
NAMES = ("a.jpg", "b.jpg")


def images(root: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_image(root / "images" / name, seed=number)
    return root


def write_lines(file: Path, *rows: Any) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


# --- writers: the image a.jpg has a box and a polygon of the class car, b.jpg none


def labelbox(root: Path) -> None:
    """Export v2, https://docs.labelbox.com/reference/export-image-annotations"""

    def row(name: str, objects: list[dict], answers: list[dict]) -> dict:
        annotations = {"objects": objects, "classifications": answers, "relationships": []}
        label = {
            "label_kind": "Default",
            "version": "1.0.0",
            "id": "clb",
            "annotations": annotations,
        }
        data_row = {
            "id": "cl1",
            "global_key": name,
            "row_data": f"https://storage.googleapis.com/labelbox-datasets/x/{name}",
        }
        return {
            "data_row": data_row,
            "media_attributes": {"height": HEIGHT, "width": WIDTH, "mime_type": "image/jpeg"},
            "attachments": [],
            "projects": {"cp1": {"name": "Cars", "labels": [label]}},
        }

    feature = {"feature_id": "f", "feature_schema_id": "s", "name": "car", "classifications": []}
    box = {**feature, "annotation_kind": "ImageBoundingBox", "bounding_box": SIDES}
    polygon = {**feature, "annotation_kind": "ImagePolygon", "polygon": POINTS}
    mask = {**feature, "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://x"}}
    radio = {"name": "weather", "radio_answer": {"name": "sunny", "value": "sunny"}}
    write_lines(
        root / "export-result.ndjson",
        row("a.jpg", [box, polygon, mask], [radio]),
        row("b.jpg", [], [radio]),
    )


def old_labelbox(root: Path) -> None:
    feature = {"featureId": "f", "schemaId": "s", "title": "car", "value": "car"}
    objects = [{**feature, "bbox": SIDES}, {**feature, "polygon": POINTS}]
    answer = {
        "title": "weather",
        "value": "weather",
        "answer": {"title": "sunny", "value": "sunny"},
    }
    entries = [
        {
            "ID": "c1",
            "DataRow ID": "c2",
            "Labeled Data": f"https://storage.labelbox.com/c%2F{name}?token=x",
            "Label": {"objects": own, "classifications": [answer]},
            "External ID": name,
        }
        for name, own in (("a.jpg", objects), ("b.jpg", []))
    ]
    write_json(root / "export.json", entries)


def darwin(root: Path) -> None:
    """https://docs.v7labs.com/reference/darwin-json"""
    for name, has_objects in (("a.jpg", True), ("b.jpg", False)):
        slot = {
            "type": "image",
            "slot_name": "0",
            "width": WIDTH,
            "height": HEIGHT,
            "source_files": [{"file_name": name, "url": "https://darwin.v7labs.com/x"}],
        }
        common = {"id": "x", "name": "car", "slot_names": ["0"], "properties": []}
        box = {"x": 10, "y": 8, "w": 20, "h": 20}
        annotations = [
            {**common, "bounding_box": box},
            {**common, "bounding_box": box, "polygon": {"paths": [POINTS]}},
            {**common, "name": "eye", "keypoint": {"x": 1, "y": 2}},
        ]
        tag = {**common, "name": "sunny", "tag": {}}
        content = {
            "version": "2.0",
            "schema_ref": "https://darwin-public.s3.eu-west-1.amazonaws.com/darwin_json/2.0/schema",
            "item": {"name": name, "path": "/", "source_info": {}, "slots": [slot]},
            "annotations": [*(annotations if has_objects else []), tag],
        }
        write_json(root / "annotations" / f"{Path(name).stem}.json", content)


def superannotate(root: Path) -> None:
    """https://doc.superannotate.com/docs/image-json"""
    common = {"classId": 1, "className": "car", "attributes": [], "probability": 100}
    box = {"x1": 10, "x2": 30, "y1": 8, "y2": 28}
    points = [float(each) for pair in SQUARE for each in pair]
    instances = [
        {**common, "type": "bbox", "points": box},
        {**common, "type": "polygon", "points": points, "exclude": []},
        {**common, "type": "point", "x": 3, "y": 4},
    ]
    for name, own in (("a.jpg", instances), ("b.jpg", [])):
        metadata = {"name": name, "width": WIDTH, "height": HEIGHT, "status": "Completed"}
        content = {"metadata": metadata, "instances": own, "tags": ["sunny"], "comments": []}
        write_json(root / f"{name}.json", content)
    write_json(root / "classes" / "classes.json", [{"id": 1, "name": "car", "color": "#fff"}])


def scale(root: Path) -> None:
    """https://docs.scale.com/reference/image-annotation"""
    annotations = [
        {"type": "box", "label": "car", "uuid": "u", **SIDES},
        {"type": "polygon", "label": "car", "uuid": "u", "vertices": POINTS},
    ]
    tasks = [
        {
            "task_id": "5774cc78b01249ab09f089dd",
            "type": "imageannotation",
            "status": "completed",
            "params": {"attachment": f"https://i.example.com/{name}", "attachment_type": "image"},
            "response": {"annotations": own},
        }
        for name, own in (("a.jpg", annotations), ("b.jpg", []))
    ]
    write_json(root / "tasks.json", tasks)


def encord(root: Path) -> None:
    """https://docs.encord.com/sdk-documentation/sdk-references/label-row-json"""
    polygon = {
        str(number): {"x": x / WIDTH, "y": y / HEIGHT} for number, (x, y) in enumerate(SQUARE)
    }
    common = {
        "name": "car",
        "value": "car",
        "color": "#D33115",
        "objectHash": "o",
        "featureHash": "f",
    }
    objects = [
        {**common, "shape": "bounding_box", "boundingBox": FRACTIONS},
        {**common, "shape": "polygon", "polygon": polygon},
    ]
    weather = {"name": "weather", "classificationHash": "c", "featureHash": "g"}
    answers = [{"name": "weather", "answers": [{"name": "sunny", "value": "sunny"}]}]
    rows = []
    for name, own in (("a.jpg", objects), ("b.jpg", [])):
        unit = {
            "data_hash": "d",
            "data_title": name,
            "data_type": "image/jpeg",
            "width": WIDTH,
            "height": HEIGHT,
            "labels": {"objects": own, "classifications": [weather]},
        }
        rows.append(
            {
                "label_hash": "l",
                "data_hash": "d",
                "data_title": name,
                "data_type": "image",
                "data_units": {"d": unit},
                "object_answers": {},
                "classification_answers": {"c": {"classifications": answers}},
            }
        )
    write_json(root / "labels.json", rows)


def dataloop(root: Path) -> None:
    """https://docs.dataloop.ai/docs/dataloop-json-format"""
    common = {"id": "i", "datasetId": "d", "itemId": "t", "label": "car", "attributes": []}
    objects = [
        {**common, "type": "box", "coordinates": [{"x": 10, "y": 8, "z": 0}, {"x": 30, "y": 28}]},
        {**common, "type": "segment", "coordinates": [POINTS]},
    ]
    sunny = {**common, "type": "class", "label": "sunny", "coordinates": None}
    for name, own in (("a.jpg", objects), ("b.jpg", [])):
        system = {"width": WIDTH, "height": HEIGHT, "mimetype": "image/jpeg"}
        content = {
            "_id": "t",
            "filename": f"/{name}",
            "annotations": [*own, sunny],
            "metadata": {"system": system},
        }
        write_json(root / "json" / f"{Path(name).stem}.json", content)


def hasty(root: Path) -> None:
    """https://hasty.readme.io/docs/hasty-json-v11"""
    common = {"id": "l", "class_name": "car", "bbox": [10, 8, 30, 28], "mask": None, "z_index": 0}
    labels = [{**common, "polygon": None}, {**common, "polygon": SQUARE}]
    content = {
        "project_name": "Cars",
        "create_date": "2021-01-01",
        "export_format_version": "1.1",
        "label_classes": [{"class_name": "car", "class_type": "object", "color": "#ff"}],
        "images": [
            {
                "image_id": name,
                "image_name": name,
                "dataset_name": "Default",
                "width": WIDTH,
                "height": HEIGHT,
                "image_status": "DONE",
                "tags": [],
                "labels": own,
            }
            for name, own in (("a.jpg", labels), ("b.jpg", []))
        ],
    }
    write_json(root / "export.json", content)


def create_ml(root: Path) -> None:
    """x and y are the center, https://developer.apple.com/documentation/createml"""
    coordinates = {"x": 20, "y": 18, "width": 20, "height": 20}
    write_json(
        root / "annotations.json",
        [
            {"image": "a.jpg", "annotations": [{"label": "car", "coordinates": coordinates}]},
            {"image": "b.jpg", "annotations": []},
        ],
    )


def vott(root: Path) -> None:
    region = {
        "id": "r",
        "type": "RECTANGLE",
        "tags": ["car"],
        "boundingBox": SIDES,
        "points": POINTS,
    }
    polygon = {**region, "type": "POLYGON"}
    assets = {
        name: {
            "asset": {
                "format": "jpg",
                "id": name,
                "name": name,
                "path": f"file:C:/images/{name}",
                "size": {"width": WIDTH, "height": HEIGHT},
                "state": 2,
                "type": 1,
            },
            "regions": own,
            "version": "2.2.0",
        }
        for name, own in (("a.jpg", [region, polygon]), ("b.jpg", []))
    }
    content = {"name": "Cars", "securityToken": "t", "tags": [{"name": "car"}], "assets": assets}
    write_json(root / "vott-json-export" / "Cars-export.json", content)


def edge_impulse(root: Path) -> None:
    box = {"label": "car", "x": 10, "y": 8, "width": 20, "height": 20}
    boxes = {"a.jpg": [box], "b.jpg": []}
    content = {"version": 1, "type": "bounding-box-labels", "boundingBoxes": boxes}
    write_json(root / "images" / "bounding_boxes.labels", content)


def datumaro(root: Path) -> None:
    """As CVAT exports it."""
    common = {"id": 0, "attributes": {"occluded": False}, "group": 0, "label_id": 0, "z_order": 0}
    objects = [
        {**common, "type": "bbox", "bbox": [10.0, 8.0, 20.0, 20.0]},
        {**common, "type": "polygon", "points": [each for pair in SQUARE for each in pair]},
    ]
    labels = [{"name": "car", "parent": "", "attributes": []}]
    items = [
        {
            "id": Path(name).stem,
            "annotations": own,
            "attr": {"frame": 0},
            "image": {"path": name, "size": [HEIGHT, WIDTH]},
        }
        for name, own in (("a.jpg", objects), ("b.jpg", []))
    ]
    categories = {"label": {"labels": labels, "attributes": []}, "points": {"items": []}}
    content = {"info": {}, "categories": categories, "items": items}
    write_json(root / "annotations" / "default.json", content)


def bdd100k(root: Path) -> None:
    """https://doc.bdd100k.com/format.html"""
    attributes = {"occluded": False, "truncated": False}
    common = {"id": "0", "category": "car", "attributes": attributes}
    x0, y0, x1, y1 = CORNERS
    poly = [{"vertices": SQUARE, "types": "LLLL", "closed": True}]
    labels = [
        {**common, "box2d": {"x1": x0, "y1": y0, "x2": x1, "y2": y1}},
        {**common, "poly2d": poly},
    ]
    lane = {**common, "category": "lane", "poly2d": [{**poly[0], "closed": False}]}
    weather = {"weather": "clear", "scene": "city street", "timeofday": "daytime"}
    frames = [
        {"name": name, "attributes": weather, "timestamp": 10000, "labels": own}
        for name, own in (("a.jpg", [*labels, lane]), ("b.jpg", None))
    ]
    write_json(root / "labels" / "det_train.json", frames)


def open_images(root: Path) -> None:
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated"
    values = [10 / WIDTH, 30 / WIDTH, 8 / HEIGHT, 28 / HEIGHT]
    row = f"a,xclick,/m/0k4j,1,{','.join(map(str, values))},0,0"
    (root / "train-annotations-bbox.csv").write_text(f"{header}\n{row}\n")
    (root / "class-descriptions-boxable.csv").write_text("/m/0k4j,car\n/m/01g317,Person\n")


def ground_truth(root: Path) -> None:
    """https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html"""
    metadata = {
        "class-map": {"0": "car"},
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": "2018-10-18T22:18:13.527256",
        "job-name": "identify-cars",
    }
    annotations = [{"class_id": 0, **SIDES}]
    size = [{"width": WIDTH, "height": HEIGHT, "depth": 3}]
    write_lines(
        root / "output.manifest",
        *(
            {
                "source-ref": f"s3://AWSDOC-EXAMPLE-BUCKET/cars/{name}",
                "bounding-box": {"image_size": size, "annotations": own},
                "bounding-box-metadata": {"objects": [{"confidence": 0.8}] * len(own), **metadata},
            }
            for name, own in (("a.jpg", annotations), ("b.jpg", []))
        ),
    )


def vertex_lines(root: Path) -> None:
    """https://cloud.google.com/vertex-ai/docs/image-data/object-detection/prepare-data"""
    x0, y0, x1, y1 = CORNERS
    box = {"displayName": "car", "xMin": x0 / WIDTH, "yMin": y0 / HEIGHT}
    box |= {"xMax": x1 / WIDTH, "yMax": y1 / HEIGHT, "annotationResourceLabels": {}}
    write_lines(
        root / "import.jsonl",
        *(
            {
                "imageGcsUri": f"gs://bucket/folder/{name}",
                "boundingBoxAnnotations": own,
                "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": use},
            }
            for name, own, use in (("a.jpg", [box], "training"), ("b.jpg", [], "test"))
        ),
    )


def vertex_csv(root: Path) -> None:
    x0, y0, x1, y1 = 10 / WIDTH, 8 / HEIGHT, 30 / WIDTH, 28 / HEIGHT
    rows = [
        f"TRAINING,gs://folder/a.jpg,car,{x0},{y0},,,{x1},{y1},,",
        "TEST,gs://folder/b.jpg",
    ]
    (root / "import.csv").write_text("\n".join(rows))


WITH_POLYGONS = (
    *(labelbox, old_labelbox, darwin, superannotate, scale, encord, dataloop, hasty, vott),
    *(datumaro, bdd100k),
)
BOXES_ONLY = (create_ml, edge_impulse, open_images, ground_truth, vertex_lines, vertex_csv)
TOOLS = {
    labelbox: "Labelbox",
    old_labelbox: "Labelbox",
    darwin: "V7 Darwin",
    superannotate: "SuperAnnotate",
    scale: "Scale",
    encord: "Encord",
    dataloop: "Dataloop",
    hasty: "Hasty",
    create_ml: "Create ML",
    vott: "VoTT",
    edge_impulse: "Edge Impulse",
    datumaro: "Datumaro",
    bdd100k: "Scalabel (BDD100K)",
    open_images: "Open Images",
    ground_truth: "SageMaker Ground Truth",
    vertex_lines: "Vertex AI",
    vertex_csv: "Vertex AI (AutoML)",
}


# --- reading


@pytest.mark.parametrize("write", TOOLS, ids=lambda write: write.__name__)
def test_boxes_and_polygons_of_exports(tmp_path, write: Callable[[Path], None]):
    write(images(tmp_path))
    assert max(sniff_formats(tmp_path).values(), key=lambda each: each.fit).fit is Fit.STATED
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("exports", ("car",))
    assert f"read as data of {TOOLS[write]}" in notes_of(table)
    boxes = [("car", *CORNERS)]
    assert boxes_of(table) == boxes[:1]  # the polygon has the same box, a duplicate
    if write is not open_images:  # which lists only images with boxes
        assert [sample.key for sample in table.samples] == ["images/a.jpg", "images/b.jpg"]
        assert not table.samples[1].target.names
    if write in WITH_POLYGONS:
        assert "exact duplicates" in notes_of(table)


@pytest.mark.parametrize("write", [vertex_lines, vertex_csv, bdd100k, open_images])
def test_splits_of_exports(tmp_path, write):
    write(images(tmp_path))
    splits = [sample.split for sample in read_table(tmp_path).samples]
    assert splits[0] == "train"
    assert splits[1:] == (["test"] if write in (vertex_lines, vertex_csv) else splits[1:])


@pytest.mark.parametrize("write", [labelbox, old_labelbox, darwin, superannotate, encord, dataloop])
def test_classes_of_whole_images_in_exports(tmp_path, write):
    write(images(tmp_path))
    table = read_table(tmp_path, accepted=(Labels,))
    assert (table.format, table.classes) == ("tags", ("sunny",))
    assert [sample.target for sample in table.samples] == [Labels(("sunny",))] * 2
    assert "have tags, which only --format tags reads" in notes_of(read_table(tmp_path))


@pytest.mark.parametrize("write", WITH_POLYGONS, ids=lambda write: write.__name__)
def test_polygons_of_exports_are_masks_where_masks_are_wanted(tmp_path, write):
    write(images(tmp_path))
    table = read_table(tmp_path, accepted=(Regions,))
    assert table.classes == ("background", "car")
    mask = table.samples[0].target.mask
    assert (mask[8:28, 10:30] == 1).all()
    assert (mask == 1).sum() == 400


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (labelbox, "a mask that only Labelbox's server has"),
        (darwin, "keypoint"),
        (superannotate, "point"),
        (bdd100k, "lanes"),
    ],
)
def test_what_exports_lose_is_said(tmp_path, write, kind):
    write(images(tmp_path))
    issue = next(each for each in read_table(tmp_path).notes if each.kind.id == "export_lost")
    assert issue.locations[0].why.startswith(kind)


def test_classifications_of_ground_truth(tmp_path):
    images(tmp_path)
    kinds = {"image-classification": "0", "image-classification-multilabel": [0, 1]}
    for kind, value in kinds.items():
        metadata = {"class-map": {"0": "dog", "1": "cat"}, "type": f"groundtruth/{kind}"}
        metadata |= {"class-name": "dog"} if isinstance(value, str) else {}
        rows = [
            {"source-ref": f"s3://b/{name}", "animal": value, "animal-metadata": metadata}
            for name in NAMES
        ]
        write_lines(tmp_path / "output.manifest", *rows)
        table = read_table(tmp_path)
        names = ("dog",) if isinstance(value, str) else ("dog", "cat")
        assert (table.format, table.samples[0].target) == ("tags", Labels(names))


@pytest.mark.parametrize(
    "rows",
    [
        ["TRAIN,gs://b/x/a.jpg,daisy", "UNASSIGNED,gs://b/x/b.jpg,rose"],
        ["gs://b/x/a.jpg,daisy", "gs://b/x/b.jpg,rose"],
    ],
)
def test_classifications_of_automl(tmp_path, rows):
    images(tmp_path)
    (tmp_path / "import.csv").write_text("\n".join(rows))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("tags", ("daisy", "rose"))
    assert table.samples[0].split == ("train" if rows[0].startswith("TRAIN") else None)


def test_a_hole_of_a_darwin_polygon_is_no_part_of_it(tmp_path):
    darwin(images(tmp_path))
    file = tmp_path / "annotations" / "a.json"
    content = json.loads(file.read_text())
    hole = [{"x": x, "y": y} for x, y in ((15, 12), (25, 12), (25, 22), (15, 22))]
    polygon = {"paths": [POINTS, hole]}
    content["annotations"] = [{"id": "x", "name": "car", "polygon": polygon}]
    write_json(file, content)
    mask = read_table(tmp_path, accepted=(Regions,)).samples[0].target.mask
    assert (mask == 1).sum() == 300
    assert (mask[12:22, 15:25] == 0).all()


def test_images_that_nobody_labeled_are_left_out(tmp_path):
    labelbox(images(tmp_path))
    file = tmp_path / "export-result.ndjson"
    first, second = map(json.loads, file.read_text().splitlines())
    second["projects"]["cp1"]["labels"] = []
    first["projects"]["cp1"]["labels"] *= 2
    write_lines(file, first, second)
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == ["images/a.jpg"]
    notes = notes_of(table)
    assert "nobody has labeled" in notes
    assert "several people labeled" in notes


@pytest.mark.parametrize(
    ("write", "file", "old", "new"),
    [
        (labelbox, "export-result.ndjson", '"left": 10', '"left": null'),
        (create_ml, "annotations.json", '"label": "car"', '"label": ""'),
        (ground_truth, "output.manifest", '"class_id": 0', '"class_id": 7'),
        (scale, "tasks.json", '"top": 8', '"top": "x"'),
        (vott, "vott-json-export/Cars-export.json", '"left": 10', '"left": "x"'),
        (vertex_csv, "import.csv", ",car,0.15625", ",car,left"),
        (open_images, "train-annotations-bbox.csv", ",1,0.15625", ",1,left"),
    ],
)
def test_faulty_entries_of_exports_are_named(tmp_path, write, file, old, new):
    write(images(tmp_path))
    path = tmp_path / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match="not as the tool writes it") as caught:
        read_table(tmp_path)
    assert path.name in str(caught.value.where)
    if write in WITH_POLYGONS:  # then another object is left
        with collecting() as issues:
            assert boxes_of(read_table(tmp_path)) == [("car", *CORNERS)]
        assert any("not as the tool writes it" in str(issue) for issue in issues.issues())


def test_an_export_of_one_file_per_image_is_recognized_among_many(tmp_path):
    superannotate(images(tmp_path))
    for number in range(40):
        write_image(tmp_path / "images" / f"{number}.jpg", seed=number)
        content = json.loads((tmp_path / "a.jpg.json").read_text())
        content["metadata"]["name"] = f"{number}.jpg"
        write_json(tmp_path / f"{number}.jpg.json", content)
    table = read_table(tmp_path)
    assert (table.format, len(table.samples)) == ("exports", 42)


def test_exports_of_two_tools_are_asked_about(tmp_path):
    scale(images(tmp_path))
    hasty(tmp_path)
    with pytest.raises(DataError, match=r"data of .* and of"):
        read_table(tmp_path)


@pytest.mark.parametrize("write", [darwin, superannotate, scale, encord, hasty, edge_impulse])
def test_cut_off_exports_are_refused_with_a_sentence(tmp_path, write):
    write(images(tmp_path))
    for file in tmp_path.rglob("*"):
        if file.suffix in (".json", ".labels"):
            content = file.read_bytes()
            file.write_bytes(content[: int(len(content) * 0.8)])
    with pytest.raises(DataError, match="not valid JSON"):
        read_table(tmp_path)


def test_an_export_becomes_coco(tmp_path):
    labelbox(images(tmp_path / "in"))
    foveate.convert(tmp_path / "in", to="coco", out=tmp_path / "out")
    table = read_table(tmp_path / "out")
    assert isinstance(table.samples[0].target, Boxes)
    assert boxes_of(table) == [("car", *CORNERS)]

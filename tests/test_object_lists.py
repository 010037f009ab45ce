"""Objects in a cell of a table, as Hugging Face's imagefolder and Parquet files have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import foveate
from foveate.data.formats import read_table
from foveate.data.issues import collecting
from foveate.errors import DataError
from foveate.images.codec import read_size
from test_readings import write_photo

OBJECTS = {"bbox": [[2.0, 3, 8, 6], [20, 10, 10, 10]], "categories": [0, 1]}


def imagefolder(root: Path, *cells: object) -> Path:
    """An imagefolder with metadata.jsonl: a row for each image."""
    rows = []
    for number, cell in enumerate(cells):
        write_photo(root / f"{number:04}.png", seed=number)
        rows.append({"file_name": f"{number:04}.png", "objects": cell})
    (root / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


def test_boxes_of_an_imagefolder(tmp_path):
    entries = [{"bbox": [2, 3, 8, 6], "category": 1}]
    empty = {"bbox": [], "categories": []}
    imagefolder(tmp_path / "train", OBJECTS, empty, None, entries)
    imagefolder(tmp_path / "test", OBJECTS)
    (tmp_path / "classes.txt").write_text("bolt\nnut\n")
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("boxes_table", ("bolt", "nut"))
    by_key = {sample.key: sample for sample in table.samples}
    first = by_key["train/0000.png"]
    assert first.target.xyxy.tolist() == [[2, 3, 10, 9], [20, 10, 30, 20]]
    assert first.target.names == ("bolt", "nut")
    assert (first.split, by_key["test/0000.png"].split) == ("train", "test")
    counts = [len(by_key[f"train/000{number}.png"].target.names) for number in range(4)]
    assert counts == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ({"bbox": [[1, 2, 3, 4]], "categories": []}, "not as many boxes as classes"),
        ({"bbox": [[1, 2, 3]], "categories": [0]}, "not four numbers"),
        ([{"bbox": [1, 2, 3, 4]}], "no class"),
        (["bolt"], "no class"),
        ("bolt", "not as many boxes as classes"),
    ],
)
def test_invalid_objects_are_named(tmp_path, cell, what):
    imagefolder(tmp_path, OBJECTS, cell)
    with pytest.raises(DataError, match=what):
        read_table(tmp_path)
    with collecting() as issues:
        assert len(read_table(tmp_path).samples) == 2
    assert any("metadata.jsonl, row 2" in str(issue) for issue in issues.issues())


def test_objects_that_seem_to_be_corners_are_refused(tmp_path):
    corners = {"bbox": [[20, 10, 30, 22], [12, 8, 31, 23]], "categories": [0, 0]}
    with pytest.raises(DataError, match="seem to be corners"):
        read_table(imagefolder(tmp_path, corners))


def test_boxes_inside_parquet(tmp_path):
    """As the hub stores CPPE-5, with the names of the classes in the metadata."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = []
    for number in range(3):
        content = write_photo(tmp_path / f"{number}.png", seed=number).read_bytes()
        objects = {"id": [1, 2], "area": [48, 100], **OBJECTS}
        objects["category"] = objects.pop("categories")
        image = {"bytes": content, "path": f"{number}.png"}
        rows.append({"image_id": number, "image": image, "width": 32, "objects": objects})
    value = {"dtype": "float32", "_type": "Value"}
    fields = {
        "id": value,
        "bbox": {"feature": value, "length": 4, "_type": "Sequence"},
        "category": {"names": ["Coverall", "Mask"], "_type": "ClassLabel"},
    }
    features = {"image": {"_type": "Image"}, "objects": {"feature": fields, "_type": "Sequence"}}
    info = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "hub" / "data").mkdir(parents=True)
    file = tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"
    parquet.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(info), file)
    table = read_table(tmp_path / "hub")
    assert (table.format, table.classes) == ("boxes_table", ("Coverall", "Mask"))
    assert table.samples[0].target.xyxy.tolist() == [[2, 3, 10, 9], [20, 10, 30, 20]]
    assert read_size(table.samples[0].source) == (24, 32)
    foveate.convert(tmp_path / "hub", to="yolo", out=tmp_path / "yolo")
    again = read_table(tmp_path / "yolo")
    assert [len(sample.target.names) for sample in again.samples] == [2, 2, 2]
    assert again.classes == table.classes

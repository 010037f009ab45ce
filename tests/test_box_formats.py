"""Reading boxes in four formats: validation, messages, and malicious files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from conftest import SHARED
from foveate.data.boxes import (
    CLIPPED,
    CROWD,
    DUPLICATE,
    INVERTED,
    NO_AREA,
    NOT_FINITE,
    OUTSIDE,
    RawBoxes,
    validate_boxes,
)
from foveate.data.formats import FORMATS, read_table
from foveate.errors import DataError
from helpers import notes, sniff_formats

BCCD = SHARED / "bccd"


def write_image(path: Path, width: int = 40, height: int = 30, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)
    return path


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def boxes_by_key(table) -> dict[str, tuple]:
    """Map the key of each sample to its corners, class names and split."""
    return {
        sample.key: (sample.target.xyxy.tolist(), sample.target.names, sample.split)
        for sample in table.samples
    }


# --- validation


def test_a_box_of_one_pixel_is_valid():
    boxes, problems = validate_boxes(RawBoxes([(39, 29, 40, 30)], ["a"], [False]), (30, 40))
    assert boxes.xyxy.tolist() == [[39, 29, 40, 30]]
    assert (boxes.xyxy.dtype, boxes.names, boxes.crowd.tolist(), dict(problems)) == (
        np.float32,
        ("a",),
        [False],
        {},
    )


def test_no_boxes():
    boxes, problems = validate_boxes(RawBoxes(), (30, 40))
    assert (boxes.xyxy.shape, boxes.names, boxes.crowd.shape, dict(problems)) == (
        (0, 4),
        (),
        (0,),
        {},
    )


@pytest.mark.parametrize(
    ("corners", "problem", "kept"),
    [
        ((10, 9, 5, 12), INVERTED, [5, 9, 10, 12]),
        ((-3, -4, 50, 60), CLIPPED, [0, 0, 40, 30]),
        ((41, 5, 50, 6), OUTSIDE, None),
        ((-9, 5, 0, 6), OUTSIDE, None),
        ((math.nan, 1, 2, 3), NOT_FINITE, None),
        ((0, 1, math.inf, 3), NOT_FINITE, None),
        ((0, 1, 1e300, 3), NOT_FINITE, None),
        ((5, 5, 5, 9), NO_AREA, None),
        ((100, 5, 100, 9), NO_AREA, None),
    ],
)
def test_t30_each_problem_is_counted_once(corners, problem, kept):
    boxes, problems = validate_boxes(
        RawBoxes([(1, 2, 3, 4), corners], ["a", "b"], [False, False]), (30, 40)
    )
    assert boxes.xyxy.tolist() == [[1, 2, 3, 4]] + ([kept] if kept else [])
    assert dict(problems) == {problem: 1}


def test_rounding_beyond_the_border_is_not_a_problem():
    boxes, problems = validate_boxes(RawBoxes([(-1e-4, 0, 40.004, 30)], ["a"], [False]), (30, 40))
    assert (boxes.xyxy.tolist(), dict(problems)) == ([[0, 0, 40, 30]], {})


def test_t30_duplicate_and_crowd_boxes():
    same = (1.0, 2.0, 3.0, 4.0)
    boxes, problems = validate_boxes(
        RawBoxes([same, same, same, same], ["a", "a", "b", "a"], [False, False, False, True]),
        (30, 40),
    )
    assert (boxes.names, boxes.crowd.tolist()) == (("a", "b", "a"), [False, False, True])
    assert dict(problems) == {DUPLICATE: 1, CROWD: 1}


# --- Pascal VOC


def object_xml(name: str = "cat", corners: tuple = (1, 1, 10, 10), extra: str = "") -> str:
    tags = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{tags}</bndbox></object>"


def annotation_xml(
    *objects: str, size: tuple[int, int] = (40, 30), head: str = "", filename: str = "x.jpg"
) -> str:
    size_xml = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"{head}<annotation><filename>{filename}</filename>{size_xml}{''.join(objects)}</annotation>"


def write_voc(root: Path, **texts: str) -> Path:
    for stem, text in texts.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        write(root / "Annotations" / f"{stem}.xml", text)
    return root


def test_t30_voc_coordinates_are_one_based_and_inclusive(tmp_path):
    first = annotation_xml(
        object_xml("dog", (1, 1, 1, 1)),
        object_xml("cat", (3, 4, 40, 30), "<difficult>1</difficult>"),
    )
    write_voc(tmp_path, a=first, b=annotation_xml())
    write(tmp_path / "ImageSets/Main/train.txt", "a\n")
    write(tmp_path / "ImageSets/Main/val.txt", "b\nnobody\n")
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("voc", ("cat", "dog"))
    assert boxes_by_key(table)["JPEGImages/a.jpg"] == (
        [[0, 0, 1, 1], [2, 3, 40, 30]],
        ("dog", "cat"),
        "train",
    )
    assert table.samples[0].target.crowd.tolist() == [False, True]
    assert boxes_by_key(table)["JPEGImages/b.jpg"] == ([], (), "val")
    assert table.samples[1].target.xyxy.shape == (0, 4)
    assert "without an annotation, skipped: 1 ('nobody')" in notes(table)


def test_voc_swapped_corners_keep_their_pixels(tmp_path):
    table = read_table(write_voc(tmp_path, a=annotation_xml(object_xml(corners=(10, 9, 5, 4)))))
    assert boxes_by_key(table)["JPEGImages/a.jpg"][0] == [[4, 3, 10, 9]]
    assert "swapped corners, put in order: 1 ('JPEGImages/a.jpg')" in notes(table)


def test_voc_one_level_deeper_unless_ambiguous(tmp_path):
    table = read_table(
        write_voc(tmp_path / "in" / "VOC2007", a=annotation_xml(object_xml())).parent
    )
    assert list(boxes_by_key(table)) == ["JPEGImages/a.jpg"]
    write_voc(tmp_path / "in" / "VOC2012", a=annotation_xml(object_xml()))
    with pytest.raises(DataError, match=r"not a Pascal VOC dataset.*VOC2007.*VOC2012"):
        FORMATS.get("voc")().read(tmp_path / "in")


def test_voc_missing_images_annotations_and_sizes(tmp_path):
    write_voc(
        tmp_path,
        a=annotation_xml(object_xml(corners=(1, 1, 99, 10)), size=(0, 0)),
        b=annotation_xml("<object><name>cat</name></object>"),
    )
    write(tmp_path / "Annotations/gone.xml", annotation_xml(object_xml(), filename="gone.png"))
    write_image(tmp_path / "JPEGImages/bare.jpg")
    write_image(tmp_path / "JPEGImages/other.png")
    write(tmp_path / "Annotations/named.xml", annotation_xml(object_xml(), filename="other.png"))
    write(tmp_path / "classes.txt", "dog\ncat\n")
    table = read_table(tmp_path)
    assert sorted(boxes_by_key(table)) == [
        "JPEGImages/a.jpg",
        "JPEGImages/b.jpg",
        "JPEGImages/other.png",
    ]
    assert boxes_by_key(table)["JPEGImages/a.jpg"][0] == [[0, 0, 40, 10]]
    assert table.classes == ("dog", "cat")
    assert "missing images, dropped with their boxes: 1 ('JPEGImages/gone.png')" in notes(table)
    assert "without an annotation file, skipped: 1 ('JPEGImages/bare.jpg')" in notes(table)
    assert "objects without a box, dropped: 1 ('JPEGImages/b.jpg')" in notes(table)


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>'
OUTSIDE_FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotation_xml(object_xml("&y;"), head=BOMB), "has a DOCTYPE.*a.xml"),
        (annotation_xml(object_xml("&x;"), head=OUTSIDE_FILE), "has a DOCTYPE"),
        (annotation_xml(object_xml("&y;")), "not valid XML.*undefined entity"),
        ("<annotation><object>", "not valid XML.*a.xml"),
        ("", "not valid XML"),
        (annotation_xml(object_xml(corners=("left", 1, 2, 3))), "not four numbers.*a.xml.*'left'"),
        (annotation_xml(object_xml("")), "an object has no name.*a.xml"),
        (annotation_xml(), "there are no classes"),
    ],
)
def test_bad_voc_gives_the_reason(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write_voc(tmp_path, a=text))


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"no {BCCD}")
@pytest.mark.parametrize("path", [BCCD, BCCD / "BCCD"])
def test_real_bccd(path):
    table = read_table(path)
    assert (table.format, table.classes) == ("voc", ("Platelets", "RBC", "WBC"))
    assert [len(table.in_split(split)) for split in ("train", "val")] == [205, 87]
    assert sum(len(sample.target.names) for sample in table.samples) == 3943  # grep -c '<object>'
    assert boxes_by_key(table)["JPEGImages/BloodImage_00000.jpg"][0][0] == [259, 176, 491, 376]
    assert sniff_formats(path) == ["voc"]


# --- COCO


def coco_content(**changes) -> dict:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.jpg"},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "zebra"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [0, 1.5, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [5, 5, 1, 1], "iscrowd": 1},
        ],
    }
    return {**content, **changes}


def write_two_images(root: Path) -> Path:
    write_image(root / "a.jpg")
    write_image(root / "b.jpg", orientation=6)
    return root


def test_coco_file(tmp_path):
    table = read_table(write(write_two_images(tmp_path) / "boxes.json", coco_content()))
    assert (table.format, table.classes) == ("coco", ("zebra", "dog"))  # by id
    assert boxes_by_key(table)["a.jpg"] == (
        [[0, 1.5, 10, 21.5], [5, 5, 6, 6]],
        ("dog", "zebra"),
        None,
    )
    assert table.samples[0].target.crowd.tolist() == [False, True]
    assert boxes_by_key(table)["b.jpg"] == ([], (), None)
    assert "kept but ignored when matching: 1 ('a.jpg')" in notes(table)


@pytest.mark.parametrize(
    "folder", ["", "images/", "train2017/", "images/train2017/", "images/train/", "train/"]
)
def test_coco_finds_its_images(tmp_path, folder):
    write_two_images(tmp_path / folder)
    write_two_images(tmp_path / folder.replace("train", "val"))
    write(tmp_path / "annotations/instances_train2017.json", coco_content())
    write(tmp_path / "annotations/captions_train2017.json", coco_content())
    if folder.strip("/") not in ("", "images"):
        write(tmp_path / "annotations/instances_val2017.json", coco_content())
    assert sniff_formats(tmp_path) == ["coco"]
    splits = {key: boxes[2] for key, boxes in boxes_by_key(read_table(tmp_path)).items()}
    assert splits[f"{folder}a.jpg"] == "train"
    assert splits.get(f"{folder.replace('train', 'val')}a.jpg") in ("train", "val")


def test_roboflow_coco(tmp_path):
    heading = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 3, "name": "zebra", "supercategory": "pets"},
    ]
    content = coco_content(
        categories=[*heading, {"id": 18, "name": "dog", "supercategory": "pets"}]
    )
    write(write_two_images(tmp_path / "train") / "_annotations.coco.json", content)
    write(write_two_images(tmp_path / "valid") / "_annotations.coco.json", content)
    assert sniff_formats(tmp_path) == ["coco"]
    table = read_table(tmp_path)
    assert table.classes == ("zebra", "dog")
    assert (boxes_by_key(table)["train/a.jpg"][2], boxes_by_key(table)["valid/a.jpg"][2]) == (
        "train",
        "val",
    )
    assert notes(table).count("'pets' is only a heading") == 1


def test_coco_unlisted_images_repetitions_and_windows_paths(tmp_path):
    content = coco_content()
    content["annotations"] += [
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 7, "category_id": 3},
    ]
    content["images"] += [
        {"id": 10, "file_name": "in\\c.jpg"},
        {"id": 11, "file_name": "gone.jpg"},
        {"id": 12, "file_name": "./a.jpg"},
    ]
    write_image(tmp_path / "in/c.jpg")
    table = read_table(write(write_two_images(tmp_path) / "x.json", content))
    assert list(boxes_by_key(table)) == ["a.jpg", "b.jpg", "in/c.jpg"]
    assert "annotations of images that are not listed, dropped: 1 ('image_id 5')" in notes(table)
    assert "missing images, dropped with their boxes: 1 ('gone.jpg')" in notes(table)
    assert "listed twice; the first entry is kept: 1 ('a.jpg')" in notes(table)
    assert "objects without a box, dropped: 1 ('a.jpg')" in notes(table)


def test_an_image_outside_the_folder_is_read_only_if_that_is_allowed(tmp_path, monkeypatch):
    write_image(tmp_path / "a.jpg")
    content = coco_content(
        images=[{"id": 7, "file_name": "../a.jpg"}, {"id": 8, "file_name": "../../../none.jpg"}]
    )
    path = write(tmp_path / "in/x.json", content)
    with pytest.raises(DataError, match=r"outside of.*1 image, such as '../a.jpg'.*--allow-out"):
        read_table(path)
    monkeypatch.chdir(path.parent)
    for same in (path, Path("x.json")):
        table = read_table(same, allow_outside=True)
        assert list(boxes_by_key(table)) == ["../a.jpg"]
        assert "1 image is outside of the data folder: '../a.jpg'" in notes(table)


def annotation_entry(**changes) -> list[dict]:
    return [{"id": 4, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], **changes}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            coco_content(annotations=annotation_entry(category_id=1)),
            "no category has the id 1.*annotation 4.*ids are: 3, 18",
        ),
        (
            coco_content(annotations=annotation_entry(bbox=[1, 2, 3])),
            "bbox is not four numbers.*annotation 4",
        ),
        (coco_content(annotations=annotation_entry(bbox="left")), "bbox is not four numbers"),
        (
            coco_content(annotations=annotation_entry(image_id=1)),
            "no annotation belongs to an image",
        ),
        (coco_content(annotations=annotation_entry(image_id=[7])), "an entry has no 'image_id'"),
        (
            coco_content(annotations=annotation_entry(bbox=[50, 0, 9, 9])),
            "none of the boxes is valid.*outside",
        ),
        (
            coco_content(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]),
            "two categories have the id 3",
        ),
        (coco_content(images=[{"id": 7, "file_name": "a.jpg"}] * 2), "two images have the id 7"),
        (coco_content(images=[{"id": 7}]), "image 7 has no file_name"),
        (
            coco_content(images=[{"id": 7, "file_name": "q.jpg"}]),
            "no images with boxes.*missing.*'q.jpg'",
        ),
        (coco_content(images=[{"id": 7, "file_name": "q" * 999}]), "no images with boxes.*missing"),
        ({"images": [], "categories": []}, "no list of objects 'annotations'"),
        ('{"images": [', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_coco_gives_the_reason(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        FORMATS.get("coco")().read(write(write_two_images(tmp_path) / "x.json", content))


def test_t30_coco_numbers_that_are_not_finite(tmp_path):
    text = (
        json.dumps(coco_content())
        .replace("1.5", "NaN")
        .replace("[5, 5, 1, 1]", f"[5, 5, 1, 1{'0' * 400}]")
    )
    with pytest.raises(DataError, match="not four numbers"):
        read_table(write(write_two_images(tmp_path) / "x.json", text))
    table = read_table(write(tmp_path / "y.json", json.dumps(coco_content()).replace("1.5", "NaN")))
    assert "not a finite number, dropped: 1 ('a.jpg')" in notes(table)


# --- YOLO


def write_yolo(
    root: Path,
    content: str = "train: images/train\nval: images/val\nnames: [cat, dog]\n",
    **labels: str,
) -> Path:
    for name, text in labels.items():
        split, stem = name.split("_")
        write_image(root / "images" / split / f"{stem}.png")
        write(root / "labels" / split / f"{stem}.txt", text)
    write(root / "data.yaml", content)
    return root


def test_yolo(tmp_path):
    write_yolo(
        tmp_path,
        train_a="1 0.5 0.5 0.5 1\n\n0 0.0125 0.5 0.025 0.1\n",
        val_b="",
        val_c="1 0 0 0.5 0 0.5 1\n",
    )
    write_image(tmp_path / "images/val/bare.jpg", orientation=6)
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("yolo", ("cat", "dog"))
    corners, names, split = boxes_by_key(table)["images/train/a.png"]
    np.testing.assert_allclose(corners, [[10, 0, 30, 30], [0, 13.5, 1, 16.5]], atol=1e-5)
    assert (names, split) == (("dog", "cat"), "train")
    assert boxes_by_key(table)["images/val/b.png"] == ([], (), "val")
    assert boxes_by_key(table)["images/val/c.png"][0] == [[0, 0, 20, 30]]
    assert "replaced by their bounding boxes: 1 ('images/val/c.png')" in notes(table)
    assert "read as images without objects: 1 ('images/val/bare.jpg')" in notes(table)
    assert boxes_by_key(read_table(tmp_path / "data.yaml")) == boxes_by_key(table)
    assert sniff_formats(tmp_path) == ["yolo"] == sniff_formats(tmp_path / "data.yaml")


def test_t23_yolo_sees_rotated_images_upright(tmp_path):
    write_yolo(tmp_path, train_a="0 0.5 0.5 1 1")
    write_image(tmp_path / "images/train/a.png").unlink()
    write_image(tmp_path / "images/train/a.jpg", 40, 30, orientation=6)
    assert boxes_by_key(read_table(tmp_path))["images/train/a.jpg"][0] == [[0, 0, 30, 40]]


@pytest.mark.parametrize(
    "content",
    [
        "path: ../elsewhere/coco8\ntrain: images/train\nnames: {0: cat, 7: dog}\ndownload: import os; os.remove('/')\n",
        "path: .\ntrain: ../images/train\nnames: {0: cat, 7: dog}\nnc: 9\n",  # as Roboflow writes it
        "train: [list.txt]\nval:\nnames: {7: dog, 0: cat}\n",
    ],
)
def test_yolo_yaml_files(tmp_path, content):
    write_yolo(tmp_path, content, train_a="7 0.5 0.5 0.5 1")
    write(tmp_path / "list.txt", "./images/train/a.png\n")
    table = read_table(tmp_path)
    assert table.classes == ("cat", "dog")
    assert boxes_by_key(table) == {"images/train/a.png": ([[10, 0, 30, 30]], ("dog",), "train")}
    assert ("not executed: download" in notes(table)) == ("download" in content)
    assert ("nc and names disagree" in notes(table)) == ("nc" in content)


def test_yolo_labels_beside_images_keypoints_and_missing_paths(tmp_path):
    write_image(tmp_path / "data/a.jpg")
    write(tmp_path / "data/a.txt", "0 0.5 0.5 0.5 1 " + "0.1 0.1 2 " * 4)
    write(tmp_path / "pets.yml", "train: data\ntest: nowhere\nkpt_shape: [4, 3]\nnames: [cat]\n")
    table = read_table(tmp_path)
    assert boxes_by_key(table) == {"data/a.jpg": ([[10, 0, 30, 30]], ("cat",), "train")}
    assert "does not exist and is skipped: test: 'nowhere'" in notes(table)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("2 0.5 0.5 0.5 1", "no class has the index 2.*a.txt, line 1.*0 to 1"),
        ("-1 0.5 0.5 0.5 1", "no class has the index -1"),
        ("nan 0.5 0.5 0.5 1", "no class has the index nan"),
        ("0 0.5 0.5 0.5", "has 4 numbers"),
        ("0 0.5 0.5 0.5 1 0.9", "has 6 numbers"),
        ("cat 0.5 0.5 0.5 1", "not a line of numbers.*line 1"),
        ("0 20 15 10 10", "none of the boxes is valid"),
    ],
)
def test_t30_bad_labels_give_the_reason(tmp_path, label, message):
    with pytest.raises(DataError, match=message):
        read_table(write_yolo(tmp_path, train_a=label))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "train: x\nnames: !!python/object/apply:os.system ['touch hacked']\n",
            "not plain YAML.*python",
        ),
        (
            "train: x\nnames: &a [cat]\nmore: [*a, *a]\n",
            "not plain YAML.*has references",
        ),
        (
            "train: image/train\nnames: [cat]\n",
            "leads to no images.*image/train.*did you mean 'images'|leads to no images",
        ),
        ("train: [{}]\nnames: [cat]\n", "must each be a folder"),
        ("train: images/train\nnames: [cat, no]\n", "`names` is neither a list"),
        ("train: images/train\nnames: 3\n", "`names` is neither a list"),
        ("train: images/train\nnames: {}\n", "`names` is neither a list"),
        ("train: 2022-99-99\nnames: [cat]\n", "not plain YAML"),
    ],
)
def test_t37_bad_yaml_files_give_the_reason(tmp_path, content, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        read_table(write_yolo(tmp_path, content, train_a="0 0.5 0.5 0.5 1"))
    assert not (tmp_path / "hacked").exists()


def test_yolo_without_labels_and_with_broken_images(tmp_path):
    write_yolo(tmp_path, train_a="0 0.5 0.5 0.5 1")
    write(tmp_path / "images/train/broken.png", "not a picture")
    assert "size cannot be read, dropped with their boxes: 1 ('images/train/broken.png')" in notes(
        read_table(tmp_path)
    )
    (tmp_path / "labels/train/a.txt").unlink()
    with pytest.raises(DataError, match=r"no image has a label file.*labels"):
        read_table(tmp_path)


# --- a table


def test_table_of_boxes(tmp_path):
    text = "filename,class,xmin,ymin,xmax,ymax,split,group,crowd\na.jpg,dog,0,1.5,10,20,train,p1,\na.jpg,cat,1,1,2,2,train,p1,yes\nb.jpg,,,,,,val,,\n"
    table = read_table(write(write_two_images(tmp_path) / "any.csv", text))
    assert (table.format, table.classes, table.multilabel) == ("boxes_table", ("cat", "dog"), False)
    assert boxes_by_key(table)["a.jpg"] == (
        [[0, 1.5, 10, 20], [1, 1, 2, 2]],
        ("dog", "cat"),
        "train",
    )
    assert (table.samples[0].group, table.samples[0].target.crowd.tolist()) == ("p1", [False, True])
    assert boxes_by_key(table)["b.jpg"] == ([], (), "val")
    assert sniff_formats(tmp_path / "any.csv") == ["boxes_table"]


def test_table_of_boxes_as_json_lines_and_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    write_two_images(tmp_path)
    rows = [
        {"path": "b.jpg", "label": None},
        {"path": "a.jpg", "label": "x", "x0": 1, "y0": 2, "x1": 3, "y1": 4},
    ]
    lines = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    parquet.write_table(pa.Table.from_pylist([rows[1], rows[0]]), tmp_path / "t.parquet")
    for path in (lines, tmp_path / "t.parquet"):
        assert sniff_formats(path) == ["boxes_table"]
        assert boxes_by_key(read_table(path)) == {
            "a.jpg": ([[1, 2, 3, 4]], ("x",), None),
            "b.jpg": ([], (), None),
        }


def test_a_table_without_corners_is_not_a_table_of_boxes(tmp_path):
    path = write(write_two_images(tmp_path) / "t.csv", "path,label,x0\na.jpg,x,1\nb.jpg,y,1\n")
    assert sniff_formats(path) == ["table"]
    with pytest.raises(DataError, match="no column 'y0'"):
        read_table(path, "boxes_table")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,x,1,2,3,,,", "not four numbers.*row 2"),
        ("a.jpg,x,1,2,3,left,,", "not four numbers.*'left'"),
        ("a.jpg,,1,2,3,4,,", "has no label.*row 2"),
        ("a.jpg,x,1,2,3,4,trian,", "no split is called 'trian'"),
        (
            "a.jpg,x,1,2,3,4,train,\na.jpg,x,1,2,3,5,val,",
            "contradict each other on the split of 'a.jpg'",
        ),
        ("a.jpg,x,1,2,3,4,,maybe", "neither yes nor no"),
        ("q.jpg,x,1,2,3,4,,", "missing.*'q.jpg'"),
        ("", "no rows"),
    ],
)
def test_bad_tables_of_boxes_give_the_reason(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_table(
            write(
                write_two_images(tmp_path) / "t.csv",
                f"path,label,x0,y0,x1,y1,split,crowd\n{rows}\n",
            )
        )


# --- recognition of formats


def test_plain_folders_are_read_as_folders_of_classes(tmp_path):
    for name in ("cat", "dog2017", "train2017", "only/images"):
        write_image(tmp_path / "a" / name / "1.jpg")
    write_image(tmp_path / "b/cat/images/1.jpg")
    write_image(tmp_path / "b/dog/images/1.jpg")
    assert sniff_formats(tmp_path / "a") == sniff_formats(tmp_path / "b") == ["folder"]


def test_a_config_of_masks_is_not_yolo(tmp_path):
    write_image(tmp_path / "images/a.jpg")
    path = write(
        tmp_path / "camvid.yaml",
        yaml.safe_dump({"images": "images", "masks": "masks", "classes": ["a"]}),
    )
    assert not FORMATS.get("yolo")().sniff(path)

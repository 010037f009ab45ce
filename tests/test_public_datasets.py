"""The text files of public data sets, written here as their documentation shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.data.formats import FORMATS, read_table, sniff_formats
from foveate.data.issues import collecting
from foveate.errors import DataError
from foveate.predictions import Labels, Number
from test_tool_formats import HEIGHT, WIDTH, boxes_of, notes_of, write_image

BOX = (10.0, 8.0, 30.0, 28.0)
KITTI = "Car 0.00 0 -1.57 10.00 8.00 30.00 28.00 1.57 1.73 4.15 1.00 1.75 13.22 1.62\n"
DONT_CARE = "DontCare -1 -1 -10 1.00 1.00 5.00 5.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
DOTA = "imagesource:GoogleEarth\ngsd:0.146\n10.0 8.0 30.0 8.0 30.0 28.0 10.0 28.0 plane 0\n"


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line if line.endswith("\n") else f"{line}\n" for line in lines))
    return file


def images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write_image(folder / name, seed=number)


def kitti(root: Path) -> None:
    images(root / "training" / "image_2", "000000.png", "000001.png")
    write(root / "training" / "label_2" / "000000.txt", KITTI, DONT_CARE)
    write(root / "training" / "label_2" / "000001.txt", KITTI)


def dota(root: Path) -> None:
    images(root / "train" / "images", "P0001.png", "P0002.png")
    for name in ("P0001.txt", "P0002.txt"):
        write(root / "train" / "labelTxt" / name, DOTA)


def visdrone(root: Path) -> None:
    folder = root / "VisDrone2019-DET-train"
    images(folder / "images", "0001.jpg", "0002.jpg")
    for name in ("0001.txt", "0002.txt"):
        write(folder / "annotations" / name, "10,8,20,20,1,4,0,0", "1,1,5,5,0,0,0,0")


def mot(root: Path) -> None:
    images(root / "MOT17-02" / "img1", "000001.jpg", "000002.jpg")
    rows = [f"{frame},1,10,8,20,20,1,3,1.0" for frame in (1, 2)]
    write(root / "MOT17-02" / "gt" / "gt.txt", *rows, "2,5,1,1,5,5,0,1,0.2")


def wider(root: Path) -> None:
    names = ["0--Parade/0_Parade_1.jpg", "1--Cup/1_Cup_2.jpg"]
    images(root / "WIDER_train" / "images", *names)
    box = "10 8 20 20 0 0 0 0 0 0 "
    lines = [names[0], "1", box, names[1], "0", "0 0 0 0 0 0 0 0 0 0 "]
    write(root / "wider_face_split" / "wider_face_train_bbx_gt.txt", *lines)


def retinanet(root: Path) -> None:
    images(root / "images", "0.jpg", "1.jpg")
    write(root / "annotations.csv", "images/0.jpg,10,8,30,28,cow", "images/1.jpg,,,,,")
    write(root / "classes.csv", "cow,0")


@pytest.mark.parametrize(
    ("writer", "name", "counts", "lost"),
    [
        (kitti, "Car", [1, 1], 1),
        (dota, "plane", [1, 1], 0),
        (visdrone, "car", [1, 1], 2),
        (mot, "car", [1, 1], 1),
        (wider, "face", [1, 0], 0),
        (retinanet, "cow", [1, 0], 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_boxes_of_public_datasets(tmp_path, writer, name, counts, lost):
    writer(tmp_path)
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("exports", (name,))
    assert boxes_of(table) == [(name, *BOX)]
    assert [len(sample.target.names) for sample in table.samples] == counts
    known = {note.kind.id: note.occurrences for note in table.notes}
    assert known.get("export_lost", 0) == lost
    assert ("tool_rotated" in known) == (writer is dota)
    assert {sample.group for sample in table.samples} == {"MOT17-02" if writer is mot else None}
    splits = {sample.split for sample in table.samples}
    stated = {wider: "train", dota: "train", visdrone: "train", kitti: "train"}.get(writer)
    assert splits <= {stated, None}


@pytest.mark.parametrize(
    ("writer", "file", "old", "new"),
    [
        (kitti, "training/label_2/000000.txt", "10.00 8.00", "x 8.00"),
        (dota, "train/labelTxt/P0001.txt", "10.0 8.0", "left 8.0"),
        (visdrone, "VisDrone2019-DET-train/annotations/0001.txt", ",1,4,", ",1,44,"),
        (mot, "MOT17-02/gt/gt.txt", "2,1,10", "2,1,x"),
        (wider, "wider_face_split/wider_face_train_bbx_gt.txt", "10 8 20 20", "x 8 20 20"),
        (retinanet, "annotations.csv", ",,,,,", ",1,2,x,4,cow"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_faulty_lines_of_public_datasets_are_named(tmp_path, writer, file, old, new):
    writer(tmp_path)
    path = tmp_path / file
    text = 2 * path.read_text()  # with good lines first
    start = text.rindex(old)
    path.write_text(text[:start] + new + text[start + len(old) :])
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert path.name in str(caught.value)
    with collecting():
        assert read_table(tmp_path, "exports").samples


def cub(root: Path) -> None:
    names = ["001.Albatross/a_1.jpg", "002.Auklet/b_1.jpg"]
    images(root / "images", *names)
    write(root / "images.txt", *(f"{n} {name}" for n, name in enumerate(names, start=1)))
    write(root / "classes.txt", "1 001.Albatross", "2 002.Auklet")
    write(root / "image_class_labels.txt", "1 1", "2 2")
    write(root / "train_test_split.txt", "1 1", "2 0")
    write(root / "bounding_boxes.txt", "1 10.0 8.0 20.0 20.0", "2 10.0 8.0 20.0 20.0")


def celeba(root: Path) -> None:
    images(root / "img_align_celeba", "000001.jpg", "000002.jpg")
    write(
        root / "list_attr_celeba.txt", "2", "Smiling Male ", "000001.jpg  1 -1", "000002.jpg -1  1"
    )


def caffe(root: Path) -> None:
    images(root / "img", *(f"{number}.jpg" for number in range(4)))
    write(root / "train.txt", "img/0.jpg 0", "img/1.jpg 1")
    write(root / "val.txt", "img/2.jpg 0", "img/3.jpg 1")
    write(root / "synset_labels.txt", "fox", "owl")


def imagenet(root: Path, *labels: str) -> None:
    """A flat folder, and the list of Caffe's script beside it."""
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)]
    images(root / "val", *names)
    labels = labels or ("65", "970", "65")
    write(root / "val.txt", *(f"{name} {label}" for name, label in zip(names, labels, strict=True)))


def imagenet_by_names(root: Path) -> None:
    imagenet(root, "n01440764", "n01443537", "n01440764")


@pytest.mark.parametrize(
    ("writer", "classes", "first", "splits"),
    [
        (imagenet, ("65", "970"), "65", ["val"] * 3),
        (imagenet_by_names, ("n01440764", "n01443537"), "n01440764", ["val"] * 3),
        (cub, ("001.Albatross", "002.Auklet"), "001.Albatross", ["train", "test"]),
        (celeba, ("Male", "Smiling"), "Smiling", [None, None]),
        (caffe, ("fox", "owl"), "fox", ["train", "train", "val", "val"]),
    ],
)
def test_classes_of_public_datasets(tmp_path, writer, classes, first, splits):
    writer(tmp_path)
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("tags", classes)
    assert table.samples[0].target == Labels((first,))
    assert [sample.split for sample in table.samples] == splits


def test_a_list_of_images_and_numbers_does_not_name_these_numbers(tmp_path):
    images(tmp_path / "val", "0.jpg", "1.jpg")
    write(tmp_path / "labels.txt", "0.jpg 0", "1.jpg 1")
    assert read_table(tmp_path).classes == ("0", "1")


def test_numbers_alone_are_no_attributes_of_celeba(tmp_path):
    """ILSVRC2012_validation_ground_truth.txt: the number of a class in each line."""
    images(tmp_path / "val", "0.jpg", "1.jpg")
    write(tmp_path / "ground_truth.txt", "490", "361", "1", "1", "822")
    assert "tags" not in sniff_formats(tmp_path)


def test_numbers_in_a_list_beside_class_folders_are_asked_about(tmp_path):
    images(tmp_path, "fox/0.jpg", "fox/1.jpg", "owl/0.jpg", "owl/1.jpg")
    write(tmp_path / "list.txt", "fox/0.jpg 0", "fox/1.jpg 0", "owl/0.jpg 1", "owl/1.jpg 1")
    with pytest.raises(DataError, match="the folders of the images may name them"):
        read_table(tmp_path)
    assert read_table(tmp_path, "folder").classes == ("fox", "owl")
    assert read_table(tmp_path, "tags").classes == ("0", "1")


def test_attributes_of_minus_one_and_one_in_a_table(tmp_path):
    images(tmp_path / "img_align_celeba", "000001.jpg", "000002.jpg")
    rows = ["image_id,Smiling,Male", "000001.jpg,1,-1", "000002.jpg,-1,-1"]
    write(tmp_path / "list_attr_celeba.csv", *rows)
    table = read_table(tmp_path)
    assert (table.format, table.multilabel) == ("table", True)
    assert [sample.target.names for sample in table.samples] == [("Smiling",), ()]


def test_ages_of_utkface_are_numbers(tmp_path):
    names = [
        f"{age}_{age % 2}_{age % 5}_20170116174525{age:03d}.jpg.chip.jpg"
        for age in (1, 26, 110, 7, 8)
    ]
    images(tmp_path / "part1", *names)
    images(
        tmp_path / "part2",
        *(name.replace("_2017", "_2018") for name in names),
        "39_1_20170116174525125.jpg.chip.jpg",
    )
    table = read_table(tmp_path)
    assert (table.format, len(table.samples)) == ("utkface", 10)
    assert {sample.target for sample in table.samples} == {*map(Number, (1, 26, 110, 7, 8))}
    assert "read as the age; for gender or race, write a table" in notes_of(table)
    assert "lacks a part, left out: 1 ('part2/39_1_2017" in notes_of(table)
    images(tmp_path / "photos", "25_1.jpg", "26_0_1_2.jpg")
    assert FORMATS.get("utkface")().sniff(tmp_path / "photos") is None
    with pytest.raises(DataError, match="no image has its age in its name"):
        read_table(tmp_path / "photos", "utkface")


def test_keypoints_of_coco_are_read_as_boxes_and_said(tmp_path):
    images(tmp_path / "val2017", "1.jpg")
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 8, 20, 20], "iscrowd": 0}
    person |= {"keypoints": [12, 12, 2] + [0] * 48, "num_keypoints": 1, "area": 400}
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []}],
    }
    write(tmp_path / "annotations" / "person_keypoints_val2017.json", json.dumps(content))
    table = read_table(tmp_path)
    assert (table.format, boxes_of(table)) == ("coco", [("person", *BOX)])
    assert "objects with keypoints" in notes_of(table)
    write(tmp_path / "annotations" / "instances_val2017.json", json.dumps(content))
    assert "image_listed_twice" not in {note.kind.id for note in read_table(tmp_path).notes}


def test_text_files_that_are_something_else_are_no_dataset(tmp_path):
    images(tmp_path / "images", "0.jpg", "1.jpg")
    for number in range(2):
        write(tmp_path / "labels" / f"{number}.txt", "0 0.5 0.5 0.25 0.25")
    write(tmp_path / "labels" / "classes.txt", "bolt")
    write(tmp_path / "README.txt", "1 2 3", "Car park 0.5")
    assert read_table(tmp_path).format == "yolo"

"""Reading masks, and inferring what their values mean."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from foveate.data.formats import read_table
from foveate.data.formats.coco_masks import CocoMasks
from foveate.data.formats.folder import Folder
from foveate.data.formats.masks import Masks
from foveate.errors import BrokenImage, DataError, UnknownName
from helpers import notes, sniff_formats

CONFIG = """
path: {path}
images: {{train: train, val: val}}
masks: {{train: trainannot, val: valannot}}
classes: [sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist]
ignore: [11]
"""


def write_image(path: Path, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path)


def write_mask(path: Path, rows: list[list[int]], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(rows, dtype=np.uint8))
    if palette:
        image.putpalette([value * 37 % 256 for value in range(768)])
    image.save(path)


def write_pair(root: Path, image: str, mask: str, rows: list[list[int]]) -> Path:
    write_image(root / image, len(rows), len(rows[0]))
    write_mask(root / mask, rows)
    return root


@pytest.mark.parametrize(
    ("image", "mask", "split"),
    [
        ("images/1.jpg", "masks/1.png", None),
        ("Imgs/1.jpg", "Labels/1.png", None),
        ("JPEGImages/1.jpg", "SegmentationClass/1.png", None),
        ("image/1.jpg", "annotations/1_mask.png", None),
        ("train/1.jpg", "trainannot/1.png", "train"),
        ("train/image/1.jpg", "train/label/1.png", "train"),
        ("images/val/1.jpg", "masks/val/1.png", "val"),
        ("test_images/1.jpg", "test_masks/1.png", "test"),
        ("images/train/1.jpg", "masks/1.png", "train"),
        ("data/../images/seq/1.jpg", "masks/seq/1.png", None),
        ("1.jpg", "masks/1.png", None),
    ],
)
def test_layouts(tmp_path, image, mask, split):
    (tmp_path / "data").mkdir()
    write_pair(tmp_path, image, mask, [[0, 1], [2, 2]])
    assert Masks().sniff(tmp_path)
    table = read_table(tmp_path, "masks")
    (sample,) = table.samples
    assert (sample.key, sample.split) == (image.removeprefix("data/../"), split)
    assert table.classes == ("class 0", "class 1", "class 2")
    assert sample.target.mask.tolist() == [[0, 1], [2, 2]]
    assert pickle.loads(pickle.dumps(sample)).target.mask.dtype == np.int64
    assert "have no names" in notes(table)


@pytest.mark.parametrize(
    "names",
    [
        ("cat/1.png", "dog/1.png"),
        ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png"),
        ("images/1.png", "labels/1.txt", "classes.txt"),
        ("images/train/1.png", "labels/train/1.txt"),
        ("JPEGImages/1.png", "Annotations/1.xml", "ImageSets/Main/train.txt"),
        ("images/1.png", "annotations/instances_train.json"),
        ("train/1.png", "train/_annotations.coco.json"),
        ("images/1.png", "masks/2.png"),
        ("1.png",),
    ],
)
def test_other_layouts_are_not_taken_for_masks(tmp_path, names):
    for name in names:
        write_image(tmp_path / name) if name.endswith(".png") else (tmp_path / name).parent.mkdir(
            parents=True, exist_ok=True
        )
        if not name.endswith(".png"):
            (tmp_path / name).write_text("0 0.5 0.5 0.1 0.1\n")
    assert not Masks().sniff(tmp_path)
    assert not CocoMasks().sniff(tmp_path)


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_masks_are_not_taken_for_a_folder_per_class(tmp_path, folder):
    write_pair(tmp_path, "train/images/1.png", f"train/{folder}/1.png", [[0, 1]])
    assert not Folder().sniff(tmp_path)


def test_images_and_masks_without_partners_are_named(tmp_path):
    for number in range(6):
        write_pair(tmp_path, f"images/{number}.png", f"masks/{number}.png", [[0, 255]])
    for number in range(4):
        (tmp_path / f"masks/{number}.png").unlink()
    write_mask(tmp_path / "masks/9.png", [[0, 255]])
    write_mask(tmp_path / "masks/5.tif", [[0, 255]])
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == ["images/4.png", "images/5.png"]
    assert (
        "images without a mask, dropped: 4 ('images/0.png', 'images/1.png', 'images/2.png', ...)"
        in notes(table)
    )
    assert "masks without an image, skipped: 1 ('masks/9.png')" in notes(table)
    assert "images with several masks, which are read as one: 1 ('5.png')" in notes(table)


def test_sizes_are_compared_without_reading_pixels(tmp_path):
    write_pair(tmp_path, "images/1.png", "masks/1.png", [[0, 1]])
    write_image(tmp_path / "images/1.png", 4, 6)
    with pytest.raises(
        DataError,
        match=r"not have the size.*masks/1\.png.*2 x 1 px, the image '1\.png' has 6 x 4 px",
    ):
        read_table(tmp_path)


def test_a_folder_of_masks_per_class(tmp_path):
    write_pair(tmp_path, "images/1.png", "masks/dog/1.png", [[0, 255, 255]])
    write_mask(tmp_path / "masks/cat/1.png", [[255, 255, 0]])
    write_pair(tmp_path, "images/2.png", "masks/cat/2.png", [[0, 1, 0]])
    table = read_table(tmp_path)
    assert table.classes == ("background", "cat", "dog")
    assert [sample.target.mask.tolist() for sample in table.samples] == [[[1, 2, 2]], [[0, 1, 0]]]
    (tmp_path / "classes.txt").write_text("dog\ncow\ncat\n")
    table = read_table(tmp_path)
    assert table.classes == ("background", "dog", "cow", "cat")
    assert table.samples[0].target.mask.tolist() == [[3, 3, 1]]
    (tmp_path / "classes.txt").write_text("dogs\ncat\n")
    with pytest.raises(DataError, match=r"'dog' is not in the class list.*did you mean 'dogs'"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 255], [0, 1]), ([0, 1], [0, 1]), ([0, 0], [0, 0]), ([255, 255], [1, 1])],
)
def test_black_and_white(tmp_path, values, expected):
    table = read_table(write_pair(tmp_path, "images/1.png", "masks/1.png", [values]))
    assert table.classes == ("background", "foreground")
    assert table.samples[0].target.mask.tolist() == [expected]
    assert "read as background and foreground" in notes(table)


@pytest.mark.parametrize(
    ("name", "text", "classes", "expected"),
    [
        ("classes.txt", "sky\nroad\ncar\n-mud\n", ("sky", "road", "car"), [0, 2, -1, -1]),
        (
            "classes.txt",
            "\ufeffVoid\r\nroad\r\ncar\r\nmud\r\n\r\n",
            ("road", "car", "mud"),
            [-1, 1, 2, -1],
        ),
        (
            "classes.json",
            '["sky", "road", "car", "Unlabelled"]',
            ("sky", "road", "car"),
            [0, 2, -1, -1],
        ),
        (
            "classes.json",
            '{"3": "mud", "0": "sky", "2": "car"}',
            ("sky", "car", "mud"),
            [0, 1, 2, -1],
        ),
        (
            "labelmap.txt",
            "# label:color\nsky:1,2,3::\nroad:4,5,6::\ncar:7,8,9::\nmud:9,9,9::\n",
            ("sky", "road", "car", "mud"),
            [0, 2, 3, -1],
        ),
    ],
)
def test_class_lists(tmp_path, name, text, classes, expected):
    write_pair(tmp_path, "images/1.png", "masks/1.png", [[0, 2, 3, 255]])
    (tmp_path / name).write_text(text, encoding="utf-8")
    table = read_table(tmp_path)
    assert table.classes == classes
    assert table.samples[0].target.mask.tolist() == [expected]
    assert f"255 is not in {name} and is ignored" in notes(table)


@pytest.mark.parametrize(
    ("text", "classes", "expected", "rows"),
    [
        ("membrane\n", ("background", "membrane"), [0, 1], [0, 255]),
        ("rest\nmembrane\n", ("rest", "membrane"), [0, 1], [0, 255]),
        ("rest\nmembrane\n", ("rest", "membrane"), [0, 1, -1], [0, 1, 255]),
    ],
)
def test_names_for_black_and_white(tmp_path, text, classes, expected, rows):
    write_pair(tmp_path, "images/1.png", "masks/1.png", [rows])
    (tmp_path / "classes.txt").write_text(text)
    table = read_table(tmp_path)
    assert (table.classes, table.samples[0].target.mask.tolist()) == (classes, [expected])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "a\na\nb\n", "two classes are called 'a'"),
        ("classes.txt", "\n", "is empty"),
        ("classes.txt", "a\n\nb\n", "has no name"),
        (
            "classes.txt",
            "a\nb\n",
            r"value 2 of the mask is not in .*classes\.txt.*masks/1\.png.*2 names, for the values 0 to 1",
        ),
        ("classes.json", "{nonsense", "cannot be read"),
        ("classes.json", '{"a": 1.5}', "cannot be read"),
        ("labelmap.txt", "sky\n", "name:r,g,b::"),
        ("class_dict.csv", "sky,1,2,3\n", "its first line must be name,r,g,b"),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,300\n", "0 to 255"),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,3\nsea,1,2,3\n", "two classes have the color"),
    ],
)
def test_bad_class_lists_give_the_reason(tmp_path, name, text, message):
    write_pair(tmp_path, "images/1.png", "masks/1.png", [[0, 2]])
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path)


def test_masks_in_color(tmp_path):
    write_image(tmp_path / "images/1.png", 1, 4)
    (tmp_path / "masks").mkdir()
    colors = np.array([[[128, 128, 128], [64, 0, 128], [0, 0, 0], [9, 9, 9]]], dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "masks/1.png")
    with pytest.raises(DataError, match=r"in color.*class_dict\.csv"):
        read_table(tmp_path)
    (tmp_path / "class_dict.csv").write_text(
        "name, r, g, b\nSky, 128, 128, 128\nCar, 64, 0, 128\nVoid, 0, 0, 0\n"
    )
    table = read_table(tmp_path)
    assert table.classes == ("Sky", "Car")
    assert table.samples[0].target.mask.tolist() == [[0, 1, -1, -1]]
    assert (
        "1 color (25.00 % of the pixels in 1 of 1 mask) not in class_dict.csv: ignored ((9, 9, 9) in '1.png'"
        in notes(table)
    )
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\na,128,128,128\nb,1,1,1\n")
    with pytest.raises(DataError, match="not those of the class list"):
        read_table(tmp_path)


def test_a_palette_whose_colors_are_listed_is_read_by_color(tmp_path):
    write_image(tmp_path / "images/1.png", 1, 3)
    write_mask(tmp_path / "masks/1.png", [[0, 1, 2]], palette=True)
    (tmp_path / "labelmap.txt").write_text(
        "b:0,37,74::\na:222,3,40::\nc:111,148,185::\n"
    )  # the colors of 0, 2 and 1
    assert read_table(tmp_path).samples[0].target.mask.tolist() == [[0, 2, 1]]


def test_jpegs_of_black_and_white(tmp_path):
    write_image(tmp_path / "images/1.png", 64, 64)
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 20).astype(np.uint8) * 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(disc).save(tmp_path / "masks/1.jpg", quality=85)
    table = read_table(tmp_path)
    assert (table.samples[0].target.mask == (disc > 0)).mean() > 0.999
    assert "which smear values" in notes(table)


def test_images_that_are_not_masks(tmp_path):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "images/1.png", 64, 64)
    write_mask(tmp_path / "masks/1.png", rng.integers(0, 256, (64, 64)).tolist())
    with pytest.raises(
        DataError, match=r"do not look like class masks.*256 different values in 1 of 1 mask"
    ):
        read_table(tmp_path)
    (tmp_path / "masks/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the masks can be read"):
        read_table(tmp_path)


def test_a_value_beyond_the_sample_is_not_a_class(tmp_path):
    for number in range(300):
        write_pair(
            tmp_path,
            f"images/{number:03d}.png",
            f"masks/{number:03d}.png",
            [[0, 3 if number == 1 else 1]],
        )
    (tmp_path / "masks/002.png").write_bytes(b"no picture")
    table = read_table(tmp_path)
    assert table.classes == ("background", "foreground")
    assert "1 image or its mask cannot be opened" in notes(table)
    with pytest.raises(
        DataError, match=r"the value 3 of the mask is not a class.*masks/001\.png.*classes\.txt"
    ):
        _ = table.samples[1].target.mask
    with pytest.raises(BrokenImage, match=r"masks/002\.png"):
        _ = table.samples[2].target.mask


def test_lists_of_pascal_voc_give_splits(tmp_path):
    for name in ("a", "b"):
        write_pair(
            tmp_path, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", [[0, 15, 255]]
        )
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("b\n")
    table = read_table(tmp_path, "masks")
    assert [sample.split for sample in table.samples] == [None, "val"]
    assert table.samples[0].target.mask.tolist() == [[0, 15, -1]]
    assert "255 is ignored" in notes(table)


# --- configs


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_config(tmp_path):
    write_pair(tmp_path / "data", "frames/1.png", "answers/1_L.png", [[0, 1, 9, 255]])
    path = write(
        tmp_path / "in/my.yml",
        "path: ../data\nimages: frames/*.png\nmasks: answers\nclasses: [a, b]\nignore: [9]\n",
    )
    assert sniff_formats(path) == ["masks"]
    table = read_table(path)
    assert (table.classes, table.format) == (("a", "b"), "masks")
    assert [sample.key.rsplit("/", 2)[-2:] for sample in table.samples] == [["frames", "1.png"]]
    assert table.samples[0].target.mask.tolist() == [[0, 1, -1, -1]]


def test_a_config_with_colors_or_sparse_values(tmp_path):
    write_pair(tmp_path, "frames/1.png", "answers/1.png", [[0, 7]])
    folders = "images: {val: frames}\nmasks: {val: answers}\n"
    assert read_table(write(tmp_path / "c.yaml", folders + "classes: {0: sky, 7: road}\n")).samples[
        0
    ].target.mask.tolist() == [[0, 1]]
    table = read_table(
        write(tmp_path / "c.yaml", folders + "classes: {road: [7, 7, 7], sky: [0, 0, 0]}\n")
    )
    assert (table.classes, table.samples[0].target.mask.tolist()) == (("road", "sky"), [[1, 0]])
    (tmp_path / "classes.txt").write_text("\n".join("abcdefgh"))
    assert read_table(write(tmp_path / "c.yaml", folders)).classes == tuple("abcdefgh")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("images: a\nmask: b\n", UnknownName, "'mask'.*did you mean 'masks'"),
        ("images: a\n", DataError, "no 'masks'"),
        (
            "path: nowhere\nimages: a\nmasks: b\n",
            DataError,
            "path in the config is not a folder.*nowhere",
        ),
        ("images: gone\nmasks: b\n", DataError, "the folder does not exist.*gone"),
        ("images: a/*.gif\nmasks: b\n", DataError, r"there are no images.*\*\.gif"),
        ("images: {trian: a}\nmasks: b\n", DataError, "no split is called 'trian'"),
        ("images: [a]\nmasks: b\n", DataError, "neither a folder nor a pattern"),
        ("images: a\nmasks: b\nclasses: [no, yes]\n", DataError, "put it in quotes"),
        ("images: a\nmasks: b\nclasses: sky\n", DataError, "not a list of names"),
        ("images: a\nmasks: b\nclasses: {a: [1, 2, 3], b: [1, 2, 3]}\n", DataError, "same color"),
        ("images: a\nmasks: b\nclasses: [x]\nignore: 11\n", DataError, "list of values"),
        ("images: a\nmasks: b\nignore: [11]\n", DataError, "requires `classes`"),
        ("- a\n", DataError, "not a mapping"),
        ("a: [\n", DataError, "not plain YAML"),
        ("images: !!python/object:os.system {}\nmasks: b\n", DataError, "not plain YAML"),
    ],
)
def test_bad_configs_give_the_reason(tmp_path, text, error, message):
    write_pair(tmp_path, "a/1.png", "b/1.png", [[0, 1]])
    with pytest.raises(error, match=message):
        Masks().read(write(tmp_path / "c.yaml", text))


def test_a_data_yaml_of_yolo_is_not_a_config(tmp_path):
    for text in (
        "train: images/train\nval: images/val\nnames: [a]\n",
        "names: [a]\nimages: x\n",
        "[1]",
        "a: [",
    ):
        assert not Masks().sniff(write(tmp_path / "data.yaml", text))
    assert Masks().sniff(write(tmp_path / "data.yaml", "images: x\nmask: y\n"))


# --- COCO


def write_coco(root: Path, **changes) -> Path:
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    content = {
        "images": [
            {"id": 1, "file_name": "1.png", "height": 4, "width": 6},
            {"id": 2, "file_name": "2.png", "height": 4, "width": 6},
        ],
        "categories": [
            {"id": 9, "name": "dog"},
            {"id": 3, "name": "cat"},
            {"id": 4, "name": "cow"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 9, "segmentation": square, "area": 4},
            {
                "image_id": 1,
                "category_id": 3,
                "segmentation": {"size": [4, 6], "counts": [0, 24]},
                "area": 24,
                "iscrowd": 1,
            },
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]},
        ],
        **changes,
    }
    write_image(root / "images/1.png")
    write_image(root / "images/2.png")
    return write(root / "annotations/instances_val2017.json", json.dumps(content))


def test_coco_polygons_and_run_lengths(tmp_path):
    path = write_coco(tmp_path)
    table = read_table(tmp_path, "coco_masks")
    assert table.classes == ("background", "cat", "dog")
    assert [(sample.key, sample.split) for sample in table.samples] == [
        ("images/1.png", "val"),
        ("images/2.png", "val"),
    ]
    expected = np.ones((4, 6), dtype=int)
    expected[1:3, 1:3] = 2  # the smaller one on top
    assert pickle.loads(pickle.dumps(table.samples[0])).target.mask.tolist() == expected.tolist()
    assert not table.samples[1].target.mask.any()
    assert "1 object in 'instances_val2017.json' with a box only" in notes(table)
    assert "no object is a 'cow'" in notes(table)
    assert len(read_table(path, "coco_masks").samples) == 2


def test_compressed_run_lengths(tmp_path):
    from foveate.utils.rle import encode_rle

    inside = np.zeros((4, 6), dtype=bool)
    inside[2, 3:] = True
    write_coco(
        tmp_path,
        annotations=[{"image_id": 2, "category_id": 4, "segmentation": encode_rle(inside)}],
    )
    assert (read_table(tmp_path, "coco_masks").samples[1].target.mask == inside).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, "no object has a mask.*--format coco"),
        (
            {
                "annotations": [
                    {"image_id": 1, "category_id": 77, "segmentation": [[0, 0, 1, 0, 1, 1]]}
                ]
            },
            "no category has the id 77.*annotation",
        ),
        (
            {"images": [{"id": 1, "file_name": "1.png", "height": 5, "width": 6}]},
            "it has no 2|not have the size",
        ),
        ({"categories": 7}, "not contain COCO"),
    ],
)
def test_bad_coco_gives_the_reason(tmp_path, changes, message):
    write_coco(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, "coco_masks")


def test_coco_segmentations_that_do_not_fit(tmp_path):
    write_coco(
        tmp_path,
        annotations=[
            {"image_id": 1, "category_id": 4, "segmentation": {"size": [4, 6], "counts": [0, 23]}}
        ],
    )
    with pytest.raises(DataError, match=r"cannot be painted.*images/1\.png"):
        _ = read_table(tmp_path, "coco_masks").samples[0].target.mask


def test_coco_without_its_images(tmp_path):
    path = write_coco(tmp_path)
    (tmp_path / "images/1.png").unlink()
    assert "1 of 2 images of 'instances_val2017.json' are missing and dropped: '1.png'" in notes(
        read_table(path, "coco_masks")
    )
    (tmp_path / "images/2.png").unlink()
    with pytest.raises(DataError, match="do not exist"):
        read_table(path, "coco_masks")


# --- real data


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="no shared/data/camvid")
def test_camvid_by_its_config(tmp_path):
    table = read_table(write(tmp_path / "camvid.yaml", CONFIG.format(path=SHARED / "camvid")))
    assert (
        len(table.in_split("train")),
        len(table.in_split("val")),
        len(table.classes),
        table.notes,
    ) == (
        367,
        101,
        11,
        (),
    )
    counts = np.zeros(12, dtype=int)
    for sample in table.samples[::20]:
        stored = np.asarray(Image.open(sample.target.source.args[0][0]))
        assert (sample.target.mask == np.where(stored == 11, -1, stored.astype(int))).all()
        counts += np.bincount(sample.target.mask.ravel() + 1, minlength=12)
    assert (counts > 0).all()


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="no shared/data/camvid")
def test_camvid_without_a_config():
    assert sniff_formats(SHARED / "camvid") == ["masks"]
    table = read_table(SHARED / "camvid")
    assert len(table.classes) == 12
    assert (
        "the masks hold the values 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 (64 of 468 masks)"
        in notes(table)
    )


@pytest.mark.skipif(not (SHARED / "em_membrane").is_dir(), reason="no shared/data/em_membrane")
def test_real_membranes():
    assert sniff_formats(SHARED / "em_membrane") == ["masks"]
    table = read_table(SHARED / "em_membrane")
    assert (len(table.samples), table.classes) == (30, ("background", "foreground"))
    assert all(set(np.unique(sample.target.mask)) == {0, 1} for sample in table.samples)
    assert (
        0.7 < np.mean([sample.target.mask.mean() for sample in table.samples]) < 0.85
    )  # white is the inside of cells

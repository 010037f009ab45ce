"""Layouts of segmentation data as data sets and tools have them, written as they write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.channel_files import stack_channels
from foveate.data.formats import Fit, read_table, sniff_formats
from foveate.data.image_sources import find_samples_at
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image
from foveate.images.pixels import Rendering
from foveate.predictions import Boxes, Regions
from foveate.utils.rle import decode_rle
from helpers import notes

SIZE = (48, 64)
ROWS, COLUMNS = np.mgrid[: SIZE[0], : SIZE[1]]
SKY, ROAD, CAR = (128, 128, 128), (128, 64, 128), (64, 0, 128)


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, values: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **{options.get("name", "mask"): values})
    else:
        Image.fromarray(values).save(path, **options)
    return path


def disc(row: float, column: float, radius: float) -> np.ndarray:
    return np.hypot(ROWS - row, COLUMNS - column) < radius


def classes_of(seed: int = 0) -> np.ndarray:
    """Classes 0 to 2: sky above a road, on which there is a car."""
    values = np.where(ROWS > 20, 1, 0).astype(np.uint8)
    values[30:40, 10 + seed : 26 + seed] = 2
    return values


def objects_of(count: int) -> np.ndarray:
    """Discs that are numbered from 1."""
    values = np.zeros(SIZE, np.uint16)
    for number in range(count):
        row, column = divmod(number, 6)
        values[disc(6 + 11 * row, 6 + 10 * column, 4)] = number + 1
    return values


def in_color(values: np.ndarray, colors: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(colors, dtype=np.uint8)[values]


def binary(seed: int = 0) -> np.ndarray:
    return disc(24, 30 + seed, 12).astype(np.uint8) * 255


def antialiased(values: np.ndarray) -> np.ndarray:
    """A mask as an editor exports it: scaled down from twice its size."""
    image = Image.fromarray(values).resize((SIZE[1] * 2, SIZE[0] * 2), Image.Resampling.NEAREST)
    turned = image.rotate(3, fillcolor=0)
    return np.asarray(turned.resize((SIZE[1], SIZE[0]), Image.Resampling.BOX))


# --- names of data sets

LAYOUTS = {
    "isic_2018": (
        "ISIC2018_Task1-2_Training_Input/ISIC_000000{}.jpg",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_000000{}_segmentation.png",
        "train",
    ),
    "isic_2017": (
        "ISIC-2017_Training_Data/ISIC_000000{}.jpg",
        "ISIC-2017_Training_Part1_GroundTruth/ISIC_000000{}_segmentation.png",
        "train",
    ),
    "drive": (
        "DRIVE/training/images/2{}_training.tif",
        "DRIVE/training/1st_manual/2{}_manual1.gif",
        "train",
    ),
    "chase": ("Image_0{}L.jpg", "Image_0{}L_1stHO.png", None),
    "hrf": ("images/0{}_dr.JPG", "manual1/0{}_dr.tif", None),
    "camvid_of_cambridge": (
        "701_StillsRaw_full/0001TP_00{}.png",
        "LabeledApproved_full/0001TP_00{}_L.png",
        None,
    ),
    "kvasir": ("Kvasir-SEG/images/cju{}.jpg", "Kvasir-SEG/masks/cju{}.jpg", None),
    "carvana": ("train/00087a_0{}.jpg", "train_masks/00087a_0{}_mask.gif", "train"),
    "deepglobe": ("train/10{}_sat.jpg", "train/10{}_mask.png", "train"),
    "cellpose_test_data": ("train/00{}_img.png", "train/00{}_masks.png", "train"),
    "lgg": ("TCGA_CS_4941/TCGA_{}.tif", "TCGA_CS_4941/TCGA_{}_mask.tif", None),
    "ade20k": (
        "images/training/ADE_train_{}.jpg",
        "annotations/training/ADE_train_{}.png",
        "train",
    ),
    "cvat_camvid": ("default/frame_{}.png", "defaultannot/frame_{}.png", None),
    "folder_a_case": ("case_{}/images/slice.png", "case_{}/masks/slice.png", None),
    "trainval_folders": ("Task/imagery/a{}.png", "Task/outlines/a{}_segmentation.png", None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_data_sets(tmp_path, name):
    image, mask, split = LAYOUTS[name]
    for number in range(1, 5):
        write_photo(tmp_path / image.format(number), number)
        write_mask(tmp_path / mask.format(number), binary(number))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("masks", ("background", "foreground"))
    assert [sample.key for sample in table.samples] == [image.format(n) for n in range(1, 5)]
    assert {sample.split for sample in table.samples} == {split}
    for number, sample in enumerate(table.samples, start=1):
        assert ((sample.target.mask == 1) == (binary(number) > 0)).mean() > 0.99


def test_superpixels_of_isic_are_no_images(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"ISIC-2017_Training_Data/ISIC_{number}.jpg", number)
        write_photo(tmp_path / f"ISIC-2017_Training_Data/ISIC_{number}_superpixels.png", number)
        write_mask(
            tmp_path / f"ISIC-2017_Training_Part1_GroundTruth/ISIC_{number}_segmentation.png",
            binary(),
        )
    table = read_table(tmp_path)
    assert [sample.key[-10:] for sample in table.samples] == [f"ISIC_{n}.jpg" for n in range(3)]
    assert "images without a mask, dropped: 3" in notes(table)


@pytest.mark.parametrize(
    ("drawn", "root"), [("1st_manual/0{}_manual1.gif", "DRIVE/test"), ("manual1/0{}.tif", "HRF")]
)
def test_the_field_of_view_is_no_class(tmp_path, drawn, root):
    for number in range(1, 4):
        write_photo(tmp_path / root / f"images/0{number}.tif", number)
        write_mask(tmp_path / root / drawn.format(number), binary(number))
        write_mask(
            tmp_path / root / f"2nd_manual/0{number}_manual2.gif", np.full(SIZE, 255, np.uint8)
        )
        write_mask(tmp_path / root / f"mask/0{number}_mask.gif", np.full(SIZE, 255, np.uint8))
    table = read_table(tmp_path)
    assert len(table.samples) == 3
    assert all(
        ((s.target.mask == 1) == (binary(n) > 0)).all() for n, s in enumerate(table.samples, 1)
    )
    assert "mask: not read, because masks that people drew lie beside it" in notes(table)


def test_trimaps_of_oxford_pets_are_no_class_called_trimaps(tmp_path):
    trimap = np.full(SIZE, 2, np.uint8)
    trimap[disc(24, 30, 14)] = 3
    trimap[disc(24, 30, 12)] = 1
    for number in range(3):
        write_photo(tmp_path / f"images/Abyssinian_{number}.jpg", number)
        write_mask(tmp_path / f"annotations/trimaps/Abyssinian_{number}.png", trimap)
        write_mask(tmp_path / f"annotations/trimaps/._Abyssinian_{number}.png", trimap)
    (tmp_path / "annotations/trainval.txt").write_text("Abyssinian_0 1 1 1\nAbyssinian_1 1 1 1\n")
    (tmp_path / "annotations/test.txt").write_text("Abyssinian_2 1 1 1\n")
    table = read_table(tmp_path)
    assert table.classes == ("foreground", "background")
    assert [sample.split for sample in table.samples] == ["train", "train", "test"]
    assert table.samples[0].target.mask[24, [30, 17, 0]].tolist() == [0, -1, 1]


def test_folders_of_other_forms_of_the_masks_are_no_classes(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/index/{number}.png", classes_of())
        write_mask(tmp_path / f"masks/color/{number}.png", in_color(classes_of(), [SKY, ROAD, CAR]))
    with pytest.raises(
        DataError, match=r"not black and white.*colors; the folders are: color, index.*masks/FOLDER"
    ):
        read_table(tmp_path)


def write_cityscapes(root: Path) -> Path:
    for number in range(3):
        name = f"aachen_00000{number}_000019"
        write_photo(root / f"leftImg8bit/train/aachen/{name}_leftImg8bit.png", number)
        labels, ids = np.where(ROWS > 20, 7, 23).astype(np.uint8), np.zeros(SIZE, np.uint16)
        labels[30:40, 5:15], labels[30:40, 20:40], labels[40:, 40:] = 26, 26, 3
        ids[:] = labels
        ids[30:40, 5:15], ids[30:40, 20:40] = 26000, 26001
        folder = root / "gtFine/train/aachen"
        write_mask(folder / f"{name}_gtFine_labelIds.png", labels)
        write_mask(
            folder / f"{name}_gtFine_labelTrainIds.png",
            np.where(labels == 7, 0, 255).astype(np.uint8),
        )
        write_mask(folder / f"{name}_gtFine_instanceIds.png", ids)
        write_mask(
            folder / f"{name}_gtFine_color.png",
            in_color((labels % 3).astype(int), [SKY, ROAD, CAR]),
        )
        (folder / f"{name}_gtFine_polygons.json").write_text('{"objects": []}')
    return root


def test_cityscapes_has_the_names_of_its_classes(tmp_path):
    table = read_table(write_cityscapes(tmp_path))
    assert (table.format, len(table.classes), len(table.in_split("train"))) == ("masks", 19, 3)
    mask = table.samples[0].target.mask
    named = [table.classes[mask[row, column]] for row, column in ((0, 0), (25, 0), (35, 10))]
    assert named == ["sky", "road", "car"]
    assert mask[45, 50] == -1
    assert "several masks" not in notes(table)


def test_objects_of_cityscapes(tmp_path):
    table = read_table(write_cityscapes(tmp_path), accepted=(Boxes,))
    assert table.format == "instance_masks"
    assert table.samples[0].target.names == ("car", "car")
    assert table.samples[0].target.xyxy.tolist() == [[5, 30, 15, 40], [20, 30, 40, 40]]
    assert "groups of objects whose members are not told apart" in notes(table)


def test_classes_of_ade20k_have_names(tmp_path):
    header = "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    rows = "".join(f"{n}\t0.1\t10\t1\t1\tthing{n}, other name\n" for n in range(1, 151))
    (tmp_path / "objectInfo150.txt").write_text(header + rows)
    for number in range(3):
        write_photo(tmp_path / f"images/validation/ADE_val_{number}.jpg", number)
        values = (ROWS * SIZE[1] + COLUMNS) // 20 % 151
        write_mask(
            tmp_path / f"annotations/validation/ADE_val_{number}.png", values.astype(np.uint8)
        )
    table = read_table(tmp_path)
    assert (len(table.classes), table.classes[2]) == (150, "thing3")
    assert table.samples[0].target.mask[0, [0, 20, 40]].tolist() == [-1, 0, 1]


# --- colors

LISTS = {
    "class_dict.csv": "name,r,g,b\nSky,128,128,128\nRoad,128,64,128\nCar,64,0,128\n",
    "class_dict_seg.csv": "name, r, g, b\nSky, 128, 128, 128\nRoad, 128, 64, 128\nCar, 64, 0, 128\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nSky:128,128,128::\nRoad:128,64,128::\nCar:64,0,128::\n",
    "label_colors.txt": "128 128 128\tSky\n128 64 128\tRoad\n64 0 128\tCar\n",
    "colors.csv": "class;hex\nSky;#808080\nRoad;#804080\nCar;#400080\n",
    "classes.csv": "id,name,red,green,blue\n7,Sky,128,128,128\n8,Road,128,64,128\n9,Car,64,0,128\n",
    "legend.json": '[{"label": "Sky", "color": "#808080"}, {"label": "Road", "color": "rgb(128, 64, 128)"},'
    ' {"label": "Car", "color": [64, 0, 128]}]',
    "label_map.json": '{"Sky": [128, 128, 128], "Road": [128, 64, 128], "Car": [64, 0, 128]}',
    "classes.json": '{"#808080": "Sky", "#804080": "Road", "#400080": "Car"}',
    "config.json": json.dumps(
        {
            "labels": [
                {
                    "color": SKY,
                    "instances": False,
                    "readable": "Sky",
                    "name": "nature--sky",
                    "evaluate": True,
                },
                {
                    "color": ROAD,
                    "instances": False,
                    "readable": "Road",
                    "name": "flat--road",
                    "evaluate": True,
                },
                {
                    "color": CAR,
                    "instances": True,
                    "readable": "Car",
                    "name": "object--car",
                    "evaluate": True,
                },
                {
                    "color": [0, 0, 0],
                    "readable": "Ego Vehicle",
                    "name": "void--ego",
                    "evaluate": False,
                },
            ],
            "version": 1.1,
        }
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_colors(tmp_path, name):
    for number in range(3):
        write_photo(tmp_path / f"train/{number}.png", number)
        write_mask(
            tmp_path / f"train_labels/{number}.png", in_color(classes_of(number), [SKY, ROAD, CAR])
        )
    (tmp_path / name).write_text(LISTS[name])
    table = read_table(tmp_path)
    assert table.classes == ("Sky", "Road", "Car")
    assert all((s.target.mask == classes_of(n)).all() for n, s in enumerate(table.samples))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_names.txt", "sky\nroad\ncar\n"),
        ("labels.txt", "0: sky\n1: road\n2: car\n"),
        ("classes.json", '{"sky": 0, "road": 1, "car": 2}'),
        ("class_map.json", '{"0": "sky", "1": "road", "2": "car"}'),
    ],
)
def test_lists_of_names(tmp_path, name, text):
    write_photo(tmp_path / "images/1.png")
    write_mask(tmp_path / "masks/1.png", classes_of())
    (tmp_path / name).write_text(text)
    assert read_table(tmp_path).classes == ("sky", "road", "car")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "images/1.png 3\n"),
        ("config.json", '{"lr": 1, "epochs": 5}'),
        ("labels.csv", "image,label\n1.png,cat\n"),
        ("colors.txt", "#808080\n"),
        ("labels.json", "[1, 2]"),
    ],
)
def test_other_files_of_these_names_are_passed_over(tmp_path, name, text):
    write_photo(tmp_path / "images/1.png")
    write_mask(tmp_path / "masks/1.png", classes_of())
    (tmp_path / name).write_text(text)
    assert read_table(tmp_path, "masks").classes == ("class 0", "class 1", "class 2")


def test_colors_without_a_list_are_refused_with_a_list_to_fill_in(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}.png", in_color(classes_of(), [SKY, ROAD, CAR]))
    with pytest.raises(DataError, match="the masks are in color") as caught:
        read_table(tmp_path)
    assert (
        "3 of 3 masks hold 3 colors: (128, 64, 128) 51.0 %, (128, 128, 128) 43.8 %"
        in caught.value.why
    )
    lines = caught.value.hint.partition("\n")[2]
    assert lines == "name,r,g,b\nclass0,128,64,128\nclass1,128,128,128\nclass2,64,0,128"
    (tmp_path / "class_dict.csv").write_text(lines)
    table = read_table(tmp_path)
    assert table.samples[0].target.mask[[0, 47, 35], [0, 0, 15]].tolist() == [1, 0, 2]


def test_black_and_one_color(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(
            tmp_path / f"masks/{number}.png",
            in_color(binary(number) // 255, [(0, 0, 0), (255, 0, 0)]),
        )
    table = read_table(tmp_path)
    assert table.classes == ("background", "foreground")
    assert "the masks hold black and (255, 0, 0) (3 of 3 masks)" in notes(table)
    assert ((table.samples[2].target.mask == 1) == (binary(2) > 0)).all()


def test_pictures_in_the_folder_of_masks_are_refused(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_photo(tmp_path / f"masks/{number}.png", number + 9)
    with pytest.raises(
        DataError, match=r"do not look like class masks.*9\d+ different colors in 3 of 3"
    ):
        read_table(tmp_path)


# --- smeared masks


def test_jpegs_of_three_grays_have_no_false_class_along_edges(tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[8:24, 8:24], values[26:42, 30:56] = 255, 128
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.jpg", number)
        write_mask(tmp_path / f"masks/{number}.jpg", values, quality=75)
    table = read_table(tmp_path)
    assert len(table.classes) == 3
    truth = np.searchsorted([0, 128, 255], values)
    mask = table.samples[0].target.mask
    assert (mask == truth).mean() > 0.98
    around = np.zeros(SIZE, bool)
    around[4:28, 4:28] = True  # the white square: no gray along its border
    assert not (mask[around] == 1).any()
    assert "the masks are JPEGs, which smear values:" in notes(table)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_smoothed_black_and_white(tmp_path, suffix):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}{suffix}", antialiased(binary(number)))
    table = read_table(tmp_path)
    assert table.classes == ("background", "foreground")
    smooth = antialiased(binary(1))
    wrong = (table.samples[1].target.mask == 1) != (smooth > 127)
    assert wrong.mean() < 0.005
    assert "% of the pixels in 3 of 3 masks lie between 0, 255" in notes(table)


def test_jpegs_of_class_numbers_are_refused(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}.jpg", classes_of() * 3)
    with pytest.raises(
        DataError, match=r"JPEGs, and their classes cannot be told apart.*save them as PNG"
    ):
        read_table(tmp_path)


def test_jpegs_in_color_with_a_list(tmp_path):
    values = np.kron(classes_of(), np.ones((4, 4), int))
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.jpg", number, values.shape)
        write_mask(tmp_path / f"masks/{number}.jpg", in_color(values, [SKY, ROAD, CAR]), quality=90)
    (tmp_path / "class_dict.csv").write_text(LISTS["class_dict.csv"])
    table = read_table(tmp_path)
    assert (table.samples[0].target.mask == values).mean() > 0.98
    assert "are read as the nearest" in notes(table)


def test_an_area_of_another_gray_in_a_later_mask_is_no_class(tmp_path):
    for number in range(130):
        write_photo(tmp_path / f"images/{number:03d}.png", 0)
        mask = antialiased(binary(number % 9))
        if number == 1:
            mask = mask.copy()
            mask[:8, :8] = 90
        write_mask(tmp_path / f"masks/{number:03d}.png", mask)
    table = read_table(tmp_path)
    with pytest.raises(DataError, match=r"the value 90 of the mask is not a class.*masks/001\.png"):
        _ = table.samples[1].target.mask


def test_a_photograph_in_jpeg_is_no_mask(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.jpg", number)
        gray = (ROWS * 2 + COLUMNS * 2 + number).astype(np.uint8)
        write_mask(tmp_path / f"masks/{number}.jpg", gray)
    with pytest.raises(DataError, match="cannot be told apart"):
        read_table(tmp_path)


# --- numbered objects


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.tif", "masks/{}.tif"),  # StarDist
        ("{}.png", "{}_cp_masks.png"),  # Cellpose
        ("train/{}_img.png", "train/{}_masks.png"),
    ],
)
def test_numbers_of_objects_are_no_classes(tmp_path, image, mask):
    for number in range(4):
        write_photo(tmp_path / image.format(number), number)
        write_mask(tmp_path / mask.format(number), objects_of(9 + number))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("instance_masks", ("object",))
    assert [len(sample.target.names) for sample in table.samples] == [9, 10, 11, 12]
    boxes = table.samples[0].target
    assert boxes.xyxy[0].tolist() == [3, 3, 10, 10]
    assert (decode_rle(boxes.masks[1]) == (objects_of(9) == 2)).all()
    regions = read_table(tmp_path, accepted=(Regions,))
    assert (regions.format, regions.classes) == ("masks", ("background", "object"))
    assert (regions.samples[0].target.mask == (objects_of(9) > 0)).all()
    assert "number objects (up to 12 in an image)" in notes(regions)
    (tmp_path / "classes.txt").write_text("nucleus\n")
    assert read_table(tmp_path).classes == ("nucleus",)


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: ROWS * 2 + COLUMNS * 2 + n,  # a gradient: bands in one piece
        lambda n: np.hypot(ROWS, COLUMNS + n) * 700,  # depth in 16 bits
        lambda n: np.where(objects_of(12 + n) > 3, objects_of(12 + n) + n, 0),  # parts of a face
    ],
)
def test_what_does_not_number_objects(tmp_path, draw):
    for number in range(4):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}.png", draw(number).astype(np.uint16))
    assert "instance_masks" not in sniff_formats(tmp_path)


def test_numbers_beyond_a_byte_are_objects(tmp_path):
    """Tiles of a large image, whose numbers go on."""
    for number in range(4):
        write_photo(tmp_path / f"images/{number}.png", number)
        objects = objects_of(3).astype(np.uint16)
        write_mask(
            tmp_path / f"masks/{number}.png",
            np.where(objects > 0, objects + 997 * number, 0).astype(np.uint16),
        )
    assert [len(s.target.names) for s in read_table(tmp_path).samples] == [3] * 4


def test_few_numbers_may_be_classes_or_objects(tmp_path):
    for number in range(4):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}.png", objects_of(2 + number).astype(np.uint8))
    with pytest.raises(DataError, match="in several ways") as caught:
        read_table(tmp_path)
    assert "the values may number objects, up to 5" in caught.value.why
    assert "the values, at most 5, may be classes" in caught.value.why
    assert len(read_table(tmp_path, "masks").classes) == 6
    assert read_table(tmp_path, "instance_masks").classes == ("object",)
    (tmp_path / "classes.txt").write_text("rest\na\nb\nc\nd\ne\n")
    assert read_table(tmp_path).classes == ("rest", "a", "b", "c", "d", "e")


def test_classes_are_not_taken_for_objects(tmp_path):
    for number in range(6):
        write_photo(tmp_path / f"images/{number}.png", number)
        values = (ROWS // 6 + COLUMNS // 8 * 3 + number) % 10
        write_mask(tmp_path / f"masks/{number}.png", values.astype(np.uint8))
    assert sniff_formats(tmp_path)["masks"].fit == Fit.STATED
    assert len(read_table(tmp_path).classes) == 10
    with pytest.raises(DataError, match=r"do not number objects.*--format masks"):
        read_table(tmp_path, "instance_masks")


def write_nuclei(root: Path) -> Path:
    """As the Data Science Bowl of 2018 had them."""
    for case in ("00ae65c1", "0bf4b144", "1a11552a"):
        write_photo(root / f"stage1_train/{case}/images/{case}.png", len(case))
        for number in range(1, 5):
            mask = (objects_of(6) == number).astype(np.uint8) * 255
            write_mask(root / f"stage1_train/{case}/masks/{case[::-1]}{number}.png", mask)
    write_photo(root / "stage1_test/0f1f896d/images/0f1f896d.png")
    return root


@pytest.mark.parametrize("below", ["", "stage1_train"])
def test_a_mask_for_each_nucleus(tmp_path, below):
    folder = write_nuclei(tmp_path) / below
    table = read_table(folder)
    assert (table.format, table.classes, len(table.samples)) == ("instance_masks", ("object",), 3)
    assert (
        table.samples[0].key
        == f"{below and ''}{'' if below else 'stage1_train/'}00ae65c1/images/00ae65c1.png"
    )
    assert [len(sample.target.names) for sample in table.samples] == [4, 4, 4]
    assert table.samples[0].target.xyxy[1].tolist() == [13, 3, 20, 10]
    regions = read_table(folder, accepted=(Regions,))
    assert (regions.samples[0].target.mask == np.isin(objects_of(6), [1, 2, 3, 4])).all()


def test_masks_of_objects_of_another_size_and_broken_ones(tmp_path):
    write_nuclei(tmp_path)
    (tmp_path / "stage1_train/00ae65c1/masks/1c56ea001.png").write_bytes(b"no picture")
    table = read_table(tmp_path)
    assert len(table.samples) == 2
    assert "masks that cannot be read, dropped with their images: 1" in notes(table)
    write_photo(tmp_path / "stage1_train/0bf4b144/images/0bf4b144.png", size=(20, 20))
    with pytest.raises(DataError, match="does not have the size of its image"):
        read_table(tmp_path)


# --- arrays and layers


def one_hot(values: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.uint8)[values]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda values: values, 3),
        (lambda values: values.astype(float), 3),
        (lambda values: one_hot(values), 3),
        (lambda values: np.moveaxis(one_hot(values), -1, 0).astype(bool), 3),
        (lambda values: one_hot(values)[..., 1:] * 255, 3),
    ],
)
def test_arrays(tmp_path, suffix, change, count):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}{suffix}", change(classes_of(number)))
    table = read_table(tmp_path)
    assert len(table.classes) == count
    assert all((s.target.mask == classes_of(n)).all() for n, s in enumerate(table.samples))


def test_layers_with_names_that_overlap(tmp_path):
    layers = np.stack([disc(24, 20, 10), disc(24, 30, 10)])
    for number in range(3):
        write_photo(tmp_path / f"{number}.jpg", number)
        write_mask(tmp_path / f"{number}_mask.npy", layers)
    (tmp_path / "classes.txt").write_text("left\nright\n")
    table = read_table(tmp_path)
    assert table.classes == ("background", "left", "right")
    assert table.samples[0].target.mask[24, [12, 25, 38, 60]].tolist() == [1, 2, 2, 0]
    assert "are in several layers: the last one counts" in notes(table)
    (tmp_path / "classes.txt").write_text("left\n")
    with pytest.raises(
        DataError, match=r"another number of layers.*has 2 layers, the list has 1 name"
    ):
        read_table(tmp_path)


def test_pages_of_a_tiff_are_layers(tmp_path):
    pages = [Image.fromarray((classes_of() == value).astype(np.uint8) * 255) for value in (1, 2)]
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.tif", number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        pages[0].save(tmp_path / f"masks/{number}.tif", save_all=True, append_images=pages[1:])
    table = read_table(tmp_path)
    assert table.classes == ("background", "class 0", "class 1")
    assert (table.samples[0].target.mask == classes_of()).all()


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        (
            "x.npy",
            lambda p: np.save(p, {"masks": 1}, allow_pickle=True),
            "Python objects.*Save masks as PNG",
        ),
        ("x.npy", lambda p: np.save(p, np.full(SIZE, 0.5)), "fractions"),
        ("x.npy", lambda p: np.save(p, np.zeros((2, *SIZE, 3))), r"its shape is \(2, 48, 64, 3\)"),
        (
            "x.npy",
            lambda p: np.save(p, np.arange(48 * 64 * 3).reshape(48, 64, 3)),
            "more than two values",
        ),
        ("x.npy", lambda p: p.write_bytes(b"nonsense"), "not a mask"),
        (
            "x.npz",
            lambda p: np.savez(p, image=np.zeros(SIZE), label=np.zeros(SIZE)),
            "several arrays.*image, label",
        ),
        ("x.npz", lambda p: p.write_bytes(b"PK\x03\x04"), "not a mask"),
    ],
)
def test_bad_arrays(tmp_path, name, save, message):
    write_photo(tmp_path / "images/x.png")
    (tmp_path / "masks").mkdir()
    save(tmp_path / "masks" / name)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path)


def test_arrays_beyond_the_sample_that_differ(tmp_path):
    for number in range(130):
        write_photo(tmp_path / f"images/{number:03d}.png", 0)
        mask = one_hot(classes_of())
        mask = {1: mask[..., :2], 3: np.zeros_like(mask)}.get(number, mask)
        write_mask(tmp_path / f"masks/{number:03d}.npy", mask)
    table = read_table(tmp_path)
    with pytest.raises(DataError, match="it has 2, others have 3"):
        _ = table.samples[1].target.mask
    with pytest.raises(DataError, match="in none of its layers"):
        _ = table.samples[3].target.mask


def test_sizes_of_arrays_are_compared(tmp_path):
    write_photo(tmp_path / "images/x.png", size=(20, 30))
    write_mask(tmp_path / "masks/x.npy", one_hot(classes_of()))
    with pytest.raises(DataError, match=r"64 x 48 px, the image 'x\.png' has 30 x 20 px"):
        read_table(tmp_path)


# --- nnU-Net


def write_nnunet(root: Path, channels: int = 1, **changes) -> Path:
    """Two dimensions, as its example of road segmentation."""
    content = {
        "channel_names": {str(n): name for n, name in enumerate(("T2", "ADC", "DWI")[:channels])},
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 4,
        "file_ending": ".png",
        **changes,
    }
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    for number in range(4):
        for channel in range(channels):
            write_photo(root / f"imagesTr/prostate_{number:03d}_{channel:04d}.png", number)
        write_mask(root / f"labelsTr/prostate_{number:03d}.png", classes_of(number))
    write_photo(root / "imagesTs/prostate_100_0000.png")
    return root


def test_nnunet(tmp_path):
    folds = [
        {"train": ["prostate_000", "prostate_001", "prostate_002"], "val": ["prostate_003"]}
    ] * 5
    write_nnunet(tmp_path, channels=2)
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("nnunet", ("background", "PZ", "TZ"))
    assert [sample.split for sample in table.samples] == ["train"] * 3 + ["val"]
    assert table.samples[2].key == "imagesTr/prostate_002_0000.png"
    assert (table.samples[2].target.mask == classes_of(2)).all()
    text = notes(table)
    assert "the channels of each image are its bands: 'T2', 'ADC'; of these the network" in text
    assert "sees 'T2', or others with data.bands=[1,2]" in text
    assert "the first of 5 folds in splits_final.json" in text
    assert "images without a label file, dropped: 1 ('imagesTs/prostate_100_0000.png')" in text


def test_channels_of_nnunet_are_bands(tmp_path):
    """By default the first three, or the first of two; data.bands chooses others."""
    for count in (2, 3):
        write_nnunet(tmp_path / f"{count}", channels=count)
        files = [tmp_path / f"{count}/imagesTr/prostate_001_{n:04d}.png" for n in range(count)]
        for number, file in enumerate(files):
            Image.fromarray(np.full(SIZE, 50 * number + 7, np.uint8)).save(file)
        sample = read_table(tmp_path / f"{count}").samples[1]
        pixels, size = read_image(sample.source)
        assert size == SIZE
        assert pixels[0, 0].tolist() == ([7, 57, 107] if count == 3 else [7, 7, 7])
        last = read_image(sample.source, rendering=Rendering(bands=(count,)))[0]
        assert (last == 50 * (count - 1) + 7).all()
    both = read_image(sample.source, rendering=Rendering(bands=(3, 1)))[0]
    assert both[0, 0].tolist() == [107, 7]


def test_channels_of_nnunet_that_are_no_bands(tmp_path):
    write_nnunet(tmp_path / "some", channels=2)
    (tmp_path / "some/imagesTr/prostate_002_0001.png").unlink()
    table = read_table(tmp_path / "some")
    assert "of each image only the channel 'T2' is read" in notes(table)
    assert all(isinstance(sample.path, Path) for sample in table.samples)
    write_nnunet(tmp_path / "sizes", channels=2)
    write_photo(tmp_path / "sizes/imagesTr/prostate_000_0001.png", size=(9, 9))
    sample = read_table(tmp_path / "sizes").samples[0]
    with pytest.raises(BrokenImage, match=r"channels of this image differ in size.*9 x 9 px"):
        _ = sample.source


@pytest.mark.parametrize(
    ("labels", "classes", "expected", "lost"),
    [
        ({"0": "background", "1": "PZ", "2": "TZ"}, ("background", "PZ", "TZ"), [0, 1, 2], None),
        ({"background": 0, "PZ": 1, "ignore": 2}, ("background", "PZ"), [0, 1, -1], None),
        (
            {"background": 0, "whole": [1, 2], "core": 2},
            ("background", "whole", "core"),
            [0, 1, 2],
            0,
        ),
        (
            {"background": 0, "whole": [1, 2], "a": [1], "b": [2]},
            ("background", "a", "b"),
            [0, 1, 2],
            1,
        ),
    ],
)
def test_labels_of_nnunet(tmp_path, labels, classes, expected, lost):
    table = read_table(write_nnunet(tmp_path, labels=labels))
    assert table.classes == classes
    assert table.samples[0].target.mask[[0, 25, 35], [0, 0, 15]].tolist() == expected
    assert (f"{lost} region" in notes(table)) == (lost is not None)


def test_what_nnunet_cannot_be_read(tmp_path):
    for name in ("labels", "values", "json", "size", "folds", "volumes"):
        write_nnunet(tmp_path / name)
    write_nnunet(tmp_path / "labels", labels=["PZ"])
    write_nnunet(tmp_path / "values", labels={"background": 0, "PZ": 1})
    (tmp_path / "json/dataset.json").write_text("{")
    write_photo(tmp_path / "size/imagesTr/prostate_000_0000.png", size=(9, 9))
    (tmp_path / "folds/splits_final.json").write_text('[{"train": []}]')
    write_nnunet(tmp_path / "volumes", file_ending=".mha")
    for name, message in {
        "labels": r"its labels are \['PZ'\]",
        "json": "not valid JSON",
        "size": "does not have the size of its image",
        "folds": "KeyError: 'val'",
        "volumes": "volumes that cannot be read.*save them as NIfTI",
    }.items():
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / name)
    with pytest.raises(DataError, match=r"the value 2 of the mask is not a class.*dataset\.json"):
        _ = read_table(tmp_path / "values").samples[0].target.mask


def write_volumes(root: Path, **changes) -> Path:
    """Two cases of 5 slices, stored in other axes than viewers show."""
    nibabel = pytest.importorskip("nibabel")
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "heart"}}
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    for case in ("la_003", "la_004"):
        label = np.zeros((5, *SIZE), np.uint8)
        label[2, 10:20, 30:50] = 1
        volume = label * 200.0 + np.random.default_rng(0).normal(50, 5, label.shape)
        for name, values in ((f"imagesTr/{case}_0000", volume), (f"labelsTr/{case}", label)):
            # stored as (anterior, left, superior): rows and columns of a picture are turned
            stored = nibabel.Nifti1Image(np.moveaxis(values, 0, -1)[::-1], _AXES)
            nibabel.save(stored, root / f"{name}.nii.gz")
    return root


_AXES = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])


def test_slices_of_nnunets_volumes(tmp_path):
    table = read_table(write_volumes(tmp_path))
    assert (table.format, table.classes, len(table.samples)) == (
        "nnunet",
        ("background", "heart"),
        10,
    )
    sample = table.samples[2]
    assert (sample.key, sample.group) == (
        "imagesTr/la_003_0000.nii.gz#0002",
        "imagesTr/la_003_0000.nii.gz",
    )
    mask, pixels = sample.target.mask, read_image(sample.source)[0][..., 0]
    assert mask.shape == pixels.shape == SIZE
    assert mask.sum() == 200
    assert pixels[mask == 1].min() > pixels[mask == 0].max()  # the labels lie on the image
    assert not table.samples[0].target.mask.any()
    assert "2 ('imagesTr/la_003_0000.nii.gz', 'imagesTr/la_004_0000.nii.gz')" in notes(table)


def test_channels_of_nnunets_volumes_are_bands(tmp_path):
    write_volumes(tmp_path)
    for case in ("la_003", "la_004"):
        shutil.copy(tmp_path / f"labelsTr/{case}.nii.gz", tmp_path / f"imagesTr/{case}_0001.nii.gz")
    table = read_table(tmp_path)
    assert len(table.samples) == 10
    sample = table.samples[2]
    assert sample.key == "imagesTr/la_003_0000.nii.gz#0002"
    bands = read_image(sample.source, rendering=Rendering(bands=(1, 2)))[0]
    assert bands.shape == (*SIZE, 2)
    assert ((bands[..., 1] == 255) == (sample.target.mask == 1)).all()
    files = sorted((tmp_path / "imagesTr").iterdir())
    joined = stack_channels(find_samples_at(files))
    assert [each.key.rpartition("/")[2] for each in joined[:2]] == [
        "la_003_0000.nii.gz#0000",
        "la_003_0000.nii.gz#0001",
    ]
    assert (read_image(joined[2].source)[0] == read_image(sample.source)[0]).all()


def test_volumes_beside_volumes_of_labels(tmp_path):
    write_volumes(tmp_path)
    (tmp_path / "imagesTr").rename(tmp_path / "images")
    (tmp_path / "labelsTr").rename(tmp_path / "labels")
    (tmp_path / "dataset.json").unlink()
    for file in list((tmp_path / "images").iterdir()):
        file.rename(str(file).replace("_0000", ""))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("masks", ("background", "foreground"))
    assert len(table.samples) == 10
    sample = table.samples[7]
    assert (sample.key, sample.group) == ("images/la_004.nii.gz#0002", "images/la_004.nii.gz")
    assert [each.target.mask.sum() for each in table.samples[5:]] == [0, 0, 200, 0, 0]


def test_volumes_that_do_not_fit(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    write_volumes(tmp_path)
    (tmp_path / "imagesTr/la_003_0000.nii.gz").write_bytes(b"nonsense")
    table = read_table(tmp_path)
    assert len(table.samples) == 5
    assert "volumes that cannot be read, dropped: 1" in notes(table)
    label = tmp_path / "labelsTr/la_004.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((*SIZE, 5), 0.5), np.eye(4)), label)
    with pytest.raises(DataError, match=r"label volume does not have the size.*\(5, 64, 48\)"):
        read_table(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.full((*SIZE, 5), 0.5), _AXES), label)
    with pytest.raises(BrokenImage, match="fractions"):
        _ = read_table(tmp_path).samples[0].target.mask


# --- COCO panoptic


def write_panoptic(root: Path, **changes) -> Path:
    """Two cars and a crowd of people on a road; ids as COCO's converter makes them from colors."""
    ids = np.where(ROWS > 20, 8922372, 0)  # above nothing is annotated
    ids[30:40, 5:15], ids[30:40, 20:40], ids[25:28] = 3226956, 6979964, 5
    segments = [
        {"id": 8922372, "category_id": 149, "area": 1, "bbox": [0, 21, 64, 27], "iscrowd": 0},
        {"id": 3226956, "category_id": 3, "area": 100, "bbox": [5, 30, 10, 10], "iscrowd": 0},
        {"id": 6979964, "category_id": 3, "area": 200, "bbox": [20, 30, 20, 10], "iscrowd": 0},
        {"id": 5, "category_id": 1, "area": 192, "bbox": [0, 25, 64, 3], "iscrowd": 1},
    ]
    for number in range(3):
        write_photo(root / f"val2017/00000000{number}.jpg", number)
        colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        write_mask(root / f"annotations/panoptic_val2017/00000000{number}.png", colors)
    content = {
        "info": {"description": "COCO 2018 Panoptic Dataset"},
        "licenses": [],
        "images": [
            {"id": n, "file_name": f"00000000{n}.jpg", "height": 48, "width": 64} for n in range(3)
        ],
        "annotations": [
            {"segments_info": segments, "file_name": f"00000000{n}.png", "image_id": n}
            for n in range(3)
        ],
        "categories": [
            {"supercategory": "person", "isthing": 1, "id": 1, "name": "person"},
            {"supercategory": "vehicle", "isthing": 1, "id": 3, "name": "car"},
            {"supercategory": "food", "isthing": 1, "id": 50, "name": "spoon"},
            {"supercategory": "ground", "isthing": 0, "id": 149, "name": "road"},
        ],
        **changes,
    }
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("below", ["", "annotations/panoptic_val2017.json"])
def test_coco_panoptic(tmp_path, below):
    table = read_table(write_panoptic(tmp_path) / below)
    assert (table.format, table.classes) == ("coco_panoptic", ("person", "car", "road"))
    assert [(s.key, s.split) for s in table.samples[:1]] == [("val2017/000000000.jpg", "val")]
    mask = table.samples[0].target.mask
    assert mask[[0, 26, 35, 35, 45], [0, 0, 10, 30, 0]].tolist() == [-1, 0, 1, 1, 2]
    text = "2 classes of things and 1 of stuff: which pixels belong to which thing is lost"
    assert text in notes(table)
    assert "3 crowds read as the class of the members; 1 category without segments" in notes(table)


def test_panoptic_beside_coco_objects(tmp_path):
    write_panoptic(tmp_path)
    boxes = {"id": 1, "image_id": 0, "category_id": 3, "bbox": [5, 30, 10, 10], "iscrowd": 0}
    content = json.loads((tmp_path / "annotations/panoptic_val2017.json").read_text())
    (tmp_path / "annotations/instances_val2017.json").write_text(
        json.dumps(content | {"annotations": [boxes]})
    )
    assert read_table(tmp_path).format == "coco"
    assert read_table(tmp_path, accepted=(Regions,)).format == "coco_panoptic"


def test_what_panoptic_cannot_be_read(tmp_path):
    root = write_panoptic(tmp_path / "a")
    (root / "annotations/panoptic_val2017/000000001.png").unlink()
    (root / "val2017/000000002.jpg").unlink()
    table = read_table(root)
    assert len(table.samples) == 1
    assert "missing PNGs of segments, dropped: 1 ('000000001.png')" in notes(table)
    assert "missing images, dropped with their segments: 1 ('000000002.jpg')" in notes(table)
    (root / "val2017/000000000.jpg").unlink()
    with pytest.raises(DataError, match="the images of these annotations do not exist"):
        read_table(root)
    for annotation, message in (
        (
            {"image_id": 0, "file_name": "0.png", "segments_info": [{"id": 1, "category_id": 77}]},
            "no category that is listed",
        ),
        ({"image_id": 9, "file_name": "0.png", "segments_info": []}, "no image has the id 9"),
        ({"image_id": 0, "bbox": [1, 1, 2, 2]}, "not a panoptic one"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(write_panoptic(tmp_path / "b", annotations=[annotation]), "coco_panoptic")
    with pytest.raises(DataError, match="no panoptic annotations"):
        read_table(write_nuclei(tmp_path / "c"), "coco_panoptic")


def test_broken_masks_are_named_when_they_are_read(tmp_path):
    write_panoptic(tmp_path)
    (tmp_path / "annotations/panoptic_val2017/000000001.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImage, match=r"000000001\.png"):
        _ = read_table(tmp_path).samples[1].target.mask


# --- classes beside masks


def test_classes_of_isic_in_columns(tmp_path):
    """As the challenge of 2018 writes them: 1.0 and 0.0, ids without extension."""
    for number in range(4):
        write_photo(tmp_path / f"ISIC2018_Task3_Training_Input/ISIC_002430{number}.jpg", number)
    rows = "".join(f"ISIC_002430{n},{float(n < 2)},{float(n >= 2)},0.0\n" for n in range(4))
    with pytest.raises(DataError, match="the only folder is named like a part of a dataset"):
        read_table(tmp_path)
    table = tmp_path / "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
    table.parent.mkdir()
    table.write_text("image,MEL,NV,BCC\n" + rows)
    read = read_table(tmp_path)
    assert (read.format, read.multilabel) == ("table", False)
    assert [sample.target.names for sample in read.samples] == [("MEL",)] * 2 + [("NV",)] * 2
    assert {sample.split for sample in read.samples} == {"train"}

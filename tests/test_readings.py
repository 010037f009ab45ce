"""How a format is chosen: what is read, what is asked, and what is never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from foveate.data.formats import FORMATS, Fit, Reading, read_table, sniff_formats
from foveate.data.group_columns import with_groups
from foveate.data.split_names import is_part_name, split_in_name
from foveate.data.survey import find_mask_folder, survey_folder
from foveate.errors import DataError, UsageError
from foveate.predictions import Boxes, Labels, Regions
from foveate.recipe import recipe_from
from foveate.training.resolve import resolve_recipe
from foveate.utils.rle import decode_rle

CASES = Path(__file__).parents[2] / "shared" / "cases"
BOX = "0 0.5 0.5 0.25 0.25\n"


def write_photo(path: Path, seed: int = 0) -> Path:
    """A photograph: many different values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 8:20] = value
    Image.fromarray(mask).save(path)
    return path


def write_photos(root: Path, *folders: str, count: int = 4) -> Path:
    """Photographs of different names in folders."""
    for index, folder in enumerate(folders):
        for number in range(count):
            write_photo(root / folder / f"{index}_{number}.png", seed=10 * index + number)
    return root


# --- names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("training_set", "train"), ("seg_train", "train"), ("train2017", "train")),
        *(("trainSet", "train"), ("train-aug", "train"), ("训练集", "train"), ("treino", "train")),
        *(("val_images", "val"), ("Validation Set", "val"), ("验证", "val"), ("eval", "val")),
        *(("test_set", "test"), ("TestData", "test"), ("测试集", "test")),
        *(("validação", "val"), ("Validacio\u0301n", "val"), ("teste", "test"), ("テスト", "test")),
        *(
            ("entraînement", "train"),
            ("訓練データ", "train"),
            ("測試集", "test"),
            ("훈련", "train"),
        ),
        *(("cats", None), ("train_test", None), ("rain", None), ("bus", None), ("class_1", None)),
    ],
)
def test_names_that_speak_of_a_split(name, split):
    assert split_in_name(name) == split


def test_names_of_parts():
    names = ["fold_1", "batch 12", "part-b", "fold3", "cats", "class_1", "batch"]
    assert list(map(is_part_name, names)) == [True, True, True, True, False, False, False]


# --- splits are no classes


@pytest.mark.parametrize(
    "folders",
    [
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("data_train", "data_val", "data_test"),
        ("训练集", "测试集"),
        ("train2017", "val2017"),
        ("Train-Images", "Test-Images"),
    ],
)
def test_split_folders_of_any_spelling_are_splits(tmp_path, folders):
    write_photos(tmp_path, *(f"{folder}/{name}" for folder in folders for name in ("bolt", "nut")))
    table = read_table(tmp_path)
    assert table.classes == ("bolt", "nut")
    assert {sample.split for sample in table.samples} == {split_in_name(f) for f in folders}
    assert not table.notes


def test_two_folders_of_one_split_are_joined(tmp_path):
    write_photos(tmp_path, "train/bolt", "train/nut", "train_aug/bolt", "train_aug/nut")
    table = read_table(tmp_path)
    assert (table.classes, len(table.samples)) == (("bolt", "nut"), 16)


@pytest.mark.parametrize(
    "names", [("training_set", "test_set"), ("fold_1", "fold_2"), ("batch_1", "batch_2")]
)
def test_parts_of_a_dataset_are_not_classes_unasked(tmp_path, names):
    write_photos(tmp_path, *names)
    with pytest.raises(DataError, match="named like parts of a dataset") as caught:
        read_table(tmp_path)
    assert "; other formats are: archive, boxes_table, " in caught.value.hint
    assert set(read_table(tmp_path, "folder").classes) == set(names)


def test_splits_in_an_unknown_language_are_asked_about(tmp_path):
    write_photos(tmp_path, "uczenie/rust", "uczenie/healthy", "egzamin/rust", "egzamin/healthy")
    with pytest.raises(DataError, match=r"egzamin and uczenie hold folders of the same names"):
        read_table(tmp_path)
    write_photos(tmp_path, "egzamin/mildew")
    assert read_table(tmp_path).classes == ("egzamin", "uczenie")


def test_folders_of_patients_are_not_classes_unasked(tmp_path):
    """As CheXpert: train/patient00001/study1/view1_frontal.jpg, and a table of many findings."""
    folders = [f"train/patient{number:05d}/study1" for number in range(1, 7)]
    write_photos(tmp_path, *folders, "valid/patient64541/study1", count=2)
    with pytest.raises(DataError, match="named like patients or cases: patient00001") as caught:
        read_table(tmp_path)
    assert "may hold their labels" not in caught.value.why
    (tmp_path / "train.csv").write_text("Path,Edema\ntrain/patient00001/study1/0_0.png,1.0\n")
    with pytest.raises(DataError, match=r"train\.csv may hold their labels"):
        read_table(tmp_path)


def test_nearly_as_many_classes_as_images_are_asked_about(tmp_path):
    write_photos(tmp_path, *(f"thing{number}" for number in range(12)), count=1)
    with pytest.raises(DataError, match="hardly more than one each"):
        read_table(tmp_path)


# --- masks are no classes


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("photos/{}.png", "masks/{}.png"),
        ("{}.png", "{}_mask.png"),
        ("case_{}/{}.png", "case_{}/{}_mask.png"),
        ("leftImg8bit/train/aa/{}_leftImg8bit.png", "gtFine/train/aa/{}_gtFine_labelIds.png"),
        ("train/{}.png", "train/{}_mask.png"),
    ],
)
def test_masks_are_read_as_masks(tmp_path, images, masks):
    for number in range(5):
        write_photo(tmp_path / images.format(*[number] * images.count("{}")), seed=number)
        write_mask(tmp_path / masks.format(*[number] * masks.count("{}")))
    table = read_table(tmp_path)
    assert (table.format, len(table.samples)) == ("masks", 5)
    assert table.classes == ("background", "foreground")
    assert all((sample.target.mask[4:12, 8:20] == 1).all() for sample in table.samples)


def test_folders_that_may_be_classes_or_images_with_masks_are_asked_about(tmp_path):
    for name in ("benign", "malignant"):
        for number in range(3):
            write_photo(tmp_path / name / f"{name} ({number}).png", seed=number)
            write_mask(tmp_path / name / f"{name} ({number})_mask.png")
    with pytest.raises(DataError, match="in several ways") as caught:
        read_table(tmp_path)
    assert "--format folder reads a folder per class: 6 images, 2 classes" in caught.value.why
    assert "--format masks reads images and masks" in caught.value.why
    assert caught.value.hint == "choose with --format folder or --format masks"
    folder = read_table(tmp_path, "folder")
    assert len(folder.samples) == 6
    assert "by their names masks" in str(folder.notes[0])
    assert isinstance(read_table(tmp_path, "masks").samples[0].target, Regions)


def test_a_mask_folder_of_any_name_is_seen_by_its_content(tmp_path):
    for number in range(4):
        write_photo(tmp_path / "a" / f"{number}.png", seed=number)
        write_mask(tmp_path / "b" / f"{number}.png")
    assert find_mask_folder([tmp_path / "a", tmp_path / "b"]) == (tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="'b' holds masks of the images in 'a'"):
        read_table(tmp_path)


def test_equal_names_of_photographs_are_no_masks(tmp_path):
    for name in ("cat", "dog"):
        for number in range(4):
            write_photo(tmp_path / name / f"{number}.png", seed=number + len(name) * ord(name[0]))
    assert read_table(tmp_path).classes == ("cat", "dog")


def test_masks_of_equal_names_belong_to_the_images_of_their_folder(tmp_path):
    """As MVTec AD: test/broken/000.png has ground_truth/broken/000_mask.png, and a good one none."""
    for number in range(3):
        for folder in ("train/good", "test/good", "test/broken", "test/stained"):
            write_photo(tmp_path / folder / f"{number:03d}.png", seed=number)
        for defect in ("broken", "stained"):
            write_mask(tmp_path / "ground_truth" / defect / f"{number:03d}_mask.png")
    table = read_table(tmp_path)
    defects = {"test/broken", "test/stained"}
    for sample in table.samples:  # good images are negative examples
        is_defect = sample.key.rpartition("/")[0] in defects
        assert (sample.target.mask.any(), sample.target.mask.shape) == (is_defect, (24, 32))
        assert sample.split is None  # nothing could be learned from good images alone
    assert len(table.samples) == 12
    notes = {note.kind.id: str(note) for note in table.notes}
    assert "6 images in folders 'good' without a mask" in notes["good_images"]
    assert "good_training_images" in notes
    assert "image_without_mask" not in notes


def test_good_images_are_no_examples_where_others_lack_a_mask_too(tmp_path):
    for number in range(3):
        for folder in ("good", "broken", "bent"):
            write_photo(tmp_path / "test" / folder / f"{number:03d}.png", seed=number)
        for defect in ("broken", "scratched"):
            write_mask(tmp_path / "ground_truth" / defect / f"{number:03d}_mask.png")
    table = read_table(tmp_path)
    assert {sample.key.rpartition("/")[0] for sample in table.samples} == {"test/broken"}
    (note,) = [note for note in table.notes if note.kind.id == "image_without_mask"]
    assert note.occurrences == 6


def test_tiles_of_qupath_are_images_with_labeled_masks_in_slides(tmp_path):
    for slide in range(6):
        for x in (0, 2048):
            name = f"tiles/S-0{slide} H&E/S-0{slide} H&E [d=4,x={x},y=0,w=2048,h=2048]"
            write_photo(tmp_path / f"{name}.png", seed=slide + x)
            write_mask(tmp_path / f"{name}-labelled.png", value=1)
    table = with_groups(read_table(tmp_path), tmp_path)
    assert (table.format, len(table.samples)) == ("masks", 12)
    assert {sample.group for sample in table.samples} == {f"S-0{slide} H&E" for slide in range(6)}


def test_several_masks_of_an_image_are_one(tmp_path):
    write_photo(tmp_path / "images" / "1.png")
    write_mask(tmp_path / "masks" / "1_mask.png")
    second = np.zeros((24, 32), np.uint8)
    second[20:, :4] = 255
    Image.fromarray(second).save(tmp_path / "masks" / "1_mask_1.png")
    (sample,) = read_table(tmp_path).samples
    assert sample.target.mask[5, 9] == sample.target.mask[22, 1] == 1
    assert sample.target.mask.sum() == 8 * 12 + 4 * 4


# --- label files are no classes


def test_yolo_without_a_yaml(tmp_path):
    write_photos(tmp_path, "batch_1", "batch_2")
    for image in list(tmp_path.rglob("*.png")):
        image.with_suffix(".txt").write_text(BOX)
    with pytest.raises(DataError, match="classes have no names"):
        read_table(tmp_path, "yolo")
    for batch in ("batch_1", "batch_2"):
        (tmp_path / batch / "classes.txt").write_text("bolt\nnut\n")
    table = read_table(tmp_path)
    assert (table.format, table.classes, len(table.samples)) == ("yolo", ("bolt", "nut"), 8)
    assert isinstance(table.samples[0].target, Boxes)
    assert table.samples[0].target.xyxy.tolist() == [[12, 9, 20, 15]]
    (tmp_path / "batch_2" / "classes.txt").write_text("nut\nbolt\n")
    with pytest.raises(DataError, match="differ"):
        read_table(tmp_path, "yolo")


def test_cvats_yolo_states_splits_in_lists(tmp_path):
    write_photos(tmp_path, "obj_Train_data", "obj_Validation_data")
    for image in list(tmp_path.rglob("*.png")):
        image.with_suffix(".txt").write_text(BOX)
    (tmp_path / "obj.names").write_text("bolt\n")
    for split in ("Train", "Validation"):
        names = sorted((tmp_path / f"obj_{split}_data").glob("*.png"))
        lines = "".join(f"data/obj_{split}_data/{path.name}\n" for path in names)
        (tmp_path / f"{split}.txt").write_text(lines)
    table = read_table(tmp_path)
    assert [len(table.in_split(split)) for split in ("train", "val")] == [4, 4]


def write_cvats_yolo(root: Path, subsets: tuple[str, str], keys: str) -> None:
    """As CVAT's exporter: images/SUBSET, labels/SUBSET, and SUBSET.txt with data/images/SUBSET."""
    write_photos(root, *(f"images/{subset}" for subset in subsets))
    for image in list(root.rglob("*.png")):
        label = root / "labels" / image.parent.name / f"{image.stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(BOX)
    for subset in subsets:
        names = sorted(path.name for path in (root / "images" / subset).iterdir())
        lines = "".join(f"data/images/{subset}/{name}\n" for name in names)
        (root / f"{subset}.txt").write_text(lines)
    (root / "data.yaml").write_text(keys)


def test_cvats_yolo_of_ultralytics_writes_data_before_its_paths(tmp_path):
    keys = "names:\n  0: bolt\npath: .\ntrain: train.txt\nval: Validation.txt\n"
    write_cvats_yolo(tmp_path, ("train", "Validation"), keys)
    table = read_table(tmp_path)
    assert [len(table.in_split(split)) for split in ("train", "val")] == [4, 4]
    assert not table.notes


def test_cvats_yolo_of_ultralytics_names_splits_as_its_subsets(tmp_path):
    """Subsets are called Train, Validation and Test in CVAT, and so are the keys."""
    keys = "Train: Train.txt\nValidation: Validation.txt\nnames:\n  0: bolt\npath: .\n"
    write_cvats_yolo(tmp_path, ("Train", "Validation"), keys)
    table = read_table(tmp_path)
    assert table.classes == ("bolt",)
    assert [len(table.in_split(split)) for split in ("train", "val")] == [4, 4]


def test_label_studios_yolo_has_categories_in_its_notes(tmp_path):
    write_photos(tmp_path, "images")
    for image in (tmp_path / "images").iterdir():
        label = tmp_path / "labels" / image.with_suffix(".txt").name
        label.parent.mkdir(exist_ok=True)
        label.write_text(BOX)
    (tmp_path / "classes.txt").write_text("bolt\n")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "bolt"}], "info": {}}')
    assert [name for name, each in sniff_formats(tmp_path).items() if each.fit > 1] == ["yolo"]
    assert len(read_table(tmp_path).samples) == 4


def test_voc_beside_images(tmp_path):
    write_photos(tmp_path, "train", "valid")
    box = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>10</xmax><ymax>9</ymax></bndbox>"
    text = f"<object><name>bolt</name><difficult>Unspecified</difficult>{box}</object>"
    for image in list(tmp_path.rglob("*.png"))[1:]:
        image.with_suffix(".xml").write_text(f"<annotation>{text}</annotation>")
    table = read_table(tmp_path)
    assert (table.format, table.classes, len(table.samples)) == ("voc", ("bolt",), 7)
    assert {sample.split for sample in table.samples} == {"train", "val"}
    assert not table.samples[0].target.crowd.any()
    assert "images without an annotation file, skipped: 1" in str(table.notes[0])


def test_captions_beside_images_are_not_yolo(tmp_path):
    write_photos(tmp_path, "cat", "dog")
    for image in list(tmp_path.rglob("*.png")):
        image.with_suffix(".txt").write_text("a cat on a mat")
    with pytest.raises(DataError, match=r"8 of 8 images have a \.txt file of the same name"):
        read_table(tmp_path)


# --- dialects of COCO


def write_coco(folder: Path, **changes) -> Path:
    """Two images with a polygon each; `changes` replace values of images and annotations."""
    keys = ("file_name", "height", "width")
    of_images = {key: value for key, value in changes.items() if key in keys}
    of_objects = {key: value for key, value in changes.items() if key not in keys}
    images, annotations = [], []
    for id in (1, 2):
        write_photo(folder / "images" / f"a b{id}.png", seed=id)
        image = {"id": id, "file_name": f"a b{id}.png", "height": 24, "width": 32}
        images.append(
            image | {k: v.format(id) if isinstance(v, str) else v for k, v in of_images.items()}
        )
        polygon = [[8, 4, 20, 4, 20, 12, 8, 12]]
        annotation = {"id": id, "image_id": id, "category_id": 1, "bbox": [8, 4, 12, 8]}
        annotations.append(annotation | {"iscrowd": 0, "segmentation": polygon, **of_objects})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "bolt"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"file_name": "images\\a b{}.png"},
        {"file_name": "a%20b{}.png"},
        {"height": None, "width": None},
        {"height": 24.0, "width": "32"},
        {"category_id": "1"},
        {"category_id": 1.0},
        {"segmentation": [8, 4, 20, 4, 20, 12, 8, 12]},
        {"bbox": None},
        {"iscrowd": 1},
    ],
)
def test_both_formats_read_the_same_dialects_of_coco(tmp_path, changes):
    write_coco(tmp_path, **changes)
    boxes, masks = (read_table(tmp_path, name) for name in ("coco", "coco_masks"))
    assert (boxes.classes, masks.classes) == (("bolt",), ("background", "bolt"))
    assert [sample.key for sample in boxes.samples] == [sample.key for sample in masks.samples]
    for one, other in zip(boxes.samples, masks.samples, strict=True):
        assert one.target.xyxy.tolist() == [[8, 4, 20, 12]]
        assert not one.target.crowd.any()
        mask = decode_rle(one.target.masks[0])
        assert (mask == (other.target.mask == 1)).all()
        assert mask[4:12, 8:20].all()


def test_some_crowds_stay_crowds(tmp_path):
    write_coco(tmp_path, iscrowd=1)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["annotations"][0]["iscrowd"] = 0
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    crowds = [sample.target.crowd.tolist() for sample in read_table(tmp_path, "coco").samples]
    assert crowds == [[False], [True]]


# --- tables


def write_table(folder: Path, labels: list[str]) -> Path:
    for number in range(len(labels)):
        write_photo(folder / f"{number}.png", seed=number)
    rows = "".join(f'{number}.png,"{label}"\n' for number, label in enumerate(labels))
    (folder / "table.csv").write_text("path,label\n" + rows, encoding="utf-8")
    return folder / "table.csv"


@pytest.mark.parametrize(
    "labels", [["['bolt', 'nut']", "['bolt']", "[]"], ["bolt, nut", "bolt", "nut"]]
)
def test_lists_in_cells_are_several_labels(tmp_path, labels):
    table = read_table(write_table(tmp_path, labels))
    assert (table.classes, table.multilabel) == (("bolt", "nut"), True)
    assert table.samples[0].target.names == ("bolt", "nut")


def test_a_comma_in_a_name_stays(tmp_path):
    table = read_table(write_table(tmp_path, ["Paris, France", "Rome, Italy", "Rome, Italy"]))
    assert table.classes == ("Paris, France", "Rome, Italy")


def test_classes_made_of_other_classes_are_warned_about(tmp_path):
    table = read_table(write_table(tmp_path, ["bolt nut", "bolt", "nut"]))
    assert any("made of the names of others" in str(note) for note in table.notes)


@pytest.mark.parametrize(
    ("labels", "doubt"),
    [
        ([str(number) for number in range(21)] * 2, "amounts rather than classes"),
        (['{""a"": 1}', '{""a"": 2}', "y"], "JSON objects"),
        (
            [f"a sentence about {number}" for number in range(20)],
            "20 of the first 20 labels differ",
        ),
    ],
)
def test_labels_that_are_hardly_classes_are_asked_about(tmp_path, labels, doubt):
    path = write_table(tmp_path, labels)
    with pytest.raises(DataError, match=doubt):
        read_table(path)
    assert read_table(path, "table").samples


def test_ids_without_endings_and_moved_files_are_found_by_name(tmp_path):
    for number in range(3):
        write_photo(tmp_path / "train_images" / f"00{number}.jpg", seed=number)
    (tmp_path / "train.csv").write_text("image_id,label\n000,a\n001,b\nold/002.jpg,b\n")
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == [f"train_images/00{n}.jpg" for n in range(3)]
    assert "1 image was found by name" in str(table.notes[0])
    write_photo(tmp_path / "train_images" / "more" / "001.jpg")
    assert len(read_table(tmp_path).samples) == 2  # 001 is not unique any more


def test_paths_may_begin_with_folders_that_are_not_there(tmp_path):
    """As CheXpert, whose images have equal names in other folders."""
    rows = ["path,label"]
    for patient in range(4):
        for study in ("study1", "study2"):
            name = f"train/p{patient}/{study}/view1.png"
            write_photo(tmp_path / name, seed=patient)
            rows.append(f"CheXpert-small/{name},{'ab'[patient % 2]}")
    table = tmp_path / "train.csv"
    table.write_text("\n".join(rows))
    assert {sample.key for sample in read_table(table).samples} == {
        row.removeprefix("CheXpert-small/").partition(",")[0] for row in rows[1:]
    }
    table.write_text("\n".join(rows).replace("CheXpert-small/train", "test"))
    with pytest.raises(DataError, match="lead to several images each"):
        read_table(table)  # test/p0/study1 is not train/p0/study1


def test_composed_and_decomposed_names_are_equal(tmp_path):
    write_photo(tmp_path / "e\u0301.png")
    (tmp_path / "t.csv").write_text("path,label\n\u00e9.png,a\n", encoding="utf-8")
    assert len(read_table(tmp_path / "t.csv").samples) == 1


def test_tables_of_hugging_face_in_split_folders(tmp_path):
    write_photos(tmp_path, "train", "test")
    for folder, index in (("train", 0), ("test", 1)):
        rows = "".join(f"{index}_{number}.png,{'ab'[number % 2]}\n" for number in range(4))
        (tmp_path / folder / "metadata.csv").write_text("file_name,label\n" + rows)
    table = read_table(tmp_path)
    assert (table.format, table.classes, len(table.in_split("test"))) == ("table", ("a", "b"), 4)
    assert table.samples[0].key == "test/1_0.png"


def test_captions_of_hugging_face(tmp_path):
    write_photo(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a bolt"}\n')
    table = read_table(tmp_path)
    assert (table.format, table.samples[0].target.sentences) == ("captions", ("a bolt",))


def test_columns_of_zero_and_one_are_classes(tmp_path):
    write_photos(tmp_path, "train", count=3)
    text = "filename, bolt, nut\n0_0.png, 1, 0\n0_1.png, 1, 1\n0_2.png, 0, 0\n"
    (tmp_path / "train" / "_classes.csv").write_text(text)
    table = read_table(tmp_path)
    assert [sample.target.names for sample in table.samples] == [("bolt",), ("bolt", "nut"), ()]
    assert table.multilabel


def test_label_files_in_other_folders_are_a_doubt(tmp_path):
    """KITTI's left and right camera with label_2; Supervisely's img and ann in each dataset."""
    for number in range(4):
        for camera in ("image_2", "image_3"):
            write_photo(tmp_path / "kitti" / camera / f"{number:06d}.png", seed=number)
        (tmp_path / "kitti" / "label_2").mkdir(exist_ok=True)
        (tmp_path / "kitti" / "label_2" / f"{number:06d}.txt").write_text("Car 0.0 0 -1.5 5 5 9 9")
        dataset = tmp_path / "tool" / f"ds{number % 2}"
        write_photo(dataset / "img" / f"{number}.png", seed=number)
        (dataset / "ann").mkdir(exist_ok=True)
        (dataset / "ann" / f"{number}.png.json").write_text("{}")
    with pytest.raises(DataError, match=r"8 of 8 images have a label file.*label_2/000000.txt"):
        read_table(tmp_path / "kitti")
    with pytest.raises(DataError, match=r"4 of 4 images have a label file.*ds0/ann/0.png.json"):
        read_table(tmp_path / "tool")


def test_annotations_beside_folders_of_images_are_a_doubt(tmp_path):
    """Labelbox's NDJSON, and metadata.jsonl with boxes of Hugging Face."""
    write_photos(tmp_path, "monday", "tuesday")
    names = sorted(path.name for path in tmp_path.rglob("*.png"))
    rows = [json.dumps({"data_row": {"external_id": name}, "objects": []}) for name in names]
    (tmp_path / "export.ndjson").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"export\.ndjson holds annotations of these images"):
        read_table(tmp_path)
    (tmp_path / "export.ndjson").write_text('{"objects": []}')
    assert set(read_table(tmp_path).classes) == {"monday", "tuesday"}


def test_a_table_beside_class_folders_is_asked_about(tmp_path):
    write_photos(tmp_path, "cat", "dog", count=2)
    (tmp_path / "list.csv").write_text("path,label\ncat/0_0.png,x\ndog/1_0.png,y\n")
    with pytest.raises(DataError, match="in several ways"):
        read_table(tmp_path)


# --- choosing


def test_the_clearly_best_reading_wins_and_a_tie_is_asked_about(tmp_path, monkeypatch):
    write_photos(tmp_path, "cat", "dog")
    ((name, reading),) = sniff_formats(tmp_path).items()
    assert (name, reading.fit, reading.doubts) == ("folder", Fit.LIKELY, ())
    monkeypatch.setattr(FORMATS.get("yolo"), "sniff", lambda self, path: Reading(Fit.LIKELY))
    with pytest.raises(DataError, match="in several ways") as caught:
        read_table(tmp_path)
    assert "--format yolo reads YOLO labels: the folder does not have" in caught.value.why
    monkeypatch.setattr(FORMATS.get("yolo"), "sniff", lambda self, path: Reading(Fit.POSSIBLE))
    assert read_table(tmp_path).format == "folder"


def test_messages_stay_short(tmp_path):
    for name in ("benign" * 30, "malignant" * 20):
        write_photo(tmp_path / name / "1.png", seed=len(name))
        write_mask(tmp_path / name / "1_mask.png")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert len(str(caught.value)) < 2500


def test_a_survey_counts_what_lies_beside_images(tmp_path):
    write_photo(tmp_path / "a.jpg")
    write_mask(tmp_path / "a_mask.png")
    write_photo(tmp_path / "b.png")
    (tmp_path / "b.xml").write_text("<annotation/>")
    survey = survey_folder(tmp_path)
    assert (survey.images, survey.masks.count, survey.labels[".xml"].count) == (2, 1, 1)
    assert survey.masks.file == "a_mask.png"


@pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is not here")
@pytest.mark.parametrize(
    ("case", "format", "classes"),
    [
        ("masks_taken_for_classes/photos_masks", "masks", 2),
        ("masks_taken_for_classes/busi", None, 0),
        ("masks_taken_for_classes/cityscapes", "masks", 4),
        ("masks_taken_for_classes/lgg", "masks", 2),
        ("splits_taken_for_classes/seg_train__seg_test", "folder", 2),
        ("splits_taken_for_classes/training_set__test_set", "folder", 2),
        ("splits_taken_for_classes/train__train_aug", "folder", 2),
        ("detection_taken_for_classes/cvat_yolo11", "yolo", 3),
        ("detection_taken_for_classes/yolo_batches", "yolo", 3),
        ("detection_taken_for_classes/labelme_persons", "labelme", 3),
        ("masks_beside_pictures/flat", "masks", 2),
        ("masks_beside_pictures/several", "masks", 2),
        ("masks_beside_pictures/roboflow", "masks", 4),
        ("yolo_without_yaml/label_studio", "yolo", 3),
        ("yolo_without_yaml/label_studio_and_yaml", "yolo", 3),
        ("yolo_without_yaml/cvat_yolo11", "yolo", 3),
        ("xml_beside_pictures/labelimg", "voc", 3),
        ("xml_beside_pictures/roboflow", "voc", 3),
        ("list_cells/python_list.csv", "table", 3),
        ("parquet_with_bytes/data/train-00000-of-00001.parquet", "table", 3),
        ("parquet_with_bytes", "table", 3),
        ("dicom_and_bands/dicom", "folder", 2),
        ("dicom_and_bands/bands", "folder", 2),
        ("list_cells/comma.csv", "table", 3),
        ("tables_of_others/kaggle", "table", 3),
        ("tables_of_others/hf", "table", 3),
        ("tables_of_others/hf_text", "captions", 0),
        ("tables_of_others/roboflow_onehot", "table", 3),
    ],
)
def test_cases_that_were_misread(case, format, classes):
    """`format` None: it is asked which reading is meant."""
    if format is None:
        with pytest.raises(DataError, match=r"several ways|doubtful"):
            read_table(CASES / case)
    else:
        table = read_table(CASES / case)
        assert (table.format, len(table.classes)) == (format, classes)


@pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is not here")
@pytest.mark.parametrize("name", ["backslash", "null_size", "string_categories"])
def test_cases_that_coco_masks_refused(name):
    folder = CASES / "coco_masks_takes_less" / name
    boxes, masks = (read_table(folder, format) for format in ("coco", "coco_masks"))
    assert [sample.key for sample in boxes.samples] == [sample.key for sample in masks.samples]
    assert all((sample.target.mask > 0).any() for sample in masks.samples)


@pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is not here")
def test_case_of_objects_that_are_all_crowds():
    table = read_table(CASES / "coco_all_crowd")
    assert not any(sample.target.crowd.any() for sample in table.samples)
    assert any("marked as a crowd" in str(note) for note in table.notes)


@pytest.mark.parametrize(("corners", "has_masks"), [(3, True), (4, False)])
def test_outlines_of_yolo_are_masks_and_oriented_boxes_are_not(tmp_path, corners, has_masks):
    for number in range(3):
        write_photo(tmp_path / "images" / f"{number}.png", seed=number)
        (tmp_path / "labels").mkdir(exist_ok=True)
        points = ["0.25 0.25", "0.75 0.25", "0.75 0.75", "0.25 0.75"][:corners]
        (tmp_path / "labels" / f"{number}.txt").write_text(f"0 {' '.join(points)}\n")
    (tmp_path / "classes.txt").write_text("bolt\n")
    table = read_table(tmp_path)
    assert table.samples[0].target.xyxy.tolist() == [[8, 6, 24, 18]]
    assert (table.samples[0].target.masks is not None) == has_masks
    assert has_masks == (not any("oriented boxes" in str(note) for note in table.notes))


def test_a_refusal_says_what_was_seen(tmp_path):
    for number in range(3):
        write_photo(tmp_path / "pictures" / f"{number}.png", seed=number)
    (tmp_path / "scores.csv").write_text("who,quality\nanna,3\n")
    (tmp_path / "notes.json").write_text('[{"id": 1, "comment": "x"}]')
    with pytest.raises(DataError, match="no format fits") as caught:
        read_table(tmp_path)
    assert caught.value.why == (
        "it holds 3 .png, 1 .json, 1 .csv; notes.json with a list of objects with the keys id,"
        " comment; scores.csv with the columns who, quality"
    )
    assert "a table with the columns path and label" in caught.value.hint
    (tmp_path / "pictures").rename(tmp_path.parent / "elsewhere")
    with pytest.raises(DataError, match=r"contains no images.*it holds 1 .json, 1 .csv"):
        read_table(tmp_path)


def test_a_table_beside_class_folders_adds_groups_or_is_asked_about(tmp_path):
    rows = []
    for number in range(8):
        label = "ab"[number % 2]
        write_photo(tmp_path / label / f"{number}.png", seed=number)
        rows.append(f"{label}/{number}.png,{label},g{number // 4}\n")
    table = tmp_path / "labels.csv"
    table.write_text("path,label,group\n" + "".join(rows))
    assert read_table(tmp_path).format == "table"
    assert {sample.group for sample in read_table(tmp_path).samples} == {"g0", "g1"}
    table.write_text("path,label,group\n" + "".join(rows).replace("a/0.png,a", "a/0.png,b"))
    with pytest.raises(DataError, match="several ways"):
        read_table(tmp_path)
    table.write_text("path,label,group\n" + "".join(rows[1:]))
    with pytest.raises(DataError, match="several ways"):
        read_table(tmp_path)


def test_data_without_training_images_are_refused(tmp_path):
    for number in range(4):
        write_photo(tmp_path / "data" / "val" / "ab"[number % 2] / f"{number}.png", seed=number)
    (tmp_path / "table.csv").write_text(
        "path,label,split\n"
        + "".join(f"data/val/{'ab'[n % 2]}/{n}.png,{'ab'[n % 2]},val\n" for n in range(4))
    )
    recipe = recipe_from(tmp_path / "table.csv", {}, {})
    with pytest.raises(UsageError, match=r"no training images.*all 4 images belong to val"):
        resolve_recipe(recipe, read_table(tmp_path / "table.csv"))


def test_the_wanted_targets_choose_among_readings(tmp_path):
    write_coco(tmp_path / "coco")
    assert read_table(tmp_path / "coco").format == "coco"
    assert read_table(tmp_path / "coco", accepted=(Regions,)).format == "coco_masks"
    for name in ("benign", "malignant"):
        write_photo(tmp_path / "busi" / name / "1.png", seed=len(name))
        write_mask(tmp_path / "busi" / name / "1_mask.png")
    assert read_table(tmp_path / "busi", "masks").format == "masks"
    assert read_table(tmp_path / "busi", accepted=(Regions,)).format == "masks"
    assert read_table(tmp_path / "busi", accepted=(Labels,)).format == "folder"
    write_photos(tmp_path / "parts", "batch_1", "batch_2")
    with pytest.raises(DataError, match="doubtful"):
        read_table(tmp_path / "parts", accepted=(Labels,))


def test_a_task_does_not_settle_evidence_against_a_reading(tmp_path):
    """Dataset folders of an annotation tool, and folders of images with YOLO labels."""
    for name in ("monday", "tuesday"):
        for number in range(3):
            image = write_photo(tmp_path / "sly" / name / "img" / f"{name}{number}.png", number)
            label = {"tags": [], "size": {"height": 24, "width": 32}, "objects": []}
            label["objects"].append(
                {
                    "classTitle": "bolt",
                    "geometryType": "rectangle",
                    "points": {"exterior": [[2, 2], [9, 9]], "interior": []},
                }
            )
            file = image.parent.parent / "ann" / f"{image.name}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(label))
            photo = write_photo(tmp_path / "yolo" / name / f"{number}.png", number)
            photo.with_suffix(".txt").write_text(BOX)
        (tmp_path / "yolo" / name / "classes.txt").write_text("bolt\n")
    meta = {"classes": [{"title": "bolt", "shape": "rectangle"}], "tags": []}
    (tmp_path / "sly" / "meta.json").write_text(json.dumps(meta))
    for data, format in (("sly", "supervisely"), ("yolo", "yolo")):
        assert read_table(tmp_path / data).format == format
        assert read_table(tmp_path / data, accepted=(Boxes,)).format == format
        with pytest.raises(DataError, match=r"label file|of the same name beside") as caught:
            read_table(tmp_path / data, accepted=(Labels,))
        assert all(f"--format {name}" in caught.value.hint for name in ("folder", format))
        assert read_table(tmp_path / data, "folder", (Labels,)).classes == ("monday", "tuesday")


def test_check_says_which_labels_a_task_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "data", "cat", "dog")
    result = foveate.check("data", task="detect", plan=False)
    (issue,) = (each for each in result.issues if each.kind.severity == "error")
    assert issue.locations[0].why.startswith("the task 'detect' learns from boxes")
    assert "COCO, YOLO, Pascal VOC" in issue.kind.hint
    assert "任务" in issue.title.in_language("zh")
    fitting = foveate.check("data", task="classify", plan=False)
    assert "error" not in {each.kind.severity for each in fitting.issues}


@pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is not here")
@pytest.mark.parametrize(("name", "format"), [("coco", "coco_masks"), ("yolo_seg", "outlines")])
def test_cases_of_outlines_are_masks_where_masks_are_wanted(name, format):
    folder = CASES / "outlines_and_segment" / name
    table = read_table(folder, accepted=(Regions,))
    assert table.format == format
    assert table.classes[0] == "background"
    boxes = read_table(folder)
    for one, other in zip(table.samples, boxes.samples, strict=True):
        inside = np.zeros(one.target.mask.shape, dtype=bool)
        for mask in other.target.masks or ():
            inside |= decode_rle(mask)
        assert (inside == (one.target.mask > 0)).all()

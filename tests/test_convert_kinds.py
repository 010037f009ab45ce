"""convert: classes, numbers, captions, masks and keypoints survive every conversion."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import foveate
from foveate.api.convert.comparison import compare_tables
from foveate.cli import main as cli
from foveate.data.formats import FORMATS, Format, read_table
from foveate.errors import DataError, FoveateError, UsageError
from foveate.predictions import IGNORE_INDEX, Boxes, Labels, Number, Regions, Text
from foveate.types import Sample, Skeleton, Table
from foveate.utils.rle import encode_rle
from helpers import sniff_formats

SIZE = (12, 16)  # height, width
NAMES = (
    "a.jpg",
    "train/frame_000001.jpg",
    "人/图 片.png",
    "images/x,y.jpg",
    "b_mask.png",
    "b.png",
    "=1+1.png",
)
SPLITS = ("train", "val", "test")


def make_table(root: Path, targets: list, classes: tuple = (), splits=SPLITS, **more) -> Table:
    """A table of images with given targets, unusual names, splits and groups; `more` of Table."""
    rng, samples = np.random.default_rng(0), []
    for number, target in enumerate(targets):
        path = root / NAMES[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
        group = f"p {number % 2}" if number % 3 else None
        split = splits[number % len(splits)] if splits else None
        samples.append(Sample(path, NAMES[number], target, split, group))
    return Table(tuple(sorted(samples, key=lambda each: each.key)), classes, "made", root, **more)


def write(table: Table, name: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    FORMATS.get(name)().write(table, folder)
    return folder


def by_content(table: Table) -> dict[bytes, Sample]:
    return {sample.path.read_bytes(): sample for sample in table.samples}


def content_of(target: object, classes: tuple[str, ...]) -> object:
    """What a target says, without regard to the order of classes."""
    if isinstance(target, Labels):
        return frozenset(target.names)
    if isinstance(target, Regions):
        names = np.array([*classes, "-"], dtype=object)  # the last one is that of IGNORE_INDEX
        return names[target.mask].tolist()
    return target


def assert_same(before: Table, after: Table, places: tuple[str, ...] = ("split", "group")) -> None:
    expected, actual = by_content(before), by_content(after)
    assert expected.keys() == actual.keys()
    for content, one in expected.items():
        other = actual[content]
        assert content_of(one.target, before.classes) == content_of(other.target, after.classes)
        for place in places:
            assert getattr(one, place) == getattr(other, place)


# --- classes, numbers and captions


def labels_of(*names: tuple[str, ...]) -> list[Labels]:
    return [Labels(each) for each in names]


SINGLE = labels_of(
    ("cat",), ("dog; or fox",), ("人",), ("cat",), ("no",), ("cat",), ("dog; or fox",)
)


@pytest.mark.parametrize("formats", [*permutations(("folder", "table"), 2), ("table",) * 2])
def test_classes_survive(tmp_path, formats):
    before = make_table(tmp_path / "made", SINGLE, ("cat", "dog; or fox", "no", "人"))
    folder = write(before, "table", tmp_path / "0")
    notes = ()
    for step, name in enumerate(formats, start=1):
        result = foveate.convert(folder, name, tmp_path / str(step))
        folder = tmp_path / str(step)
        notes += result.notes
        assert sniff_formats(folder) == [name]
        assert (result.kind, result.counts["cat"]) == ("labels", 3)
        assert result.images == {"train": 3, "val": 2, "test": 2}
    assert_same(
        before, read_table(folder), ("split",) if "folder" in formats else ("split", "group")
    )
    lost = [note for note in notes if "lost" in note]
    assert lost == (
        ["4 images with a group, which the format does not support: lost"]
        if "folder" in formats
        else []
    )


def test_several_classes_survive_in_a_table(tmp_path):
    names = [("cat", "dog"), (), ("a|b", "cat"), ("[x]",), ("cat",), ("-2", "cat"), ("dog",)]
    before = make_table(tmp_path / "made", labels_of(*names), multilabel=True)
    folder = write(before, "table", tmp_path / "0")
    assert "'=" not in (folder / "labels.csv").read_text()  # the cell begins with images/
    result = foveate.convert(folder, "table", tmp_path / "1")
    assert result.counts == {"-2": 1, "[x]": 1, "a|b": 1, "cat": 4, "dog": 2}
    again = read_table(tmp_path / "1")
    assert again.multilabel
    assert_same(before, again)
    with pytest.raises(UsageError, match=r"several classes, or none.*4 images.*--to table"):
        foveate.convert(folder, "folder", tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_images_without_any_class_stay_so_where_no_image_has_several(tmp_path):
    before = make_table(tmp_path / "made", labels_of(("cat",), (), ("dog",)), multilabel=True)
    write(before, "table", tmp_path / "0")
    assert_same(before, read_table(tmp_path / "0", "table"))


@pytest.mark.parametrize("name", ["cvat", "labelme", "labelstudio"])
def test_images_without_any_class_are_refused_where_these_are_images_to_label(tmp_path, name):
    before = make_table(tmp_path / "made", labels_of(("a", "b"), (), ("b",)), multilabel=True)
    folder = write(before, "table", tmp_path / "0")
    with pytest.raises(UsageError, match=r"without any class .* 1 image, such as .*--to table"):
        foveate.convert(folder, name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_that_cannot_be_written_are_replaced_and_said(tmp_path):
    for number, name in enumerate(("a\\b.png", "x\ny.png", "l" * 251 + ".png", "l" * 251 + ".jpg")):
        for label in ("cat", "dog"):
            path = tmp_path / "in" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            color = number * 50 + 20 * (label == "cat")
            Image.fromarray(np.full((8, 8, 3), color, np.uint8)).save(path)
    result = foveate.convert(tmp_path / "in", "labelme", tmp_path / "out")
    (note,) = [each for each in result.notes if "renamed" in each]
    assert note.startswith("images that were renamed because not every program can use their names")
    assert ": 8 (" in note
    names = {path.name for path in (tmp_path / "out" / "cat").iterdir()}
    assert {"a_b.png", "a_b.json", "x_y.png", "l" * 250 + ".json"} <= names
    assert max(map(len, names)) == 255


def test_keypoints_are_no_reason_that_outlines_are_missing(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.4 0.4 0.4 2\n")
    (tmp_path / "data.yaml").write_text("train: images\nkpt_shape: [1, 3]\nnames: [nut]\n")
    with pytest.raises(DataError, match="not every object has an outline") as raised:
        foveate.convert(tmp_path, "masks", tmp_path.parent / f"{tmp_path.name}-out")
    assert "objects with keypoints" not in str(raised.value)


def test_tags_of_a_tool_become_folders(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(np.full((8, 8, 3), int(name[0]), np.uint8)).save(tmp_path / "in" / name)
        text = json.dumps(
            {
                "flags": {"good": name == "1.png", "bad": name != "1.png"},
                "shapes": [],
                "imagePath": name,
                "imageHeight": 8,
                "imageWidth": 8,
                "imageData": None,
            }
        )
        (tmp_path / "in" / name).with_suffix(".json").write_text(text)
    result = foveate.convert(tmp_path / "in", "folder", tmp_path / "out")
    assert result.counts == {"bad": 1, "good": 1}
    assert sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")
    ) == ["bad/2.png", "good/1.png"]


def test_unsplit_images_are_put_under_train_beside_others(tmp_path):
    targets = labels_of(("cat",), ("dog",), ("cat",), ("dog",))
    before = make_table(tmp_path / "made", targets, splits=("val", None))
    folder = write(before, "table", tmp_path / "0")
    result = foveate.convert(folder, "folder", tmp_path / "f")
    assert result.images == {"train": 2, "val": 2}
    assert any(
        "2 images without a split" in note and "under train" in note for note in result.notes
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/b", "cat"), "'a/b' cannot be the name of a folder"),
        ((".hidden", "cat"), "'.hidden' cannot be the name of a folder"),
        (("x" * 300, "cat"), "cannot be the name of a folder"),
        (("Cat", "cat"), "differ only in case or spaces"),
    ],
)
def test_classes_that_cannot_be_folders_are_refused(tmp_path, names, message):
    folder = write(
        make_table(tmp_path / "made", labels_of(*((n,) for n in names))), "table", tmp_path / "0"
    )
    with pytest.raises(UsageError, match=rf"{message}.*--to table"):
        foveate.convert(folder, "folder", tmp_path / "f")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "made"]


def test_the_next_command_names_the_format_where_it_would_be_asked(tmp_path, capsys):
    """Folders called batch_1 and batch_2 may be parts of a dataset."""
    targets = labels_of(("batch_1",), ("batch_2",))
    folder = write(make_table(tmp_path / "made", targets, splits=()), "table", tmp_path / "0")
    for to, option in (("folder", " --format folder"), ("table", "")):
        assert cli._run(["convert", str(folder), "--to", to, "--out", str(tmp_path / to)]) == 0
        assert f"next: foveate fit {tmp_path / to}{option}\n" in capsys.readouterr().out


def test_numbers_survive(tmp_path):
    targets = [Number(each) for each in (0.1, -2.5, 1e-30, 3.0, 17.0, 1 / 3, 2.0)]
    before = make_table(tmp_path / "made", targets)
    folder = write(before, "numbers", tmp_path / "0")
    result = foveate.convert(folder, "numbers", tmp_path / "1")
    assert (result.kind, result.counts) == ("numbers", {})
    assert_same(before, read_table(tmp_path / "1"))
    foveate.convert(folder, "table", tmp_path / "2")
    assert_same(before, read_table(tmp_path / "2", "numbers"))
    with pytest.raises(UsageError, match=r"'folder' holds labels.*have numbers.*numbers, table"):
        foveate.convert(folder, "folder", tmp_path / "3")


def test_captions_survive(tmp_path):
    targets = [Text(("a fox", "=two, words")), Text(("-1",)), Text(('a "b"',)), Text(("人",))]
    before = make_table(tmp_path / "made", targets)
    folder = write(before, "captions", tmp_path / "0")
    for step, name in enumerate(("captions", "table"), start=1):
        result = foveate.convert(folder, name, tmp_path / str(step))
        assert result.kind == "captions"
        assert_same(before, read_table(tmp_path / str(step)))


def test_equal_files_keep_their_own_labels(tmp_path):
    """The same picture twice, with other labels and splits: they are told apart by these."""
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "dog"), ("test", "cat")):
        path = tmp_path / "in" / split / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path)
    foveate.convert(tmp_path / "in", "table", tmp_path / "t")
    again = read_table(tmp_path / "t")
    assert sorted((each.split, *each.target.names) for each in again.samples) == [
        ("test", "cat"),
        ("test", "dog"),
        ("train", "cat"),
        ("train", "dog"),
    ]


@pytest.mark.parametrize("name", ["folder", "table"])
def test_a_writer_that_mixes_up_labels_is_detected(tmp_path, monkeypatch, name):
    folder = write(make_table(tmp_path / "made", SINGLE), "table", tmp_path / "0")
    format, original = FORMATS.get(name), FORMATS.get(name).write

    def mix(self: Format, table: Table, out: Path):
        first, second, *rest = table.samples
        targets = (second.target, first.target)
        swapped = [
            Sample(each.path, each.key, target, each.split, each.group)
            for each, target in zip((first, second), targets, strict=True)
        ]
        return original(self, table.with_samples((*swapped, *rest)), out)

    monkeypatch.setattr(format, "write", mix)
    with pytest.raises(DataError, match=r"would not be the same.*would be read again as"):
        foveate.convert(folder, name, tmp_path / "1")
    assert not (tmp_path / "1").exists()


# --- masks


def make_masks(root: Path, classes: tuple[str, ...], ignored: bool = False, **more) -> Table:
    """Masks with every class in the first, few in others, and an image of the first class alone."""
    rng, targets = np.random.default_rng(1), []
    for number in range(len(NAMES)):
        mask = rng.integers(0, len(classes) if not number else min(2, len(classes)), SIZE)
        mask = mask * (number != 3)
        if ignored and number in (0, 2):
            mask[:2, :3] = IGNORE_INDEX
        targets.append(Regions(mask))
    return make_table(root, targets, classes, **more)


CLASSES = {
    "two": ("background", "bolt"),
    "one": ("road",),
    "like values and colors": ("1 x", "facade", "12 34 56"),
    "many": tuple(f"class {number}" for number in range(300)),
}


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
def test_masks_survive_as_images(tmp_path, classes, ignored):
    if classes == "many":
        (root := tmp_path / "made").mkdir()
        mask = np.arange(300).reshape(15, 20)
        mask[0, 5:7] = IGNORE_INDEX if ignored else mask[0, 5:7]
        Image.new("RGB", (20, 15)).save(root / "1.png")
        sample = Sample(root / "1.png", "1.png", Regions(mask))
        before = Table((sample,), CLASSES[classes], "made", root)
    else:
        before = make_masks(tmp_path / "made", CLASSES[classes], ignored)
    folder = write(before, "masks", tmp_path / "0")
    result = foveate.convert(folder, "masks", tmp_path / "1")
    assert sniff_formats(tmp_path / "1") == ["masks"]
    again = read_table(tmp_path / "1")
    assert again.classes == before.classes
    assert list(result.counts) == list(before.classes)
    assert_same(before, again, ("split",))


@pytest.mark.parametrize("formats", list(permutations(("masks", "coco_masks"), 2)), ids="-".join)
def test_masks_survive_between_images_and_coco(tmp_path, formats):
    before = make_masks(tmp_path / "made", ("background", "zebra", "bolt"), splits=(*SPLITS, None))
    first, second = formats
    folder = write(before, first, tmp_path / "0")
    foveate.convert(folder, second, tmp_path / "1", format=first)
    foveate.convert(tmp_path / "1", first, tmp_path / "2", format=second)
    again = read_table(tmp_path / "2", first)
    assert again.classes == before.classes
    assert_same(before, again, ("split",))
    coco = read_table(write(before, "coco_masks", tmp_path / "3"), "coco_masks")
    assert_same(before, coco)  # with groups


def test_what_coco_loses_of_masks_is_said(tmp_path, capsys):
    before = make_masks(tmp_path / "made", ("sky", "road", "never"), ignored=True)
    for sample in before.samples:
        np.minimum(sample.target.mask, 1, out=sample.target.mask)
    folder = write(before, "masks", tmp_path / "0")
    code = cli._run(["convert", str(folder), "--to", "coco_masks", "--out", str(tmp_path / "c")])
    out = capsys.readouterr().out
    assert code == 0
    assert "ignored pixels in 2 images, which the format does not support: they became" in out
    assert "the class background is added" in out
    assert "1 class without an example, which the format does not support: 'never'" in out
    assert f"next: foveate fit {tmp_path / 'c'} --format coco_masks" in out


def test_outlines_become_masks(tmp_path):
    """COCO and LabelMe: objects are painted, which is said; masks are as those of --format."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "b.png")
    square = [2, 2, 8, 2, 8, 8, 2, 8]
    images = [
        {"id": n, "file_name": f"{name}.png", "width": 20, "height": 10}
        for n, name in enumerate("ab")
    ]
    object_ = {
        "id": 1,
        "image_id": 0,
        "category_id": 3,
        "segmentation": [square],
        "bbox": [2, 2, 6, 6],
        "area": 36,
    }
    content = {"images": images, "annotations": [object_], "categories": [{"id": 3, "name": "nut"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    folder = tmp_path.parent / f"{tmp_path.name}-out"
    result = foveate.convert(tmp_path / "x.json", "masks", folder)
    assert any("which pixels belong to which object is lost" in note for note in result.notes)
    assert result.counts == {"background": 2, "nut": 1}  # b.png is a negative example
    expected = np.zeros((10, 20), int)
    expected[2:8, 2:8] = 1
    assert (np.asarray(Image.open(folder / "masks" / "a.png")) == expected).all()
    assert not np.asarray(Image.open(folder / "masks" / "b.png")).any()
    assert json.loads((folder / "classes.json").read_text()) == {"0": "background", "1": "nut"}
    with pytest.raises(
        UsageError,
        match=r"'coco' holds boxes, and these data have masks.*coco_masks, cvat.*, masks",
    ):
        foveate.convert(folder, "coco", tmp_path.parent / f"{tmp_path.name}-coco")


def test_a_class_called_void_is_not_lost_in_silence(tmp_path):
    before = make_masks(tmp_path / "made", ("background", "Void"))
    folder = write(before, "coco_masks", tmp_path / "0")
    with pytest.raises(UsageError, match=r"'Void' would be read as pixels to ignore.*coco_masks"):
        foveate.convert(folder, "masks", tmp_path / "1", format="coco_masks")
    assert not (tmp_path / "1").exists()


def test_broken_masks_are_named_and_left_out(tmp_path):
    folder = write(make_masks(tmp_path / "made", CLASSES["two"]), "masks", tmp_path / "0")
    file = next((folder / "masks" / "train").rglob("a.png"))
    file.write_bytes(file.read_bytes()[:60])
    result = foveate.convert(folder, "masks", tmp_path / "1")
    assert sum(result.images.values()) == len(NAMES) - 1
    assert any(
        note.startswith("images whose mask cannot be read, skipped: 1") for note in result.notes
    )


# --- keypoints

SKELETON = Skeleton("person", ("nose", "left eye", "right eye"), ((0, 1), (0, 2)), (0, 2, 1))


def make_people(root: Path, mirrored: bool = True) -> Table:
    """Two classes, one without keypoints; points that are hidden, or not labeled."""
    points = np.array([[3, 2.5, 2], [4.25, 3, 1], [0, 0, 0]], np.float32)
    none = np.zeros((0, 3), np.float32)
    corners = np.array([[1, 1, 9, 9], [2, 2, 5, 6], [0, 0, 16, 12]], np.float32)
    boxes = Boxes(
        corners, ("person", "ball", "person"), keypoints=(points, none, points[[2, 1, 0]])
    )
    others = Boxes(corners[:1], ("ball",)), Boxes(corners[:0], ())
    skeleton = SKELETON if mirrored else Skeleton("person", SKELETON.names, SKELETON.edges)
    return make_table(root, [boxes, *others], ("person", "ball"), skeletons=(skeleton,))


def assert_same_points(before: Table, after: Table) -> None:
    for content, sample in by_content(before).items():
        other = by_content(after)[content].target
        assert other.names == sample.target.names
        np.testing.assert_allclose(other.xyxy, sample.target.xyxy, atol=1e-3)
        none = [np.zeros((0, 3))] * len(other.names)
        pairs = zip(sample.target.keypoints or none, other.keypoints or none, strict=True)
        for one, two in pairs:  # YOLO states as many points for every object
            assert not two[len(one) :].any()
            np.testing.assert_allclose(two[: len(one)], one, atol=1e-3)


@pytest.mark.parametrize("formats", list(permutations(("coco", "yolo"), 2)), ids="-".join)
def test_keypoints_survive(tmp_path, formats):
    before = make_people(tmp_path / "made")
    folder = write(before, formats[0], tmp_path / "0")
    notes = []
    for step, name in enumerate((*formats[1:], formats[0]), start=1):
        notes += foveate.convert(folder, name, tmp_path / str(step)).notes
        folder = tmp_path / str(step)
        assert sniff_formats(folder) == [name]
        assert_same_points(before, read_table(folder))
    lost = [note for note in notes if note.startswith("what is lost about the keypoints")]
    assert lost == [
        {
            "coco": "what is lost about the keypoints: the lines between them",
            "yolo": "what is lost about the keypoints: which becomes which in a mirrored image",
        }[formats[0]]
    ]


def test_keypoints_in_the_files_of_coco_and_yolo(tmp_path):
    table = make_people(tmp_path / "made")
    coco = write(table, "coco", tmp_path / "c") / "annotations" / "instances_train.json"
    content = json.loads(coco.read_text())
    assert content["categories"][0] == {
        "id": 1,
        "name": "person",
        "keypoints": ["nose", "left eye", "right eye"],
        "skeleton": [[1, 2], [1, 3]],
    }
    first, ball, _ = content["annotations"]
    assert (first["keypoints"], first["num_keypoints"]) == ([3, 2.5, 2, 4.25, 3, 1, 0, 0, 0], 2)
    assert "keypoints" not in ball
    yolo = write(table, "yolo", tmp_path / "y")
    stated = yaml.safe_load((yolo / "data.yaml").read_text())
    assert stated["kpt_shape"] == [3, 3]
    assert stated["flip_idx"] == [0, 2, 1]
    assert stated["kpt_names"] == {0: ["nose", "left eye", "right eye"]}
    line, other, _ = (yolo / "labels" / "a.txt").read_text().splitlines()
    assert line.split()[5:] == [
        "0.1875",
        str(2.5 / 12),
        "2",
        "0.265625",
        "0.25",
        "1",
        "0.0",
        "0.0",
        "0",
    ]
    assert other.split()[5:] == ["0"] * 9
    lost = foveate.convert(tmp_path / "c", "voc", tmp_path / "v").notes
    assert "keypoints of 2 objects, which the format does not support: lost" in lost


def test_keypoints_as_ultralytics_writes_them_are_read(tmp_path):
    """Its documents: two numbers for a point where nothing says whether it is visible."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for name in ("1", "2"):
        Image.new("RGB", (20, 10), "red" if name == "1" else "blue").save(
            tmp_path / "images" / f"{name}.jpg"
        )
    (tmp_path / "labels" / "1.txt").write_text(
        "0 0.5 0.5 0.5 0.5 0.25 0.5 -1 -1 0 0\n0 0.5 0.5 0.2 0.2\n"
    )
    (tmp_path / "labels" / "2.txt").write_text("0 0.5 0.5 0.5 0.5 0.25 0.5 0.1\n")
    text = "path: .\ntrain: images\nval: images\nkpt_shape: [3, 2]\nnames: {0: dog}\n"
    (tmp_path / "data.yaml").write_text(text.replace("val: images\n", ""))
    table = read_table(tmp_path)
    one, two = (sample.target for sample in table.samples)
    assert one.keypoints[0].tolist() == [[5, 5, 2], [-20, -10, 0], [0, 0, 0]]
    assert one.keypoints[1].shape == (0, 3)
    assert two.keypoints is None
    notes = "\n".join(map(str, table.notes))
    assert "objects with keypoints, which convert keeps and which are not trained on: 1" in notes
    assert "objects whose keypoints are not as many numbers as stated" in notes
    assert one.select(np.array([False, True])).keypoints[0].shape == (0, 3)


# --- outlines in the files of tools


@pytest.mark.parametrize("tool", ["cvat", "labelme", "labelstudio"])
def test_boxes_become_those_around_their_masks_in_tools(tmp_path, tool):
    """Tools state a mask alone, and polygons end between pixels. Names of frames make a group."""
    Image.new("RGB", (20, 10)).save(tmp_path / "frame_000000.png")
    outline = [2.25, 2.25, 8.5, 2.25, 8.5, 8.5, 2.25, 8.5]
    image = {"id": 0, "file_name": "frame_000000.png", "width": 20, "height": 10}
    nut = {
        "image_id": 0,
        "category_id": 3,
        "segmentation": [outline],
        "bbox": [2.25, 2.25, 6.25, 6.25],
    }
    content = {"images": [image], "annotations": [nut], "categories": [{"id": 3, "name": "nut"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    folder = tmp_path.parent / f"{tmp_path.name}-out"
    notes = "\n".join(foveate.convert(tmp_path / "x.json", tool, folder).notes)
    assert "1 box of objects with masks became those around the masks" in notes
    assert ("1 image without a group, which get one" in notes) == (tool == "cvat")


@pytest.mark.parametrize("tool", ["cvat", "labelme", "labelstudio"])
def test_classes_of_images_are_tags_in_tools(tmp_path, tool):
    names = [("cat",), ("dog; or fox", "cat"), ("人",), ("cat",)]
    before = make_table(tmp_path / "made", labels_of(*names), multilabel=True)
    folder = write(before, "table", tmp_path / "0")
    foveate.convert(folder, tool, tmp_path / "1")
    assert read_table(tmp_path / "1").format == "tags"
    result = foveate.convert(tmp_path / "1", "table", tmp_path / "2")
    assert result.counts == {"cat": 3, "dog; or fox": 1, "人": 1}
    places = ("split", "group") if tool == "labelstudio" else ("split",)
    assert_same(before, read_table(tmp_path / "2"), places)


@pytest.mark.parametrize("tool", ["cvat", "labelme", "labelstudio"])
def test_masks_are_brushes_in_tools(tmp_path, tool, capsys):
    before = make_masks(tmp_path / "made", ("background", "zebra", "bolt"))
    folder = write(before, "masks", tmp_path / "0")
    assert cli._run(["convert", str(folder), "--to", tool, "--out", str(tmp_path / "1")]) == 0
    assert f"next: foveate fit {tmp_path / '1'} --format outlines" in capsys.readouterr().out
    foveate.convert(tmp_path / "1", "masks", tmp_path / "2")
    again = read_table(tmp_path / "2")
    assert again.classes == before.classes
    assert_same(before, again, ("split",))


def test_a_mask_that_moved_is_detected(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    boxes = [
        Boxes(np.array([[3, 2, 9, 5]], np.float32), ("nut",), masks=(encode_rle(each),))
        for each in (mask, np.roll(mask, 1, axis=1))
    ]
    before, after = (
        Table((Sample(tmp_path / "a.png", "a.png", each),), ("nut",), "made", tmp_path)
        for each in boxes
    )
    assert compare_tables(before, before, tmp_path) == ()
    with pytest.raises(DataError, match="would not be the same"):
        compare_tables(before, after, tmp_path)


# --- bad input


@pytest.mark.parametrize("to", ["folder", "masks", "coco"])
@pytest.mark.parametrize("data", ["unlabeled", "broken", "missing"])
def test_bad_data_leave_nothing_behind(tmp_path, data, to):
    (tmp_path / "in" / "cat").mkdir(parents=True)
    (tmp_path / "in" / "dog").mkdir()
    if data == "unlabeled":
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / "1.png")
    elif data == "broken":
        (tmp_path / "in" / "cat" / "1.png").write_bytes(b"broken")
        (tmp_path / "in" / "dog" / "2.png").write_bytes(b"broken")
    with pytest.raises(FoveateError) as caught:
        foveate.convert(tmp_path / ("in" if data != "missing" else "no"), to, tmp_path / "out")
    assert "bug" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]

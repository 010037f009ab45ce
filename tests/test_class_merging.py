"""data.classes: classes merged, renamed and left out, for labels, boxes, masks and instances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_stripes_folder
from foveate.api.evaluate import evaluate
from foveate.data.class_merging import merge_classes, read_recipe_table
from foveate.data.formats import read_table
from foveate.data.tables import label_names
from foveate.errors import DataError, UnknownName, UsageError
from foveate.predictions import IGNORE_INDEX
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.utils.validation import parse_assignment
from helpers import fit_unevaluated, notes

GROUPS = {"tumor": ["glioma", "pituitary"], "healthy": ["no_tumor"]}


def settings(*texts: str) -> Recipe:
    """The recipe of --set arguments."""
    return with_settings(Recipe(), dict(parse_assignment(text) for text in texts))


def class_folders(root: Path, *names: str, count: int = 2) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, len(name), 0)).save(root / name / f"{index}.png")
    return root


# --- the setting


def test_groups_and_lists_and_single_names_are_read():
    text = "data.classes={tumor: [glioma, pituitary], healthy: no_tumor, 0: [1, 2]}"
    assert settings(text).data.classes == {**GROUPS, "0": ["1", "2"]}
    assert settings("data.classes=[cat, 7]").data.classes == {"cat": ["cat"], "7": ["7"]}
    assert settings("data.classes=null").data.classes is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{a: [x], b: [x]}", "without a common class .'x' is named twice"),
        ("{a: []}", "'a' has none"),
        ("{healthy: [no, yes]}", "quote yes, no"),
        ("cat", "a list of classes, or groups such as"),
        ("{}", "a list of classes, or groups such as"),
        ("{a: {b: c}}", "names of classes"),
    ],
)
def test_a_faulty_value_is_explained(value, message):
    with pytest.raises(UsageError, match=f"data.classes must be.*{message}"):
        settings(f"data.classes={value}")


def test_the_recipe_keeps_the_groups(tmp_path):
    recipe = settings("data.classes={b: [y], a: [x, z]}")
    assert "classes:\n    b:\n    - y\n    a:" in recipe.to_yaml(only_set=True)


# --- labels


def test_labels_are_merged_renamed_and_left_out(tmp_path):
    table = read_table(class_folders(tmp_path, "glioma", "pituitary", "no_tumor", "cyst", count=3))
    merged = merge_classes(table, GROUPS)
    assert merged.classes == ("tumor", "healthy")  # in the order of the groups
    assert [label_names(sample)[0] for sample in merged.samples] == ["tumor"] * 3 + [
        "healthy"
    ] * 3 + ["tumor"] * 3
    text = notes(merged)
    assert "2 classes by data.classes: tumor (glioma, pituitary), healthy (no_tumor)" in text
    assert "3 images of classes that data.classes does not name left out: cyst" in text


def test_labels_of_several_classes_lose_only_the_others(tmp_path):
    class_folders(tmp_path, "x", count=4)
    rows = ["x/0.png,cat|dog", "x/1.png,dog|bird", "x/2.png,bird", "x/3.png,"]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    merged = merge_classes(read_table(tmp_path / "t.csv"), {"pet": ["cat", "dog"]})
    assert [label_names(sample) for sample in merged.samples] == [("pet",), ("pet",), (), ()]
    assert "1 image has no class any more" in notes(merged)


def test_an_unknown_class_is_named_with_the_nearest(tmp_path):
    table = read_table(class_folders(tmp_path, "glioma", "no_tumor"))
    with pytest.raises(UnknownName, match=r"no class is called 'gliomas'(.|\n)*glioma"):
        merge_classes(table, {"tumor": ["gliomas"]})
    with pytest.raises(DataError, match="no image has one of the chosen classes"):
        merge_classes(table, {"tumor": ["cyst"]}, other=True)


def test_data_without_classes_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,text\na.png,a cat\n")
    with pytest.raises(UsageError, match="have no classes to choose from"):
        merge_classes(read_table(tmp_path / "t.csv"), GROUPS)


# --- boxes, instances and masks


def coco(root: Path, with_masks: bool) -> Path:
    """Two images: one with a glioma, a cyst and a pituitary tumor, and one with a cyst."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(root / name)
    names = ["glioma", "cyst", "pituitary"]
    boxes = [(1, 1), (1, 2), (1, 3), (2, 2)]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [10 * category - 8, 4, 6, 6],
            "iscrowd": 0,
            "area": 36,
        }
        for number, (image, category) in enumerate(boxes, 1)
    ]
    if with_masks:
        for row in annotations:
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    content = {
        "images": [
            {"id": i, "file_name": n, "width": 40, "height": 30}
            for i, n in ((1, "a.png"), (2, "b.png"))
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    path = root / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("with_masks", [False, True])
def test_boxes_are_left_out_and_their_images_stay(tmp_path, with_masks):
    table = read_table(coco(tmp_path, with_masks), "coco")
    merged = merge_classes(table, {"tumor": ["glioma", "pituitary"]})
    first, second = (sample.target for sample in merged.samples)
    assert (first.names, second.names) == (("tumor", "tumor"), ())
    assert first.xyxy[:, 0].tolist() == [2, 22]
    assert (first.masks is not None) == with_masks
    assert not with_masks or len(first.masks) == 2
    assert "2 boxes left out, of classes that data.classes does not name: cyst" in notes(merged)


def masks(root: Path) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    Image.new("RGB", (3, 2)).save(root / "images" / "a.png")
    values = np.array([[0, 1, 2], [3, 255, 1]], dtype=np.uint8)
    Image.fromarray(values).save(root / "masks" / "a.png")
    (root / "classes.txt").write_text("background\nglioma\npituitary\ncyst\n")
    return root


def test_pixels_of_other_classes_are_ignored_and_not_background(tmp_path):
    table = read_table(masks(tmp_path))
    merged = merge_classes(table, {"rest": ["background"], "tumor": ["glioma", "pituitary"]})
    assert merged.classes == ("rest", "tumor")
    expected = [[0, 1, 1], [IGNORE_INDEX, IGNORE_INDEX, 1]]
    assert merged.samples[0].target.mask.tolist() == expected
    assert "are ignored, neither trained on nor scored: cyst" in notes(merged)
    background = {"rest": ["background", "cyst"], "tumor": ["glioma", "pituitary"]}
    assert merge_classes(table, background).samples[0].target.mask[1, 0] == 0


# --- runs


@pytest.fixture(scope="module")
def merged_run(tmp_path_factory, quick) -> tuple[Run, Path]:
    """A run on stripes, of which both directions have been divided into two classes."""
    root = tmp_path_factory.mktemp("merged")
    make_stripes_folder(root / "data", per_class=12)
    for name in sorted(path.name for path in (root / "data").iterdir()):
        (root / "data" / f"{name}_late").mkdir()
        for file in sorted((root / "data" / name).iterdir())[6:]:
            file.rename(root / "data" / f"{name}_late" / file.name)
    names = sorted(path.name for path in (root / "data").iterdir())
    groups = {name: [name, f"{name}_late"] for name in names if not name.endswith("_late")}
    recipe = with_settings(quick, {"data.path": str(root / "data"), "data.classes": groups})
    return Run.open(fit_unevaluated(recipe, root / "run").run), root / "data"


def test_a_run_reads_its_data_with_its_groups_again(merged_run):
    run, data = merged_run
    assert len(run.classes()) == 2 < len(read_table(data).classes)
    table = read_run_table(run)
    assert {label_names(sample)[0] for sample in table.samples} == set(run.classes())
    assert len(table.samples) == len(read_table(data).samples)


def test_new_data_are_merged_too_whether_by_old_names_or_new_ones(merged_run, tmp_path):
    run, data = merged_run
    by_old_names = evaluate(run.folder, data, split="all")
    assert by_old_names.scores.numbers["accuracy"].count == len(read_table(data).samples)
    make_stripes_folder(tmp_path / "new", per_class=4, seed=1)
    by_new_names = evaluate(run.folder, tmp_path / "new")
    assert by_new_names.scores.numbers["accuracy"].count == 8


def test_continuing_keeps_the_groups(merged_run, tmp_path):
    run, _ = merged_run
    kept = class_folders(tmp_path, run.classes()[0], "unknown")
    recipe = with_settings(
        run.recipe(), {"data.path": str(kept), "data.format": "auto", "start.run": str(run.folder)}
    )
    assert read_recipe_table(recipe).classes == run.classes()

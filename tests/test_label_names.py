"""Names of classes that a table or folders number, from a file beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from foveate.data.formats import read_table
from foveate.errors import DataError
from foveate.predictions import Labels
from test_readings import write_photo


def numbered(root: Path, labels: Sequence[object], folder: str = "") -> Path:
    """A table of labels, and its images."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(len(labels)):
        write_photo(root / folder / f"{number}.png", seed=number)
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    (root / "train.csv").write_text(f"image_id,label\n{rows}")
    return root


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("label_num_to_disease_map.json", {"0": "blight", "1": "healthy", "2": "mosaic"}),
        ("anything.json", {"0": "blight", "1": "healthy", "2": "mosaic"}),
        ("class_to_idx.json", {"blight": 0, "healthy": 1, "mosaic": 2}),
        ("classes.json", ["blight", "healthy", "mosaic"]),
        ("config.json", {"id2label": {"0": "blight", "1": "healthy", "2": "mosaic"}, "x": 1}),
        (
            "categories.json",
            [
                {"id": 2, "name": "mosaic"},
                {"id": 0, "name": "blight"},
                {"id": 1, "name": "healthy"},
            ],
        ),
        (
            "class_index.json",
            {"0": ["n1", "blight"], "1": ["n2", "healthy"], "2": ["n3", "mosaic"]},
        ),
        ("classes.txt", "blight\nhealthy\nmosaic\n"),
        ("classes.csv", "class_id,name\n0,blight\n1,healthy\n2,mosaic\n"),
    ],
)
def test_names_of_numbered_classes_come_from_a_file_beside_the_table(tmp_path, file, content):
    numbered(tmp_path, [0, 1, 2, 1] * 2, "train_images")
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / file).write_text(text)
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("table", ("blight", "healthy", "mosaic"))
    assert table.samples[0].target == Labels(("blight",))
    assert f"those in '{file}', such as 0: 'blight'" in "".join(map(str, table.notes))


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"a_map.json": {"0": "cat", "1": "dog"}}, "not each of the numbers 0 to 2 once"),
        ({"a_map.json": {"0": "cat", "1": "cat", "2": "dog"}}, "not each of the numbers 0 to 2"),
        (
            {"a_map.json": {"0": "x", "1": "y", "2": "z"}, "classes.json": ["x", "z", "y"]},
            "name the numbered classes differently",
        ),
        ({"label_map.json": {"0": "0.png", "1": "1.png", "2": "2.png"}}, ""),
        ({"settings.json": {"batch": 16, "epochs": 3}}, ""),
        ({"classes.json": "[broken"}, ""),
    ],
)
def test_names_that_do_not_fit_the_numbers_are_not_used(tmp_path, files, note):
    numbered(tmp_path, [0, 1, 2, 1] * 2)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    table = read_table(tmp_path / "train.csv")
    assert table.classes == ("0", "1", "2")
    notes = "".join(map(str, table.notes))
    assert (note in notes, bool(notes)) == (True, bool(note))


def test_a_list_without_numbers_counts_from_one_only_where_it_must(tmp_path):
    numbered(tmp_path / "one", [1, 2, 3, 1])
    (tmp_path / "one" / "classes.json").write_text('["a", "b", "c"]')
    assert read_table(tmp_path / "one").classes == ("a", "b", "c")
    numbered(tmp_path / "either", [1, 2, 1, 2])
    (tmp_path / "either" / "classes.json").write_text('["a", "b", "c", "d"]')
    table = read_table(tmp_path / "either")
    assert table.classes == ("1", "2")
    assert "'classes.json' may name the classes" in str(table.notes[0])


def test_many_numbers_with_names_are_classes(tmp_path):
    numbered(tmp_path, [*range(30), *range(30)])
    with pytest.raises(DataError, match="amounts rather than classes"):
        read_table(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps({str(n): f"breed {n}" for n in range(30)}))
    assert len(read_table(tmp_path).classes) == 30


def test_numbered_class_folders_are_named_as_well(tmp_path):
    for name in ("1", "21"):
        write_photo(tmp_path / "train" / name / "a.png", seed=int(name))
    (tmp_path / "cat_to_name.json").write_text('{"21": "fire lily", "1": "pink primrose"}')
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("folder", ("fire lily", "pink primrose"))
    assert table.samples[1].target == Labels(("fire lily",))

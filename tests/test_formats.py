"""Reading folders and tables of labels."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foveate.data.formats import read_table
from foveate.data.formats.folder import Folder
from foveate.data.formats.table import TableFile
from foveate.errors import DataError
from helpers import notes

DATA = Path(__file__).parents[2] / "shared" / "data"


def create_files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not opened here")
    return root


def targets_by_key(table):
    return {sample.key: (sample.target.names, sample.split) for sample in table.samples}


def test_folder_per_class(tmp_path):
    create_files(
        tmp_path,
        "dog/1.jpg",
        "cat/deep/2.PNG",
        "cat/notes.txt",
        "LICENSE",
        "loose.jpg",
        "cat/.hidden.jpg",
    )
    (tmp_path / "fish").mkdir()
    table = read_table(tmp_path)
    assert (table.classes, table.format, table.multilabel) == (("cat", "dog"), "folder", False)
    assert targets_by_key(table) == {
        "cat/deep/2.PNG": (("cat",), None),
        "dog/1.jpg": (("dog",), None),
    }
    assert "'fish' is skipped" in notes(table)
    assert "1 file in cat skipped: not an image file" in notes(table)
    assert "1 image in" in notes(table)


def test_t29_split_folders_match_by_name(tmp_path):
    create_files(
        tmp_path,
        "Training/cat/1.jpg",
        "Training/dog/1.jpg",
        "valid/Cat /2.jpg",
        "valid/newt/3.jpg",
        "testing/dog/4.jpg",
    )
    table = read_table(tmp_path)
    assert table.classes == ("cat", "dog", "newt")
    assert targets_by_key(table)["valid/Cat /2.jpg"] == (("cat",), "val")
    assert targets_by_key(table)["testing/dog/4.jpg"] == (("dog",), "test")
    assert "'Cat ' in val is taken as 'cat'" in notes(table)
    assert "'newt' is in val" in notes(table)


def test_only_training_is_a_split(tmp_path):
    table = read_table(create_files(tmp_path, "Training/a/1.jpg", "Training/b/1.jpg"))
    assert (table.classes, {sample.split for sample in table.samples}) == (("a", "b"), {"train"})


def test_a_train_among_vehicles_is_a_class(tmp_path):
    table = read_table(create_files(tmp_path, "train/1.jpg", "bus/1.jpg"))
    assert (table.classes, table.samples[0].split) == (("bus", "train"), None)


def test_t29_names_that_differ_in_case_only_stay_apart_in_one_split(tmp_path):
    table = read_table(create_files(tmp_path, "cat/1.jpg", "Cat/1.jpg"))
    assert table.classes == ("Cat", "cat")
    assert "kept as two classes" in notes(table)


def test_too_few_classes(tmp_path):
    with pytest.raises(DataError, match="no labeled images"):
        Folder().read(tmp_path)
    with pytest.raises(DataError, match=r"only one class.*dataset'"):
        Folder().read(create_files(tmp_path, "dataset/a/1.jpg", "dataset/b/1.jpg"))


def test_t27_names_that_are_not_utf8(tmp_path):
    try:
        create_files(tmp_path, os.fsdecode(b"caf\xe9/\xff.jpg"), "tea/1.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    table = Folder().read(tmp_path)
    assert table.classes == ("caf\\xe9", "tea")
    json.dumps([sample.key for sample in table.samples]).encode()
    assert all(sample.path.is_file() for sample in table.samples)


@pytest.mark.parametrize(
    "names",
    [
        ("images/1.jpg", "labels/1.txt"),
        ("train/1.jpg", "val/1.jpg", "trainannot/1.png"),
        ("1.jpg",),
    ],
)
def test_other_layouts_are_not_taken_for_classes(tmp_path, names):
    assert not Folder().sniff(create_files(tmp_path, *names))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
@pytest.mark.parametrize(
    ("name", "classes", "count"), [("clothing", 10, 941), ("brain_mri", 4, 800)]
)
def test_real_folders(name, classes, count):
    table = read_table(DATA / name)
    assert (len(table.classes), len(table.samples)) == (classes, count)


def write_table(path: Path, text: str) -> Path:
    create_files(path.parent, "a.jpg", "b.jpg", "in/c.jpg")
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(tmp_path):
    path = tmp_path / "t.csv"
    write_table(
        path,
        "\ufeff\nFilename,class,Split,group\na.jpg,cat,Training,p1\n\n./in/c.jpg,dog,dev,\n,,,\n",
    )
    table = read_table(path)
    assert targets_by_key(table) == {"a.jpg": (("cat",), "train"), "in/c.jpg": (("dog",), "val")}
    assert [sample.group for sample in table.samples] == ["p1", None]
    assert (table.root, table.multilabel, table.format) == (tmp_path, False, "table")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,x|y\nb.jpg,\n",
        "path;label\na.jpg;x|y\nb.jpg;\n",
        "path,label\na.jpg,x;y\nb.jpg,\n",
    ],
)
def test_csv_with_several_labels(tmp_path, text):
    table = read_table(write_table(tmp_path / "t.csv", text))
    assert table.multilabel
    assert targets_by_key(table) == {"a.jpg": (("x", "y"), None), "b.jpg": ((), None)}
    assert "1 without any" in notes(table)


def test_json_lines(tmp_path):
    lines = '{"image": "a.jpg", "labels": ["x", "y"]}\n\n{"image": "b.jpg", "labels": [], "split": "test"}\n'
    table = read_table(write_table(tmp_path / "t.jsonl", lines))
    assert targets_by_key(table) == {"a.jpg": (("x", "y"), None), "b.jpg": ((), "test")}
    with pytest.raises(DataError, match="row 1"):
        read_table(write_table(tmp_path / "u.ndjson", "{nonsense"))


def test_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    create_files(tmp_path, "a.jpg", "b.jpg")
    parquet.write_table(
        pa.table({"path": ["a.jpg", "b.jpg"], "label": [1.0, 2.0], "other": [0, 0]}),
        tmp_path / "t.parquet",
    )
    assert targets_by_key(read_table(tmp_path / "t.parquet")) == {
        "a.jpg": (("1",), None),
        "b.jpg": (("2",), None),
    }
    (tmp_path / "u.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="Parquet"):
        TableFile().read(tmp_path / "u.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\na.jpg,x\n", "no column 'label'.*path, lable.*rename the column 'lable'"),
        ("path,label,split\na.jpg,x,trian\n", "no split is called 'trian'.*row 2"),
        ("path,label\na.jpg,x\na.jpg,y\n", "contradict.*'a.jpg'.*rows 2 and 3"),
        ("path,label\nq.jpg,x\nr.jpg,y\n", "images of the table do not exist"),
        ("path,label\n", "no rows"),
        ("path,label\n,x\n", "names no image.*row 2"),
        ("", "no column 'path'"),
    ],
)
def test_bad_tables_give_the_reason(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write_table(tmp_path / "t.csv", text))


def test_missing_and_repeated_rows_are_noted(tmp_path):
    text = "path\tlabel\na.jpg\tx\nb.jpg\ty\na.jpg\tx\n" + "".join(
        f"gone{index}.jpg\tx\n" for index in range(4)
    )
    table = read_table(write_table(tmp_path / "t.tsv", text))
    assert len(table.samples) == 2
    assert "1 row named the same image" in notes(table)
    assert (
        "4 of 6 images are missing and dropped: 'gone0.jpg', 'gone1.jpg', 'gone2.jpg', ..."
        in notes(table)
    )


def test_latin1_is_a_data_error(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path,label\ncaf\xe9.jpg,x\n")
    with pytest.raises(DataError, match="UTF-8"):
        TableFile().read(tmp_path / "t.csv")


def test_a_folder_that_cannot_be_data_says_why(tmp_path):
    with pytest.raises(DataError, match="the folder is empty"):
        read_table(tmp_path)
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="the folder contains no images"):
        read_table(tmp_path)


def test_a_class_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    create_files(tmp_path, "cat/1.jpg", "hat/2.jpg")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("hat"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed") as caught:
        read_table(tmp_path)
    assert str(caught.value.where).endswith("hat")

"""Images that are read in place: archives, WebDataset shards, Parquet files; and what is written of
predictions for folders."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from conftest import make_stripes_folder, stripe_image
from foveate.api.check.core import check_data
from foveate.api.evaluate import evaluate
from foveate.api.fit.core import fit_recipe
from foveate.data import stored_images
from foveate.data.formats import read_table
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image
from foveate.inference.writers import write_folder
from foveate.predictions import Boxes, ImageResult, Labels
from foveate.recipe import recipe_from, with_settings


def png(rng: np.random.Generator, upright: bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stripe_image(rng, upright)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def class_members(prefix: str = "", count: int = 4) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {
        f"{prefix}{label}/{number}.png": png(rng, label == "upright")
        for label in ("lying", "upright")
        for number in range(count)
    }


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("prefix", ["", "photos/", "./deep/photos/"])
def test_class_folders_in_archives(tmp_path, write, prefix):
    members = class_members(prefix)
    members["__MACOSX/lying/._0.png"] = b"clutter"
    suffix = ".zip" if write is write_zip else ".tar"
    table = read_table(write(tmp_path / f"data{suffix}", members))
    assert table.format == "archive"
    assert table.classes == ("lying", "upright")
    assert [sample.key for sample in table.samples][:2] == ["lying/0.png", "lying/1.png"]
    assert {sample.target for sample in table.samples[:4]} == {Labels(("lying",))}
    pixels = read_image(table.samples[0].source)[0]
    assert (pixels == read_image(members[f"{prefix}lying/0.png"])[0]).all()
    assert [path.name for path in tmp_path.iterdir()] == [f"data{suffix}"]  # nothing is unpacked


def test_splits_in_archives(tmp_path):
    members = class_members("data/training_set/") | class_members("data/test/", 2)
    table = read_table(write_zip(tmp_path / "a.zip", members))
    assert table.classes == ("lying", "upright")
    assert len(table.in_split("train")) == 8
    assert len(table.in_split("test")) == 4


def test_webdataset_shards(tmp_path):
    """Members with one name up to the first dot belong together."""
    rng = np.random.default_rng(0)
    for shard in ("train-000.tar", "train-001.tar", "val-000.tar"):
        members = {}
        for number in range(3):
            key = f"{shard[:-4]}/{number:04d}"
            members[f"{key}.seg.png"] = png(rng, True)
            if number == 0:
                members[f"{key}.cls"] = b"lying\n"
            elif number == 1:
                members[f"{key}.json"] = json.dumps({"label": "upright", "width": 3}).encode()
        write_tar(tmp_path / shard, members)
    table = read_table(tmp_path)
    assert table.format == "archive"
    assert len(table.in_split("train")) == 4
    assert len(table.in_split("val")) == 2
    assert [sample.target.names for sample in table.in_split("val")] == [("lying",), ("upright",)]
    assert "without a label" in str(table.notes[0])
    assert table.notes[0].occurrences == 3


def test_captions_in_shards(tmp_path):
    rng = np.random.default_rng(0)
    members = {"0.png": png(rng, True), "0.txt": b"upright  lines", "1.png": png(rng, False)}
    members["1.json"] = b'{"caption": "lying lines"}'
    members["2.png"], members["2.json"] = png(rng, False), b"{broken"
    with pytest.raises(DataError, match=r"not valid JSON.*2.png"):
        read_table(write_tar(tmp_path / "a.tar", members))
    del members["2.json"]
    table = read_table(write_tar(tmp_path / "b.tar", members))
    assert [sample.target.sentences for sample in table.samples] == [
        ("upright lines",),
        ("lying lines",),
    ]


def test_archives_that_cannot_be_read_in_place_say_why(tmp_path):
    members = class_members()
    with pytest.raises(DataError, match=r"annotations that are not read in place.*unpack"):
        read_table(write_zip(tmp_path / "a.zip", members | {"lying/0.xml": b"<annotation/>"}))
    with pytest.raises(DataError, match=r"no images with labels.*a folder for each class"):
        read_table(write_zip(tmp_path / "b.zip", {"0.png": members["lying/0.png"]}))
    pictures = {f"{split}/{split}.png": members["lying/0.png"] for split in ("train", "valid")}
    with pytest.raises(DataError, match="no images with labels"):  # splits are no classes
        read_table(write_zip(tmp_path / "e.zip", pictures))
    roboflow = {"train/_annotations.coco.json": b'{"images": [], "annotations": []}'}
    with pytest.raises(DataError, match=r"not read in place.*train/_annotations\.coco\.json"):
        read_table(write_zip(tmp_path / "f.zip", pictures | roboflow))
    compressed = write_tar(tmp_path / "c.tar.gz", members, "w:gz")
    with pytest.raises(DataError, match="cannot be read in place"):
        read_table(compressed)
    with pytest.raises(DataError, match=r"compressed .tar cannot be read in place.*plain .tar"):
        read_table(compressed, "archive")
    whole = write_tar(tmp_path / "d.tar", members).read_bytes()
    (tmp_path / "d.tar").write_bytes(whole[:-9000])
    with pytest.raises(DataError, match="archive cannot be read"):
        read_table(tmp_path / "d.tar", "archive")


def test_archives_of_masks_and_parts_are_not_classes_unasked(tmp_path):
    rng = np.random.default_rng(0)
    for names, doubt in (
        (("images", "masks"), "folders called images and masks"),
        (("fold_1", "fold_2"), "named like a part of a dataset"),
    ):
        members = {f"{name}/{number}.png": png(rng, True) for name in names for number in range(3)}
        with pytest.raises(DataError, match=doubt):
            read_table(write_zip(tmp_path / "a.zip", members))
        assert read_table(tmp_path / "a.zip", "archive").classes == names


def test_a_member_that_is_too_large_or_gone_is_a_broken_image(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", class_members())
    samples = read_table(path).samples
    monkeypatch.setattr(stored_images, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(BrokenImage, match="more than 10 bytes"):
        read_image(samples[0].source)
    monkeypatch.undo()
    stored_images._open_zip.cache_clear()
    path.unlink()
    with pytest.raises(BrokenImage, match="member of a file cannot be read"):
        read_image(samples[0].source)


# --- Parquet


def write_hub_parquet(path: Path, rows: int = 8, classes=("bolt", "nut"), group_size: int = 3):
    """As `datasets` writes it: image = {bytes, path}, label = a number with names in JSON."""
    rng = np.random.default_rng(0)
    images = [{"bytes": png(rng, bool(row % 2)), "path": f"{row}.png"} for row in range(rows)]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    table = pa.table(
        {
            "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": pa.array([row % 2 for row in range(rows)], pa.int64()),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group_size)
    return [image["bytes"] for image in images]


def test_images_inside_parquet(tmp_path):
    contents = write_hub_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    write_hub_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", 4)
    table = read_table(tmp_path)
    assert table.classes == ("bolt", "nut")
    train = table.in_split("train")
    assert [sample.source for sample in train] == contents
    assert [sample.target.names[0] for sample in train] == ["bolt", "nut"] * 4
    assert len(table.in_split("test")) == 4


def test_a_run_on_parquet_and_its_evaluation(quick, tmp_path):
    """Near-copies, the digest of files, the split and the second reading work without files."""
    file = tmp_path / "train.parquet"
    write_hub_parquet(file, 32)
    recipe = with_settings(quick, {"data.path": str(file)})
    result = fit_recipe(recipe, tmp_path / "run")
    again = evaluate(result.run).scores.numbers["accuracy"]
    assert again.count == result.evaluation.scores.numbers["accuracy"].count > 0
    assert again.value == result.evaluation.scores.numbers["accuracy"].value


def test_messages_hold_no_bytes_of_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    cells = [{"bytes": png(rng, True)[:-30], "path": None}, {"bytes": None, "path": "gone.png"}]
    cells += [{"bytes": png(rng, True), "path": None} for _ in range(6)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(cells, kind), "label": ["bolt", "nut"] * 4})
    parquet.write_table(table, tmp_path / "a.parquet")
    recipe = recipe_from(tmp_path / "a.parquet", {}, {})
    result = check_data(recipe, tmp_path / "check", 1000, plan=False)
    (tmp_path / "check").is_dir()
    written = "".join(
        file.read_text(encoding="utf-8", errors="replace")
        for file in (tmp_path / "check").rglob("*.json")
    )
    for text in (capsys.readouterr().out, written, *map(str, result.issues)):
        assert "IHDR" not in text
    assert {issue.kind.id for issue in result.issues} >= {"undecodable_image", "unreadable_image"}


# --- predictions in folders


def results(folder: Path, *names: str) -> list[ImageResult]:
    boxes = Boxes(np.array([[1, 1, 9, 9]], np.float32), ("bolt",), np.array([0.5], np.float32))
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(rng, True))
    return [ImageResult(str(folder / name), boxes, None, ("bolt",)) for name in names]


def written(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "classes.txt"
    }


def test_folders_keep_their_structure(tmp_path):
    names = ("cam a/0.png", "cam b/0.png", "cam b/night/0.png", "1.png")
    inbox = tmp_path / "inbox"
    write_folder(results(inbox, *names), "yolo", tmp_path / "out", [inbox])
    assert written(tmp_path / "out") == {name.replace(".png", ".txt") for name in names}


def test_same_names_in_folders_that_were_given_apart(tmp_path):
    both = [*results(tmp_path / "a", "0.png", "1.png"), *results(tmp_path / "b", "0.png")]
    write_folder(both, "images", tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert written(tmp_path / "out") == {"a/0.jpg", "a/1.jpg", "b/0.jpg"}
    write_folder(both + both[:1], "images", tmp_path / "files")
    assert written(tmp_path / "files") == {"a/0.jpg", "a/1.jpg", "b/0.jpg"}


def test_names_that_differ_in_the_extension_alone_get_a_list(tmp_path):
    same = results(tmp_path / "a", "0.png", "0.PNG", "1.png")
    write_folder(same, "yolo", tmp_path / "out", [tmp_path / "a"])
    assert written(tmp_path / "out") == {"0.png.txt", "0.PNG.txt", "1.txt", "names.csv"}
    lines = (tmp_path / "out" / "names.csv").read_text().splitlines()
    assert lines[0] == "name,path"
    assert f"0.png,{tmp_path / 'a' / '0.png'}" in lines


def test_stripes_in_a_zip_are_learned_like_those_in_folders(quick, tmp_path):
    folder = make_stripes_folder(tmp_path / "data")
    members = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.png")
    }
    archive = write_zip(tmp_path / "data.zip", members)
    scores = [
        fit_recipe(
            with_settings(quick, {"data.path": str(path)}), tmp_path / name
        ).evaluation.scores.numbers["accuracy"]
        for path, name in ((folder, "one"), (archive, "two"))
    ]
    assert scores[0] == scores[1]

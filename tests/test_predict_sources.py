"""Predicting for what people have: volumes, slides, Parquet, archives, other bit depths."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pyarrow
import pytest
import tifffile
from PIL import Image
from pyarrow import parquet

from conftest import make_stripes_folder, stripe_image
from foveate.api.check.core import check_data
from foveate.api.evaluate import evaluate
from foveate.api.explain import explain
from foveate.api.export import export
from foveate.api.export.bundle import _task_metadata
from foveate.api.fit.core import fit_recipe
from foveate.api.load import load
from foveate.api.predict import predict
from foveate.cli.main import _run
from foveate.data.image_sources import find_samples_at
from foveate.errors import DataError, UsageError
from foveate.inference.writers import write_folder
from foveate.recipe import Recipe, recipe_from, with_settings
from test_image_files import write_dicom


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory) -> Path:
    """A run on images of 8 bits."""
    return fit_recipe(quick, tmp_path_factory.mktemp("runs") / "run").run


@pytest.fixture(scope="module")
def deep_run(quick, tmp_path_factory) -> Path:
    """A run on gray images of 12 bits in 16."""
    folder = tmp_path_factory.mktemp("deep")
    make_deep_folder(folder / "data", 16)
    recipe = with_settings(quick, {"data.path": str(folder / "data"), "training.epochs": 1})
    return fit_recipe(recipe, folder / "run").run


def make_deep_folder(folder: Path, factor: int, per_class: int = 8) -> Path:
    """Write gray stripes in 16 bits, which reach to 255 times a factor."""
    rng = np.random.default_rng(0)
    for label in ("lying", "upright"):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            values = stripe_image(rng, label == "upright")[..., 0].astype(np.uint16) * factor
            values[0, 0] = 255 * factor
            Image.fromarray(values).save(folder / label / f"{number:02d}.png")
    return folder


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = stripe_image(np.random.default_rng(number), upright=bool(number % 2))
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_volume(path: Path, slices: int = 5) -> Path:
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(rng.random((20, 24, slices)), np.eye(4)), path)
    return path


def write_parquet(path: Path, count: int = 4) -> Path:
    rows = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(count)]
    parquet.write_table(pyarrow.table({"image": rows, "label": list(range(count))}), path)
    return path


def write_archives(folder: Path) -> tuple[Path, Path]:
    """Write images in folders, and what else archives contain, as .zip and as .tar."""
    members = {"photos/a.png": encoded(0), "photos/deep/b.png": encoded(1)}
    members |= {"__MACOSX/photos/._a.png": b"x", "notes.csv": b"a,b\n", "photos/.hidden.png": b"x"}
    with zipfile.ZipFile(folder / "photos.zip", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with tarfile.open(folder / "photos.tar", "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return folder / "photos.zip", folder / "photos.tar"


def names_of(path: Path) -> list[str]:
    """The names of the images in a file or folder, without its path."""
    return [sample.key.removeprefix(path.as_posix()) for sample in find_samples_at([path])]


# --- what holds images


def test_a_volume_gives_a_row_for_each_slice(run, tmp_path):
    volume = write_volume(tmp_path / "scan.nii.gz")
    results = predict(run, volume)
    assert [each.path for each in results] == [f"{volume}#{index:04d}" for index in range(5)]
    assert all(each.error is None for each in results)
    slices = [predict(run, save_slice(volume, index, tmp_path))[0] for index in (0, 4)]
    for from_volume, from_file in zip((results[0], results[4]), slices, strict=True):
        scores = from_volume.prediction.scores, from_file.prediction.scores
        np.testing.assert_allclose(*scores, atol=1e-6)


def save_slice(volume: Path, index: int, folder: Path) -> Path:
    from foveate.images.nifti import read_slice

    file = folder / f"slice{index}.png"
    Image.fromarray(read_slice(volume, index)).save(file)
    return file


def test_frames_of_dicom_are_rows_and_single_images_keep_their_names(run, tmp_path):
    rng = np.random.default_rng(0)
    movie = write_dicom(tmp_path / "movie.dcm", rng.integers(0, 900, (3, 32, 32), dtype=np.uint16))
    single = write_dicom(tmp_path / "single.dcm", rng.integers(0, 900, (32, 32), dtype=np.uint16))
    results = predict(run, [movie, single])
    expected = [f"{movie}#{index:04d}" for index in range(3)]
    assert [each.path for each in results] == [*expected, str(single)]
    assert len({tuple(each.prediction.scores) for each in results}) == 4


def test_rows_of_parquet_are_images_by_their_numbers(run, tmp_path):
    file = write_parquet(tmp_path / "train.parquet")
    results = predict(run, file)
    assert [each.path for each in results] == [f"{file}#{number:06d}" for number in range(1, 5)]
    (tmp_path / "2.png").write_bytes(encoded(2))
    alone = predict(run, tmp_path / "2.png")[0]
    np.testing.assert_allclose(results[2].prediction.scores, alone.prediction.scores, atol=1e-6)
    data = tmp_path / "dataset" / "data"
    data.mkdir(parents=True)
    write_parquet(data / "train-00000-of-00001.parquet")
    assert len(names_of(tmp_path / "dataset")) == 4


def test_parquet_beside_images_holds_their_labels(tmp_path):
    make_stripes_folder(tmp_path / "data", 1)
    write_parquet(tmp_path / "data" / "labels.parquet")
    assert names_of(tmp_path / "data") == ["/lying/00.png", "/upright/00.png"]


@pytest.mark.parametrize("extension", [".zip", ".tar"])
def test_members_of_archives_are_images(run, tmp_path, extension):
    archive = dict(zip((".zip", ".tar"), write_archives(tmp_path), strict=True))[extension]
    results = predict(run, archive)
    names = [f"{archive}/photos/a.png", f"{archive}/photos/deep/b.png"]
    assert [each.path for each in results] == names
    (tmp_path / "a.png").write_bytes(encoded(0))
    alone = predict(run, tmp_path / "a.png")[0]
    np.testing.assert_allclose(results[0].prediction.scores, alone.prediction.scores, atol=1e-6)


def test_what_holds_no_images_is_named(run, tmp_path):
    parquet.write_table(pyarrow.table({"label": [1, 2]}), tmp_path / "labels.parquet")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4" + b"x" * 50)
    (tmp_path / "broken.nii.gz").write_bytes(b"x" * 50)
    (tmp_path / "images.tgz").write_bytes(b"\x1f\x8b" + b"x" * 50)
    (tmp_path / "movie.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"x" * 50)
    files = sorted(tmp_path.iterdir())
    results = {Path(each.path).name: each.error for each in predict(run, files)}
    assert list(results) == [file.name for file in files]
    assert "volume" in results["broken.nii.gz"]
    assert "archive" in results["broken.zip"]
    assert "archive" in results["images.tgz"]
    assert "video" in results["movie.mp4"]
    assert results["labels.parquet"] is not None


def test_exported_files_and_the_command_line_read_the_same(run, tmp_path):
    volume = write_volume(tmp_path / "in" / "scan.nii.gz")
    exported = export(run, to="onnx", out=tmp_path / "export").files[0].path
    out = tmp_path / "predictions.jsonl"
    assert _run(["predict", str(exported), str(tmp_path / "in"), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["path"] for row in rows] == [f"{volume}#{index:04d}" for index in range(5)]
    assert [row["scores"] for row in rows] == [
        pytest.approx(each.row()["scores"], abs=1e-4) for each in predict(run, volume)
    ]


def test_parts_of_files_are_explained_and_evaluated(run, tmp_path):
    volume = write_volume(tmp_path / "scan.nii.gz", 2)
    sheets = explain(run, volume, out=tmp_path / "sheets").folder
    assert len(list(sheets.glob("*.png"))) == 2
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as file:
        for number in range(6):
            file.writestr(f"{('lying', 'upright')[number % 2]}/{number}.png", encoded(number))
    assert evaluate(run, tmp_path / "data.zip").scores.numbers["accuracy"].count == 6


def test_channels_in_files_of_their_own_are_one_image_for_a_run_on_them(quick, tmp_path):
    """A run on four channels of nnU-Net, with all of them as bands."""
    content = {"channel_names": {}, "labels": {"background": 0, "PZ": 1}, "file_ending": ".png"}
    rng, data = np.random.default_rng(0), tmp_path / "data"
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    (data / "dataset.json").write_text(json.dumps(content))
    for case in range(6):
        for channel in range(4):
            values = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(values).save(data / f"imagesTr/case{case}_{channel:04d}.png")
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20] = 1
        Image.fromarray(mask).save(data / f"labelsTr/case{case}.png")
    settings = {"data.path": str(data), "data.bands": [1, 2, 3, 4], "training.epochs": 1}
    nnunet = fit_recipe(with_settings(quick, settings), tmp_path / "run").run
    results = predict(nnunet, data / "imagesTr")
    assert [each.path for each in results] == [
        f"{data}/imagesTr/case{case}_0000.png" for case in range(6)
    ]
    assert all(each.error is None for each in results)
    assert _task_metadata(load(nnunet))["channel_files"]  # so that exported files do the same


def test_folders_of_predictions_name_parts_by_their_files(boxes_of_parts, tmp_path):
    results = boxes_of_parts
    write_folder(results, "yolo", tmp_path / "yolo")
    written = sorted(path.name for path in (tmp_path / "yolo").glob("*.txt"))
    assert written == ["a.dcm#0000.txt", "a.dcm#0001.txt", "classes.txt"]
    write_folder(results, "images", tmp_path / "images")
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 2
    write_folder(results, "coco", tmp_path / "coco")
    images = json.loads((tmp_path / "coco" / "predictions.json").read_text())["images"]
    assert [(each["height"], each["width"]) for each in images] == [(32, 48)] * 2
    with pytest.raises(UsageError, match="these images are parts of other files"):
        write_folder(results, "labelme", tmp_path / "labelme")
    assert not (tmp_path / "labelme").exists()


@pytest.fixture
def boxes_of_parts(tmp_path) -> list:
    from foveate.predictions import Boxes, ImageResult

    values = np.random.default_rng(0).integers(0, 900, (2, 32, 48), dtype=np.uint16)
    samples = list(find_samples_at([write_dicom(tmp_path / "in" / "a.dcm", values)]))
    boxes = Boxes(np.array([[1, 2, 20, 30]], np.float32), ("bolt",), np.array([0.9], np.float32))
    return [
        ImageResult(each.key, boxes, None, ("bolt",), content=each.path.content) for each in samples
    ]


def test_check_names_the_formats_and_numbers_of_the_data(tmp_path, caplog):
    for label in ("a", "b"):
        write_volume(tmp_path / "data" / label / "scan.nii.gz")
    result = check_data(recipe_from(tmp_path / "data", {}, {}), None, 100, plan=False)
    text = str(result.sizes)
    assert "NIfTI" in text
    assert "PPM" not in text
    make_stripes_folder(tmp_path / "photos", 3)
    with (tmp_path / "ages.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "age"])
        files = sorted((tmp_path / "photos").rglob("*.png"))
        rows.writerows([each.as_posix(), f"{20.5 + index}"] for index, each in enumerate(files))
    caplog.clear()
    with caplog.at_level("INFO"):
        recipe = recipe_from(tmp_path / "ages.csv", {"task": "regress"}, {})
        check_data(recipe, None, 100, plan=False)
    assert "numbers from 20.5 to 25.5" in caplog.text
    assert "0 classes" not in caplog.text


# --- bit depths


def test_a_run_on_8_bits_says_that_images_have_more(run, tmp_path, caplog):
    data = make_deep_folder(tmp_path / "data", 257, 2)
    make_stripes_folder(tmp_path / "data" / "more", 1)
    predict(run, data)
    sentences = [each for each in caplog.messages if "8 bits" in each]
    assert len(sentences) == 1
    assert "4 images have more than 8 bits, of 6 that were looked at" in sentences[0]
    cautions = list(map(str, evaluate(run, make_deep_folder(tmp_path / "own", 257, 2)).cautions))
    assert any("4 images have more than 8 bits, of 4" in each for each in cautions)


def test_a_scale_that_is_a_guess_is_refused(run, tmp_path):
    data = make_deep_folder(tmp_path / "data", 16, 2)
    for call in (predict, evaluate):
        with pytest.raises(
            DataError, match=r"a guess.*4 of 4 have more.*0 to 4095.*value_range=\[0,4"
        ):
            call(run, data)
    rng = np.random.default_rng(0)
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, rng.normal(300, 100, (30, 30)).astype(np.float32))
    with pytest.raises(DataError, match=r"a guess.*2 of 2 have more than 8 bits"):
        predict(run, [tmp_path / "a.tif", tmp_path / "b.tif"])
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, rng.random((30, 30)).astype(np.float32))
    assert all(each.error is None for each in predict(run, [tmp_path / "a.tif"]))


def test_a_run_on_16_bits_says_that_images_have_8(deep_run, tmp_path, caplog):
    data = make_stripes_folder(tmp_path / "data", 2)
    caplog.clear()
    predict(deep_run, data)
    sentences = [each for each in caplog.messages if "8 bits" in each]
    assert len(sentences) == 1
    assert "4 images have 8 bits, of 4 that were looked at" in sentences[0]
    caplog.clear()
    predict(deep_run, make_deep_folder(tmp_path / "own", 16, 2))
    assert not [each for each in caplog.messages if "bits" in each]


def test_the_same_depth_is_no_remark(run, stripes, caplog):
    predict(run, stripes)
    assert not [each for each in caplog.messages if "bits" in each]
    assert Recipe().data.bits == 8

"""Data that no format reads: the refusal names what they are, and a way that leads on."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import foveate
from foveate.data.formats import read_table
from foveate.errors import DataError
from test_readings import write_photo


def photos(root: Path) -> Path:
    for number in range(3):
        write_photo(root / "images" / f"{number:06}.png", seed=number)
    return root


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


PRODIGY = {
    "image": "data:image/jpeg;base64,/9j/4AAQSkZJRg",
    "spans": [{"label": "car", "type": "rect", "x": 1, "y": 2, "width": 3, "height": 4}],
    "_input_hash": 1692557968,
    "_task_hash": -1693571,
    "answer": "accept",
}
KILI = [{"content": "x", "externalId": "0", "labels": [{"jsonResponse": {"JOB_0": {}}}]}]
FIFTYONE = {"samples": [{"_cls": "Sample", "filepath": "images/000000.png"}]}
AZURE = {
    "image_url": "azureml://subscriptions/x/paths/000000.png",
    "label": [{"label": "can", "topX": 0.1, "topY": 0.2, "bottomX": 0.3, "bottomY": 0.4}],
}
LABEL_STUDIO = (
    "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n"
    "1001,1,can,2026-03-02T09:00:00.1Z,401,/data/upload/7/cfcd2084-000000.png,3.2,2026-03-02\n"
)
CUSTOM_VISION = [{"id": "x", "regions": [{"tagName": "can", "left": 0.1, "top": 0.2}]}]


@pytest.mark.parametrize(
    ("file", "content", "what", "way"),
    [
        ("labels.json", KILI, "an export of Kili", "export from Kili as COCO"),
        ("annotations.jsonl", PRODIGY, "a file of Prodigy", "the columns path and label"),
        ("samples.json", FIFTYONE, "a data set of FiftyOne", "COCODetectionDataset"),
        ("labeled.jsonl", AZURE, "an export of Azure Machine Learning", "as COCO"),
        ("regions.json", CUSTOM_VISION, "a project of Azure Custom Vision", "fractions"),
        ("labels.csv", "car,1,2,30,20,000000.png,64,48\n", "a CSV of Make Sense", "YOLO"),
        ("project-7-at-2026-03-02.csv", LABEL_STUDIO, "a CSV of Label Studio", "JSON-MIN"),
        ("train.tfrecord-00000-of-00010", b"\n\x00\x01", "a TFRecord", "COCO or YOLO"),
        ("data-00000-of-00001.arrow", b"ARROW1", "Hugging Face saved to disk", "to_parquet"),
        ("train.h5", b"\x89HDF", "a set of images in arrays", "save each image as PNG"),
    ],
)
def test_data_of_other_tools_are_named_with_a_way(tmp_path, file, content, what, way):
    path = write(photos(tmp_path) / file, content)
    for data in (tmp_path, path):
        with pytest.raises(DataError) as caught:
            read_table(data)
        message = str(caught.value)
        assert what in message
        assert way in message
        assert len(message) < 1500


def test_images_without_labels_are_no_data_of_another_tool(tmp_path):
    write(photos(tmp_path) / "notes.json", {"camera": "x"})
    with pytest.raises(DataError, match="no format fits"):
        read_table(tmp_path)


def test_subjects_of_bids_are_no_classes(tmp_path):
    for subject in ("sub-01", "sub-02"):
        write(tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz", b"\x1f\x8b")
        write(tmp_path / subject / "ses-1" / "func" / f"{subject}_bold.nii.gz", b"\x1f\x8b")
    rows = "participant_id\tage\tdiagnosis\nsub-01\t31\tpatient\nsub-02\t44\tcontrol\n"
    write(tmp_path / "participants.tsv", rows)
    write(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.6.0"})
    with pytest.raises(DataError, match="a data set in BIDS") as caught:
        read_table(tmp_path)
    assert "sub-01/anat/sub-01_T1w.nii.gz,patient,sub-01" in caught.value.hint
    write(tmp_path / "slices" / "sub-a" / "1.png", b"")  # class folders of such names remain
    write(tmp_path / "slices" / "sub-b" / "1.png", b"")
    assert read_table(tmp_path / "slices").classes == ("sub-a", "sub-b")


def pack(file: Path, *members: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = write_photo(file.parent.parent / "image.png").read_bytes()
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, image)
    return file


def test_a_folder_with_one_archive_is_read_in_place(tmp_path):
    pack(tmp_path / "data" / "photos.zip", "cat/0.png", "cat/1.png", "dog/0.png")
    table = read_table(tmp_path / "data")
    assert (table.format, table.classes, len(table.samples)) == ("archive", ("cat", "dog"), 3)
    pack(tmp_path / "two" / "train.zip", "cat/0.png", "dog/0.png")
    pack(tmp_path / "two" / "test.zip", "cat/0.png", "dog/0.png")
    assert {sample.split for sample in read_table(tmp_path / "two").samples} == {"train", "test"}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("train.zip", "unzip "),
        ("train.tar.gz", "tar -xf "),
        ("train.rar", "unpack "),
        ("film.mp4", "ffmpeg -i VIDEO"),
    ],
)
def test_folders_without_images_say_what_to_do(tmp_path, name, way):
    write(tmp_path / name, b"PK\x05\x06" + bytes(18))
    with pytest.raises(DataError, match="no images") as caught:
        read_table(tmp_path)
    assert way in caught.value.hint
    write(tmp_path / "train.csv", "id,label\n1,cat\n")  # as Kaggle delivers it
    with pytest.raises(DataError, match="images of the table do not exist") as caught:
        read_table(tmp_path)
    assert way in caught.value.hint
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / name)
    assert caught.value.hint


def test_check_names_a_foreign_tool_in_every_language(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(photos(tmp_path / "data") / "labels.json", KILI)
    result = foveate.check("data", plan=False)
    (issue,) = (each for each in result.issues if each.kind.id == "foreign_data")
    assert issue.kind.hint == "export from Kili as COCO, YOLO or Pascal VOC"
    assert "其他工具" in issue.title.in_language("zh")

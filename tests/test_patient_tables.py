"""Tables that name patients and not images, beside DICOM series or folders of patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveate.data.formats import read_table
from foveate.errors import DataError
from test_image_files import write_dicom
from test_readings import write_photo

PATIENTS = [f"LIDC-IDRI-{number:04}" for number in range(1, 9)]


def write_series(root: Path, folder: str = "{}", **tags: str) -> Path:
    """As the NBIA Data Retriever writes them: a folder for each patient, study and series."""
    for number, patient in enumerate(PATIENTS):
        for image in (1, 2):
            file = root / folder.format(patient) / "01-01-2000-CT" / f"1-{image:02}.dcm"
            if "{}" not in folder:
                file = root / folder / f"{number}-{image}.dcm"
            values = np.random.default_rng(number).integers(0, 999, (8, 8), np.uint16)
            write_dicom(file, values, **{"PatientID": patient, **tags})
    return root


def write_diagnoses(file: Path, header: str = "PatientID,label", rows: int = 7) -> Path:
    names = ("benign", "malignant")
    lines = [f"{patient},{names[n % 2]},61" for n, patient in enumerate(PATIENTS[:rows])]
    columns = header.count(",") + 1
    file.write_text("\n".join([header, *(",".join(x.split(",")[:columns]) for x in lines)]) + "\n")
    return file


@pytest.mark.parametrize("folder", ["{}", "manifest/{}", "dicom"])
def test_images_have_the_label_of_their_patient(tmp_path, folder):
    file = write_diagnoses(write_series(tmp_path, folder) / "diagnosis.csv")
    for path in (tmp_path, file):
        table = read_table(path)
        assert (table.format, table.classes) == ("patients", ("benign", "malignant"))
        assert len(table.samples) == 14
        assert len({sample.group for sample in table.samples}) == 7
        assert not any("LIDC" in str(sample.group) for sample in table.samples)
        notes = "\n".join(map(str, table.notes))
        counts = "0 in folders of this name and 14 DICOM" if folder == "dicom" else "14 in folders"
        assert f"names 7 patients, whose images are {counts}" in notes
        assert "2 images belong to no patient of the table and 0 patients have no image" in notes


def test_the_hash_is_that_of_the_files_themselves(tmp_path):
    with_table = read_table(write_diagnoses(write_series(tmp_path / "a") / "diagnosis.csv"))
    alone = read_table(write_series(tmp_path / "b"), "folder")
    groups = {sample.key: sample.group for sample in alone.samples}
    assert all(groups[sample.key] == sample.group for sample in with_table.samples)


def test_a_column_of_another_name_is_named_in_the_refusal(tmp_path):
    file = write_diagnoses(write_series(tmp_path) / "clinical.csv", "Patient ID,histology,age")
    for path in (tmp_path, file):
        with pytest.raises(DataError) as caught:
            read_table(path)
        assert "clinical.csv names patients (in the column 'Patient ID') and not images" in str(
            caught.value.why
        )
        assert "--set data.column=histology" in caught.value.why
        assert read_table(path, column="histology").classes == ("benign", "malignant")


def test_patients_of_other_images_are_refused_with_a_row_of_a_table_that_is_read(tmp_path):
    file = write_diagnoses(write_series(tmp_path, "scans", PatientID="anonymous") / "labels.csv")
    for path in (tmp_path, file):
        with pytest.raises(DataError) as caught:
            read_table(path)
        assert "labels.csv names patients" in caught.value.why
        assert "path,label,group = scans/0-1.dcm,LABEL,PATIENT" in caught.value.why
    with pytest.raises(DataError, match="no image belongs to a patient of the table"):
        read_table(tmp_path, "patients")


def test_rows_that_contradict_each_other_are_refused(tmp_path):
    file = write_diagnoses(write_series(tmp_path) / "labels.csv")
    file.write_text(f"{file.read_text()}{PATIENTS[0]},malignant\n")
    with pytest.raises(DataError, match="contradict each other on a patient"):
        read_table(tmp_path)


def test_classes_beside_a_table_of_patients_are_classes(tmp_path):
    for number in range(8):
        write_photo(tmp_path / ("benign", "malignant")[number % 2] / f"{number}.png", seed=number)
    write_diagnoses(tmp_path / "clinical.csv", "patient_id,histology,age")
    assert read_table(tmp_path).classes == ("benign", "malignant")


def test_folders_called_like_patients_of_a_table_are_asked_about(tmp_path):
    lines = ["subject,diagnosis"]
    for number, name in enumerate(("ann7", "bob3", "eve1", "kim9", "lea2", "max5")):
        for image in range(3):
            write_photo(tmp_path / name / f"{image}.png", seed=3 * number + image)
        lines.append(f"{name},{('well', 'ill')[number % 2]}")
    (tmp_path / "subjects.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"names patients(.|\n)*--set data\.column=diagnosis"):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["LIDC-IDRI-{:04}", "TCGA-{:02}-A1B2", "BraTS20_{:03}"])
def test_folders_named_like_cases_are_asked_about(tmp_path, name):
    for number in range(8):
        for image in range(3):
            write_photo(tmp_path / name.format(number) / f"{image}.png", seed=8 * number + image)
    with pytest.raises(DataError, match="named like patients or cases"):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["class_{:03}", "n014{:05}", "{:05}", "s{}", "c{}"])
def test_numbered_classes_are_classes(tmp_path, name):
    for number in range(8):
        for image in range(3):
            write_photo(tmp_path / name.format(number) / f"{image}.png", seed=8 * number + image)
    assert len(read_table(tmp_path).classes) == 8

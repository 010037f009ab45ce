"""Tables that name patients and not images, and the images of these patients."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from foveate.data.discovery import extension_of, find_images, lacks_extension, list_folder
from foveate.data.issues import collecting
from foveate.data.records import (
    ALIASES,
    cell_text,
    class_columns,
    group_rank,
    has_column,
    has_labels,
    has_paths,
    is_table,
    read_records,
    spelled_columns,
)
from foveate.images import dicom
from foveate.utils.paths import printable, relative_name

_MAX_RANK = 1  # of columns that name patients or cases
_SAMPLE = 8  # images that are looked at
_MAX_PATIENTS = 20_000  # of a table that are looked at before it is read


@dataclass(frozen=True)
class PatientTable:
    """A table with a row for each patient.

    Attributes:
        file: The table.
        patient: Its column of patients.
        label: Its columns that may hold the labels, preferred first, in lower case.
    """

    file: Path
    patient: str
    label: tuple[str, ...]

    @property
    def aliases(self) -> dict[str, tuple[str, ...]]:
        """The columns to read."""
        patient = (self.patient.strip().casefold(),)
        return {"patient": patient, "label": self.label, "split": ALIASES["split"]}

    @property
    def has_labels(self) -> bool:
        """Whether it has a column of labels."""
        return any(has_column(self.file, name) for name in self.label)


def find_patient_table(path: Path, column: str = "") -> PatientTable | None:
    """Return the only table at a path that names patients and not images; None if there is none.

    Args:
        path: The table, or a folder with it.
        column: Its column of labels; "" = one of a common name.
    """
    found = []
    label = (column.strip().casefold(),) if column else ALIASES["label"]
    for file in [path] if path.is_file() else list_folder(path):
        columns = (
            [each for each in spelled_columns(file) if _is_patient(each)] if is_table(file) else []
        )
        if columns and not has_paths(file):
            found.append(
                PatientTable(file, min(columns, key=lambda each: group_rank(each) or 0), label)
            )
    return found[0] if len(found) == 1 else None


def _is_patient(column: str) -> bool:
    rank = group_rank(column)
    return rank is not None and rank <= _MAX_RANK


def patient_of(image: Path, folder: Path, patients: Container[str]) -> tuple[str, bool] | None:
    """Return the patient of an image, and whether a folder is named so; None if it has none.

    Args:
        image: The image.
        folder: The folder of the table.
        patients: Those of the table.
    """
    for part in image.relative_to(folder).parts[:-1]:
        if part in patients:
            return part, True
    extension = extension_of(image.name)
    if extension in dicom.EXTENSIONS or lacks_extension(extension):
        patient = dicom.patient_of(image)
        return (patient, False) if patient in patients else None
    return None


def has_their_images(table: PatientTable) -> bool:
    """Whether most images near a table belong to its patients, by a sample."""
    folder, patients = table.file.parent, _patients_of(table)
    images = list(find_images(folder))
    sample = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    own = sum(patient_of(image, folder, patients) is not None for image in sample)
    return bool(sample) and 2 * own > len(sample)


def are_patients(names: Collection[str], path: Path) -> bool:
    """Whether most of some folders are called like patients of a table at a path."""
    table = find_patient_table(path)
    return table is not None and 2 * len(_patients_of(table).intersection(names)) > len(names)


def _patients_of(table: PatientTable) -> set[str]:
    """The first patients of a table; problems are for the format to report."""
    with collecting():
        records = read_records(table.file, {"patient": table.aliases["patient"]}, ("patient",))
        return {cell_text(each.cells["patient"]) for each in islice(records, _MAX_PATIENTS)}


def explain_patient_table(path: Path) -> Iterator[str]:
    """Yield what to do about a table that names patients and not images, if one is there."""
    table = find_patient_table(path)
    image = next(iter(find_images(table.file.parent)), None) if table else None
    if table is None or image is None:
        return
    columns = list(class_columns(table.file))
    text = (
        f"{printable(table.file.name)} names patients (in the column {printable(table.patient)!r})"
        " and not images"
    )
    if not has_labels(table.file) and columns and has_their_images(table):
        name = shlex.quote(printable(columns[0]))
        yield f"{text}; --set data.column={name} reads it as the label of all their images"
        return
    key = relative_name(image, table.file.parent)
    yield f"{text}; a row that is read: path,label,group = {printable(key)},LABEL,PATIENT"

"""A table of patients and labels beside images in folders named after them, or in DICOM files.

Columns: a patient (PatientID, subject, ...), label (or the one that data.column names) and
optionally split. Each image has the label of its patient; the images of a patient are a group,
which is named by a hash.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_images
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._amounts import doubts_about_labels
from foveate.data.formats._patient_files import (
    PatientTable,
    find_patient_table,
    has_their_images,
    patient_of,
)
from foveate.data.image_rows import parse_split
from foveate.data.issues import skip_and_record
from foveate.data.record_files import row_location
from foveate.data.records import cell_text, first_labels, read_records
from foveate.errors import DataError
from foveate.images import dicom
from foveate.predictions import Labels
from foveate.types import Issue, Sample, Split, Table, remark
from foveate.utils.paths import printable, relative_name

_Patients = dict[str, tuple[str, Split | None]]
"""Patient -> label and split."""


class Patients(Format):
    """One label for all images of a patient."""

    summary: ClassVar[str] = "a table of patients and labels"
    target: ClassVar[type | None] = Labels
    takes_column: ClassVar[bool] = True

    def sniff(self, path: Path) -> Reading | None:
        """A table of patients with labels, and images of these patients below its folder."""
        try:
            table = find_patient_table(path, self.column)
            if table is None or not table.has_labels or not has_their_images(table):
                return None
        except DataError:
            return None
        doubts = () if self.column else doubts_about_labels(first_labels(table.file), table.file)
        return Reading(Fit.LIKELY, tuple(doubts), settled_by_target=True)

    def read(self, path: Path) -> Table:
        """Read the table and find the images; of DICOM files only the header is read.

        Raises:
            DataError: There is no such table, a row is faulty, or no image belongs to a patient.
        """
        table = find_patient_table(path, self.column)
        if table is None:
            raise DataError(
                "there is no table of patients, or several",
                where=printable(path),
                hint="give the table itself; it needs a column such as PatientID, and label",
                id="no_patient_table",
            )
        patients = _read_patients(table)
        root = table.file.parent
        samples, classes = list[Sample](), set[str]()
        found = Counter[tuple[str, bool]]()
        images = list(find_images(root))
        for image in images:
            if own := patient_of(image, root, patients):
                found[own] += 1
                label, split = patients[own[0]]
                classes.add(label)
                group = dicom.hash_patient(own[0])
                key = relative_name(image, root)
                samples.append(Sample(image, key, Labels((label,)), split, group))
        if not samples:
            raise DataError(
                "no image belongs to a patient of the table",
                where=printable(table.file),
                why=f"neither a folder nor the PatientID of a DICOM file is a value of the column"
                f" {printable(table.patient)!r}",
                hint="give a table with the columns path, label and group",
                id="no_images_of_patients",
            )
        return Table(
            samples=tuple(sorted(samples, key=lambda sample: sample.key)),
            classes=tuple(sorted(classes)),
            format="patients",
            root=root,
            notes=tuple(_notes(table, patients, found, len(images))),
        )


def _read_patients(table: PatientTable) -> _Patients:
    """The patients that have a label. Rows of one patient must agree."""
    patients, numbers = _Patients(), dict[str, int]()
    for record in read_records(table.file, table.aliases, ("patient", "label")):
        with skip_and_record():
            patient, label = (cell_text(record.cells[name]) for name in ("patient", "label"))
            if not patient or not label:
                continue
            where = row_location(table.file, record.number)
            own = label, parse_split(record.cells.get("split"), where)
            if patients.setdefault(patient, own) != own:
                raise DataError(
                    "two rows contradict each other on a patient",
                    where=f"{where}; the first is row {numbers[patient]}",
                    why=f"{patients[patient][0][:60]!r} and {label[:60]!r}",
                    hint="keep one row per patient, or give a table with a row for each image",
                    id="contradicting_patient_rows",
                )
            numbers.setdefault(patient, record.number)
    return patients


def _notes(
    table: PatientTable, patients: _Patients, found: Counter[tuple[str, bool]], images: int
) -> list[Issue]:
    by_folder = sum(count for (_, is_folder), count in found.items() if is_folder)
    total, with_images = found.total(), len({patient for patient, _ in found})
    text = (
        "each image has the label of its patient, who is a group: {table} names {patients:patient|"
        "patients}, whose images are {folders} in folders of this name and {files} DICOM files with"
        " this PatientID"
    )
    name = printable(table.file.name)
    notes = [
        remark(
            "labels_of_patients",
            text,
            table=name,
            patients=len(patients),
            folders=by_folder,
            files=total - by_folder,
        )
    ]
    if total < images or with_images < len(patients):
        text = (
            "{images:image belongs|images belong} to no patient of the table and {patients:patient"
            " has|patients have} no image: left out"
        )
        others, without = images - total, len(patients) - with_images
        notes.append(remark("patients_left_out", text, "warning", images=others, patients=without))
    return notes

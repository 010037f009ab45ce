"""Tables as people have them: which column is learned, which table is read, which image is meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.formats import read_table
from foveate.data.split_names import is_part_name
from foveate.data.tables import read_matching_table
from foveate.errors import DataError, UsageError
from foveate.predictions import Labels, Number
from foveate.recipe import Recipe

HAM10000 = "lesion_id,image_id,dx,dx_type,age,sex,localization"
NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def write_rows(file: Path, header: str, *rows: str) -> Path:
    """A table whose rows are repeated up to 12, each with the number of its image before it."""
    lines = [f"{number}.png,{rows[number % len(rows)]}" for number in range(12)]
    for number in range(12):
        write_image(file.parent / f"{number}.png")
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def write_ham(root: Path) -> Path:
    lines = [HAM10000]
    for number in range(150):  # sorted by dx, as the original is
        dx = ("bkl", "nv", "akiec")[number // 50]
        lines.append(f"HAM_{number // 2:07},ISIC_{number:07},{dx},histo,{number % 60}.0,male,back")
    for number in (0, 60, 120):
        write_image(root / "images" / f"ISIC_{number:07}.jpg")
    (root / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")
    return root


# --- which column is learned


def test_ages_beside_classes_are_asked_about_and_not_trained(tmp_path):
    rows = ["melanoma,50,male", "nevus,31,female", "nevus,44,male"]
    file = write_rows(tmp_path / "metadata.csv", "image,diagnosis,age,sex", *rows)
    for path in (tmp_path, file):
        for accepted in ((), (Labels,)):
            with pytest.raises(DataError) as caught:
                read_table(path, accepted=accepted)
            message = f"{caught.value.why} {caught.value.hint}"
            assert "--set data.column=diagnosis" in message
        assert read_table(path, accepted=(Number,)).samples[0].target == Number(50)
        assert read_table(path, column="Diagnosis").classes == ("melanoma", "nevus")


def test_rows_that_are_sorted_by_their_class_are_asked_about(tmp_path):
    with pytest.raises(DataError) as caught:
        read_table(write_ham(tmp_path))
    assert "also has the column 'dx', whose values repeat (bkl, nv, akiec)" in caught.value.why
    table = read_table(tmp_path, column="dx")
    assert [sample.target.names for sample in table.samples] == [("bkl",), ("nv",), ("akiec",)]
    assert read_table(tmp_path, accepted=(Number,)).format == "numbers"


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("path,value,scanner", ["1.5,a", "2.5,b"]),  # the name says what is to be learned
        ("path,age,patient_id", ["50,a", "31,b"]),  # a group
        ("path,age,split", ["50,train", "31,test"]),
        ("path,age,phase", ["50,train", "31,test"]),
        ("path,age,comment", [f"{n},remark {n}" for n in range(12)]),  # hardly repeats
        ("path,age,score", ["50,1", "31,2"]),
    ],
)
def test_other_columns_leave_the_numbers_as_they_are(tmp_path, header, rows):
    assert read_table(write_rows(tmp_path / "t.csv", header, *rows)).format == "numbers"


def test_short_texts_in_parquet_are_asked_about(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for number in range(6):
        write_image(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(6)]
    cells = {"file_name": names, "diagnosis": ["a", "b"] * 3, "age": [1, 2, 3, 4, 5, 6]}
    parquet.write_table(pa.table(cells), tmp_path / "metadata.parquet")
    with pytest.raises(DataError, match="the column 'diagnosis', whose values repeat"):
        read_table(tmp_path)
    assert read_table(tmp_path, column="diagnosis").classes == ("a", "b")


def test_a_column_is_read_as_what_it_holds_or_as_what_is_asked_for(tmp_path):
    """APTOS 2019 grades retinopathy from 0 to 4."""
    rows = [str(number % 5) for number in range(12)]
    path = write_rows(tmp_path / "train.csv", "id_code,diagnosis", *rows)
    assert read_table(path, column="diagnosis").format == "numbers"
    asked = [read_table(path, "table", column="diagnosis")]
    asked += [read_table(each, accepted=(Labels,), column="diagnosis") for each in (path, tmp_path)]
    assert all(table.classes == tuple("01234") for table in asked)
    with pytest.raises(DataError, match="--task classify"):
        read_table(path)


def test_findings_of_chest_images_are_labels(tmp_path):
    rows = ["Cardiomegaly|Emphysema,0,1,58,M", "No Finding,0,2,81,F"]
    table = read_table(write_rows(tmp_path / "Data_Entry_2017.csv", NIH, *rows))
    assert table.classes == ("Cardiomegaly", "Emphysema", "No Finding")
    assert table.multilabel


def test_rows_without_a_label_are_left_out_unless_there_are_several_labels(tmp_path):
    table = read_table(write_rows(tmp_path / "a" / "t.csv", "path,label", "cat", "dog", "", "cat"))
    assert (len(table.samples), table.classes, table.multilabel) == (9, ("cat", "dog"), False)
    assert [note.kind.id for note in table.notes] == ["unlabeled_rows"]
    table = read_table(write_rows(tmp_path / "b" / "t.csv", "path,label", "cat|dog", "dog", ""))
    assert (len(table.samples), table.multilabel) == (12, True)


def test_a_missing_column_is_named_with_those_that_exist(tmp_path):
    path = write_rows(tmp_path / "t.csv", "path,Species,note", "cat,x", "dog,y")
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=r"no column 'breed'(.|\n)*path, Species, note"):
            read_table(place, column="breed")
    with pytest.raises(UsageError, match="takes no column") as caught:
        read_table(tmp_path, "folder", column="Species")
    assert "--format numbers or --format patients or --format table" in caught.value.hint
    with pytest.raises(DataError, match="no column 'label'") as refused:
        read_table(path)
    assert "--set data.column=Species" in refused.value.hint
    with pytest.raises(DataError, match="no format fits") as unknown:
        read_table(tmp_path)
    assert "--set data.column=Species" in unknown.value.hint


def test_only_names_that_are_really_near_are_taken_for_a_slip(tmp_path):
    path = write_rows(tmp_path / "t.csv", "path,age,stage", "50,1", "31,2")
    with pytest.raises(DataError, match="no column 'label'") as caught:
        read_table(path, "table")
    assert "rename" not in caught.value.hint
    assert "--set data.column=NAME" in caught.value.hint
    path = write_rows(tmp_path / "t.csv", "path,age,Label_text", "50,a", "31,b")
    with pytest.raises(DataError, match="rename the column 'Label_text' to 'label'"):
        read_table(path, "table")


# --- which image is meant


def write_labels(file: Path, *names: str) -> Path:
    file.write_text("path,label\n" + "".join(f"{name},a\n" for name in names))
    return file


def write_images(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name)


def keys(path: Path) -> list[str]:
    return [sample.key for sample in read_table(path, "table").samples]


def test_paths_of_windows_are_paths(tmp_path):
    write_images(tmp_path, "pics/Hund/img (0).jpg", "pics/Katze/img (0).jpg")
    path = write_labels(tmp_path / "t.csv", r"pics\Hund\img (0).jpg", r"pics\Katze\img (0).jpg")
    assert keys(path) == ["pics/Hund/img (0).jpg", "pics/Katze/img (0).jpg"]
    assert not read_table(path).notes


def test_an_image_of_another_split_is_not_the_stated_one(tmp_path):
    write_images(tmp_path, "data/test/0.jpg", "data/train/1.jpg")
    path = write_labels(tmp_path / "t.csv", "train/0.jpg", "train/1.jpg")
    assert keys(path) == ["data/train/1.jpg"]
    write_images(tmp_path, "test/2.jpg", "test/3.jpg")
    table = read_table(write_labels(tmp_path / "test" / "metadata.csv", "2.jpg", "old/3.jpg"))
    (note,) = table.notes
    assert str(note) == (
        "1 image was found by name, not at the stated path, such as old/3.jpg -> 3.jpg"
    )
    with pytest.raises(DataError, match=r"none of 1 paths leads to a file: 'train/2\.jpg'"):
        read_table(write_labels(tmp_path / "metadata.csv", "train/2.jpg"))


def test_ids_that_lead_to_two_images_each_are_refused_with_both(tmp_path):
    write_images(tmp_path, "left/7.png", "right/7.png", "left/8.png", "right/8.png")
    with pytest.raises(DataError, match="lead to several images each") as caught:
        read_table(write_labels(tmp_path / "t.csv", "7", "8.png"))
    assert caught.value.why == (
        "none of 2 paths leads to a file, and the names of 2 lead to two or more:"
        " '7.png' to 'left/7.png' and 'right/7.png'"
    )
    assert "write the folder into the path, such as 'left/7.png'" in caught.value.hint


# --- findings

CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture,Pleural Effusion"


def write_chexpert(root: Path, header: str = CHEXPERT) -> Path:
    """As CheXpert-v1.0-small: train.csv and valid.csv beside train/ and valid/."""
    values = ["1.0,,,", ",1.0,,0.0", ",-1.0,,1.0", ",,1.0,-1.0", ",0.0,,"]
    for split, count in (("train", 20), ("valid", 10)):
        lines = [header]
        for number in range(count):
            name = f"{split}/patient{number:05}/study1/view1_frontal.jpg"
            write_image(root / name)
            own = values[number % 5] if split == "train" else "0.0,1.0,0.0,1.0"
            sex, age = ("Female", "Male")[number % 2], 50 + number
            lines.append(f"CheXpert-v1.0-small/{name},{sex},{age},Frontal,AP,{own}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def test_findings_beside_other_columns_are_several_labels(tmp_path):
    table = read_table(write_chexpert(tmp_path))
    assert (table.format, table.multilabel, len(table.samples)) == ("table", True, 30)
    assert table.classes == ("Edema", "Fracture", "No Finding", "Pleural Effusion")
    labels = [each.target.names for each in table.samples if each.key.startswith("train")]
    assert labels[:5] == [
        ("No Finding",),
        ("Edema",),
        ("Pleural Effusion",),
        ("Fracture",),
        (),
    ]
    notes = "\n".join(map(str, table.notes))
    assert "(No Finding, Edema, Fracture, Pleural Effusion): 1 is yes, 0 and a gap are no" in notes
    assert "columns that are not read: Sex, Age, Frontal/Lateral, AP/PA" in notes
    assert "8 cells are -1 (uncertain): read as no, left out of yes" in notes
    assert read_table(tmp_path, accepted=(Number,)).samples[0].target == Number(50)


@pytest.mark.parametrize(
    ("header", "rows", "named"),
    [
        ("image,dx,smoker,diabetic", ["nevus,1,0", "melanoma,,1"], "'dx'"),
        ("image,weight,smoker,diabetic", ["61.5,1,0", "70.2,,1"], "'weight'"),
    ],
)
def test_flags_beside_what_may_be_meant_are_asked_about(tmp_path, header, rows, named):
    write_rows(tmp_path / "t.csv", header, *rows)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert f"beside columns of findings it has {named}" in caught.value.why
    assert read_table(tmp_path, "table").classes == ("diabetic", "smoker")


def test_flags_beside_a_plain_number_are_no_findings(tmp_path):
    write_rows(tmp_path / "t.csv", "image,value,smoker,diabetic", "61.5,1,0", "70.2,,1")
    assert read_table(tmp_path).format == "numbers"


# --- which column names the images


@pytest.mark.parametrize(
    ("header", "cell"), [("chip_id,quality", "chip_{}"), ("photo_no,quality,batch", "{}")]
)
def test_a_column_of_any_name_that_leads_to_images_names_them(tmp_path, header, cell):
    lines = [header]
    for number in range(100, 112):
        name = cell.format(number)
        write_image(tmp_path / "chips" / f"{name}.png")
        lines.append(
            ",".join([name, ["good", "scratched"][number % 2], "7"][: header.count(",") + 1])
        )
    file = tmp_path / "inspection.csv"
    file.write_text("\n".join(lines) + "\n")
    for path in (tmp_path, file):
        with pytest.raises(DataError) as caught:  # and not: there is only one class, chips
            read_table(path)
        assert (
            "inspection.csv with the columns" in str(caught.value.why)
            or path == file
            or ("--set data.column=quality" in caught.value.why)
        )
        assert "--set data.column=quality" in f"{caught.value.why} {caught.value.hint}"
        table = read_table(path, column="quality")
        assert (len(table.samples), table.classes) == (12, ("good", "scratched"))
        assert f"the images are those that the column {header.split(',')[0]!r} names" in [
            str(note) for note in table.notes
        ]
    file.write_text(file.read_text().replace("quality", "label", 1))
    assert read_table(tmp_path).classes == ("good", "scratched")


def test_several_columns_that_lead_to_images_are_asked_about(tmp_path):
    lines = ["left_photo,right_photo,label"]
    for number in range(6):
        write_image(tmp_path / "photos" / f"L{number}.jpg")
        write_image(tmp_path / "photos" / f"R{number}.jpg")
        lines.append(f"L{number}.jpg,photos/R{number}.jpg,{'ab'[number % 2]}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="several columns of the table lead to images") as caught:
        read_table(tmp_path)
    assert caught.value.why == "these could be it: 'left_photo', 'right_photo'"


def test_columns_that_lead_to_no_images_name_none(tmp_path):
    for number in range(12):
        write_image(tmp_path / "chips" / f"{number}.png")
    rows = "".join(f"w{number % 3},{number % 4},a\n" for number in range(12))  # 0.png to 3.png
    (tmp_path / "lots.csv").write_text(f"wafer,defects,label\n{rows}")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert "lots.csv beside it may hold the labels, but none of its columns" in caught.value.why


# --- which table is read


def test_a_sample_of_a_submission_is_no_data(tmp_path):
    rows = ["cat", "dog"]
    write_rows(tmp_path / "train.csv", "id,label", *rows)
    write_rows(tmp_path / "sample_submission.csv", "id,label", "0")
    table = read_table(tmp_path)
    assert (table.classes, table.notes) == (("cat", "dog"), ())
    assert {sample.split for sample in table.samples} == {None}
    write_rows(tmp_path / "extra.csv", "id,label", *rows)
    (note,) = read_table(tmp_path).notes
    assert "1 table was left out, since others are named after splits: 'extra.csv'" in str(note)


@pytest.mark.parametrize("header", ["id,label", "id,score"])
def test_several_tables_are_named(tmp_path, header):
    for name in ("a.csv", "b.csv"):
        write_rows(tmp_path / name, header, *(["cat"] if "label" in header else ["1.5", "2"]))
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert "several such tables: 'a.csv', 'b.csv'; give the one that is meant" in caught.value.why
    with pytest.raises(DataError, match=r"these could be it: 'a\.csv', 'b\.csv'"):
        read_table(tmp_path, "table" if "label" in header else "numbers")


def test_a_run_with_a_named_column_is_evaluated_on_a_folder_of_classes(tmp_path):
    for number in range(6):
        name = "ab"[number % 2]
        (tmp_path / "new" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "new" / name / f"{number}.png")
    recipe = Recipe().data.model_copy(update={"column": "dx"})
    table = read_matching_table(("a", "b"), (Labels,), tmp_path / "new", "auto", recipe)
    assert len(table.samples) == 6


def test_parts_of_images_of_ham10000_are_no_classes():
    assert is_part_name("HAM10000_images_part_1")
    assert not is_part_name("car part")


# --- decimal commas


def test_decimal_commas_in_tables_with_semicolons_are_numbers(tmp_path):
    names = [f"{number}.png" for number in range(12)]
    for name in names:
        write_image(tmp_path / name)
    values = ["1,5", "1,500", "-0,25", "3", "12,75"]
    rows = "".join(f"{name};{values[n % 5]}\n" for n, name in enumerate(names))
    (tmp_path / "t.csv").write_text(f"path;value\n{rows}")
    table = read_table(tmp_path)
    assert table.format == "numbers"
    assert [sample.target.value for sample in table.samples[:2]] == [1.5, 1.5]
    assert {sample.target.value for sample in table.samples} == {1.5, -0.25, 3, 12.75}
    (tmp_path / "t.csv").write_text(f"path;label\n{rows}")
    assert read_table(tmp_path).format == "numbers"  # and no classes


def test_commas_that_may_separate_thousands_or_labels_are_no_decimal_commas(tmp_path):
    for number in range(4):
        write_image(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png;{number + 1},500\n" for number in range(4))
    (tmp_path / "t.csv").write_text(f"path;value\n{rows}")
    with pytest.raises(DataError, match="no format fits"):
        read_table(tmp_path, accepted=(Number,))
    rows = "".join(f'{number}.png,"{1 + number % 2},{2 + number % 2}"\n' for number in range(3))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}3.png,1\n2.png,2\n1.png,3\n")
    table = read_table(tmp_path)
    assert table.multilabel
    assert table.classes == ("1", "2", "3")


def test_corners_with_decimal_commas(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    header = "path;label;x0;y0;x1;y1\n"
    (tmp_path / "boxes.csv").write_text(f"{header}a.png;bolt;1,5;2;30,25;40,125\n")
    table = read_table(tmp_path)
    assert table.samples[0].target.xyxy.tolist() == [[1.5, 2, 30.25, 40.125]]
    (tmp_path / "boxes.csv").write_text(f"{header}a.png;bolt;1,5;2;x;40\n")
    with pytest.raises(DataError, match="not four numbers"):
        read_table(tmp_path)

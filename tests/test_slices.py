"""The main metric on slices of the images: matching, binning, counts, and unusable tables."""

from __future__ import annotations

import json

import pytest

import foveate
from foveate.api.evaluate import slices as _slices
from foveate.errors import DataError
from helpers import without_evaluation

SETTINGS = {
    "data.near_duplicates": 1,
    "data.leakage_audit": False,
    "data.val": 0.2,
    "data.test": 0.5,
}


@pytest.fixture(scope="module")
def run(stripes, tmp_path_factory):
    options = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "device": "cpu",
        "settings": SETTINGS,
    }
    with without_evaluation():
        return foveate.fit(
            stripes, tuning="probe", out=tmp_path_factory.mktemp("runs") / "run", **options
        ).run


def write_table(path, header, rows):
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_slices_add_up_to_the_total(run, stripes, tmp_path):
    """Slices are sorted by size, and each score equals that of its rows in predictions.jsonl."""
    rows = [
        f"{path},{'north' if int(path.stem) % 3 else 'south'}"
        for path in sorted(stripes.rglob("*.png"))
    ]
    result = foveate.evaluate(run, slices=write_table(tmp_path / "about.csv", "path,site", rows))
    counts = [slice_.score.count for slice_ in result.slices]
    assert counts == sorted(counts)
    assert sum(counts) == result.scores.numbers["accuracy"].count
    predictions = [
        json.loads(line)
        for line in (result.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for slice_ in result.slices:
        slice_rows = [
            row
            for row in predictions
            if (int(row["path"][-6:-4]) % 3 > 0) == (slice_.value == "north")
        ]
        assert slice_.score.value == pytest.approx(
            sum(row["target"] == [row["prediction"]] for row in slice_rows) / len(slice_rows)
        )
    assert {row["value"] for row in result.numbers()["slices"]} == {"north", "south"}


def test_numbers_are_split_by_quartiles_and_many_names_are_skipped(
    run, stripes, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(_slices, "_MAX_VALUES", 5)
    rows = [
        f"{path},{index * 1.5},{path.parent.name}-{path.stem}"
        for index, path in enumerate(sorted(stripes.rglob("*.png")))
    ]
    result = foveate.evaluate(
        run, slices=write_table(tmp_path / "about.csv", "path,age,patient", rows)
    )
    assert [slice_.column for slice_ in result.slices] == ["age"] * 4
    assert (
        sum(slice_.score.count for slice_ in result.slices)
        == result.scores.numbers["accuracy"].count
    )
    assert "'patient' has" in capsys.readouterr().out


def test_unusable_tables_are_one_error_message(run, stripes, tmp_path):
    paths = [str(path) for path in sorted(stripes.rglob("*.png"))]
    with pytest.raises(DataError, match="no columns besides the standard ones"):
        foveate.evaluate(
            run,
            slices=write_table(
                tmp_path / "bare.csv", "path,label", [f"{path},a" for path in paths]
            ),
        )
    with pytest.raises(DataError, match="names none of these images"):
        foveate.evaluate(
            run, slices=write_table(tmp_path / "other.csv", "path,site", ["elsewhere/x.png,north"])
        )
    with pytest.raises(DataError, match="the file is not a table"):
        foveate.evaluate(run, slices=tmp_path / "nothing.txt")
    with pytest.raises(DataError, match="the file is not a table"):
        foveate.evaluate(run, slices=tmp_path / "missing.csv")


def test_images_outside_the_data_need_no_table(run, stripes, tmp_path):
    rows = [f"{path},north" for path in sorted(stripes.rglob("*.png"))]
    result = foveate.evaluate(
        run, shift=stripes, slices=write_table(tmp_path / "about.csv", "path,site", rows)
    )
    assert len(result.slices) == 1
    assert result.shifted.slices == []

"""The main number on parts of the images: matched, binned, counted, and refused where the table says nothing."""

from __future__ import annotations

import json

import pytest

import foveate
from foveate.api.evaluate import slices as _slices
from foveate.errors import DataError
from helpers import evaluation_left_out

SETTINGS = {
    "data.near_duplicates": 1,
    "data.leakage_audit": False,
    "data.val": 0.2,
    "data.test": 0.5,
}


@pytest.fixture(scope="module")
def run(stripes, tmp_path_factory):
    words = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "device": "cpu",
        "settings": SETTINGS,
    }
    with evaluation_left_out():
        return foveate.fit(
            stripes, tuning="probe", out=tmp_path_factory.mktemp("runs") / "run", **words
        ).run


def table(path, header, rows):
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_slices_add_up_to_the_whole(run, stripes, tmp_path):
    """The smallest first; each is what its own images have, by predictions.jsonl."""
    rows = [
        f"{path},{'north' if int(path.stem) % 3 else 'south'}"
        for path in sorted(stripes.rglob("*.png"))
    ]
    found = foveate.evaluate(run, slices=table(tmp_path / "about.csv", "path,site", rows))
    counts = [each.score.count for each in found.slices]
    assert counts == sorted(counts)
    assert sum(counts) == found.scores.numbers["accuracy"].count
    told = [
        json.loads(line)
        for line in (found.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for each in found.slices:
        own = [row for row in told if (int(row["path"][-6:-4]) % 3 > 0) == (each.value == "north")]
        assert each.score.value == pytest.approx(
            sum(row["truth"] == [row["answer"]] for row in own) / len(own)
        )
    assert {row["value"] for row in found.numbers()["slices"]} == {"north", "south"}


def test_many_numbers_are_quartered_and_many_names_are_not_used(
    run, stripes, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(_slices, "_MAX_VALUES", 5)
    rows = [
        f"{path},{place * 1.5},{path.parent.name}-{path.stem}"
        for place, path in enumerate(sorted(stripes.rglob("*.png")))
    ]
    found = foveate.evaluate(run, slices=table(tmp_path / "about.csv", "path,age,patient", rows))
    assert [each.column for each in found.slices] == ["age"] * 4
    assert sum(each.score.count for each in found.slices) == found.scores.numbers["accuracy"].count
    assert "'patient' has" in capsys.readouterr().out


def test_tables_that_say_nothing_are_one_sentence(run, stripes, tmp_path):
    paths = [str(path) for path in sorted(stripes.rglob("*.png"))]
    with pytest.raises(DataError, match="no columns besides the standard ones"):
        foveate.evaluate(
            run, slices=table(tmp_path / "bare.csv", "path,label", [f"{path},a" for path in paths])
        )
    with pytest.raises(DataError, match="names none of these images"):
        foveate.evaluate(
            run, slices=table(tmp_path / "other.csv", "path,site", ["elsewhere/x.png,north"])
        )
    with pytest.raises(DataError, match="the file is not a table"):
        foveate.evaluate(run, slices=tmp_path / "nothing.txt")
    with pytest.raises(DataError, match="the file is not a table"):
        foveate.evaluate(run, slices=tmp_path / "missing.csv")


def test_images_elsewhere_need_no_table(run, stripes, tmp_path):
    rows = [f"{path},north" for path in sorted(stripes.rglob("*.png"))]
    found = foveate.evaluate(
        run, shift=stripes, slices=table(tmp_path / "about.csv", "path,site", rows)
    )
    assert len(found.slices) == 1
    assert found.shifted.slices == []

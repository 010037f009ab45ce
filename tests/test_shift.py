"""evaluate --shift: what is lost on images from elsewhere, and how sure that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from conftest import striped
from foveate.cli import main as cli
from foveate.errors import FoveateError
from foveate.evaluation.intervals import two_sample_difference
from foveate.recipe import with_settings
from helpers import fit_unevaluated


@pytest.fixture(scope="module")
def dim(tmp_path_factory) -> Path:
    """The same question by another camera: faint stripes in strong noise."""
    root, rng = tmp_path_factory.mktemp("data") / "dim", np.random.default_rng(9)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(30):
            faint = (
                128
                + 0.05 * (striped(rng, name == "upright") - 128.0)
                + rng.normal(0, 60, (40, 40, 3))
            )
            Image.fromarray(np.clip(faint, 0, 255).astype(np.uint8)).save(
                root / name / f"{number}.png"
            )
    return root


@pytest.fixture
def run(quick, tmp_path) -> Path:
    return fit_unevaluated(
        with_settings(quick, {"training.epochs": 6, "training.lr": 3e-3}), tmp_path / "run"
    ).run


def test_the_drop_and_its_classes(run, stripes, dim, capsys):
    found = foveate.evaluate(run, stripes, shift=dim)
    told = found.numbers()
    assert told["accuracy"] > 0.9
    assert told["shifted"]["accuracy"] < 0.8
    assert told["drop"]["value"] == pytest.approx(told["accuracy"] - told["shifted"]["accuracy"])
    assert told["drop"]["low"] > 0
    assert told["drop"]["count"] == 60
    lost = [row["drop"] for row in told["per_class"]]
    assert lost == sorted(lost, reverse=True)
    page = (found.shifted.folder / "report.html").read_text(encoding="utf-8")
    assert "Domain shift" in page
    assert f"{lost[0]:+.3f}" in page
    assert "Domain shift" not in (found.folder / "report.html").read_text(encoding="utf-8")
    assert cli._run(["evaluate", str(run), str(stripes), "--shift", str(dim), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["drop"] == told["drop"]
    assert any(
        line.startswith("accuracy drops by") and "noise" not in line for line in found.lines()
    )


def test_the_same_images_lose_nothing(run, stripes):
    found = foveate.evaluate(run, stripes, shift=stripes)
    assert found.numbers()["drop"]["value"] == 0
    assert any("within the noise" in line for line in found.lines())


def test_a_class_that_is_not_there_is_said(run, stripes, dim, tmp_path):
    half = Path(shutil.copytree(dim, tmp_path / "half"))
    shutil.rmtree(half / "lying")
    found = foveate.evaluate(run, stripes, shift=half)
    caution = (
        "the other data has no image of 1 class, such as 'lying': the two scores cover different "
        "classes"
    )
    assert caution in map(str, found.shifted.cautions)
    assert found.numbers()["per_class"][-1]["drop"] is None


def test_what_cannot_be_compared_is_refused_before_anything_runs(run, stripes, tmp_path):
    with pytest.raises(FoveateError, match="the path does not exist"):
        foveate.evaluate(run, stripes, shift=tmp_path / "nowhere")
    (tmp_path / "cats" / "cat").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "cats" / "cat" / "0.png")
    with pytest.raises(FoveateError, match="none of the images has a class of the run"):
        foveate.evaluate(run, stripes, shift=tmp_path / "cats")
    assert not (run / "evaluations" / "cats").exists()


def test_the_interval_is_that_of_two_samples():
    """Against the normal approximation of a difference of two independent shares."""
    hits = np.arange(400) < 320, np.arange(300) < 180
    low, high = two_sample_difference(
        *(lambda places, own=own: float(own[places].mean()) for own in hits),
        (400, 300),
        rounds=4000,
    )
    reach = 1.96 * (0.8 * 0.2 / 400 + 0.6 * 0.4 / 300) ** 0.5
    assert (low, high) == (
        pytest.approx(0.2 - reach, abs=0.008),
        pytest.approx(0.2 + reach, abs=0.008),
    )

"""evaluate --shift: the drop on images of another domain, with its interval."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from conftest import stripe_image
from foveate.cli import main as cli
from foveate.errors import FoveateError
from foveate.evaluation.intervals import unpaired_difference, wilson
from foveate.predictions import NoInterval
from foveate.recipe import with_settings
from foveate.types import Score
from helpers import fit_unevaluated


@pytest.fixture(scope="module")
def shifted(tmp_path_factory) -> Path:
    """The same classes in another domain: faint stripes in strong noise."""
    root, rng = tmp_path_factory.mktemp("data") / "shifted", np.random.default_rng(9)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(30):
            faint = (
                128
                + 0.05 * (stripe_image(rng, name == "upright") - 128.0)
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


def test_the_drop_and_its_classes(run, stripes, shifted, capsys):
    result = foveate.evaluate(run, stripes, shift=shifted)
    numbers = result.numbers()
    assert numbers["accuracy"] > 0.9
    assert numbers["shifted"]["accuracy"] < 0.8
    assert numbers["drop"]["value"] == pytest.approx(
        numbers["accuracy"] - numbers["shifted"]["accuracy"]
    )
    assert numbers["drop"]["low"] > 0
    assert numbers["drop"]["count"] == 60
    drops = [row["drop"] for row in numbers["per_class"]]
    assert drops == sorted(drops, reverse=True)
    page = (result.shifted.folder / "report.html").read_text(encoding="utf-8")
    assert "Domain shift" in page
    assert f"{drops[0]:+.3f}" in page
    assert "Domain shift" not in (result.folder / "report.html").read_text(encoding="utf-8")
    assert cli._run(["evaluate", str(run), str(stripes), "--shift", str(shifted), "--json"]) == 0
    output = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert output["drop"] == numbers["drop"]
    assert any(
        line.startswith("accuracy drops by") and "noise" not in line for line in result.lines()
    )


def test_the_same_images_show_no_drop(run, stripes):
    result = foveate.evaluate(run, stripes, shift=stripes)
    assert result.numbers()["drop"]["value"] == 0
    assert any("within the noise" in line for line in result.lines())


def test_a_missing_class_is_reported(run, stripes, shifted, tmp_path):
    half = Path(shutil.copytree(shifted, tmp_path / "half"))
    shutil.rmtree(half / "lying")
    result = foveate.evaluate(run, stripes, shift=half)
    caution = (
        "the other data have no image of 1 class, such as 'lying': the two scores cover different "
        "classes"
    )
    assert caution in map(str, result.shifted.cautions)
    assert result.numbers()["per_class"][-1]["drop"] is None


def test_incomparable_data_is_refused_before_anything_runs(run, stripes, tmp_path):
    with pytest.raises(FoveateError, match="the path does not exist"):
        foveate.evaluate(run, stripes, shift=tmp_path / "nowhere")
    (tmp_path / "cats" / "cat").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "cats" / "cat" / "0.png")
    with pytest.raises(FoveateError, match="none of the images has a class of the run"):
        foveate.evaluate(run, stripes, shift=tmp_path / "cats")
    assert not (run / "evaluations" / "cats").exists()


def test_the_interval_is_that_of_two_samples():
    """Compare with the normal approximation for two independent proportions."""
    scores = [Score(hits / n, *wilson(hits, n), n) for hits, n in ((320, 400), (180, 300))]
    drop = unpaired_difference(*scores)
    half_width = 1.96 * (0.8 * 0.2 / 400 + 0.6 * 0.4 / 300) ** 0.5
    assert (drop.value, drop.count) == (pytest.approx(0.2), 300)
    assert (drop.low, drop.high) == (
        pytest.approx(0.2 - half_width, abs=0.003),
        pytest.approx(0.2 + half_width, abs=0.003),
    )
    without = Score(0.5, count=9, groups=3, no_interval=NoInterval.FEW_GROUPS)
    assert unpaired_difference(scores[0], without).no_interval is NoInterval.FEW_GROUPS

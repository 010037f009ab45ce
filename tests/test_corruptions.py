"""Pictures spoilt: more at every strength, the same with the same seed, by the definitions; and what is left of a number."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

import foveate
from foveate.api.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from foveate.cli import main as cli
from foveate.images.codec import encode_jpeg
from helpers import evaluation_left_out


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Waves of several lengths and colours."""
    rows, columns = np.mgrid[:96, :128]
    waves = [np.sin(rows / 7 + place) * np.cos(columns / (4 + 3 * place)) for place in range(3)]
    return (128 + 90 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_spoils_more(picture, name):
    apart = []
    for strength in SEVERITIES:
        found = corrupt(picture, name, strength, seed=3)
        assert found.shape == picture.shape
        assert found.dtype == np.uint8
        assert (corrupt(picture, name, strength, seed=3) == found).all()
        apart.append(np.abs(found.astype(float) - picture).mean())
    assert apart[0] > 0.5
    assert apart[-1] > 1.1 * apart[0]
    assert sum(more >= less for less, more in pairwise(apart)) >= 3


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog"]
)
def test_chance_comes_from_the_seed_alone(picture, name):
    assert (corrupt(picture, name, 3, seed=1) != corrupt(picture, name, 3, seed=2)).any()


def test_definitions_by_hand():
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = corrupt(grey, "gaussian_noise", 2, seed=0).astype(float) / 255
    assert noise.std() == pytest.approx(0.12, abs=0.005)
    salt = corrupt(grey, "impulse_noise", 5, seed=0)
    assert ((salt == 0) | (salt == 255)).mean() == pytest.approx(0.27, abs=0.01)
    photons = corrupt(grey, "shot_noise", 1, seed=0).astype(float) / 255
    assert photons.std() == pytest.approx(np.sqrt(0.5 / 60), abs=0.005)
    assert (corrupt(grey, "brightness", 1, seed=0) == round(128 + 25.5)).all()
    half = np.concatenate([grey, grey // 2], 1)
    assert np.ptp(corrupt(half, "contrast", 5, seed=0)[..., 0].astype(int)) == pytest.approx(
        0.05 * 64, abs=1
    )
    for blur in ("defocus_blur", "motion_blur"):
        assert (
            np.abs(corrupt(grey, blur, 5, seed=0).astype(int) - 128) <= 1
        ).all()  # nothing to blur
    assert (corrupt(half, "jpeg", 3, seed=0) == encode_jpeg(half, 15)).all()
    assert (
        len(
            np.unique(
                corrupt(
                    np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
                    "pixelate",
                    5,
                    seed=0,
                )[:4, :4, 0]
            )
        )
        == 1
    )


def test_what_is_left_under_corruption(stripes, tmp_path, capsys):
    with evaluation_left_out():
        run = foveate.fit(
            stripes,
            backbone="test_efficientnet",
            weights="none",
            size=32,
            tuning="probe",
            device="cpu",
            out=tmp_path / "run",
        ).run
    assert cli._run(["evaluate", str(run), str(stripes), "--corrupt", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = told["corrupted"]["rows"]
    assert list(rows) == list(CORRUPTIONS)
    assert all(len(scores) == len(SEVERITIES) for scores in rows.values())
    values = [score["value"] for scores in rows.values() for score in scores]
    assert told["corrupted"]["mean"] == pytest.approx(np.mean(values))
    assert told["corrupted"]["clean"] == told["accuracy"]
    assert np.mean(values) < told["accuracy"]
    assert (
        "Robustness to corruptions"
        in next((run / "evaluations").glob("*/report.html"))
        .parent.parent.joinpath(stripes.stem, "report.html")
        .read_text()
    )

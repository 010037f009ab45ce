"""Corruptions: severities, seeds, definitions, and the accuracy that remains."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

import foveate
from foveate.api.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from foveate.cli import main as cli
from foveate.images.encoding import encode_jpeg
from helpers import without_evaluation


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Waves of several lengths and colors."""
    rows, columns = np.mgrid[:96, :128]
    waves = [
        np.sin(rows / 7 + channel) * np.cos(columns / (4 + 3 * channel)) for channel in range(3)
    ]
    return (128 + 90 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_degrades_more(image, name):
    differences = []
    for severity in SEVERITIES:
        corrupted = corrupt(image, name, severity, seed=3)
        assert corrupted.shape == image.shape
        assert corrupted.dtype == np.uint8
        assert (corrupt(image, name, severity, seed=3) == corrupted).all()
        differences.append(np.abs(corrupted.astype(float) - image).mean())
    assert differences[0] > 0.5
    assert differences[-1] > 1.1 * differences[0]
    assert sum(after >= before for before, after in pairwise(differences)) >= 3


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog"]
)
def test_randomness_depends_on_the_seed_alone(image, name):
    assert (corrupt(image, name, 3, seed=1) != corrupt(image, name, 3, seed=2)).any()


def test_definitions_by_hand():
    gray = np.full((64, 64, 3), 128, np.uint8)
    noise = corrupt(gray, "gaussian_noise", 2, seed=0).astype(float) / 255
    assert noise.std() == pytest.approx(0.12, abs=0.005)
    salt = corrupt(gray, "impulse_noise", 5, seed=0)
    assert ((salt == 0) | (salt == 255)).mean() == pytest.approx(0.27, abs=0.01)
    photons = corrupt(gray, "shot_noise", 1, seed=0).astype(float) / 255
    assert photons.std() == pytest.approx(np.sqrt(0.5 / 60), abs=0.005)
    assert (corrupt(gray, "brightness", 1, seed=0) == round(128 + 25.5)).all()
    half = np.concatenate([gray, gray // 2], 1)
    assert np.ptp(corrupt(half, "contrast", 5, seed=0)[..., 0].astype(int)) == pytest.approx(
        0.05 * 64, abs=1
    )
    for blur in ("defocus_blur", "motion_blur"):
        assert (
            np.abs(corrupt(gray, blur, 5, seed=0).astype(int) - 128) <= 1
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


def test_accuracy_under_corruption(stripes, tmp_path, capsys):
    with without_evaluation():
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
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = result["corrupted"]["rows"]
    assert list(rows) == list(CORRUPTIONS)
    assert all(len(scores) == len(SEVERITIES) for scores in rows.values())
    values = [score["value"] for scores in rows.values() for score in scores]
    assert result["corrupted"]["mean"] == pytest.approx(np.mean(values))
    assert result["corrupted"]["clean"] == result["accuracy"]
    assert np.mean(values) < result["accuracy"]
    assert (
        "Robustness to corruptions"
        in next((run / "evaluations").glob("*/report.html"))
        .parent.parent.joinpath(stripes.stem, "report.html")
        .read_text()
    )

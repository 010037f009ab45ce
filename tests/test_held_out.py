"""Images that are evaluated as held out are those that the run has not learned from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import foveate
from foveate.data.duplicates import Appearance, alike_any
from foveate.errors import DataError
from foveate.run.appearance import read_appearance
from foveate.run.folder import Run

COPIES = "caution.copies_of_trained"


def photo(seed: int) -> Image.Image:
    """A picture of a few soft spots, as different from another as two photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos_run(tmp_path_factory):
    """Pictures in two classes, and a run on them."""
    root = tmp_path_factory.mktemp("held_out") / "photos"
    for number in range(40):
        folder = root / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo(number).save(folder / f"{number}.png")
    run = foveate.fit(
        root,
        out=root.parent / "run",
        backbone="test_efficientnet",
        weights="none",
        size=32,
        tuning="head",
        epochs=1,
        settings={"data.leakage_audit": False},
    ).run
    return root, Run(Path(run))


def keys_of(run: Run, split: str) -> list[str]:
    return [row["path"] for row in run.splits() if row["split"] == split]


def test_t59_training_images_in_another_encoding_are_recognized(photos_run, tmp_path):
    root, run = photos_run
    for key in (*keys_of(run, "train")[:5], *keys_of(run, "test")[:3]):
        path = (tmp_path / key).with_suffix(".jpg")
        path.parent.mkdir(exist_ok=True)
        Image.open(root / key).resize((48, 40)).save(path, quality=60)
    cautions = foveate.evaluate(run.folder, tmp_path).cautions
    (caution,) = [each for each in cautions if each.id == COPIES]
    assert str(caution).startswith("5 of these 8 images look like training images")
    assert COPIES not in [each.id for each in foveate.evaluate(run.folder).cautions]


def test_t60_replaced_images_are_not_scored_as_held_out(photos_run, tmp_path, caplog):
    root, run = photos_run
    replaced, same, *others = keys_of(run, "test")
    originals = tmp_path / "originals"
    shutil.copytree(root, originals)
    try:
        Image.open(originals / keys_of(run, "train")[0]).save(root / replaced)
        Image.open(originals / same).save(root / same, compress_level=1)  # other bytes
        result = foveate.evaluate(run.folder)
        assert result.scores.numbers["accuracy"].count == 1 + len(others)
        assert "1 image has been replaced since the run was made" in caplog.text
        assert repr(replaced) in caplog.text
        for number, key in enumerate((same, *others)):
            photo(100 + number).save(root / key)
        with pytest.raises(DataError, match="replaced by others"):
            foveate.evaluate(run.folder)
    finally:
        shutil.copytree(originals, root, dirs_exist_ok=True)


def test_images_of_one_color_are_alike_nothing():
    plain = np.full((2, 64, 64), 7, np.uint8)
    plain[1] = 200
    images = Appearance(plain, np.zeros((2, 2, 64), np.int8)).reduced()
    assert images.thumbnails.shape == (2, 32, 32)
    assert not alike_any(images, images, 0.97).any()


@pytest.mark.parametrize("content", [None, b"x", "short"])
def test_a_run_without_thumbnails_knows_only_equal_files(photos_run, tmp_path, content):
    _, run = photos_run
    copy = Run(tmp_path / "run")
    shutil.copytree(run.folder, copy.folder)
    file = copy.folder / "thumbnails.safetensors"
    if content == "short":
        save_file({"thumbnails": np.zeros((1, 32, 32), np.uint8)}, file)
    else:
        file.unlink()
        if content:
            file.write_bytes(content)
    assert read_appearance(copy, 40) is None
    assert foveate.evaluate(copy.folder).cautions

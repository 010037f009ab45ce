"""Small images that carry a real, learnable difference, and a cache of our own."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # read on import: on tensors this small, threads only wait for each other

import numpy as np
import pytest
from PIL import Image

import miniatures  # noqa: F401  timm knows them from here on
from foveate.api.fit.core import fit_recipe
from foveate.recipe import Recipe, with_settings
from foveate.utils import console
from helpers import make_once

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def no_flush():
    """No test pulls the plug, and flushing every file to the disk takes an eighth of the time.

    That everything is flushed, and in which order, is tested in processes of their own, which
    `strace` watches (test_trust_kill.py).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory) -> Iterator[Path]:
    """Names of folders that are not there yet, one for each test."""
    root = tmp_path_factory.mktemp("caches")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def cache(caches, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE", str(next(caches)))


@pytest.fixture(autouse=True)
def plain_console():
    """Print what the library reports as the command line does."""
    with console.command_line():
        yield
    console.setup()


def striped(
    rng: np.random.Generator, upright: bool, side: int = 40, waves: tuple[float, float] = (0.8, 1.6)
) -> np.ndarray:
    """Stripes, upright or lying, of any colour and width, in noise: a network has to look at the texture."""
    wave = np.sin(np.arange(side) * rng.uniform(*waves) + rng.uniform(0, 6))
    stripes = np.tile(wave, (side, 1)) if upright else np.tile(wave, (side, 1)).T
    colour = rng.uniform(40, 110, 3)
    return np.clip(
        128 + stripes[..., None] * colour + rng.normal(0, 12, (side, side, 3)), 0, 255
    ).astype(np.uint8)


def stripes_folder(root: Path, each: int = 16, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(striped(rng, name == "upright")).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def stripes(tmp_path_factory) -> Path:
    return stripes_folder(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="module")
def timed_once():
    """How fast an exported file answers is measured in one round instead of five."""
    from foveate.api.export import core

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "_ROUNDS", 1)
        yield


COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220)}


@pytest.fixture(scope="session")
def striped_world(tmp_path_factory) -> Path:
    """Stripes of three colors, upright or lying, with two sentences each; the table."""

    def make(root: Path) -> None:
        root.mkdir()
        rng, lines = np.random.default_rng(0), []
        for (name, color), upright, number in product(COLORS.items(), (False, True), range(14)):
            gray = striped(rng, upright).mean(2, keepdims=True) / 255
            path = f"{name}-{upright}-{number}.png"
            pixels = (gray * np.array(color)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / path)
            way = "upright" if upright else "lying"
            texts = [f"{way} stripes in {name}.", f"these stripes are {way} and {name}."]
            lines.append({"path": path, "text": texts})
        (root / "table.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    return make_once(tmp_path_factory, "striped_world", make) / "table.jsonl"


def words_for(data: Path, **more) -> Recipe:
    """A recipe for small captions."""
    quick = {
        "data.path": str(data), "backbone.name": "test_resnet", "backbone.weights": "none", "backbone.size": 64, "device": "cpu",
        "task": {"name": "caption", "width": 64, "depth": 1, "dropout": 0.0, "max_words": 12, "beams": 2}, "tuning": "full",
        "training.precision": "fp32", "training.channels_last": False, "training.batch_size": 16, "data.near_duplicates": 1,
    }  # fmt: skip
    return with_settings(Recipe(), {**quick, **more})


@pytest.fixture(scope="session")
def captioner(striped_world, tmp_path_factory) -> Path:
    """An evaluated run that says what the pictures of `striped_world` show."""
    words = {
        "training.epochs": 16,
        "training.lr": 3e-3,
        "training.patience": 0,
        "augment.color": 0.0,
        "task.smoothing": 0.0,
    }
    recipe = words_for(striped_world, **words)
    return make_once(tmp_path_factory, "captioner", lambda folder: fit_recipe(recipe, folder))


@pytest.fixture(scope="session")
def quick(stripes) -> Recipe:
    """A recipe that trains a tiny network from nothing in seconds."""
    return with_settings(
        Recipe(),
        {
            "data.path": str(stripes),
            "backbone.name": "test_efficientnet",
            "backbone.weights": "none",
            "backbone.size": 32,
            "tuning": "full",
            "training.epochs": 2,
            "training.batch_size": 8,
            "training.head_init": "random",
            "training.channels_last": False,
            "training.precision": "fp32",
            "device": "cpu",
        },
    )

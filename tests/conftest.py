"""Fixtures: small images with a learnable difference, quick recipes, and isolation of tests."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # read on import: on tensors this small, threads only wait for each other

import hypothesis
import numpy as np
import pytest
from PIL import Image

import mini_networks  # noqa: F401  registers them with timm
from foveate.api.fit.core import fit_recipe
from foveate.recipe import Recipe, with_settings
from foveate.utils import console
from helpers import make_once_per_session

# the same examples in each run; tests/test_fuzz.py looks for others
hypothesis.settings.register_profile("suite", deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("suite")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Do not flush files to the disk, which takes an eighth of the time; no test cuts the power.

    That files are flushed, and in which order, is tested in separate processes under `strace`
    (test_trust_kill.py).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def cached_lookups():
    """Cache look-ups that do not change during the process.

    The entry points of plug-ins, the names of timm's networks and their input sizes take some
    hundred milliseconds for each run that is fitted and loaded again.
    """
    from foveate import registry
    from foveate.modeling.backbones import timm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", cache(registry.entry_points))
        patch.setattr(timm, "_supports", cache(timm._supports))
        names = timm.TimmFamily().names()
        patch.setattr(timm.TimmFamily, "names", lambda self: list(names))
        yield


@pytest.fixture(scope="session", autouse=True)
def empty_figures():
    """Do not render figures; yields the function that renders them."""
    from foveate.reporting import plots

    render = plots._svg
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_svg", lambda figure: "<svg></svg>")
        yield render


@pytest.fixture(autouse=True)
def figures(request, empty_figures, monkeypatch):
    """Render figures in tests that are marked with `figures`."""
    if request.node.get_closest_marker("figures"):
        monkeypatch.setattr("foveate.reporting.plots._svg", empty_figures)


@pytest.fixture(scope="session")
def cache_paths(tmp_path_factory) -> Iterator[Path]:
    """Paths of new cache folders, one for each test."""
    root = tmp_path_factory.mktemp("caches")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def separate_cache(cache_paths, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE", str(next(cache_paths)))


@pytest.fixture(autouse=True)
def plain_console():
    """Print what the library reports as the command line does."""
    with console.command_line():
        yield
    console.setup()


def stripe_image(
    rng: np.random.Generator, upright: bool, side: int = 40, waves: tuple[float, float] = (0.8, 1.6)
) -> np.ndarray:
    """Make upright or lying stripes of random color and width in noise: a texture to learn."""
    wave = np.sin(np.arange(side) * rng.uniform(*waves) + rng.uniform(0, 6))
    stripes = np.tile(wave, (side, 1)) if upright else np.tile(wave, (side, 1)).T
    color = rng.uniform(40, 110, 3)
    return np.clip(
        128 + stripes[..., None] * color + rng.normal(0, 12, (side, side, 3)), 0, 255
    ).astype(np.uint8)


def make_stripes_folder(root: Path, per_class: int = 16, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(stripe_image(rng, name == "upright")).save(
                root / name / f"{number:02d}.png"
            )
    return root


@pytest.fixture(scope="session")
def stripes(tmp_path_factory) -> Path:
    return make_stripes_folder(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="module")
def quick_export():
    """Time exported files in one round, and build torch's table of operators once."""
    from foveate.api.export import parity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "_LATENCY_REPEATS", 1)
        with suppress(ImportError, AttributeError):  # private to torch, and may change
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            table = staticmethod(cache(ONNXRegistry.from_torchlib))
            patch.setattr(ONNXRegistry, "from_torchlib", table)
        yield


COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220)}


@pytest.fixture(scope="session")
def captioned_stripes(tmp_path_factory) -> Path:
    """The table of stripe images in three colors, upright or lying, with two captions each."""

    def make(root: Path) -> None:
        root.mkdir()
        rng, rows = np.random.default_rng(0), []
        for (name, color), upright, number in product(COLORS.items(), (False, True), range(14)):
            gray = stripe_image(rng, upright).mean(2, keepdims=True) / 255
            path = f"{name}-{upright}-{number}.png"
            pixels = (gray * np.array(color)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / path)
            orientation = "upright" if upright else "lying"
            captions = [
                f"{orientation} stripes in {name}.",
                f"these stripes are {orientation} and {name}.",
            ]
            rows.append({"path": path, "text": captions})
        (root / "table.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    return make_once_per_session(tmp_path_factory, "captioned_stripes", make) / "table.jsonl"


def caption_recipe(data: Path, **more) -> Recipe:
    """A recipe that trains a small captioning model quickly."""
    defaults = {
        "data.path": str(data), "backbone.name": "test_resnet", "backbone.weights": "none", "backbone.size": 64, "device": "cpu",
        "task": {"name": "caption", "width": 64, "depth": 1, "dropout": 0.0, "max_words": 12, "beams": 2}, "tuning": "full",
        "training.precision": "fp32", "training.channels_last": False, "training.batch_size": 16, "data.near_duplicates": 1,
    }  # fmt: skip
    return with_settings(Recipe(), {**defaults, **more})


@pytest.fixture(scope="session")
def caption_run(captioned_stripes, tmp_path_factory) -> Path:
    """An evaluated run that captions the images of `captioned_stripes`."""
    settings = {
        "training.epochs": 16,
        "training.lr": 3e-3,
        "training.patience": 0,
        "augment.color": 0.0,
        "task.smoothing": 0.0,
    }
    recipe = caption_recipe(captioned_stripes, **settings)
    return make_once_per_session(
        tmp_path_factory, "caption_run", lambda folder: fit_recipe(recipe, folder)
    )


@pytest.fixture(scope="session")
def quick(stripes) -> Recipe:
    """A recipe that trains a tiny network from random weights in seconds."""
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

"""Unusual images in training, prediction, server and exported files; ids as in docs/trust.md."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from conftest import striped, stripes_folder
from foveate.api.fit.core import fit_recipe
from foveate.cli import main as cli
from foveate.data.dataset import ImageDataset
from foveate.data.discovery import find_images
from foveate.data.image_cache import ImageCache
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.deploy.runtime import load_square
from foveate.errors import DataError, FoveateError
from foveate.images import codec as images
from foveate.inference.predictor import load_predictor
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.tasks import TASKS
from foveate.predictions import Boxes, Labels
from foveate.recipe import AugmentRecipe, with_settings
from foveate.run.folder import Run
from foveate.serving.engines import RunEngine
from foveate.types import Sample
from foveate.utils.paths import printable
from helpers import fit_unevaluated
from test_images import encoded, turned, upright

FORMATS = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("JPEG", {"quality": 95, "subsampling": 0}),
]
STILL = AugmentRecipe(policy="none", crop=1, flip=0)  # training's pipeline without a distortion


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory):
    return fit_unevaluated(
        with_settings(quick, {"tuning": "probe", "data.leakage_audit": False}),
        tmp_path_factory.mktemp("runs") / "run",
    ).run


@pytest.fixture(scope="module")
def engine(run):
    return RunEngine("run", load_predictor(run, "cpu"))


def seen(engine, content, path):
    """The input of the network in training, validation, prediction, serving and exported files."""
    path.write_bytes(content)
    model, spec = engine.predictor.model, engine.predictor.model.backbone.input
    sample, pixels = (
        Sample(path, path.name, Labels(("lying",))),
        ImageCache(spec.size, model.task.framing, True),
    )
    graph = torch.from_numpy(load_square(content, spec.size)).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return {
        "training": ImageDataset(
            [sample],
            pixels,
            training_transform(spec, model.task.framing, STILL),
            model.task.encode,
            0,
        )[0, 0][0],
        "validation": eval_dataset(model, [sample], pixels, 0)[0, 0][0],
        "predict": engine.predictor.dataset(
            [sample], ImageCache(spec.size, model.task.framing, False)
        )[0, 0][0],
        "serve": engine.decode(content).item[0],
        "file": load_square(path, spec.size),
        "exported": (graph - mean) / std,
    }


def alike(found):
    tensors = {name: value for name, value in found.items() if name not in ("file", "exported")}
    first = tensors["training"]
    assert all(torch.equal(value, first) for value in tensors.values()), tensors.keys()
    return first


@pytest.mark.parametrize(
    ("format", "options"), FORMATS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_t23_all_eight_orientations_are_the_same_image_everywhere(
    engine, tmp_path, format, options
):
    """Bit for bit in all paths; a rotated JPEG is encoded anew, so that its blocks differ slightly."""
    known = None
    for orientation in range(1, 9):
        content = turned(orientation, format, **options)
        found = seen(engine, content, tmp_path / f"{orientation}.{format.lower()}")
        first = alike(found)
        spec = engine.predictor.model.backbone.input
        torch.testing.assert_close(found["exported"], spec.normalize(first), rtol=0, atol=1e-6)
        assert (found["file"] == first.numpy()).all()
        known = first if known is None else known
        apart = int((first.int() - known.int()).abs().max())
        assert apart <= (13 if format == "JPEG" else 0)
        assert engine.predict([engine.decode(content)])[0]["scores"] == pytest.approx(
            next(
                iter(engine.predictor.predict([tmp_path / f"{orientation}.{format.lower()}"]))
            ).row()["scores"],
            abs=1e-6,
        )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_t23_boxes_and_masks_refer_to_the_upright_image(tmp_path, format):
    """The network and its predictions have them at the same position in all eight orientations."""
    task = TASKS.create("detect", {}, ("a",))
    spec = RunSpec()
    truth = Boxes(np.array([[10, 5, 40, 30]], np.float32), ("a",))
    places = set()
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.x"
        path.write_bytes(turned(orientation, format))
        for transform in (
            evaluation_transform(spec, "whole"),
            training_transform(spec, "whole", STILL),
        ):
            pixels = ImageCache(spec.size, "whole", keep=False)
            _, target, _, size, _ = ImageDataset(
                [Sample(path, "x", truth)], pixels, transform, task.encode, 0
            )[0, 0]
            places.add((tuple(target["boxes"].flatten().tolist()), tuple(size.tolist())))
        assert images.read_size(path) == (48, 80)
    assert len(places) == 1


class RunSpec:
    """The input of a network."""

    size, mean, std, stride = 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 32


def odd_pictures():
    """Name -> content, for every pixel type in use."""
    colours = upright()
    grey = colours[..., 0]
    deep = np.linspace(0, 65535, 48 * 80).reshape(48, 80).astype(np.uint16)
    palette = Image.fromarray(colours).quantize(64)
    cmyk = Image.fromarray(colours).convert("CMYK")
    return {
        "16.png": encoded(Image.fromarray(deep), "PNG"),
        "16.tif": encoded(Image.fromarray(deep), "TIFF"),
        "1.png": encoded(Image.fromarray(grey).convert("1"), "PNG"),
        "1.tif": encoded(Image.fromarray(grey).convert("1"), "TIFF"),
        "float.tif": encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        "la.png": encoded(Image.fromarray(np.stack([grey, 255 - grey], -1), "LA"), "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "palette.gif": encoded(palette, "GIF", transparency=3),
        "cmyk.jpg": encoded(cmyk, "JPEG", quality=95),
        "cmyk.tif": encoded(cmyk, "TIFF"),
        "ycck.jpg": encoded(cmyk, "JPEG", quality=95, subsampling=0),
        "rgba.png": encoded(Image.fromarray(np.dstack([colours, grey])), "PNG"),
        "rgba.webp": encoded(Image.fromarray(np.dstack([colours, grey])), "WEBP", lossless=True),
        "grey.jpg": encoded(Image.fromarray(grey), "JPEG"),
        "progressive.jpg": encoded(Image.fromarray(colours), "JPEG", progressive=True),
        "lab.tif": encoded(
            Image.fromarray(colours, "RGB").convert("YCbCr").convert("RGB"),
            "TIFF",
            compression="tiff_lzw",
        ),
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_t24_odd_modes_are_the_same_everywhere(engine, tmp_path):
    for name, content in odd_pictures().items():
        found = seen(engine, content, tmp_path / name)
        first = alike(found)
        assert float(first.float().std()) > 5, name  # it is a picture, not one colour
        seeing = engine.predictor.model.backbone.input.normalize
        torch.testing.assert_close(found["exported"], seeing(first), rtol=0, atol=1e-6, msg=name)


def test_t25_the_first_frame_counts_wherever_there_are_several(engine, tmp_path):
    frames = [Image.new("RGB", (48, 48), colour) for colour in ("red", "blue", "lime")]
    animated = {
        "GIF": {},
        "PNG": {"default_image": False},
        "WEBP": {"lossless": True},
        "TIFF": {},
        "MPO": {},
    }
    for format, options in animated.items():
        content = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        pixels, _ = images.read_image(content)
        assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 2, format
        alike(seen(engine, content, tmp_path / f"{format}.bin"))


# --- what is not ours


def fingerprints(root):
    """All properties of a tree that could change: names, bytes, times, permissions."""
    found = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path.relative_to(root).as_posix()] = (
            about.st_mtime_ns,
            about.st_size,
            stat.S_IMODE(about.st_mode),
            digest,
        )
    return found


def test_t22_no_command_writes_beside_the_images(quick, tmp_path, capsys):
    data = stripes_folder(tmp_path / "data")
    (data / "lying" / "broken.png").write_bytes(b"no picture")
    (data / "upright" / "turned.jpg").write_bytes(turned(6, "JPEG"))
    before = fingerprints(tmp_path / "data")
    run, new = tmp_path / "run", tmp_path / "new"
    fit_recipe(with_settings(quick, {"data.path": str(data), "tuning": "probe"}), run)
    for words in (
        ["evaluate", run, data],
        ["predict", run, data, "--format", "csv", "--out", new / "answers.csv"],
        ["audit", run, "--out", new / "audit.csv"],
        [
            "episodes",
            data,
            "--backbone",
            "test_efficientnet",
            "--weights",
            "none",
            "--size",
            "32",
            "--ways",
            "2",
            "--shots",
            "1",
        ],
    ):
        code = cli._run([*map(str, words)])
        assert code == 0, (words, capsys.readouterr().err)
    assert fingerprints(tmp_path / "data") == before


_READ_ONLY = """
set -e
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
! touch "$1/x" 2>/dev/null
shift
exec "$@"
"""


def test_t22_a_read_only_mount_is_enough(tmp_path):
    data = stripes_folder(tmp_path / "data", each=8)
    tried = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
        if shutil.which("unshare")
        else None
    )
    if tried is None or tried.returncode:
        pytest.skip("nothing can be mounted here")
    words = [
        "fit",
        data,
        "--out",
        tmp_path / "run",
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--tuning",
        "probe",
    ]
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        _READ_ONLY,
        "sh",
        str(data),
        sys.executable,
        "-m",
        "foveate",
        *map(str, words),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "run").finished


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Classes and images with difficult names; those that are not UTF-8 if the disk accepts them."""
    rng, root = np.random.default_rng(3), tmp_path_factory.mktemp("data") / "名前"
    composed, apart = "café", unicodedata.normalize("NFD", "café")
    pictures = [
        "一.png",
        "🐈‍⬛.png",
        f"{composed}.png",
        f"{apart}.png",
        "a b'\"<i>&.png",
        "=cmd|x.png",
        "line\nbreak.png",
        "x.PNG",
    ]
    for name in ("猫", "🐕 & <b>dog"):
        (root / name).mkdir(parents=True)
        for picture in pictures:
            Image.fromarray(striped(rng, name == "猫")).save(root / name / picture, format="PNG")
        try:
            shutil.copy(root / name / "x.PNG", os.fsencode(root / name) + b"/\xff\xfe.png")
        except OSError:
            continue
    return root


def test_t27_any_name_is_supported(quick, named, tmp_path, capsys):
    words = {
        "data.path": str(named),
        "tuning": "probe",
        "data.leakage_audit": False,
        "data.near_duplicates": 1,
        "data.val": 0.25,
        "data.test": 0.25,
    }
    result = fit_recipe(with_settings(quick, words), tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.classes() == ("猫", "🐕 & <b>dog")
    rows = run.splits()
    assert len(rows) == len(list(find_images(named)))
    assert len({row["path"] for row in rows}) == len(rows)
    assert (
        cli._run(
            [
                "predict",
                str(run.folder),
                str(named),
                "--format",
                "csv",
                "--out",
                str(tmp_path / "a.csv"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        answered = list(csv.DictReader(file))
    assert {row["path"] for row in answered} == {printable(path) for path in find_images(named)}
    for line in (
        (result.evaluation.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        assert set(json.loads(line)["truth"]) <= set(run.classes())
    page = (result.evaluation.folder / "report.html").read_text(encoding="utf-8")
    assert html.escape("🐕 & <b>dog") in page
    assert "<b>dog" not in page
    capsys.readouterr()


def test_t28_what_is_not_an_image_is_skipped_or_reported(quick, tmp_path, capsys):
    """Pipes, devices, links that lead back, out or nowhere, and files of file managers."""
    data = stripes_folder(tmp_path / "data")
    os.mkfifo(data / "lying" / "pipe.png")
    (data / "lying" / "zero.png").symlink_to("/dev/zero")
    (data / "lying" / "loop").symlink_to(data)
    (data / "lying" / "self.png").symlink_to(data / "lying" / "self.png")
    (data / "upright" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.fromarray(striped(np.random.default_rng(9), True)).save(tmp_path / "outside.png")
    (data / "upright" / "outside.png").symlink_to(tmp_path / "outside.png")
    for clutter in (
        "lying/._00.png",
        "lying/Thumbs.db",
        ".ipynb_checkpoints/00.png",
        "__MACOSX/00.png",
    ):
        (data / clutter).parent.mkdir(exist_ok=True)
        (data / clutter).write_bytes(b"x")
    (data / "lying" / "folder.png").mkdir()
    fit_unevaluated(
        with_settings(
            quick, {"data.path": str(data), "tuning": "probe", "data.leakage_audit": False}
        ),
        tmp_path / "run",
    )
    paths = {row["path"] for row in Run(tmp_path / "run").splits()}
    assert paths == {
        f"{name}/{number:02d}.png" for name in ("lying", "upright") for number in range(16)
    } | {"upright/outside.png"}
    for odd in ("pipe.png", "zero.png", "self.png", "folder.png"):
        with pytest.raises(FoveateError, match=odd):
            images.read_image(data / "lying" / odd)
    capsys.readouterr()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to the administrator")
def test_t28_an_unreadable_folder_is_named(tmp_path):
    data = stripes_folder(tmp_path / "data")
    (data / "lying").chmod(0)
    try:
        with pytest.raises(DataError, match=r"cannot be (read|listed).*lying"):
            list(find_images(data))
    finally:
        (data / "lying").chmod(0o755)


def test_t29_classes_are_matched_by_name_in_validation_too(quick, tmp_path, capsys):
    """Validation lacks a class, spells one differently and has an unknown one, which sorts first."""
    rng = np.random.default_rng(1)
    for place in (
        "train/lying",
        "train/upright",
        "train/zigzag",
        "val/Lying ",
        "val/upright",
        "val/aaa",
    ):
        (tmp_path / "data" / place).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(striped(rng, "upright" in place)).save(
                tmp_path / "data" / place / f"{number}.png"
            )
    (tmp_path / "data" / "train" / "empty").mkdir()
    fit_unevaluated(
        with_settings(
            quick,
            {"data.path": str(tmp_path / "data"), "tuning": "probe", "data.leakage_audit": False},
        ),
        tmp_path / "run",
    )
    said = capsys.readouterr().out
    assert "'Lying ' in val is taken as 'lying'" in said
    assert "'aaa' is in val but in no earlier split" in said
    assert "'aaa' has no training images and can never be predicted" in said
    assert "empty' is skipped: it contains no images" in said
    rows = {row["path"]: row["label"] for row in Run(tmp_path / "run").splits()}
    assert rows["val/Lying /0.png"] == "lying"
    answers = foveate.predict(tmp_path / "run", tmp_path / "data" / "val" / "upright", device="cpu")
    assert {answer.row()["answer"] for answer in answers} <= {"lying", "upright", "zigzag"}


def test_t31_cached_features_are_keyed_by_bytes_and_not_by_names_or_times(
    quick, tmp_path, monkeypatch
):
    """touch and renaming recompute nothing; an edit that keeps size and time does."""
    from foveate.inference import features

    data, counted, real = stripes_folder(tmp_path / "data"), [], features._head_features
    monkeypatch.setattr(
        features, "_head_features", lambda *args: (counted.append(1), real(*args))[1]
    )

    def fitted(name, **words):
        fit_unevaluated(
            with_settings(
                quick,
                {
                    "data.path": str(data),
                    "tuning": "probe",
                    "data.leakage_audit": False,
                    "data.near_duplicates": 1,
                    **words,
                },
            ),
            tmp_path / name,
        )
        return len(counted)

    first = fitted("one")
    os.utime(data / "lying" / "00.png")
    assert fitted("touched") == first
    data.rename(tmp_path / "elsewhere")
    data = tmp_path / "elsewhere"
    assert fitted("renamed") == first
    taught = next(row["path"] for row in Run(tmp_path / "one").splits() if row["split"] == "train")
    edited, other = data / taught, io.BytesIO()
    about = edited.stat()
    Image.fromarray(255 - np.asarray(Image.open(edited))).save(other, format="PNG")
    content = other.getvalue()
    edited.write_bytes(content.ljust(about.st_size, b"\0")[: max(about.st_size, len(content))])
    os.utime(edited, ns=(about.st_atime_ns, about.st_mtime_ns))
    changed = fitted("edited")
    assert changed > first
    assert fitted("smaller", **{"backbone.size": 48}) > changed

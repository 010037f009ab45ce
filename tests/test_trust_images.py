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
from conftest import make_stripes_folder, stripe_image
from foveate.api.fit.core import fit_recipe
from foveate.cli import main as cli
from foveate.data.dataset import ImageDataset
from foveate.data.discovery import find_images
from foveate.data.image_cache import ImageCache
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.deploy.runtime import load_square
from foveate.errors import DataError, FoveateError
from foveate.images import codec
from foveate.inference.predictor import load_predictor
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.tasks import TASKS
from foveate.predictions import Boxes, Labels
from foveate.recipe import AugmentRecipe
from foveate.run.folder import Run
from foveate.serving.engines import RunEngine
from foveate.types import InputSpec, Sample
from foveate.utils.paths import printable
from helpers import fit_unevaluated, probe_of, without_privileges
from test_images import encode_image, rotated_image, upright_pixels

FORMATS = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("JPEG", {"quality": 95, "subsampling": 0}),
]
NO_AUGMENTATION = AugmentRecipe(
    policy="none", crop=1, flip=0
)  # the pipeline of training without augmentation


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory):
    return fit_unevaluated(
        probe_of(quick, {"tuning": "probe", "data.leakage_audit": False}),
        tmp_path_factory.mktemp("runs") / "run",
    ).run


@pytest.fixture(scope="module")
def engine(run):
    return RunEngine("run", load_predictor(run, "cpu"))


def network_inputs(engine, content, path):
    """Read an image as training, validation, prediction, serving and exported files do."""
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
            training_transform(spec, model.task.framing, NO_AUGMENTATION),
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


def assert_equal_inputs(inputs):
    tensors = {name: value for name, value in inputs.items() if name not in ("file", "exported")}
    first = tensors["training"]
    assert all(torch.equal(value, first) for value in tensors.values()), tensors.keys()
    return first


@pytest.mark.parametrize(
    ("format", "options"), FORMATS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_t23_all_eight_orientations_are_the_same_image_everywhere(
    engine, tmp_path, format, options
):
    """Bit for bit everywhere; a rotated JPEG is encoded again and differs slightly."""
    expected = None
    for orientation in range(1, 9):
        content = rotated_image(orientation, format, **options)
        inputs = network_inputs(engine, content, tmp_path / f"{orientation}.{format.lower()}")
        first = assert_equal_inputs(inputs)
        spec = engine.predictor.model.backbone.input
        torch.testing.assert_close(inputs["exported"], spec.normalize(first), rtol=0, atol=1e-6)
        assert (inputs["file"] == first.numpy()).all()
        expected = first if expected is None else expected
        difference = int((first.int() - expected.int()).abs().max())
        assert difference <= (13 if format == "JPEG" else 0)
        assert engine.predict([engine.decode(content)])[0]["scores"] == pytest.approx(
            next(
                iter(engine.predictor.predict([tmp_path / f"{orientation}.{format.lower()}"]))
            ).row()["scores"],
            abs=1e-6,
        )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_t23_boxes_and_masks_refer_to_the_upright_image(tmp_path, format):
    """The targets have the same position in all eight orientations."""
    task = TASKS.create("detect", {}, ("a",))
    spec = InputSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    target = Boxes(np.array([[10, 5, 40, 30]], np.float32), ("a",))
    positions = set()
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.x"
        path.write_bytes(rotated_image(orientation, format))
        for transform in (
            evaluation_transform(spec, "whole"),
            training_transform(spec, "whole", NO_AUGMENTATION),
        ):
            pixels = ImageCache(spec.size, "whole", keep=False)
            _, encoded_target, _, size, _ = ImageDataset(
                [Sample(path, "x", target)], pixels, transform, task.encode, 0
            )[0, 0]
            positions.add((tuple(encoded_target["boxes"].flatten().tolist()), tuple(size.tolist())))
        assert codec.read_size(path) == (48, 80)
    assert len(positions) == 1


def unusual_images():
    """Encode an image in every pixel type in use; returns name -> content."""
    pixels = upright_pixels()
    gray = pixels[..., 0]
    deep = np.linspace(0, 65535, 48 * 80).reshape(48, 80).astype(np.uint16)
    palette = Image.fromarray(pixels).quantize(64)
    cmyk = Image.fromarray(pixels).convert("CMYK")
    return {
        "16.png": encode_image(Image.fromarray(deep), "PNG"),
        "16.tif": encode_image(Image.fromarray(deep), "TIFF"),
        "1.png": encode_image(Image.fromarray(gray).convert("1"), "PNG"),
        "1.tif": encode_image(Image.fromarray(gray).convert("1"), "TIFF"),
        "float.tif": encode_image(Image.fromarray(gray.astype(np.float32) / 255), "TIFF"),
        "la.png": encode_image(Image.fromarray(np.stack([gray, 255 - gray], -1), "LA"), "PNG"),
        "palette.png": encode_image(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "palette.gif": encode_image(palette, "GIF", transparency=3),
        "cmyk.jpg": encode_image(cmyk, "JPEG", quality=95),
        "cmyk.tif": encode_image(cmyk, "TIFF"),
        "ycck.jpg": encode_image(cmyk, "JPEG", quality=95, subsampling=0),
        "rgba.png": encode_image(Image.fromarray(np.dstack([pixels, gray])), "PNG"),
        "rgba.webp": encode_image(
            Image.fromarray(np.dstack([pixels, gray])), "WEBP", lossless=True
        ),
        "grey.jpg": encode_image(Image.fromarray(gray), "JPEG"),
        "progressive.jpg": encode_image(Image.fromarray(pixels), "JPEG", progressive=True),
        "lab.tif": encode_image(
            Image.fromarray(pixels, "RGB").convert("YCbCr").convert("RGB"),
            "TIFF",
            compression="tiff_lzw",
        ),
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_t24_unusual_modes_are_the_same_everywhere(engine, tmp_path):
    for name, content in unusual_images().items():
        inputs = network_inputs(engine, content, tmp_path / name)
        first = assert_equal_inputs(inputs)
        assert float(first.float().std()) > 5, name  # it is an image, not one color
        normalize = engine.predictor.model.backbone.input.normalize
        torch.testing.assert_close(
            inputs["exported"], normalize(first), rtol=0, atol=1e-6, msg=name
        )


def test_t25_the_first_frame_is_used_everywhere(engine, tmp_path):
    frames = [Image.new("RGB", (48, 48), color) for color in ("red", "blue", "lime")]
    animated = {
        "GIF": {},
        "PNG": {"default_image": False},
        "WEBP": {"lossless": True},
        "TIFF": {},
        "MPO": {},
    }
    for format, options in animated.items():
        content = encode_image(
            frames[0], format, save_all=True, append_images=frames[1:], **options
        )
        pixels, _ = codec.read_image(content)
        assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 2, format
        assert_equal_inputs(network_inputs(engine, content, tmp_path / f"{format}.bin"))


# --- the user's files


def fingerprints(root):
    """All properties of a tree that could change: names, bytes, times, permissions."""
    properties = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        properties[path.relative_to(root).as_posix()] = (
            status.st_mtime_ns,
            status.st_size,
            stat.S_IMODE(status.st_mode),
            digest,
        )
    return properties


def test_t22_no_command_writes_beside_the_images(quick, tmp_path, capsys):
    data = make_stripes_folder(tmp_path / "data")
    (data / "lying" / "broken.png").write_bytes(b"no picture")
    (data / "upright" / "turned.jpg").write_bytes(rotated_image(6, "JPEG"))
    before = fingerprints(tmp_path / "data")
    run, new = tmp_path / "run", tmp_path / "new"
    fit_recipe(probe_of(quick, {"data.path": str(data), "tuning": "probe"}), run)
    for arguments in (
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
        code = cli._run([*map(str, arguments)])
        assert code == 0, (arguments, capsys.readouterr().err)
    assert fingerprints(tmp_path / "data") == before


_READ_ONLY = """
set -e
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
! touch "$1/x" 2>/dev/null
shift
exec "$@"
"""


def test_t22_a_read_only_mount_is_enough(tmp_path):
    data = make_stripes_folder(tmp_path / "data", per_class=8)
    trial = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
        if shutil.which("unshare")
        else None
    )
    if trial is None or trial.returncode:
        pytest.skip("nothing can be mounted here")
    arguments = [
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
        *map(str, arguments),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert Run(tmp_path / "run").finished


@pytest.fixture(scope="module")
def difficult_names(tmp_path_factory):
    """Classes and images with difficult names, also not UTF-8 if the disk accepts them."""
    rng, root = np.random.default_rng(3), tmp_path_factory.mktemp("data") / "名前"
    nfc, nfd = "café", unicodedata.normalize("NFD", "café")
    names = [
        "一.png",
        "🐈‍⬛.png",
        f"{nfc}.png",
        f"{nfd}.png",
        "a b'\"<i>&.png",
        "=cmd|x.png",
        "line\nbreak.png",
        "x.PNG",
    ]
    for name in ("猫", "🐕 & <b>dog"):
        (root / name).mkdir(parents=True)
        for file in names:
            Image.fromarray(stripe_image(rng, name == "猫")).save(root / name / file, format="PNG")
        try:
            shutil.copy(root / name / "x.PNG", os.fsencode(root / name) + b"/\xff\xfe.png")
        except OSError:
            continue
    return root


def test_t27_any_name_is_supported(quick, difficult_names, tmp_path, capsys):
    settings = {
        "data.path": str(difficult_names),
        "tuning": "probe",
        "data.leakage_audit": False,
        "data.near_duplicates": 1,
        "data.val": 0.25,
        "data.test": 0.25,
    }
    result = fit_recipe(probe_of(quick, settings), tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.classes() == ("猫", "🐕 & <b>dog")
    rows = run.splits()
    assert len(rows) == len(list(find_images(difficult_names)))
    assert len({row["path"] for row in rows}) == len(rows)
    assert (
        cli._run(
            [
                "predict",
                str(run.folder),
                str(difficult_names),
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
        rows_of_predictions = list(csv.DictReader(file))
    assert {row["path"] for row in rows_of_predictions} == {
        printable(path) for path in find_images(difficult_names)
    }
    for line in (
        (result.evaluation.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        assert set(json.loads(line)["target"]) <= set(run.classes())
    page = (result.evaluation.folder / "report.html").read_text(encoding="utf-8")
    assert html.escape("🐕 & <b>dog") in page
    assert "<b>dog" not in page
    capsys.readouterr()


def test_t28_other_files_are_skipped_or_reported(quick, tmp_path, capsys):
    """Pipes, devices, links that lead back, out or nowhere, and files of file managers."""
    data = make_stripes_folder(tmp_path / "data")
    os.mkfifo(data / "lying" / "pipe.png")
    (data / "lying" / "zero.png").symlink_to("/dev/zero")
    (data / "lying" / "loop").symlink_to(data)
    (data / "lying" / "self.png").symlink_to(data / "lying" / "self.png")
    (data / "upright" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.fromarray(stripe_image(np.random.default_rng(9), True)).save(tmp_path / "outside.png")
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
        probe_of(quick, {"data.path": str(data), "tuning": "probe", "data.leakage_audit": False}),
        tmp_path / "run",
    )
    paths = {row["path"] for row in Run(tmp_path / "run").splits()}
    assert paths == {
        f"{name}/{number:02d}.png" for name in ("lying", "upright") for number in range(16)
    } | {"upright/outside.png"}
    for file_name in ("pipe.png", "zero.png", "self.png", "folder.png"):
        with pytest.raises(FoveateError, match=file_name):
            codec.read_image(data / "lying" / file_name)
    capsys.readouterr()


def test_t28_an_unreadable_folder_is_named(tmp_path):
    data = make_stripes_folder(tmp_path / "data")
    (data / "lying").chmod(0)
    try:
        with (
            without_privileges(),
            pytest.raises(DataError, match=r"cannot be (read|listed).*lying"),
        ):
            list(find_images(data))
    finally:
        (data / "lying").chmod(0o755)


def test_t29_classes_are_matched_by_name_in_validation_too(quick, tmp_path, capsys):
    """Validation lacks a class, spells one differently and has an unknown one first."""
    rng = np.random.default_rng(1)
    for folder in (
        "train/lying",
        "train/upright",
        "train/zigzag",
        "val/Lying ",
        "val/upright",
        "val/aaa",
    ):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(stripe_image(rng, "upright" in folder)).save(
                tmp_path / "data" / folder / f"{number}.png"
            )
    (tmp_path / "data" / "train" / "empty").mkdir()
    fit_unevaluated(
        probe_of(
            quick,
            {"data.path": str(tmp_path / "data"), "tuning": "probe", "data.leakage_audit": False},
        ),
        tmp_path / "run",
    )
    output = capsys.readouterr().out
    assert "'Lying ' in val is taken as 'lying'" in output
    assert "'aaa' is in val but in no earlier split" in output
    assert "'aaa' has no training images and can never be predicted" in output
    assert "empty' is skipped: it contains no images" in output
    rows = {row["path"]: row["label"] for row in Run(tmp_path / "run").splits()}
    assert rows["val/Lying /0.png"] == "lying"
    results = foveate.predict(tmp_path / "run", tmp_path / "data" / "val" / "upright", device="cpu")
    assert {result.row()["prediction"] for result in results} <= {"lying", "upright", "zigzag"}


def test_t31_cached_features_are_keyed_by_bytes_and_not_by_names_or_times(
    quick, tmp_path, monkeypatch
):
    """touch and renaming recompute nothing; an edit that keeps size and time does."""
    from foveate.inference import features

    data, calls, original = make_stripes_folder(tmp_path / "data"), [], features._head_features
    monkeypatch.setattr(
        features, "_head_features", lambda *args: (calls.append(1), original(*args))[1]
    )

    def fit_and_count(name, **settings):
        fit_unevaluated(
            probe_of(
                quick,
                {
                    "data.path": str(data),
                    "tuning": "probe",
                    "data.leakage_audit": False,
                    "data.near_duplicates": 1,
                    **settings,
                },
            ),
            tmp_path / name,
        )
        return len(calls)

    first = fit_and_count("one")
    os.utime(data / "lying" / "00.png")
    assert fit_and_count("touched") == first
    data.rename(tmp_path / "elsewhere")
    data = tmp_path / "elsewhere"
    assert fit_and_count("renamed") == first
    train_path = next(
        row["path"] for row in Run(tmp_path / "one").splits() if row["split"] == "train"
    )
    edited, other = data / train_path, io.BytesIO()
    status = edited.stat()
    Image.fromarray(255 - np.asarray(Image.open(edited))).save(other, format="PNG")
    content = other.getvalue()
    edited.write_bytes(content.ljust(status.st_size, b"\0")[: max(status.st_size, len(content))])
    os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = fit_and_count("edited")
    assert changed > first
    assert fit_and_count("smaller", **{"backbone.size": 48}) > changed

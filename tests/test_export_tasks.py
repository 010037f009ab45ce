"""Exported boxes, regions, sentences, vectors and weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import foveate
from conftest import stripes_folder
from foveate.cli import main as cli
from foveate.data.formats import read_table
from foveate.deploy.postprocess import _beam_search, _boxes, _regions
from foveate.deploy.runtime import open_exported, preprocess
from foveate.errors import UsageError, WeightsError
from foveate.images import codec as images
from foveate.images.preprocessing import view_of
from foveate.inference.predictor import load_predictor
from foveate.modeling.tasks.detect import Detect
from foveate.modeling.tasks.segment import _to_original
from foveate.utils.rle import encode_rle
from helpers import bare, evaluation_left_out, fit_unevaluated
from test_places import tiny, write_voc

pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("openvino", reason="needs the extra 'export'")
pytestmark = pytest.mark.usefixtures("timed_once")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """Bright squares on the dark, pictures of two shapes."""
    root, rng = tmp_path_factory.mktemp("data") / "masks", np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(20):
        height, width = (70, 90) if number % 2 else (120, 61)
        pixels, mask = (
            rng.integers(0, 60, (height, width, 3)).astype(np.uint8),
            np.zeros((height, width), np.uint8),
        )
        x, y = int(rng.integers(0, width - 30)), int(rng.integers(0, height - 30))
        pixels[y : y + 30, x : x + 30], mask[y : y + 30, x : x + 30] = 230, 255
        images.write_image(pixels, root / "images" / f"{number}.png")
        images.write_image(mask, root / "masks" / f"{number}.png")
    return root


def rows(place: Path, paths: list[Path]) -> list[dict]:
    return [answer.row() for answer in foveate.predict(place, paths, device="cpu")]


def pictures_in(data: Path) -> list[Path]:
    return [sample.path for sample in read_table(data).samples]


def the_same_boxes(ours: list[dict], theirs: list[dict]) -> int:
    """How many there are."""
    count = 0
    for one, other in zip(ours, theirs, strict=True):
        assert [row["name"] for row in one["answer"]] == [row["name"] for row in other["answer"]]
        for mine, its in zip(one["answer"], other["answer"], strict=True):
            assert its["xyxy"] == pytest.approx(mine["xyxy"], abs=0.02)
            assert its["score"] == pytest.approx(mine["score"], abs=1e-4)
            count += 1
    return count


# --- boxes


@pytest.fixture(scope="module")
def detector(shapes, tmp_path_factory) -> Path:
    """A run of FCOS that finds most objects."""
    words = {"task": "detect", "task.depth": 1, "training.epochs": 30, "training.lr": 3e-3}
    return fit_unevaluated(tiny(shapes, **words), tmp_path_factory.mktemp("runs") / "run").run


@pytest.mark.parametrize(("head", "to"), [("fcos", "openvino"), ("retinanet", "onnx")])
def test_boxes_leave(shapes, detector, tmp_path, head, to):
    run = detector
    if head != "fcos":
        words = {"task": "detect", "task.head": head, "task.depth": 1, "training.lr": 3e-3}
        recipe = tiny(shapes, **words, **{"training.epochs": 6})
        run = fit_unevaluated(recipe, tmp_path / "run").run
    told = foveate.export(run, to).files[0]
    assert max(told.parity.values()) < 1e-4
    assert told.measure == "map"
    assert told.score.value == pytest.approx(told.torch.value, abs=1e-4)
    assert the_same_boxes(rows(run, pictures_in(shapes)), rows(told.path, pictures_in(shapes))) > 5


def test_boxes_through_windows_leave(shapes, tmp_path):
    settings = {
        "task": "detect",
        "task.depth": 1,
        "task.framing": "windows",
        "backbone.size": 48,
        "training.epochs": 4,
        "training.lr": 3e-3,
    }
    run = fit_unevaluated(tiny(shapes, **settings), tmp_path / "run").run
    path = foveate.export(run).files[0].path
    assert len(preprocess(pictures_in(shapes)[0], 48, "windows").squares) > 1
    assert the_same_boxes(rows(run, pictures_in(shapes)), rows(path, pictures_in(shapes))) > 5


@pytest.mark.parametrize("alone", [True, False])
def test_the_arithmetic_of_boxes_is_the_tasks(alone):
    """Crowded, random, with ties; and the file that is laid beside an export needs NumPy alone."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 80
    boxes = torch.cat([corners, corners + 5 + torch.rand(400, 2, generator=generator) * 40], 1)
    scores = (torch.rand(400, 3, generator=generator) * 50).round() / 50
    task = Detect(Detect.Settings(nms_iou=0.4, max_boxes=50), ("a", "b", "c"))
    task.detector.needs_nms = not alone
    found = task.detector.__class__.candidates(_Given(boxes, scores), None)[0]
    kept = task._keep(found)[:50]
    asked = task.export_metadata()["boxes"]
    places, values, classes = _boxes.select_boxes(boxes.numpy(), scores.numpy(), **asked)
    ours = sorted(
        zip(
            found.scores[kept].tolist(),
            found.classes[kept].tolist(),
            found.boxes[kept].tolist(),
            strict=True,
        )
    )
    assert sorted(zip(values.tolist(), classes.tolist(), places.tolist(), strict=True)) == ours


class _Given:
    def __init__(self, boxes: torch.Tensor, scores: torch.Tensor) -> None:
        self.both = boxes[None], scores[None]

    def dense_predictions(self, output):
        return self.both


def test_nothing_found_is_nothing(shapes):
    boxes, scores = np.zeros((7, 4), np.float32), np.zeros((7, 2), np.float32)
    asked = {
        "min_score": 0.01,
        "max_candidates": 10,
        "nms": True,
        "nms_iou": 0.5,
        "max_boxes": 5,
    }
    assert [len(each) for each in _boxes.select_boxes(boxes, scores, **asked)] == [0, 0, 0]
    assert (
        len(_boxes.select_boxes(boxes, scores + 0.5, **asked)[0]) == 5
    )  # boxes without an area suppress nothing


@pytest.mark.parametrize(
    ("head", "words"),
    [("faster_rcnn", "different number of proposals"), ("rtdetr", "cannot trace this network")],
)
def test_what_cannot_leave_says_so(shapes, tmp_path, head, words):
    settings = {"task": "detect", "task.head": head, "task.depth": 1, "training.epochs": 1}
    run = fit_unevaluated(tiny(shapes, **settings), tmp_path / "run").run
    with pytest.raises(UsageError, match=words):
        foveate.export(run)
    assert not list((run / "export").glob("*"))


# --- regions


@pytest.mark.parametrize(("head", "to"), [("unet", "onnx"), ("deeplab", "openvino")])
def test_regions_leave(masks, tmp_path, head, to):
    settings = {"task.head": head, "training.epochs": 5, "training.lr": 3e-3}
    run = fit_unevaluated(tiny(masks, **settings), tmp_path / "run").run
    told = foveate.export(run, to).files[0]
    assert told.parity["logits"] < 1e-4
    assert told.measure == "mean_iou"
    ours, theirs = (list(foveate.predict(place, pictures_in(masks))) for place in (run, told.path))
    for one, other in zip(ours, theirs, strict=True):
        assert one.prediction.mask.shape == other.prediction.mask.shape
        assert (one.prediction.mask != other.prediction.mask).mean() < 1e-3
    assert len({value for each in ours for value in np.unique(each.prediction.mask)}) == 2


@pytest.mark.parametrize("size", [(70, 90), (333, 100), (64, 64), (5, 400)])
def test_the_arithmetic_of_regions_is_the_tasks(size):
    logits = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    view = torch.tensor(view_of(size, 64, "whole"))
    ours = _to_original(logits, view, torch.tensor(size)).argmax(0).numpy()
    found = _regions.class_mask(logits.numpy(), float(view[2]), size)
    assert found.shape == size
    assert (found != ours).mean() < 1e-4


def test_run_lengths_are_those_of_the_library():
    from faster_coco_eval.core import mask as coco

    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 300), (200, 3), (90, 90)):
        for share in (0.01, 0.5, 0.99):
            mask = rng.random(shape) < share
            theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            assert (encode_rle(mask) or {"counts": theirs})["counts"] == theirs


# --- sentences


@pytest.fixture(scope="module")
def exported_captioner(captioner, tmp_path_factory):
    return foveate.export(captioner, "onnx", out=tmp_path_factory.mktemp("exported")).files[0]


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_sentences_leave(captioner, exported_captioner, striped_world, tmp_path, to):
    told = exported_captioner
    if to == "openvino":
        told = foveate.export(captioner, to, out=tmp_path).files[0]
    assert {"prefix", "log_probs"} == set(told.parity)
    assert told.score.value == pytest.approx(told.torch.value, abs=1e-4)
    assert told.score.value > 4
    paths = pictures_in(striped_world)[::9]
    ours, theirs = rows(captioner, paths), rows(told.path, paths)
    assert [row["answer"] for row in ours] == [row["answer"] for row in theirs]
    assert [row["confidence"] for row in theirs] == pytest.approx(
        [row["confidence"] for row in ours], abs=1e-4
    )
    if to == "onnx":
        done = bare(["predict", str(told.path), *map(str, paths)], tmp_path)
        assert [json.loads(line) for line in done.stdout.splitlines()] == json.loads(
            json.dumps(theirs)
        ), done.stderr
    part = told.path.with_stem(f"{told.path.stem}-decoder")
    with pytest.raises(UsageError, match=f"is a part of {told.path.stem}"):
        foveate.predict(part, paths)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_beam_search_is_that_of_the_library(captioner, beams):
    """From random prefixes, where many sentences are about as good."""
    decoder = load_predictor(captioner, "cpu").model.head
    tokenizer, language_model = decoder.tokenizer, decoder.language_model
    memory = 2 * torch.randn(6, 4, decoder.width, generator=torch.Generator().manual_seed(1))
    settings = {
        "prompt_ids": decoder.prompt_ids,
        "end": tokenizer.end,
        "suppressed": tokenizer.suppressed,
        "max_tokens": 9,
        "beams": beams,
    }
    with torch.inference_mode():
        expected_ids, confidences = decoder.generate(memory, 9, beams)
        for index, prefix in enumerate(memory):

            def next_log_probs(ids: np.ndarray, prefix=prefix) -> np.ndarray:
                known = language_model.get_input_embeddings()(torch.from_numpy(ids))
                inputs = torch.cat([prefix.expand(len(ids), -1, -1), known], 1)
                return language_model(inputs_embeds=inputs).logits[:, -1].log_softmax(1).numpy()

            ids, confidence = _beam_search.generate(next_log_probs, **settings)
            assert ids == expected_ids[index]
            assert confidence == pytest.approx(confidences[index], rel=1e-3)


def test_a_part_elsewhere_is_refused(exported_captioner, tmp_path):
    import onnx

    path = exported_captioner.path
    model = onnx.load(path)
    about = json.loads(model.metadata_props[0].value)
    for place in (f"../{path.stem}-decoder.onnx", "/etc/passwd"):
        model.metadata_props[0].value = json.dumps({**about, "parts": {"decoder": place}})
        onnx.save(model, tmp_path / "moved.onnx")
        with pytest.raises(WeightsError, match="outside its folder"):
            open_exported(tmp_path / "moved.onnx")


# --- vectors


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_pretrained_backbone_leaves(tmp_path, to):
    data = stripes_folder(tmp_path / "pictures", 24)
    words = [
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--epochs",
        "1",
        "--objective",
        "lejepa",
        "--device",
        "cpu",
    ]
    assert (
        cli._run(
            [
                "pretrain",
                str(data),
                "--out",
                str(tmp_path / "run"),
                *words,
                "--set",
                "training.batch_size=8",
            ]
        )
        == 0
    )
    told = foveate.export(tmp_path / "run", to).files[0]
    assert told.parity["pooled"] < 1e-4
    assert told.score.value == 1.0
    found = rows(told.path, pictures_in(data)[:3])
    assert len(found[0]["answer"]) == 512 or len(found[0]["answer"]) > 8
    assert found[0]["answer"] != found[1]["answer"]


# --- weights


def test_weights_leave_by_the_librarys_names(stripes, tmp_path):
    """Merged, they fill the library's own network, which then sees what the run sees; alone, they are the adapter."""
    settings = {
        "data.near_duplicates": 1,
        "data.leakage_audit": False,
        "training.precision": "fp32",
        "training.channels_last": False,
    }
    words = {
        "backbone": "test_vit",
        "weights": "none",
        "size": 32,
        "device": "cpu",
        "epochs": 2,
        "settings": settings,
    }
    with evaluation_left_out():
        run = foveate.fit(stripes, tuning="lora", out=tmp_path / "run", **words).run
    merged = foveate.export(run, "torch").files[0]
    tensors = load_file(merged.path)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    own = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    network.load_state_dict(own)
    picture = next((stripes / "upright").glob("*.png"))
    model = load_predictor(run, "cpu").model.eval()
    square = torch.from_numpy(preprocess(picture, 32, "crop").squares[0])[None].float() / 255
    with torch.inference_mode():
        ours = model.backbone(
            (square - tensors["mean"]) / tensors["std"], {foveate.types.Provides.POOLED}
        ).pooled
        theirs = network.eval()((square - tensors["mean"]) / tensors["std"])
    assert torch.allclose(ours, theirs, atol=1e-5)
    alone = foveate.export(run, "torch", trained_only=True).files[0]
    assert alone.size < merged.size / 2
    assert any("lora" in name for name in load_file(alone.path))
    assert not any("lora" in name for name in tensors)
    with safe_open(alone.path, "pt") as file:
        about = json.loads(file.metadata()["foveate"])
    assert about["trained_only"] is True
    assert about["classes"] == ["lying", "upright"]
    table = json.loads((run / "export" / "manifest.json").read_text())
    assert {row["path"] for row in table} == {"run.safetensors", "run-added.safetensors"}
    with pytest.raises(UsageError, match="cannot make predictions"):
        foveate.predict(merged.path, [picture])
    with pytest.raises(UsageError, match="merged"):
        foveate.export(run, "onnx", trained_only=True)


# --- without Foveate


def test_what_lies_beside_a_file_needs_numpy_alone(masks, tmp_path):
    run = fit_unevaluated(tiny(masks, **{"training.epochs": 1}), tmp_path / "run").run
    path = foveate.export(run).files[0].path
    picture = pictures_in(masks)[0]
    done = bare(["predict", str(path), str(picture)], tmp_path)
    assert json.loads(done.stdout) == json.loads(json.dumps(rows(path, [picture])[0])), done.stderr
    script = f"""
import sys
import numpy as np
sys.path.insert(0, {str(path.parent)!r})
import importlib
postprocess = importlib.import_module("run-postprocess")
logits = np.zeros((2, 64, 64), np.float32)
logits[1, 10:20] = 1
mask = postprocess.class_mask(logits, 64.0, (64, 64))
assert mask.sum() == 640, mask.sum()
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "foveate", "PIL")]
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# --- eight bits


def test_boxes_in_eight_bits(detector, tmp_path):
    """Coordinates and chances stay in 32 bits, so that little is lost; what is lost is measured."""
    told = foveate.export(detector, int8=True, max_drop=1.0, out=tmp_path)
    assert told.files[0].score.value > 0.3
    assert told.files[1].score.value > told.files[0].score.value - 0.1
    assert told.files[1].parity["boxes"] < 0.1

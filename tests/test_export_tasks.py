"""Export of detection, segmentation, captioning, pretrained backbones, and plain weights."""

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
from conftest import make_stripes_folder
from foveate.cli import main as cli
from foveate.data.formats import read_table
from foveate.deploy.postprocess import _beam_search, _boxes, _regions
from foveate.deploy.runtime import open_exported, preprocess
from foveate.errors import UsageError, WeightsError
from foveate.images import encoding
from foveate.images.preprocessing import view_of
from foveate.inference.predictor import load_predictor
from foveate.modeling.tasks.detect import Detect
from foveate.modeling.tasks.segment import _to_original
from foveate.utils.rle import encode_rle
from helpers import fit_unevaluated, run_without_torch, without_evaluation
from test_dense_tasks import fit_detector, tiny_recipe, write_voc
from test_regress import regress_recipe, write_dots

pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("openvino", reason="needs the extra 'export'")
pytestmark = pytest.mark.usefixtures("quick_export")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """Images of two sizes with bright squares on a dark background, and their masks."""
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
        encoding.write_image(pixels, root / "images" / f"{number}.png")
        encoding.write_image(mask, root / "masks" / f"{number}.png")
    return root


def predict_rows(model: Path, paths: list[Path]) -> list[dict]:
    return [result.row() for result in foveate.predict(model, paths, device="cpu")]


def image_paths(data: Path) -> list[Path]:
    return [sample.path for sample in read_table(data).samples]


def assert_equal_boxes(expected: list[dict], actual: list[dict]) -> int:
    """Compare the boxes of two lists of predictions; returns their number."""
    count = 0
    for expected_row, actual_row in zip(expected, actual, strict=True):
        assert [row["name"] for row in expected_row["prediction"]] == [
            row["name"] for row in actual_row["prediction"]
        ]
        for expected_box, actual_box in zip(
            expected_row["prediction"], actual_row["prediction"], strict=True
        ):
            assert actual_box["xyxy"] == pytest.approx(expected_box["xyxy"], abs=0.02)
            assert actual_box["score"] == pytest.approx(expected_box["score"], abs=1e-4)
            count += 1
    return count


# --- boxes


@pytest.fixture(scope="module")
def detector(shapes, tmp_path_factory) -> Path:
    return fit_detector(shapes, tmp_path_factory)


@pytest.mark.parametrize(("head", "target"), [("fcos", "openvino"), ("retinanet", "onnx")])
def test_detection_exports(shapes, detector, tmp_path, head, target):
    run = detector
    if head != "fcos":
        settings = {"task": "detect", "task.head": head, "task.depth": 1, "training.lr": 3e-3}
        recipe = tiny_recipe(shapes, **settings, **{"training.epochs": 6})
        run = fit_unevaluated(recipe, tmp_path / "run").run
    exported = foveate.export(run, target).files[0]
    assert max(exported.parity.values()) < 1e-4
    assert exported.metric == "map"
    assert exported.score.value == pytest.approx(exported.run_score.value, abs=1e-4)
    assert (
        assert_equal_boxes(
            predict_rows(run, image_paths(shapes)), predict_rows(exported.path, image_paths(shapes))
        )
        > 5
    )


def test_sliding_window_detection_exports(shapes, tmp_path):
    settings = {
        "task": "detect",
        "task.depth": 1,
        "task.framing": "windows",
        "backbone.size": 48,
        "training.epochs": 4,
        "training.lr": 3e-3,
    }
    run = fit_unevaluated(tiny_recipe(shapes, **settings), tmp_path / "run").run
    path = foveate.export(run).files[0].path
    assert len(preprocess(image_paths(shapes)[0], 48, "windows").squares) > 1
    assert (
        assert_equal_boxes(
            predict_rows(run, image_paths(shapes)), predict_rows(path, image_paths(shapes))
        )
        > 5
    )


@pytest.mark.parametrize("without_nms", [True, False])
def test_numpy_box_decoding_equals_the_task(without_nms):
    """Random crowded boxes with ties, with and without non-maximum suppression."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 80
    boxes = torch.cat([corners, corners + 5 + torch.rand(400, 2, generator=generator) * 40], 1)
    scores = (torch.rand(400, 3, generator=generator) * 50).round() / 50
    task = Detect(Detect.Settings(nms_iou=0.4, max_boxes=50), ("a", "b", "c"))
    task.detector.needs_nms = not without_nms
    candidates = task.detector.__class__.candidates(_FixedDetector(boxes, scores), None)[0]
    kept = task._keep(candidates)[:50]
    settings = task.export_metadata()["boxes"]
    kept_corners, confidences, classes = _boxes.select_boxes(
        boxes.numpy(), scores.numpy(), **settings
    )
    expected = sorted(
        zip(
            candidates.scores[kept].tolist(),
            candidates.classes[kept].tolist(),
            candidates.boxes[kept].tolist(),
            strict=True,
        )
    )
    assert (
        sorted(zip(confidences.tolist(), classes.tolist(), kept_corners.tolist(), strict=True))
        == expected
    )


class _FixedDetector:
    def __init__(self, boxes: torch.Tensor, scores: torch.Tensor) -> None:
        self.predictions = boxes[None], scores[None]

    def dense_predictions(self, output):
        return self.predictions


def test_no_detections_give_empty_predictions(shapes):
    boxes, scores = np.zeros((7, 4), np.float32), np.zeros((7, 2), np.float32)
    settings = {
        "min_score": 0.01,
        "max_candidates": 10,
        "nms": True,
        "nms_iou": 0.5,
        "max_boxes": 5,
    }
    assert [len(array) for array in _boxes.select_boxes(boxes, scores, **settings)] == [0, 0, 0]
    assert (
        len(_boxes.select_boxes(boxes, scores + 0.5, **settings)[0]) == 5
    )  # boxes without an area suppress nothing


@pytest.mark.parametrize(
    ("head", "message"),
    [("faster_rcnn", "different number of proposals"), ("rtdetr", "cannot trace this network")],
)
def test_runs_that_cannot_be_exported_are_refused(shapes, tmp_path, head, message):
    settings = {"task": "detect", "task.head": head, "task.depth": 1, "training.epochs": 1}
    run = fit_unevaluated(tiny_recipe(shapes, **settings), tmp_path / "run").run
    with pytest.raises(UsageError, match=message):
        foveate.export(run)
    assert not list((run / "export").glob("*"))


# --- segmentation


@pytest.fixture(scope="module")
def segmenter(masks, tmp_path_factory):
    """A run of a U-Net and its ONNX file."""
    settings = {"task.head": "unet", "training.epochs": 5, "training.lr": 3e-3}
    run = fit_unevaluated(
        tiny_recipe(masks, **settings), tmp_path_factory.mktemp("runs") / "run"
    ).run
    return run, foveate.export(run).files[0]


@pytest.mark.parametrize(("head", "target"), [("unet", "onnx"), ("deeplab", "openvino")])
def test_segmentation_exports(masks, segmenter, tmp_path, head, target):
    run, exported = segmenter
    if head != "unet":
        settings = {"task.head": head, "training.epochs": 5, "training.lr": 3e-3}
        run = fit_unevaluated(tiny_recipe(masks, **settings), tmp_path / "run").run
        exported = foveate.export(run, target).files[0]
    assert exported.parity["logits"] < 1e-4
    assert exported.metric == "dice"
    expected, actual = (
        list(foveate.predict(model, image_paths(masks))) for model in (run, exported.path)
    )
    for expected_result, actual_result in zip(expected, actual, strict=True):
        assert expected_result.prediction.mask.shape == actual_result.prediction.mask.shape
        assert (expected_result.prediction.mask != actual_result.prediction.mask).mean() < 1e-3
    assert len({value for result in expected for value in np.unique(result.prediction.mask)}) == 2


@pytest.mark.parametrize("size", [(70, 90), (333, 100), (64, 64), (5, 400)])
def test_numpy_mask_decoding_equals_the_task(size):
    logits = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    view = torch.tensor(view_of(size, 64, "whole"))
    expected = _to_original(logits, view, torch.tensor(size)).argmax(0).numpy()
    actual = _regions.class_mask(logits.numpy(), float(view[2]), size)
    assert actual.shape == size
    assert (actual != expected).mean() < 1e-4


def test_run_lengths_equal_pycocotools():
    from faster_coco_eval.core import mask as coco

    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 300), (200, 3), (90, 90)):
        for share in (0.01, 0.5, 0.99):
            mask = rng.random(shape) < share
            counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            assert (encode_rle(mask) or {"counts": counts})["counts"] == counts


# --- captions


@pytest.fixture(scope="module")
def exported_captioner(caption_run, tmp_path_factory):
    return foveate.export(caption_run, "onnx", out=tmp_path_factory.mktemp("exported")).files[0]


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_captioning_exports(caption_run, exported_captioner, captioned_stripes, tmp_path, target):
    exported = exported_captioner
    if target == "openvino":
        exported = foveate.export(caption_run, target, out=tmp_path).files[0]
    assert {"prefix", "log_probs"} == set(exported.parity)
    assert exported.score.value == pytest.approx(exported.run_score.value, abs=1e-4)
    assert exported.score.value > 4
    paths = image_paths(captioned_stripes)[::9]
    expected, actual = predict_rows(caption_run, paths), predict_rows(exported.path, paths)
    assert [row["prediction"] for row in expected] == [row["prediction"] for row in actual]
    assert [row["confidence"] for row in actual] == pytest.approx(
        [row["confidence"] for row in expected], abs=1e-4
    )
    if target == "onnx":
        process = run_without_torch(["predict", str(exported.path), *map(str, paths)], tmp_path)
        assert [json.loads(line) for line in process.stdout.splitlines()] == json.loads(
            json.dumps(actual)
        ), process.stderr
    part = exported.path.with_stem(f"{exported.path.stem}-decoder")
    with pytest.raises(UsageError, match=f"is a part of {exported.path.stem}"):
        foveate.predict(part, paths)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_numpy_beam_search_equals_torch(caption_run, beams):
    """Random prefixes, for which many captions have similar scores."""
    decoder = load_predictor(caption_run, "cpu").model.head
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
                embeddings = language_model.get_input_embeddings()(torch.from_numpy(ids))
                inputs = torch.cat([prefix.expand(len(ids), -1, -1), embeddings], 1)
                return language_model(inputs_embeds=inputs).logits[:, -1].log_softmax(1).numpy()

            ids, confidence = _beam_search.generate(next_log_probs, **settings)
            assert ids == expected_ids[index]
            assert confidence == pytest.approx(confidences[index], rel=1e-3)


def test_a_model_part_outside_the_folder_is_refused(exported_captioner, tmp_path):
    import onnx

    path = exported_captioner.path
    model = onnx.load(path)
    metadata = json.loads(model.metadata_props[0].value)
    for part in (f"../{path.stem}-decoder.onnx", "/etc/passwd"):
        model.metadata_props[0].value = json.dumps({**metadata, "parts": {"decoder": part}})
        onnx.save(model, tmp_path / "moved.onnx")
        with pytest.raises(WeightsError, match="outside its folder"):
            open_exported(tmp_path / "moved.onnx")


# --- backbones


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_pretrained_backbone_exports(tmp_path, target):
    data = make_stripes_folder(tmp_path / "images", 24)
    options = [
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
                *options,
                "--set",
                "training.batch_size=8",
            ]
        )
        == 0
    )
    exported = foveate.export(tmp_path / "run", target).files[0]
    assert exported.parity["pooled"] < 1e-4
    assert exported.score.value == 1.0
    rows = predict_rows(exported.path, image_paths(data)[:3])
    assert len(rows[0]["prediction"]) == 512 or len(rows[0]["prediction"]) > 8
    assert rows[0]["prediction"] != rows[1]["prediction"]


# --- weights


def test_weights_are_exported_under_the_names_of_their_library(stripes, tmp_path):
    """Merged weights load into timm's network; alternatively, only the adapter is saved."""
    settings = {
        "data.near_duplicates": 1,
        "data.leakage_audit": False,
        "training.precision": "fp32",
        "training.channels_last": False,
    }
    options = {
        "backbone": "test_vit",
        "weights": "none",
        "size": 32,
        "device": "cpu",
        "epochs": 2,
        "settings": settings,
    }
    with without_evaluation():
        run = foveate.fit(stripes, tuning="lora", out=tmp_path / "run", **options).run
    merged = foveate.export(run, "torch").files[0]
    tensors = load_file(merged.path)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    state_dict = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    network.load_state_dict(state_dict)
    image = next((stripes / "upright").glob("*.png"))
    model = load_predictor(run, "cpu").model.eval()
    pixels = torch.from_numpy(preprocess(image, 32, "crop").squares[0])[None].float() / 255
    with torch.inference_mode():
        expected = model.backbone(
            (pixels - tensors["mean"]) / tensors["std"], {foveate.types.Provides.POOLED}
        ).pooled
        actual = network.eval()((pixels - tensors["mean"]) / tensors["std"])
    assert torch.allclose(expected, actual, atol=1e-5)
    adapter = foveate.export(run, "torch", trained_only=True).files[0]
    assert adapter.size < merged.size / 2
    assert any("lora" in name for name in load_file(adapter.path))
    assert not any("lora" in name for name in tensors)
    with safe_open(adapter.path, "pt") as file:
        metadata = json.loads(file.metadata()["foveate"])
    assert metadata["trained_only"] is True
    assert metadata["classes"] == ["lying", "upright"]
    manifest = json.loads((run / "export" / "manifest.json").read_text())
    assert {row["path"] for row in manifest} == {"run.safetensors", "run-added.safetensors"}
    with pytest.raises(UsageError, match="cannot make predictions"):
        foveate.predict(merged.path, [image])
    with pytest.raises(UsageError, match="merged"):
        foveate.export(run, "onnx", trained_only=True)


# --- without Foveate


def test_exported_files_and_their_postprocess_script_need_numpy_only(masks, segmenter, tmp_path):
    path = segmenter[1].path
    image = image_paths(masks)[0]
    process = run_without_torch(["predict", str(path), str(image)], tmp_path)
    assert json.loads(process.stdout) == json.loads(json.dumps(predict_rows(path, [image])[0])), (
        process.stderr
    )
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
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


# --- int8


def test_int8_detection(detector, tmp_path):
    """Boxes and scores stay in 32 bits, so that little accuracy is lost; the loss is measured."""
    result = foveate.export(detector, int8=True, max_drop=1.0, out=tmp_path)
    assert result.files[0].score.value > 0.3
    assert result.files[1].score.value > result.files[0].score.value - 0.1
    assert result.files[1].parity["boxes"] < 0.1


def test_exported_numbers_and_intervals_equal_those_of_the_run(tmp_path):
    table = write_dots(tmp_path / "dots", 130)
    run = fit_unevaluated(regress_recipe(table), tmp_path / "run").run
    result = foveate.export(run)
    (file,) = result.files
    assert file.parity["numbers"] < 1e-4
    image = table.parent / "000.png"
    ((one,), (other,)) = (list(foveate.predict(each, [image])) for each in (run, file.path))
    assert other.row().keys() == one.row().keys() == {"path", "prediction", "low", "high"}
    assert other.prediction.low == pytest.approx(one.prediction.low, abs=1e-3)

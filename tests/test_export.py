"""Exported files predict as the run does, also without torch; files that differ are removed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from conftest import make_stripes_folder
from foveate.api.export import bundle, parity
from foveate.cli import main as cli
from foveate.deploy.runtime import load_square, open_exported
from foveate.deploy.targets import EXPORTERS, RuntimeExporter, exporter_for
from foveate.errors import RunError, UnknownName, UsageError, WeightsError
from foveate.run.folder import Run
from helpers import run_without_torch, without_evaluation

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("openvino", reason="needs the extra 'export'")
pytestmark = pytest.mark.usefixtures("quick_export")
RUNTIMES = [name for name in EXPORTERS.names() if issubclass(EXPORTERS.get(name), RuntimeExporter)]
OPTIONS = {"backbone": "test_efficientnet", "weights": "none", "size": 32, "device": "cpu"}
SETTINGS = {
    "data.near_duplicates": 1,
    "data.leakage_audit": False,
    "data.val": 0.3,
    "data.test": 0.1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_stripes_folder(tmp_path_factory.mktemp("data") / "stripes", 60)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A calibrated run, with prediction sets, abstention and OOD scores."""
    with without_evaluation():
        result = foveate.fit(
            data,
            tuning="probe",
            out=tmp_path_factory.mktemp("runs") / "run",
            settings=SETTINGS,
            **OPTIONS,
        )
    assert result.outcome["calibration"]
    return result.run


@pytest.fixture(scope="module")
def files(run, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {target: foveate.export(run, target, out=folder).files[0].path for target in RUNTIMES}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Images of several shapes, one rotated by EXIF, one gray, and one broken file."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    for index, (height, width) in enumerate([(40, 40), (33, 90), (91, 34), (200, 150), (20, 31)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            root / f"{index}.png"
        )
    rotated = Image.fromarray(rng.integers(0, 256, (50, 80, 3), dtype=np.uint8))
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(root / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(rng.integers(0, 256, (50, 60), dtype=np.uint8)).save(root / "grey.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def predict_rows(run: Path, images: Path) -> list[dict]:
    return [result.row() for result in foveate.predict(run, sorted(images.iterdir()))]


# --- the same predictions


@pytest.mark.parametrize("target", RUNTIMES)
def test_an_exported_file_predicts_as_the_run_does(run, files, images, target):
    expected, actual = predict_rows(run, images), predict_rows(files[target], images)
    assert len(expected) == 8
    for expected_row, actual_row in zip(expected, actual, strict=True):
        assert expected_row.keys() == actual_row.keys()
        for key, value in expected_row.items():
            if key == "scores":
                assert list(value.values()) == pytest.approx(
                    list(actual_row[key].values()), abs=1e-4
                )
            elif key in ("confidence", "ood"):
                assert actual_row[key] == pytest.approx(value, abs=0.05 if key == "ood" else 1e-4)
            else:
                assert actual_row[key] == value


def test_an_exported_file_contains_its_metadata(run, files):
    exported = open_exported(files["onnx"])
    assert exported.classes == ("lying", "upright")
    assert exported.metadata["size"] == 32
    assert exported.metadata["task"] == "classify"
    assert exported.metadata["license"] == Run(run).outcome()["license"]
    assert exported.postprocessor.calibration is not None
    model = onnx.load(files["onnx"], load_external_data=False)
    assert [
        dimension.dim_param or dimension.dim_value
        for dimension in model.graph.input[0].type.tensor_type.shape.dim
    ][1:] == [3, 32, 32]
    assert not [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    manifest = json.loads((files["onnx"].parent / "manifest.json").read_text())
    assert {row["path"] for row in manifest} == {path.name for path in files.values()}
    assert all(max(row["parity"].values()) < 1e-4 for row in manifest)
    assert all(row["latency"]["32"] > 0 and row["size"] > 0 for row in manifest)


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_any_batch_size(files, images, count):
    exported = open_exported(files["onnx"])
    squares = [load_square(images / "0.png", 32)] * count
    assert exported.run(np.stack(squares))["scores"].shape == (count, 2)


def test_exported_files_need_no_torch(files, images, tmp_path):
    """Only the command line, NumPy, Pillow and the runtime are needed."""
    process = run_without_torch(["predict", str(files["onnx"]), str(images)], tmp_path)
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert rows == json.loads(json.dumps(predict_rows(files["onnx"], images)))


def test_a_signal_after_a_file_was_closed_in_another_thread(files, images):
    """OpenVINO's CPU plugin sets up a stack for signals, which has to live as long as its thread."""
    script = f"""
import gc, os, signal, threading
import foveate

signal.signal(signal.SIGCHLD, lambda *_: None)
paths = {[str(path) for path in sorted(images.glob("?.png"))]!r}
for file in {[str(file) for file in files.values()]!r}:
    predictors = [foveate.load(file)]
    list(predictors[0].predict(paths))
    thread = threading.Thread(target=lambda: (predictors.clear(), gc.collect()))
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGCHLD)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "alive\n", done.stderr or done.returncode


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mini_vgg", "test_convnext"])
def test_every_backbone_family_exports(stripes, tmp_path, name):
    """Only rounding differs: `export` refuses larger differences."""
    options = {**OPTIONS, "backbone": name}
    with without_evaluation():
        result = foveate.fit(
            stripes, tuning="probe", out=tmp_path / "run", settings=SETTINGS, **options
        )
    exported = foveate.export(result.run).files[0]
    assert max(exported.parity.values()) < 1e-4
    assert exported.score == exported.run_score


def test_adapters_are_merged_on_export(stripes, tmp_path):
    settings = {**SETTINGS, "training.precision": "fp32", "training.channels_last": False}
    options = {**OPTIONS, "backbone": "test_vit", "tuning": "lora", "epochs": 2}
    with without_evaluation():
        result = foveate.fit(stripes, out=tmp_path / "run", settings=settings, **options)
    assert max(foveate.export(result.run).files[0].parity.values()) < 1e-4


def test_multilabel_runs_export(tmp_path, images):
    root = make_stripes_folder(tmp_path / "stripes", 20)
    lines = [
        f"{path.relative_to(root)},{path.parent.name}{'|even' if int(path.stem) % 2 == 0 else ''}"
        for path in sorted(root.rglob("*.png"))
    ]
    (root / "table.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    with without_evaluation():
        result = foveate.fit(
            root / "table.csv", tuning="probe", out=tmp_path / "run", settings=SETTINGS, **OPTIONS
        )
    path = foveate.export(result.run).files[0].path
    assert [row.get("prediction") for row in predict_rows(path, images)] == [
        row.get("prediction") for row in predict_rows(result.run, images)
    ]


# --- int8


def test_int8_is_kept_when_it_costs_little_accuracy(run, tmp_path, images, capsys):
    assert (
        cli._run(
            [
                "export",
                str(run),
                "--int8",
                "--max-drop",
                "1",
                "--out",
                str(tmp_path / "kept"),
                "--json",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["precision"] for row in result["files"]] == ["fp32", "int8"]
    assert result["files"][1]["size"] < result["files"][0]["size"]
    int8_path = tmp_path / "kept" / result["files"][1]["path"]
    assert open_exported(int8_path).metadata["precision"] == "int8"
    assert len(predict_rows(int8_path, images)) == 8
    kinds = {node.op_type for node in onnx.load(int8_path).graph.node}
    assert "QuantizeLinear" in kinds


def test_int8_that_costs_too_much_accuracy_is_removed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        parity.ParityCheck,
        "calibration_batches",
        lambda self: iter([np.zeros((1, 3, 32, 32), np.uint8)]),
    )
    result = foveate.export(run, int8=True, max_drop=0.0, out=tmp_path / "out")
    assert [file.precision for file in result.files] == ["fp32"]
    assert "allows less" in result.refused[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "run.onnx",
    ]


# --- refusals


def test_a_file_whose_predictions_differ_is_removed(run, tmp_path, monkeypatch):
    original = bundle.Graph.named
    monkeypatch.setattr(
        bundle.Graph,
        "named",
        lambda self, images: {
            name: value * 0.999 for name, value in original(self, images).items()
        },
    )
    monkeypatch.setattr(
        bundle.Graph, "forward", lambda self, images: tuple(original(self, images).values())
    )
    with pytest.raises(RunError, match=r"is not kept.*scores by") as error:
        foveate.export(run, out=tmp_path / "out")
    assert "most on" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_overwritten(run, files):
    with pytest.raises(UsageError, match="already exists"):
        foveate.export(run, out=files["onnx"].parent)
    with pytest.raises(UnknownName, match="onnx"):
        foveate.export(run, "onx")
    with pytest.raises(UsageError, match="8 bits"):
        foveate.export(run, "openvino", int8=True)


def test_damaged_and_foreign_files_are_one_error_message(files, images, tmp_path):
    truncated = tmp_path / "cut.onnx"
    truncated.write_bytes(files["onnx"].read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cannot open this file"):
        foveate.predict(truncated, images)
    foreign, value = (
        tmp_path / "foreign.onnx",
        onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1]),
    )
    same = onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["same"])], "graph", [value], [same]
    )
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        ),
        foreign,
    )
    with pytest.raises(UsageError, match="foveate export did not write this file"):
        foveate.predict(foreign, images)
    with pytest.raises(UsageError, match="not an exported file"):
        foveate.predict(images / "0.png", images)
    empty_xml = tmp_path / "model.xml"
    empty_xml.write_text("<net></net>", encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot open this file"):
        foveate.predict(empty_xml, images)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "weights.bin"])
def test_t35_external_tensors_are_refused(files, images, tmp_path, location):
    model = onnx.load(files["onnx"])
    tensor = max(model.graph.initializer, key=lambda candidate: len(candidate.raw_data))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.ClearField("raw_data")
    path = tmp_path / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="keeps tensors in other files"):
        foveate.predict(path, images)


def test_a_run_without_its_images_is_refused(tmp_path):
    root = make_stripes_folder(tmp_path / "stripes", 12)
    with without_evaluation():
        result = foveate.fit(
            root, tuning="probe", out=tmp_path / "run", settings=SETTINGS, **OPTIONS
        )
    shutil.rmtree(root)
    with pytest.raises(foveate.errors.FoveateError):
        foveate.export(result.run)
    assert exporter_for(Path("model.pt")) is None

"""Exported files: they answer as the run does, also where there is no torch, or they are not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from conftest import stripes_folder
from foveate.api.export import bundle as _leaving
from foveate.api.export import core as verb
from foveate.cli import main as cli
from foveate.deploy.runtime import load_square, open_exported
from foveate.deploy.targets import EXPORTERS, RuntimeExporter, exporter_for
from foveate.errors import RunError, UnknownName, UsageError, WeightsError
from foveate.run.folder import Run
from helpers import bare, evaluation_left_out

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("openvino", reason="needs the extra 'export'")
pytestmark = pytest.mark.usefixtures("timed_once")
RUNTIMES = [name for name in EXPORTERS.names() if issubclass(EXPORTERS.get(name), RuntimeExporter)]
WORDS = {"backbone": "test_efficientnet", "weights": "none", "size": 32, "device": "cpu"}
SETTINGS = {
    "data.near_duplicates": 1,
    "data.leakage_audit": False,
    "data.val": 0.3,
    "data.test": 0.1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return stripes_folder(tmp_path_factory.mktemp("data") / "stripes", 60)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """Calibrated: it says sets, doubts and strangers."""
    with evaluation_left_out():
        found = foveate.fit(
            data,
            tuning="probe",
            out=tmp_path_factory.mktemp("runs") / "run",
            settings=SETTINGS,
            **WORDS,
        )
    assert found.outcome["calibration"]
    return found.run


@pytest.fixture(scope="module")
def files(run, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {to: foveate.export(run, to, out=folder).files[0].path for to in RUNTIMES}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Of all shapes, one turned by EXIF, one grey, one that is none."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    for place, (height, width) in enumerate([(40, 40), (33, 90), (91, 34), (200, 150), (20, 31)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            root / f"{place}.png"
        )
    turned = Image.fromarray(rng.integers(0, 256, (50, 80, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(rng.integers(0, 256, (50, 60), dtype=np.uint8)).save(root / "grey.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def rows(run: Path, pictures: Path) -> list[dict]:
    return [answer.row() for answer in foveate.predict(run, sorted(pictures.iterdir()))]


# --- the same answers


@pytest.mark.parametrize("to", RUNTIMES)
def test_a_file_answers_as_the_run_does(run, files, pictures, to):
    ours, theirs = rows(run, pictures), rows(files[to], pictures)
    assert len(ours) == 8
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if key == "scores":
                assert list(value.values()) == pytest.approx(list(other[key].values()), abs=1e-4)
            elif key in ("confidence", "ood"):
                assert other[key] == pytest.approx(value, abs=0.05 if key == "ood" else 1e-4)
            else:
                assert other[key] == value


def test_it_carries_what_it_takes(run, files):
    found = open_exported(files["onnx"])
    assert found.classes == ("lying", "upright")
    assert found.metadata["size"] == 32
    assert found.metadata["task"] == "classify"
    assert found.metadata["license"] == Run(run).outcome()["license"]
    assert found.postprocessor.calibration is not None
    model = onnx.load(files["onnx"], load_external_data=False)
    assert [
        dimension.dim_param or dimension.dim_value
        for dimension in model.graph.input[0].type.tensor_type.shape.dim
    ][1:] == [3, 32, 32]
    assert not [
        each for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL
    ]
    table = json.loads((files["onnx"].parent / "manifest.json").read_text())
    assert {row["path"] for row in table} == {path.name for path in files.values()}
    assert all(max(row["parity"].values()) < 1e-4 for row in table)
    assert all(row["latency"]["32"] > 0 and row["size"] > 0 for row in table)


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_any_number_at_once(files, pictures, count):
    found = open_exported(files["onnx"])
    squares = [load_square(pictures / "0.png", 32)] * count
    assert found.run(np.stack(squares))["scores"].shape == (count, 2)


def test_torch_is_not_needed(files, pictures, tmp_path):
    """Nor anything else of what Foveate is built from: the words of the command line, NumPy, Pillow and the runtime."""
    done = bare(["predict", str(files["onnx"]), str(pictures)], tmp_path)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert told == json.loads(json.dumps(rows(files["onnx"], pictures)))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mini_vgg", "test_convnext"])
def test_networks_of_every_kind_leave(stripes, tmp_path, name):
    """The differences are those of arithmetic: `export` refuses others."""
    words = {**WORDS, "backbone": name}
    with evaluation_left_out():
        found = foveate.fit(
            stripes, tuning="probe", out=tmp_path / "run", settings=SETTINGS, **words
        )
    told = foveate.export(found.run).files[0]
    assert max(told.parity.values()) < 1e-4
    assert told.score == told.torch


def test_added_weights_leave_merged(stripes, tmp_path):
    settings = {**SETTINGS, "training.precision": "fp32", "training.channels_last": False}
    words = {**WORDS, "backbone": "test_vit", "tuning": "lora", "epochs": 2}
    with evaluation_left_out():
        found = foveate.fit(stripes, out=tmp_path / "run", settings=settings, **words)
    assert max(foveate.export(found.run).files[0].parity.values()) < 1e-4


def test_several_classes_may_hold(tmp_path, pictures):
    root = stripes_folder(tmp_path / "stripes", 20)
    lines = [
        f"{path.relative_to(root)},{path.parent.name}{'|even' if int(path.stem) % 2 == 0 else ''}"
        for path in sorted(root.rglob("*.png"))
    ]
    (root / "table.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    with evaluation_left_out():
        found = foveate.fit(
            root / "table.csv", tuning="probe", out=tmp_path / "run", settings=SETTINGS, **WORDS
        )
    path = foveate.export(found.run).files[0].path
    assert [row.get("answer") for row in rows(path, pictures)] == [
        row.get("answer") for row in rows(found.run, pictures)
    ]


# --- eight bits


def test_eight_bits_are_kept_where_they_cost_little(run, tmp_path, pictures, capsys):
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
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["precision"] for row in told["files"]] == ["fp32", "int8"]
    assert told["files"][1]["size"] < told["files"][0]["size"]
    small = tmp_path / "kept" / told["files"][1]["path"]
    assert open_exported(small).metadata["precision"] == "int8"
    assert len(rows(small, pictures)) == 8
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert "QuantizeLinear" in kinds


def test_eight_bits_that_cost_too_much_are_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        verb._Judge, "calibrating", lambda self: iter([np.zeros((1, 3, 32, 32), np.uint8)])
    )
    found = foveate.export(run, int8=True, max_drop=0.0, out=tmp_path / "out")
    assert [file.precision for file in found.files] == ["fp32"]
    assert "allows less" in found.refused[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "run.onnx",
    ]


# --- what is refused


def test_a_file_that_answers_otherwise_is_removed(run, tmp_path, monkeypatch):
    honest = _leaving.Graph.named
    monkeypatch.setattr(
        _leaving.Graph,
        "named",
        lambda self, images: {name: value * 0.999 for name, value in honest(self, images).items()},
    )
    monkeypatch.setattr(
        _leaving.Graph, "forward", lambda self, images: tuple(honest(self, images).values())
    )
    with pytest.raises(RunError, match=r"is not kept.*scores by") as told:
        foveate.export(run, out=tmp_path / "out")
    assert "most on" in str(told.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_overwritten(run, files):
    with pytest.raises(UsageError, match="already exists"):
        foveate.export(run, out=files["onnx"].parent)
    with pytest.raises(UnknownName, match="onnx"):
        foveate.export(run, "onx")
    with pytest.raises(UsageError, match="8 bits"):
        foveate.export(run, "openvino", int8=True)


def test_damaged_and_foreign_files_are_one_sentence(files, pictures, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(files["onnx"].read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cannot open this file"):
        foveate.predict(cut, pictures)
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
        foveate.predict(foreign, pictures)
    with pytest.raises(UsageError, match="not an exported file"):
        foveate.predict(pictures / "0.png", pictures)
    bare = tmp_path / "model.xml"
    bare.write_text("<net></net>", encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot open this file"):
        foveate.predict(bare, pictures)


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "weights.bin"])
def test_t35_tensors_in_other_files_are_refused(files, pictures, tmp_path, place):
    model = onnx.load(files["onnx"])
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    tensor.ClearField("raw_data")
    path = tmp_path / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="keeps tensors in other files"):
        foveate.predict(path, pictures)


def test_a_run_without_its_images_says_so(tmp_path):
    root = stripes_folder(tmp_path / "stripes", 12)
    with evaluation_left_out():
        found = foveate.fit(root, tuning="probe", out=tmp_path / "run", settings=SETTINGS, **WORDS)
    shutil.rmtree(root)
    with pytest.raises(foveate.errors.FoveateError):
        foveate.export(found.run)
    assert exporter_for(Path("model.pt")) is None

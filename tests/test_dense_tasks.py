"""Detection and segmentation: heads on backbones, augmentation, windows, end to end."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from foveate.api.evaluate import evaluate
from foveate.api.fit.core import fit_recipe
from foveate.api.predict import predict
from foveate.data.dataset import TiledDataset
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.errors import UsageError
from foveate.images import codec, encoding
from foveate.inference.predictor import load_predictor
from foveate.modeling.backbones import FAMILIES
from foveate.modeling.decoders import DECODERS
from foveate.modeling.detectors import DETECTORS
from foveate.modeling.model import build_model
from foveate.modeling.tasks import TASKS
from foveate.modeling.weights import weights_fingerprint
from foveate.predictions import IGNORE_INDEX, Boxes, Regions
from foveate.recipe import AugmentRecipe, Recipe, load_recipe, with_settings
from foveate.types import Batch, InputSpec, Provides, Sample
from helpers import fit_unevaluated, make_once_per_session

# a ResNet, a VGG, a DenseNet, an unpadded one, a plain and a hierarchical Transformer
BACKBONES = {
    "test_resnet": 96,
    "mini_vgg": 64,
    "mini_densenet": 64,
    "mini_inception": 107,
    "test_vit": 64,
    "mini_swin": 112,
}
TRAINABLE_DETECTORS = [
    name for name in DETECTORS.names() if DETECTORS.get(name).needs is Provides.MAPS
]  # the others are pretrained and used as they are
HEADS = [("segment", name) for name in DECODERS.names()] + [
    ("detect", name) for name in TRAINABLE_DETECTORS
]
HEADS.remove(("detect", "mask_rcnn")) if ("detect", "mask_rcnn") in HEADS else None
SPEC = InputSpec(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request):
    torch.manual_seed(0)
    return FAMILIES.get("timm")().open(request.param, "none", BACKBONES[request.param])


def random_batch(side: int) -> Batch:
    """Make a batch of two images, one of them without objects."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.1, 0.1, 0.6, 0.6], [0.3, 0.4, 0.9, 0.9]]) * side
    targets = []
    for count in (2, 0):
        boxes = tv_tensors.BoundingBoxes(
            corners[:count], format="XYXY", canvas_size=(side, side), clamping_mode=None
        )
        mask = tv_tensors.Mask(torch.randint(-1, 3, (side, side), generator=generator))
        targets.append(
            {
                "boxes": boxes,
                "classes": torch.tensor([0, 2])[:count],
                "crowd": torch.zeros(count, dtype=torch.bool),
                "mask": mask,
            }
        )
    pixels = torch.randn(2, 3, side, side, generator=generator)
    view = torch.tensor([[0.0, 0.0, side, side]] * 2)
    return Batch(pixels, targets, view, torch.tensor([[side, side - 10]] * 2), torch.arange(2))


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_every_head_trains_on_every_kind_of_backbone(backbone, name, head):
    torch.manual_seed(0)
    task = TASKS.create(name, {"head": head, "width": 32}, ("a", "b", "c"))
    network = task.head(backbone)
    batch = random_batch(backbone.input.size)
    optimizer = torch.optim.AdamW([*network.parameters(), *backbone.parameters()], 1e-3)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # heads that sample locations use the same ones
        loss = sum(task.loss(network(backbone(batch.images, task.needs), batch), batch).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert any(
            parameter.grad is not None and bool(parameter.grad.any())
            for parameter in backbone.blocks()[0].parameters()
        )
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    network.eval()
    with torch.inference_mode():
        predictions = task.decode(network(backbone(batch.images, task.needs), batch), batch)
    side = backbone.input.size
    assert len(predictions) == 2
    for prediction in predictions:
        if name == "segment":
            assert prediction.mask.shape == (side, side - 10)
        else:
            assert (prediction.xyxy >= 0).all()
            assert (prediction.xyxy <= [side - 10, side, side - 10, side]).all()
            assert (np.diff(prediction.scores) <= 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"class_loss": "cross_entropy"},
        {"box_loss": "smooth_l1"},
        {"class_loss": "focal", "box_loss": "giou"},
    ],
)
@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_losses_by_name(head, settings):
    torch.manual_seed(0)
    backbone = FAMILIES.get("timm")().open("test_resnet", "none", 64)
    task = TASKS.create(
        "detect", {"head": head, "width": 32, "depth": 1, **settings}, ("a", "b", "c")
    )
    batch, network = random_batch(64), task.head(backbone)
    losses = task.loss(network(backbone(batch.images, task.needs), batch), batch)
    assert all(bool(value.isfinite()) and float(value.detach()) > 0 for value in losses.values())


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "focal", "lovasz", "cross_entropy+dice"])
def test_pixel_losses_are_minimal_for_the_correct_prediction(loss):
    task = TASKS.create("segment", {"loss": loss}, ("a", "b", "c"))
    batch = random_batch(32)
    masks = torch.stack([target["mask"].as_subclass(torch.Tensor) for target in batch.targets])
    correct = (
        18 * torch.nn.functional.one_hot(masks.clamp(min=0), 3).permute(0, 3, 1, 2).float() - 9
    )
    wrong_where_ignored = torch.where(
        (masks == IGNORE_INDEX)[:, None], 50 * torch.randn_like(correct), correct
    )
    values = [
        float(sum(task.loss(output, batch).values()).detach())
        for output in (correct, wrong_where_ignored, correct.roll(1, 1))
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-5)  # ignored pixels do not count
    assert values[0] < 0.1 < values[2]


def test_bad_settings():
    with pytest.raises(UsageError, match=r"loss.*no loss is called 'dise'"):
        TASKS.create("segment", {"loss": "cross_entropy+dise"}, ("a", "b"))
    with pytest.raises(UsageError, match="yolo"):
        TASKS.create("detect", {"head": "yolo"}, ("a",))
    with pytest.raises(UsageError, match="unett"):
        TASKS.create("segment", {"head": "unett"}, ("a", "b")).head(
            FAMILIES.get("timm")().open("test_resnet", "none", 64)
        )


@pytest.mark.parametrize("head", DECODERS.names())
def test_batch_size_one_trains_or_is_refused(head):
    backbone = FAMILIES.get("timm")().open("test_resnet", "none", 64)
    task = TASKS.create("segment", {"head": head, "width": 32}, ("a", "b", "c"))
    network, batch = task.head(backbone), random_batch(64).subset(slice(0, 1))
    if DECODERS.get(head).needs_batch_statistics:
        with pytest.raises(UsageError, match="batches of 2 or more images"):
            network(backbone(batch.images, task.needs), batch)
    else:
        assert bool(network(backbone(batch.images, task.needs), batch).isfinite().all())
    network.eval()
    assert bool(network(backbone(batch.images, task.needs), batch).isfinite().all())


# --- images and their targets are augmented together


def rectangle_scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a dark image with a bright rectangle, its box and its mask."""
    pixels, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int64)
    pixels[20:60, 30:80], mask[20:60, 30:80] = 255, 1
    return pixels, np.array([[30, 20, 80, 60]], np.float32), mask


@pytest.mark.parametrize("framing", ["whole", "windows"])
@pytest.mark.parametrize(
    "augment", [{}, {"flip_vertical": 1.0}, {"rotate": 20, "scale": 0.2}, {"color": 0.4}]
)
def test_masks_and_boxes_stay_on_their_pixels(framing, augment):
    pixels, box, mask = rectangle_scene(100, 140)
    transform = training_transform(
        SPEC, framing, AugmentRecipe(**{"crop": 0.3, "flip": 0.5, **augment})
    )
    segment, detect = (
        TASKS.create("segment", {"framing": framing}, ("a", "b")),
        TASKS.create("detect", {}, ("thing",)),
    )
    compared = 0
    for seed in range(20):
        target = {
            **segment.encode(Regions(mask), (100, 140)),
            **detect.encode(Boxes(box, ("thing",)), (100, 140)),
        }
        torch.manual_seed(seed)
        image, _, augmented = transform(pixels, (100, 140), target)
        bright, in_mask = (
            SPEC.normalize(image).amax(0).numpy() > 0.35,
            augmented["mask"].numpy() == 1,
        )
        assert (bright & ~in_mask).sum() + (in_mask & ~bright).sum() <= 0.15 * max(
            40, in_mask.sum()
        )
        assert set(np.unique(augmented["mask"].numpy())) <= {IGNORE_INDEX, 0, 1}
        if len(augmented["boxes"]) and not augment.get("rotate"):
            rows, columns = in_mask.nonzero()
            expected_box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(augmented["boxes"][0].numpy(), expected_box, atol=1.6)
            compared += 1
    assert compared > 5 or augment.get("rotate")


def test_an_object_cropped_to_a_sliver_is_dropped():
    transform = training_transform(SPEC, "whole", AugmentRecipe(crop=0.05, flip=0))
    detect = TASKS.create("detect", {}, ("thing",))
    pixels, box, _ = rectangle_scene(100, 140)
    counts = set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, _, moved = transform(
            pixels,
            (100, 140),
            detect.encode(Boxes(box, ("thing",), crowd=np.array([True])), (100, 140)),
        )
        assert len(moved["boxes"]) == len(moved["classes"]) == len(moved["crowd"])
        counts.add(len(moved["boxes"]))
    assert counts == {0, 1}


def test_padding_is_ignored_and_masks_return_to_the_original_size():
    segment = TASKS.create("segment", {}, ("a", "b"))
    pixels, _, mask = rectangle_scene(100, 140)
    image, view, target = evaluation_transform(SPEC, "whole")(
        pixels, (100, 140), segment.encode(Regions(mask), (100, 140))
    )
    assert bool((target["mask"][46:] == IGNORE_INDEX).all())
    logits = (
        torch.nn.functional.one_hot(target["mask"].as_subclass(torch.Tensor).clamp(min=0), 2)
        .permute(2, 0, 1)[None]
        .float()
    )
    batch = Batch(
        image[None], [target], torch.tensor([view]), torch.tensor([[100, 140]]), torch.arange(1)
    )
    predicted = segment.decode(logits, batch)[0].mask
    assert predicted.shape == mask.shape
    assert (predicted != mask).mean() < 0.02


@pytest.mark.parametrize("size", [(300, 150), (64, 64), (50, 200), (20, 30)])
def test_windows_are_merged_into_the_image(tmp_path, size):
    """A network that thresholds brightness gives the same mask through windows."""
    rng = np.random.default_rng(0)
    mask = (
        (rng.random((size[0] // 10 + 1, size[1] // 10 + 1)) > 0.5)
        .astype(np.int64)
        .repeat(10, 0)
        .repeat(10, 1)[: size[0], : size[1]]
    )
    Image.fromarray((255 * mask).astype(np.uint8)).save(tmp_path / "a.png")
    task = TASKS.create("segment", {"framing": "windows"}, ("dark", "bright"))
    from foveate.data.image_cache import ImageCache

    samples = [Sample(tmp_path / "a.png", "a.png", Regions(mask))]
    windows = TiledDataset(
        samples,
        ImageCache(64, "windows", True),
        evaluation_transform(SPEC, "windows"),
        task.encode,
        0,
        64,
        task.merge_tiles,
    )
    predictions = []
    for index in range(len(windows)):
        image, target, view, shape, _ = windows[0, index]
        tile_mask = target["mask"].as_subclass(torch.Tensor)
        assert bool(((tile_mask == IGNORE_INDEX) | (tile_mask == (image[0] > 127))).all())
        logits = torch.stack([255 - image[0].float(), image[0].float()])[None]
        predictions += task.decode(
            logits, Batch(image[None], [target], view[None], shape[None], torch.arange(1))
        )
    assert (windows.merge_predictions(predictions)[0].mask == mask).all()


def test_boxes_of_windows_are_merged_without_fragments():
    """A network that boxes bright pixels: objects across windows are merged, neighbors are not."""
    task = TASKS.create("detect", {"framing": "windows"}, ("a", "b"))
    target = np.array([[50, 30, 80, 55], [10, 10, 22, 20], [24, 10, 36, 20]], np.float32)
    tiles = []
    for x in (0, 36):
        visible = np.clip(target - [x, 0, x, 0], 0, 64)
        inside = (visible[:, 2:] - visible[:, :2]).min(1) > 0
        areas = (visible[inside, 2:] - visible[inside, :2]).prod(1) / (
            target[inside, 2:] - target[inside, :2]
        ).prod(1)
        tiles.append(
            (
                (x, 0),
                Boxes(
                    visible[inside].astype(np.float32),
                    ("a",) * inside.sum(),
                    (0.9 * areas).astype(np.float32),
                ),
            )
        )
    merged = task.merge_tiles(tiles, (64, 100))
    assert sorted(merged.xyxy.tolist()) == sorted(target.tolist())
    assert (np.diff(merged.scores) <= 0).all()
    no_boxes = Boxes(np.zeros((0, 4), np.float32), (), np.zeros(0, np.float32))
    assert task.merge_tiles([((0, 0), no_boxes), ((36, 0), no_boxes)], (64, 100)).names == ()


def test_sliding_window_detection_end_to_end(tmp_path):
    data = write_voc(tmp_path / "shapes", 12)
    settings = {
        "task": "detect",
        "task.depth": 1,
        "task.framing": "windows",
        "backbone.size": 48,
        "training.epochs": 1,
    }
    result = fit_recipe(tiny_recipe(data, **settings), tmp_path / "run")
    assert "map" in result.evaluation.scores.numbers
    for result_of_image in predict(tmp_path / "run", [data / "JPEGImages"]):
        assert all(
            0 <= row["xyxy"][2] <= 80 and 0 <= row["xyxy"][3] <= 60
            for row in result_of_image.row()["prediction"]
        )


# --- end to end


def write_voc(root: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 60, (60, 80, 3)).astype(np.uint8)
        objects = ""
        for _ in range(number % 3):  # some images have no objects
            side, name = int(rng.integers(14, 28)), ("red", "blue")[int(rng.integers(2))]
            x, y = int(rng.integers(0, 80 - side)), int(rng.integers(0, 60 - side))
            pixels[y : y + side, x : x + side] = (250, 20, 20) if name == "red" else (20, 20, 250)
            corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + side}</xmax><ymax>{y + side}</ymax>"
            objects += f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{number:02d}.png")
        size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
        (root / "Annotations" / f"{number:02d}.xml").write_text(
            f"<annotation><filename>{number:02d}.png</filename>{size}{objects}</annotation>"
        )
    return root


def tiny_recipe(data: Path, **settings) -> Recipe:
    defaults = {
        "data.path": str(data), "backbone.name": "test_resnet", "backbone.weights": "none", "backbone.size": 64, "training.epochs": 2,
        "training.precision": "fp32", "training.channels_last": False, "device": "cpu", "task.width": 32, "data.near_duplicates": 1,
    }  # fmt: skip
    return with_settings(Recipe(), {**defaults, **settings})


def fit_detector(data: Path, factory: pytest.TempPathFactory) -> Path:
    """Fit FCOS once in a session, to the images of `write_voc`; it detects most objects."""
    settings = {"task": "detect", "task.depth": 1, "training.epochs": 30, "training.lr": 3e-3}
    recipe = tiny_recipe(data, **settings)
    return make_once_per_session(factory, "detector", lambda run: fit_unevaluated(recipe, run))


@pytest.mark.figures
def test_detection_end_to_end(tmp_path, capsys):
    data = write_voc(tmp_path / "shapes")
    result = fit_recipe(tiny_recipe(data, **{"task": "detect", "task.depth": 1}), tmp_path / "run")
    assert "class\tboxes\timages" in capsys.readouterr().out
    folder = result.evaluation.folder
    scores = json.loads((folder / "scores.json").read_text())
    assert next(iter(scores["numbers"])) == "map"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    evaluation = evaluate(tmp_path / "run", split="test")
    assert evaluation.scores.numbers["map"].value == pytest.approx(
        scores["numbers"]["map"]["value"], abs=1e-9
    )
    assert {"name", "xyxy"} <= {name for row in rows for target in row["target"] for name in target}
    assert "By class" in (folder / "report.html").read_text()
    predictor = load_predictor(tmp_path / "run")
    assert 0 <= predictor.threshold <= 1
    for result_of_image in predict(tmp_path / "run", [data / "JPEGImages"]):
        assert all(
            row["score"] >= predictor.threshold for row in result_of_image.row()["prediction"]
        )


@pytest.mark.parametrize(
    "tuning", ["full", "last", "lora", "head", "norm", "bias", "ssf", "pissa", "ia3", "gradual"]
)
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_every_tuning_adapts_boxes_and_masks(task, tuning):
    """Frozen weights do not change, the loss falls, saved weights reproduce predictions."""
    settings = {
        "task": task, "tuning": tuning, "backbone.name": "test_efficientnet", "backbone.weights": "none", "backbone.size": 64,
        "task.width": 32, "training.batch_norm": "keep",
    }  # fmt: skip
    model = build_model(with_settings(Recipe(), settings), ("a", "b", "c"))
    batch, frozen = (
        random_batch(64),
        weights_fingerprint(model.frozen_tensors()) if model.frozen_tensors() else "",
    )
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], 1e-3
    )
    model.train()
    losses = []
    for _ in range(4):
        loss = sum(model.task.loss(model(batch), batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    assert (weights_fingerprint(model.frozen_tensors()) if model.frozen_tensors() else "") == frozen
    assert bool(frozen) == (tuning not in ("full", "gradual"))
    restored = build_model(with_settings(Recipe(), settings), ("a", "b", "c"))
    restored.load_tensors(model.trained_tensors())
    with torch.inference_mode():
        rows = [
            loaded.task.decode(loaded.eval()(batch), batch)[0].row(("a", "b", "c"))
            for loaded in (model, restored)
        ]
    assert rows[0] == rows[1]


def test_a_head_without_a_closed_form_refuses_probe():
    settings = {
        "task": "detect",
        "tuning": "probe",
        "backbone.name": "test_resnet",
        "backbone.weights": "none",
    }
    with pytest.raises(UsageError, match="closed-form") as error:
        build_model(with_settings(Recipe(), settings), ("a",))
    assert "head" in str(error.value.hint)


def test_user_settings_override_task_defaults(tmp_path):
    data = write_voc(tmp_path / "shapes", 12)
    fit_unevaluated(
        tiny_recipe(
            data, **{"training.epochs": 1, "augment.color": 0.0, "task.depth": 1, "data.test": 0}
        ),
        tmp_path / "run",
    )
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.augment.crop, recipe.tuning.name, recipe.training.batch_size) == (
        0.4,
        "full",
        8,
    )  # defaults of the task
    assert (recipe.augment.color, recipe.training.epochs, recipe.backbone.size) == (
        0.0,
        1,
        64,
    )  # set by the user
    choices = {row["field"] for row in json.loads((tmp_path / "run" / "choices.json").read_text())}
    assert "augment.crop" in choices
    assert "augment.color" not in choices


def test_a_recipe_knows_which_fields_were_set():
    recipe = Recipe()
    assert not recipe.is_set("training.epochs")
    assert not with_settings(recipe, {"tuning.blocks": 1}).is_set(
        "tuning"
    )  # a setting of the tuning, but not its name
    recipe = with_settings(
        recipe, {"training.epochs": recipe.training.epochs, "tuning": "last", "tuning.blocks": 1}
    )
    assert recipe.is_set("training.epochs")
    assert recipe.is_set("tuning")
    assert not recipe.is_set("training.lr")
    assert with_settings(recipe, {"training.lr": 1e-4}).is_set("training.epochs")


@pytest.mark.figures
def test_segmentation_end_to_end(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(32):
        pixels, mask = (
            rng.integers(0, 60, (70, 90, 3)).astype(np.uint8),
            np.zeros((70, 90), np.uint8),
        )
        x, y = int(rng.integers(0, 50)), int(rng.integers(0, 30))
        pixels[y : y + 30, x : x + 30], mask[y : y + 30, x : x + 30] = 230, 255
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{number}.png")
    before = {file: file.read_bytes() for file in (tmp_path / "data").rglob("*.png")}
    result = fit_recipe(
        tiny_recipe(
            tmp_path / "data",
            **{"training.epochs": 8, "task.width": 64, "training.lr": 3e-3, "training.ema": 0},
        ),
        tmp_path / "run",
    )
    assert result.evaluation.scores.numbers["dice"].value > 0.5
    assert {file: file.read_bytes() for file in (tmp_path / "data").rglob("*.png")} == before
    result_of_image = next(
        iter(predict(tmp_path / "run", [tmp_path / "data" / "images" / "3.png"]))
    )
    assert result_of_image.prediction.mask.shape == (70, 90)
    assert set(result_of_image.row()["prediction"]) <= {"background", "foreground"}


def test_compressed_masks_are_small_and_lossless():
    mask = np.zeros((1000, 1000), np.int16)
    mask[200:700, 300:800] = 3
    compressed = Regions(mask).compressed()
    assert (compressed.mask == mask).all()
    assert compressed.mask.dtype == mask.dtype
    assert len(pickle.dumps(compressed)) < 20_000  # two megabytes uncompressed
    assert compressed.row(("a", "b", "c", "d")) == Regions(mask).row(("a", "b", "c", "d"))


def test_t29_classes_of_other_masks_are_matched_by_name(tmp_path):
    from foveate.data.tables import remap_classes
    from foveate.types import Table

    mask = np.array([[0, 1], [2, -1]])
    table = Table((Sample(Path("a"), "a", Regions(mask)),), ("sky", "car", "tree"), "masks", Path())
    remapped, notes = remap_classes(table, ("tree", "sky"))
    assert remapped.samples[0].target.mask.tolist() == [[1, -1], [0, -1]]
    assert "'car'" in str(notes[0])


def test_t29_boxes_of_unknown_classes_are_skipped(tmp_path):
    from foveate.data.tables import remap_classes
    from foveate.types import Table

    boxes = Boxes(np.array([[0, 0, 5, 5], [1, 1, 4, 4]], np.float32), ("cat", "dog"))
    remapped, notes = remap_classes(
        Table((Sample(Path("a"), "a", boxes),), ("cat", "dog"), "voc", Path()), ("dog",)
    )
    assert remapped.samples[0].target.names == ("dog",)
    assert "1 box left out" in str(notes[0])


def test_predictions_as_files(tmp_path):
    from foveate.inference.writers import write_folder
    from foveate.predictions import ImageResult

    pixels, box, mask = rectangle_scene(100, 140)
    encoding.write_image(pixels, tmp_path / "a.png")
    (tmp_path / "other").mkdir()
    encoding.write_image(pixels, tmp_path / "other" / "a.png")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "other" / "a.png")]
    boxes = [
        ImageResult(path, Boxes(box, ("b",), np.array([0.9], np.float32)), None, ("a", "b"))
        for path in paths
    ]
    regions = [ImageResult(path, Regions(mask), None, ("a", "b")) for path in paths]
    write_folder(boxes, "yolo", tmp_path / "yolo")
    assert (
        tmp_path / "yolo" / "other" / "a.txt"
    ).read_text() == "1 0.392857 0.400000 0.357143 0.400000 0.900000\n"
    write_folder(boxes, "coco", tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "predictions.json").read_text())
    assert content["annotations"][0]["bbox"] == [30, 20, 50, 40]
    write_folder(regions, "masks", tmp_path / "masks")
    assert (codec.read_index_mask(tmp_path / "masks" / "a.png") == mask).all()
    write_folder(regions, "images", tmp_path / "images")
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"a.jpg", "other"}
    with pytest.raises(UsageError, match="already exists"):
        write_folder(boxes, "yolo", tmp_path / "yolo")
    with pytest.raises(UsageError, match="the format 'masks' cannot store"):
        write_folder(boxes, "masks", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_detection_ladder_begins_with_the_head(tmp_path):
    """Without a closed form, probe is no rung; gains of mAP are tested by a bootstrap too."""
    recipe = with_settings(
        tiny_recipe(write_voc(tmp_path / "shapes", 16)),
        {"tuning": "auto", "training.epochs": 1, "data.val": 0.3},
    )
    result = fit_recipe(recipe, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    assert [row["tuning"] for row in rows][:2] == ["head", "last"]
    assert all("map" in row for row in rows if "seconds" in row)
    assert result.evaluation.scores.main == "map"

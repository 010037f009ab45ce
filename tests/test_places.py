"""Detection and segmentation: every head on every kind of backbone, learning, windows, and the whole story from files."""

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
from foveate.images import codec as images
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
from helpers import fit_unevaluated

# a plain convolutional net, an old one, a dense one, an unpadded one, a plain and a hierarchical Transformer
BACKBONES = {
    "test_resnet": 96,
    "mini_vgg": 64,
    "mini_densenet": 64,
    "mini_inception": 107,
    "test_vit": 64,
    "mini_swin": 112,
}
LEARNT = [
    name for name in DETECTORS.names() if DETECTORS.get(name).needs is Provides.MAPS
]  # the rest finds by itself
HEADS = [("segment", name) for name in DECODERS.names()] + [("detect", name) for name in LEARNT]
HEADS.remove(("detect", "mask_rcnn")) if ("detect", "mask_rcnn") in HEADS else None
SPEC = InputSpec(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request):
    torch.manual_seed(0)
    return FAMILIES.get("timm")().open(request.param, "none", BACKBONES[request.param])


def made_up(side: int) -> Batch:
    """Two pictures, one of them without objects."""
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


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_every_head_trains_on_every_kind_of_backbone(backbone, task, head):
    torch.manual_seed(0)
    made = TASKS.create(task, {"head": head, "width": 32}, ("a", "b", "c"))
    network = made.head(backbone)
    batch = made_up(backbone.input.size)
    moving = torch.optim.AdamW([*network.parameters(), *backbone.parameters()], 1e-3)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # heads that sample places look at the same ones
        loss = sum(made.loss(network(backbone(batch.images, made.needs), batch), batch).values())
        moving.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert any(
            parameter.grad is not None and bool(parameter.grad.any())
            for parameter in backbone.blocks()[0].parameters()
        )
        moving.step()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    network.eval()
    with torch.inference_mode():
        answers = made.decode(network(backbone(batch.images, made.needs), batch), batch)
    side = backbone.input.size
    assert len(answers) == 2
    for answer in answers:
        if task == "segment":
            assert answer.mask.shape == (side, side - 10)
        else:
            assert (answer.xyxy >= 0).all()
            assert (answer.xyxy <= [side - 10, side, side - 10, side]).all()
            assert (np.diff(answer.scores) <= 0).all()


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
    made = TASKS.create(
        "detect", {"head": head, "width": 32, "depth": 1, **settings}, ("a", "b", "c")
    )
    batch, network = made_up(64), made.head(backbone)
    found = made.loss(network(backbone(batch.images, made.needs), batch), batch)
    assert all(bool(value.isfinite()) and float(value.detach()) > 0 for value in found.values())


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "focal", "lovasz", "cross_entropy+dice"])
def test_losses_of_pixels_are_least_where_the_answer_is_right(loss):
    made = TASKS.create("segment", {"loss": loss}, ("a", "b", "c"))
    batch = made_up(32)
    masks = torch.stack([target["mask"].as_subclass(torch.Tensor) for target in batch.targets])
    right = 18 * torch.nn.functional.one_hot(masks.clamp(min=0), 3).permute(0, 3, 1, 2).float() - 9
    careless = torch.where((masks == IGNORE_INDEX)[:, None], 50 * torch.randn_like(right), right)
    values = [
        float(sum(made.loss(output, batch).values()).detach())
        for output in (right, careless, right.roll(1, 1))
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-5)  # what nobody cares about does not count
    assert values[0] < 0.1 < values[2]


def test_bad_words():
    with pytest.raises(UsageError, match=r"loss.*no loss is called 'dise'"):
        TASKS.create("segment", {"loss": "cross_entropy+dise"}, ("a", "b"))
    with pytest.raises(UsageError, match="yolo"):
        TASKS.create("detect", {"head": "yolo"}, ("a",))
    with pytest.raises(UsageError, match="unett"):
        TASKS.create("segment", {"head": "unett"}, ("a", "b")).head(
            FAMILIES.get("timm")().open("test_resnet", "none", 64)
        )


@pytest.mark.parametrize("head", DECODERS.names())
def test_one_image_at_once_trains_or_is_refused_in_words(head):
    backbone = FAMILIES.get("timm")().open("test_resnet", "none", 64)
    made = TASKS.create("segment", {"head": head, "width": 32}, ("a", "b", "c"))
    network, batch = made.head(backbone), made_up(64).subset(slice(0, 1))
    if DECODERS.get(head).needs_batch_statistics:
        with pytest.raises(UsageError, match="batches of 2 or more images"):
            network(backbone(batch.images, made.needs), batch)
    else:
        assert bool(network(backbone(batch.images, made.needs), batch).isfinite().all())
    network.eval()
    assert bool(network(backbone(batch.images, made.needs), batch).isfinite().all())


# --- pictures and their truths move together


def painted(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A dark picture with a bright rectangle, its box and its mask."""
    pixels, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int64)
    pixels[20:60, 30:80], mask[20:60, 30:80] = 255, 1
    return pixels, np.array([[30, 20, 80, 60]], np.float32), mask


@pytest.mark.parametrize("framing", ["whole", "windows"])
@pytest.mark.parametrize(
    "augment", [{}, {"flip_vertical": 1.0}, {"rotate": 20, "scale": 0.2}, {"color": 0.4}]
)
def test_masks_and_boxes_stay_on_their_pixels(framing, augment):
    pixels, box, mask = painted(100, 140)
    transform = training_transform(
        SPEC, framing, AugmentRecipe(**{"crop": 0.3, "flip": 0.5, **augment})
    )
    segment, detect = (
        TASKS.create("segment", {"framing": framing}, ("a", "b")),
        TASKS.create("detect", {}, ("thing",)),
    )
    seen = 0
    for seed in range(20):
        target = {
            **segment.encode(Regions(mask), (100, 140)),
            **detect.encode(Boxes(box, ("thing",)), (100, 140)),
        }
        torch.manual_seed(seed)
        image, _, moved = transform(pixels, (100, 140), target)
        bright, marked = SPEC.normalize(image).amax(0).numpy() > 0.35, moved["mask"].numpy() == 1
        assert (bright & ~marked).sum() + (marked & ~bright).sum() <= 0.15 * max(40, marked.sum())
        assert set(np.unique(moved["mask"].numpy())) <= {IGNORE_INDEX, 0, 1}
        if len(moved["boxes"]) and not augment.get("rotate"):
            rows, columns = marked.nonzero()
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(moved["boxes"][0].numpy(), around, atol=1.6)
            seen += 1
    assert seen > 5 or augment.get("rotate")


def test_an_object_that_nearly_leaves_the_picture_is_gone():
    transform = training_transform(SPEC, "whole", AugmentRecipe(crop=0.05, flip=0))
    detect = TASKS.create("detect", {}, ("thing",))
    pixels, box, _ = painted(100, 140)
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


def test_padding_is_nobodys_class_and_masks_come_back_at_their_size():
    segment = TASKS.create("segment", {}, ("a", "b"))
    pixels, _, mask = painted(100, 140)
    image, view, moved = evaluation_transform(SPEC, "whole")(
        pixels, (100, 140), segment.encode(Regions(mask), (100, 140))
    )
    assert bool((moved["mask"][46:] == IGNORE_INDEX).all())
    logits = (
        torch.nn.functional.one_hot(moved["mask"].as_subclass(torch.Tensor).clamp(min=0), 2)
        .permute(2, 0, 1)[None]
        .float()
    )
    batch = Batch(
        image[None], [moved], torch.tensor([view]), torch.tensor([[100, 140]]), torch.arange(1)
    )
    found = segment.decode(logits, batch)[0].mask
    assert found.shape == mask.shape
    assert (found != mask).mean() < 0.02


@pytest.mark.parametrize("size", [(300, 150), (64, 64), (50, 200), (20, 30)])
def test_windows_join_to_the_picture(tmp_path, size):
    """A network that sees brightness alone: through windows the answer is that of the pixels themselves."""
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
    answers = []
    for place in range(len(windows)):
        image, target, view, shape, _ = windows[0, place]
        shown = target["mask"].as_subclass(torch.Tensor)
        assert bool(((shown == IGNORE_INDEX) | (shown == (image[0] > 127))).all())
        logits = torch.stack([255 - image[0].float(), image[0].float()])[None]
        answers += task.decode(
            logits, Batch(image[None], [target], view[None], shape[None], torch.arange(1))
        )
    assert (windows.merge_predictions(answers)[0].mask == mask).all()


def test_boxes_of_windows_join_without_fragments():
    """A network that boxes everything bright: objects across windows come back whole and once, neighbours stay two."""
    task = TASKS.create("detect", {"framing": "windows"}, ("a", "b"))
    true = np.array([[50, 30, 80, 55], [10, 10, 22, 20], [24, 10, 36, 20]], np.float32)
    parts = []
    for x in (0, 36):
        seen = np.clip(true - [x, 0, x, 0], 0, 64)
        inside = (seen[:, 2:] - seen[:, :2]).min(1) > 0
        areas = (seen[inside, 2:] - seen[inside, :2]).prod(1) / (
            true[inside, 2:] - true[inside, :2]
        ).prod(1)
        parts.append(
            (
                (x, 0),
                Boxes(
                    seen[inside].astype(np.float32),
                    ("a",) * inside.sum(),
                    (0.9 * areas).astype(np.float32),
                ),
            )
        )
    found = task.merge_tiles(parts, (64, 100))
    assert sorted(found.xyxy.tolist()) == sorted(true.tolist())
    assert (np.diff(found.scores) <= 0).all()
    nothing = Boxes(np.zeros((0, 4), np.float32), (), np.zeros(0, np.float32))
    assert task.merge_tiles([((0, 0), nothing), ((36, 0), nothing)], (64, 100)).names == ()


def test_boxes_through_windows_from_files_to_report(tmp_path):
    data = write_voc(tmp_path / "shapes", 12)
    settings = {
        "task": "detect",
        "task.depth": 1,
        "task.framing": "windows",
        "backbone.size": 48,
        "training.epochs": 1,
    }
    result = fit_recipe(tiny(data, **settings), tmp_path / "run")
    assert "map" in result.evaluation.scores.numbers
    for answer in predict(tmp_path / "run", [data / "JPEGImages"]):
        assert all(
            0 <= row["xyxy"][2] <= 80 and 0 <= row["xyxy"][3] <= 60
            for row in answer.row()["answer"]
        )


# --- the whole story


def write_voc(root: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 60, (60, 80, 3)).astype(np.uint8)
        objects = ""
        for _ in range(number % 3):  # some pictures hold nothing
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


def tiny(data: Path, **settings) -> Recipe:
    given = {
        "data.path": str(data), "backbone.name": "test_resnet", "backbone.weights": "none", "backbone.size": 64, "training.epochs": 2,
        "training.precision": "fp32", "training.channels_last": False, "device": "cpu", "task.width": 32, "data.near_duplicates": 1,
    }  # fmt: skip
    return with_settings(Recipe(), {**given, **settings})


def test_boxes_from_files_to_report(tmp_path, capsys):
    data = write_voc(tmp_path / "shapes")
    result = fit_recipe(tiny(data, **{"task": "detect", "task.depth": 1}), tmp_path / "run")
    assert "class\tboxes\timages" in capsys.readouterr().out
    folder = result.evaluation.folder
    scores = json.loads((folder / "scores.json").read_text())
    assert next(iter(scores["numbers"])) == "map"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    again = evaluate(tmp_path / "run", split="test")
    assert again.scores.numbers["map"].value == pytest.approx(
        scores["numbers"]["map"]["value"], abs=1e-9
    )
    assert {"name", "xyxy"} <= {name for row in rows for truth in row["truth"] for name in truth}
    assert "By class" in (folder / "report.html").read_text()
    predictor = load_predictor(tmp_path / "run")
    assert 0 <= predictor.threshold <= 1
    for answer in predict(tmp_path / "run", [data / "JPEGImages"]):
        assert all(row["score"] >= predictor.threshold for row in answer.row()["answer"])


@pytest.mark.parametrize(
    "tuning", ["full", "last", "lora", "head", "norm", "bias", "ssf", "pissa", "ia3", "gradual"]
)
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_every_tuning_adapts_boxes_and_masks(task, tuning):
    """What is frozen stays bit for bit; what moves learns; what is saved brings the answers back."""
    settings = {
        "task": task, "tuning": tuning, "backbone.name": "test_efficientnet", "backbone.weights": "none", "backbone.size": 64,
        "task.width": 32, "training.batch_norm": "keep",
    }  # fmt: skip
    model = build_model(with_settings(Recipe(), settings), ("a", "b", "c"))
    batch, frozen = (
        made_up(64),
        weights_fingerprint(model.frozen_tensors()) if model.frozen_tensors() else "",
    )
    moving = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], 1e-3
    )
    model.train()
    losses = []
    for _ in range(4):
        loss = sum(model.task.loss(model(batch), batch).values())
        moving.zero_grad()
        loss.backward()
        moving.step()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    assert (weights_fingerprint(model.frozen_tensors()) if model.frozen_tensors() else "") == frozen
    assert bool(frozen) == (tuning not in ("full", "gradual"))
    again = build_model(with_settings(Recipe(), settings), ("a", "b", "c"))
    again.load_tensors(model.trained_tensors())
    with torch.inference_mode():
        rows = [
            each.task.decode(each.eval()(batch), batch)[0].row(("a", "b", "c"))
            for each in (model, again)
        ]
    assert rows[0] == rows[1]


def test_a_head_without_a_closed_form_is_no_probe():
    settings = {
        "task": "detect",
        "tuning": "probe",
        "backbone.name": "test_resnet",
        "backbone.weights": "none",
    }
    with pytest.raises(UsageError, match="closed-form") as caught:
        build_model(with_settings(Recipe(), settings), ("a",))
    assert "head" in str(caught.value.hint)


def test_a_task_suggests_and_the_user_decides(tmp_path):
    data = write_voc(tmp_path / "shapes", 12)
    fit_unevaluated(
        tiny(data, **{"training.epochs": 1, "augment.color": 0.0, "task.depth": 1, "data.test": 0}),
        tmp_path / "run",
    )
    written = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (written.augment.crop, written.tuning.name, written.training.batch_size) == (
        0.4,
        "full",
        8,
    )  # suggested
    assert (written.augment.color, written.training.epochs, written.backbone.size) == (
        0.0,
        1,
        64,
    )  # stated
    choices = {row["field"] for row in json.loads((tmp_path / "run" / "choices.json").read_text())}
    assert "augment.crop" in choices
    assert "augment.color" not in choices


def test_a_recipe_knows_what_was_stated():
    recipe = Recipe()
    assert not recipe.is_set("training.epochs")
    assert not with_settings(recipe, {"tuning.blocks": 1}).is_set("tuning")  # how, but not which
    recipe = with_settings(
        recipe, {"training.epochs": recipe.training.epochs, "tuning": "last", "tuning.blocks": 1}
    )
    assert recipe.is_set("training.epochs")
    assert recipe.is_set("tuning")
    assert not recipe.is_set("training.lr")
    assert with_settings(recipe, {"training.lr": 1e-4}).is_set("training.epochs")


def test_masks_from_files_to_report(tmp_path):
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
        tiny(
            tmp_path / "data",
            **{"training.epochs": 8, "task.width": 64, "training.lr": 3e-3, "training.ema": 0},
        ),
        tmp_path / "run",
    )
    assert result.evaluation.scores.numbers["dice"].value > 0.5
    assert {file: file.read_bytes() for file in (tmp_path / "data").rglob("*.png")} == before
    answer = next(iter(predict(tmp_path / "run", [tmp_path / "data" / "images" / "3.png"])))
    assert answer.prediction.mask.shape == (70, 90)
    assert set(answer.row()["answer"]) <= {"background", "foreground"}


def test_packed_masks_are_small_and_the_same():
    mask = np.zeros((1000, 1000), np.int16)
    mask[200:700, 300:800] = 3
    packed = Regions(mask).compressed()
    assert (packed.mask == mask).all()
    assert packed.mask.dtype == mask.dtype
    assert len(pickle.dumps(packed)) < 20_000  # two megabytes as they are
    assert packed.row(("a", "b", "c", "d")) == Regions(mask).row(("a", "b", "c", "d"))


def test_t29_classes_of_other_masks_are_matched_by_name(tmp_path):
    from foveate.data.tables import remap_classes
    from foveate.types import Table

    mask = np.array([[0, 1], [2, -1]])
    table = Table((Sample(Path("a"), "a", Regions(mask)),), ("sky", "car", "tree"), "masks", Path())
    moved, notes = remap_classes(table, ("tree", "sky"))
    assert moved.samples[0].target.mask.tolist() == [[1, -1], [0, -1]]
    assert "'car'" in str(notes[0])


def test_t29_boxes_of_unknown_classes_are_left_out(tmp_path):
    from foveate.data.tables import remap_classes
    from foveate.types import Table

    boxes = Boxes(np.array([[0, 0, 5, 5], [1, 1, 4, 4]], np.float32), ("cat", "dog"))
    moved, notes = remap_classes(
        Table((Sample(Path("a"), "a", boxes),), ("cat", "dog"), "voc", Path()), ("dog",)
    )
    assert moved.samples[0].target.names == ("dog",)
    assert "1 box left out" in str(notes[0])


def test_answers_as_files(tmp_path):
    from foveate.inference.writers import write_folder
    from foveate.predictions import ImageResult

    pixels, box, mask = painted(100, 140)
    images.write_image(pixels, tmp_path / "a.png")
    (tmp_path / "other").mkdir()
    images.write_image(pixels, tmp_path / "other" / "a.png")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "other" / "a.png")]
    boxes = [
        ImageResult(path, Boxes(box, ("b",), np.array([0.9], np.float32)), None, ("a", "b"))
        for path in paths
    ]
    regions = [ImageResult(path, Regions(mask), None, ("a", "b")) for path in paths]
    write_folder(boxes, "yolo", tmp_path / "yolo")
    assert (
        tmp_path / "yolo" / "a-2.txt"
    ).read_text() == "1 0.392857 0.400000 0.357143 0.400000 0.900000\n"
    write_folder(boxes, "coco", tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "predictions.json").read_text())
    assert content["annotations"][0]["bbox"] == [30, 20, 50, 40]
    write_folder(regions, "masks", tmp_path / "masks")
    assert (images.read_index_mask(tmp_path / "masks" / "a.png") == mask).all()
    write_folder(regions, "images", tmp_path / "images")
    assert len(list((tmp_path / "images").iterdir())) == 2
    with pytest.raises(UsageError, match="already exists"):
        write_folder(boxes, "yolo", tmp_path / "yolo")
    with pytest.raises(UsageError, match="the format 'masks' cannot store"):
        write_folder(boxes, "masks", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_ladder_of_boxes_begins_with_the_head(tmp_path):
    """A probe is no rung where there is no closed form; the main number is mAP, whose gain is a paired bootstrap as well."""
    recipe = with_settings(
        tiny(write_voc(tmp_path / "shapes", 16)),
        {"tuning": "auto", "training.epochs": 1, "data.val": 0.3},
    )
    result = fit_recipe(recipe, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    assert [row["tuning"] for row in rows][:2] == ["head", "last"]
    assert all("map" in row for row in rows if "seconds" in row)
    assert result.evaluation.scores.main == "map"

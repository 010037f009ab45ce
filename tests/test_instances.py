"""Instance segmentation: masks are read, augmented, learned, scored, drawn and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import foveate
from foveate.data.boxes import revalidate_boxes
from foveate.data.formats import FORMATS, read_table
from foveate.data.mosaic import make_mosaic
from foveate.data.tables import remap_classes
from foveate.data.transforms import ObjectMasks, evaluation_transform, training_transform
from foveate.errors import DataError, UsageError
from foveate.evaluation.metrics import metric_for
from foveate.images import drawing
from foveate.inference.writers import write_folder
from foveate.modeling.backbones import FAMILIES
from foveate.modeling.detectors import faster_rcnn
from foveate.modeling.model import Model
from foveate.modeling.tasks import TASKS, DataFacts
from foveate.modeling.tunings import TuningSettings
from foveate.modeling.tunings.full import Full
from foveate.predictions import Boxes, ImageResult
from foveate.recipe import AugmentRecipe, Recipe, TrainingRecipe, with_settings
from foveate.types import Batch, InputSpec, Sample, Table
from foveate.utils import rle as masks
from helpers import predict_without_run, pycocotools_evaluation, train_without_run

NAMES = ("disc", "square")
SIDE = 96
SPEC = InputSpec(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def draw_shape(
    class_index: int, x: float, y: float, side: float, size: tuple[int, int]
) -> np.ndarray:
    """Draw a disc (0) or a square (1) from (x, y) to (x + side, y + side); (H, W) bool."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    if class_index:
        return (columns > x) & (columns < x + side) & (rows > y) & (rows < y + side)
    return (columns - x - side / 2) ** 2 + (rows - y - side / 2) ** 2 < side**2 / 4


def box_of(mask: np.ndarray) -> list[int]:
    y, x = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return [x[0], y[0], x[-1] + 1, y[-1] + 1]


def boxes_with_masks(
    object_masks: list[np.ndarray], class_indices: list[int], **more: Any
) -> Boxes:
    corners = np.array([box_of(mask) for mask in object_masks], np.float32).reshape(-1, 4)
    rles = tuple(masks.encode_rle_at(mask, 0, 0, mask.shape) for mask in object_masks)
    return Boxes(corners, tuple(NAMES[index] for index in class_indices), masks=rles, **more)


def random_scene(rng: np.random.Generator) -> tuple[np.ndarray, Boxes]:
    """Make two or three discs and squares of any color on a dark background; two of them touch."""
    height, width = (int(side) for side in rng.integers(80, 120, 2))
    pixels = rng.integers(0, 50, (height, width, 3)).astype(np.uint8)
    object_masks, class_indices, side = [], [], float(rng.uniform(22, 32))
    x, y = float(rng.uniform(0, width - 2 * side)), float(rng.uniform(0, height - side))
    for index in range(int(rng.integers(2, 4))):
        if index == 2:
            x, y = float(rng.uniform(0, width - side)), float(rng.uniform(0, height - side))
        class_indices.append(int(rng.integers(2)))
        mask = draw_shape(class_indices[-1], x, y, side, (height, width))
        pixels[mask] = rng.integers(90, 256, 3)
        object_masks = [*(other & ~mask for other in object_masks), mask]
        x += side
    if min(mask.sum() for mask in object_masks) < 100:  # one hides another
        return random_scene(rng)
    return pixels, boxes_with_masks(object_masks, class_indices)


def make_task(**settings: Any):
    return TASKS.create("detect", {"head": "mask_rcnn", "width": 32, **settings}, NAMES)


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


# --- training


def test_instance_masks_are_learned(monkeypatch):
    """Held-out objects are detected and separated where they touch."""
    monkeypatch.setitem(faster_rcnn._SAMPLED, "proposals", (32, 0.25))  # halves the time of a step
    rng = np.random.default_rng(0)
    pixels, targets = zip(*(random_scene(rng) for _ in range(80)), strict=True)
    samples = [Sample(str(index), str(index), target) for index, target in enumerate(targets)]
    recipe = TrainingRecipe(lr=4e-3, layer_decay=1.0, epochs=4)
    model, held_out = train_without_run(
        make_task(depth=1), samples, list(pixels), recipe, batch_size=4, spec=SPEC, crop=0.8
    )
    predictions = predict_without_run(model, held_out)
    pairs = list(zip(predictions, (sample.target for sample in held_out.samples), strict=True))
    overlaps = [best for pair in pairs for best in best_mask_overlaps(*pair)]
    assert (
        np.mean([mask_overlap for _, mask_overlap, _ in overlaps]) > 0.5
    )  # masks at random overlap by about 0.05
    discs = [
        (mask_overlap, box_overlap)
        for name, mask_overlap, box_overlap in overlaps
        if name == "disc" and mask_overlap
    ]
    assert np.mean([mask_overlap > box_overlap for mask_overlap, box_overlap in discs]) > 0.7
    metric = metric_for(Boxes, NAMES)
    for pair in pairs:
        metric.update(*pair)
    assert metric.compute().numbers["mask_map_50"].value > 0.5


def best_mask_overlaps(prediction: Boxes, target: Boxes) -> list[tuple[str, float, float]]:
    """Compare target objects with the most confident predictions, as many as there are objects.

    Returns:
        For each target object its class, and the IoU of the best mask of that class and of the
        filled box of that mask.
    """
    confident = prediction.select(np.arange(len(prediction.names)) < len(target.names))
    overlaps = []
    for name, rle in zip(target.names, target.masks, strict=True):
        target_mask = masks.decode_rle(rle)
        ious = [
            mask_iou(masks.decode_rle(mask), target_mask) if predicted == name else 0.0
            for predicted, mask in zip(confident.names, confident.masks, strict=True)
        ]
        if not any(ious):
            overlaps.append((name, 0.0, 0.0))
            continue
        x0, y0, x1, y1 = confident.xyxy[int(np.argmax(ious))].round().astype(int)
        box = np.zeros(target_mask.shape, bool)
        box[y0:y1, x0:x1] = True
        overlaps.append((name, max(ious), mask_iou(box, target_mask)))
    return overlaps


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_resnet", 64),
        ("mini_vgg", 64),
        ("mini_densenet", 64),
        ("mini_inception", 96),
        ("test_vit", 64),
        ("test_convnext", 64),
    ],
)
def test_the_head_fits_every_backbone(name, side):
    torch.manual_seed(0)
    task = make_task(depth=1)
    model = Model(
        FAMILIES.get("timm")().open(name, "none", side),
        task,
        Full(TuningSettings()),
        keep_norms=False,
    ).train()
    size = (50, 80)
    targets = [
        boxes_with_masks([draw_shape(0, 5, 5, 30, size), draw_shape(1, 40, 10, 25, size)], [0, 1]),
        Boxes(np.zeros((0, 4), np.float32), ()),
    ]
    transform = evaluation_transform(InputSpec(side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "whole")
    samples = [
        transform(np.full((*size, 3), 99, np.uint8), size, task.encode(target, size))
        for target in targets
    ]
    batch = Batch(
        transform.spec.normalize(torch.stack([sample[0] for sample in samples])),
        [sample[2] for sample in samples],
        torch.tensor([sample[1] for sample in samples]),
        torch.tensor([size, size]),
        torch.arange(2),
    )
    losses = task.loss(model(batch), batch)
    assert set(losses) == {"objectness", "proposal_box", "class", "box", "mask"}
    sum(losses.values()).backward()
    mask_head = list(model.head.network.mask_head.parameters())
    assert mask_head
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in mask_head
    )
    with torch.inference_mode():
        output = model.eval()(batch)
        assert float(task.loss(output, batch)["mask"]) > 0
        for prediction in task.decode(output, batch):
            assert len(prediction.masks) == len(prediction.names) > 0
            assert all(mask["size"] == list(size) for mask in prediction.masks)
            assert [
                isinstance(row["mask"]["counts"], str)
                for row in prediction.row(NAMES)["prediction"]
            ]


def test_a_batch_without_objects_has_no_mask_loss():
    task = make_task(depth=1)
    model = Model(
        FAMILIES.get("timm")().open("test_resnet", "none", 64),
        task,
        Full(TuningSettings()),
        keep_norms=False,
    ).train()
    target = task.encode(Boxes(np.zeros((0, 4), np.float32), ()), (64, 64))
    batch = Batch(
        torch.rand(2, 3, 64, 64),
        [target, target],
        torch.tensor([[0.0, 0, 64, 64]] * 2),
        torch.tensor([[64, 64]] * 2),
        torch.arange(2),
    )
    losses = task.loss(model(batch), batch)
    sum(losses.values()).backward()
    assert losses["mask"].item() == 0
    assert all(parameter.grad is not None for parameter in model.head.parameters())


# --- settings


def resolve(settings: dict[str, Any], targets: list[Boxes]):
    return TASKS.get("detect").resolve_settings(settings, targets, NAMES, DataFacts(False, False))


def test_missing_masks_are_refused_and_unused_masks_are_reported():
    with_mask = boxes_with_masks([draw_shape(0, 1, 1, 10, (20, 20))], [0])
    without_mask = Boxes(with_mask.xyxy, with_mask.names)
    with pytest.raises(
        UsageError,
        match=r"mask_rcnn needs a mask for each object.*1 of 2 training images.*faster_rcnn",
    ):
        resolve({"head": "mask_rcnn"}, [with_mask, without_mask])
    assert resolve({"head": "mask_rcnn"}, [with_mask, Boxes(np.zeros((0, 4)), ())]) == []
    assert resolve({"head": "fcos"}, [with_mask]) == resolve({}, [without_mask]) == []
    ((field, head, reason),) = resolve({}, [with_mask])
    assert (field, head) == ("head", "fcos")
    assert "--set task.head=mask_rcnn uses" in str(reason)


def test_only_a_mask_head_keeps_masks():
    target = boxes_with_masks(
        [draw_shape(0, 1, 1, 10, (20, 20)), draw_shape(1, 8, 8, 10, (20, 20))], [0, 1]
    )
    encoded = make_task().encode(
        Boxes(target.xyxy, ("disc", "zebra"), masks=target.masks), (20, 20)
    )
    assert (type(encoded["masks"]), encoded["masks"].shape, encoded["masks"].dtype) == (
        ObjectMasks,
        (1, 20, 20),
        torch.uint8,
    )
    assert "masks" not in make_task(head="fcos").encode(target, (20, 20))
    assert "masks" not in make_task().encode(Boxes(target.xyxy, target.names), (20, 20))


# --- augmentation


@pytest.mark.parametrize("framing", ["whole", "crop"])
@pytest.mark.parametrize("reduced", [1, 2])
def test_augmented_masks_stay_on_their_object(framing, reduced):
    """Each object has its own color, and its mask covers that color; padding contains no object."""
    size = (120, 160)
    object_masks = [
        draw_shape(index % 2, 8 + 36 * index, 30 + 9 * index, 32, size) for index in range(4)
    ]
    colors = np.array([(255, 60, 60), (60, 255, 60), (60, 60, 255), (255, 255, 60)], np.uint8)
    pixels = np.zeros((*size, 3), np.uint8)
    for mask, color in zip(object_masks, colors, strict=True):
        pixels[mask] = color
    pixels = pixels[::reduced, ::reduced].copy()
    recipe = AugmentRecipe(
        policy="none", color=0, rotate=20, scale=0.2, crop=0.6, flip=0.5, flip_vertical=0.5
    )
    transforms = (
        evaluation_transform(SPEC, framing),
        *[training_transform(SPEC, framing, recipe)] * 10,
    )
    for seed, transform in enumerate(transforms):
        torch.manual_seed(seed)
        task = TASKS.create("detect", {"head": "mask_rcnn"}, ("a", "b", "c", "d"))
        boxes = boxes_with_masks(object_masks, [0] * 4)
        image, _, target = transform(
            pixels,
            size,
            task.encode(Boxes(boxes.xyxy, ("a", "b", "c", "d"), masks=boxes.masks), size),
        )
        assert target["masks"].shape == (len(target["boxes"]), SIDE, SIDE)
        assert set(target["masks"].unique().tolist()) <= {0, 1}
        distances = [
            np.abs(image.permute(1, 2, 0).float().numpy() - color).sum(2)
            for color in (*colors, (0, 0, 0))
        ]
        color_indices = np.argmin(distances, axis=0)
        for mask, index, box in zip(
            target["masks"].as_subclass(Tensor).numpy() > 0,
            target["classes"].tolist(),
            target["boxes"].tolist(),
            strict=True,
        ):
            if mask.sum() < 100:  # mostly outside the image
                continue
            assert mask_iou(mask, color_indices == index) > 0.75
            x0, y0, x1, y1 = box_of(mask)
            assert box[0] - 2 <= x0
            assert box[1] - 2 <= y0
            assert x1 <= box[2] + 2
            assert y1 <= box[3] + 2


@pytest.mark.parametrize("framing", ["whole", "windows"])
def test_a_mosaic_keeps_every_mask_on_its_object(framing):
    """Three images with one object each, in its own color, and one image without objects."""
    colors, task = (
        np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8),
        TASKS.create("detect", {"head": "mask_rcnn"}, ("a", "b", "c")),
    )
    images = [
        (
            np.zeros((70, 90, 3), np.uint8),
            (70, 90),
            task.encode(Boxes(np.zeros((0, 4), np.float32), ()), (70, 90)),
        )
    ]
    for index, color in enumerate(colors):
        mask = draw_shape(0, 15, 5, 60, (80, 100))
        boxes = Boxes(
            np.array([box_of(mask)], np.float32),
            ("abc"[index],),
            masks=boxes_with_masks([mask], [0]).masks,
        )
        images.append(
            (
                np.where(mask[..., None], color, 0).astype(np.uint8),
                (80, 100),
                task.encode(boxes, (80, 100)),
            )
        )
    for seed in range(8):
        torch.manual_seed(seed)
        pixels, size, target = make_mosaic(SPEC, framing, AugmentRecipe(mosaic=1.0)).combine(images)
        assert (type(target["masks"]), target["masks"].shape) == (
            ObjectMasks,
            (len(target["classes"]), *size),
        )
        for mask, index in zip(
            target["masks"].numpy() > 0, target["classes"].tolist(), strict=True
        ):
            assert mask_iou(mask, np.abs(pixels.astype(int) - colors[index]).sum(2) < 250) > 0.9


# --- run lengths


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_cropped_masks_equal_pycocotools(height, width, seed):
    from pycocotools import mask as pycocotools_mask

    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    part = (
        rng.random((int(rng.integers(0, height - top + 1)), int(rng.integers(0, width - left + 1))))
        < rng.random()
    )
    whole = np.zeros((height, width), bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    rle = masks.encode_rle_at(part, top, left, (height, width))
    assert (
        rle["counts"].encode()
        == pycocotools_mask.encode(np.asfortranarray(whole, dtype=np.uint8))["counts"]
    )
    assert (masks.decode_rle(rle) == whole).all()
    assert masks.rle_area(rle) == whole.sum()
    assert masks.parse_segmentation(rle, (height, width)) == rle


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_masks_are_resized_as_torch_does(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 60, 2))
    cells = rng.random((7, 7)).astype(np.float32)
    x0, y0 = rng.uniform(-20, 50, 2)
    x1, y1 = x0 + rng.uniform(0.5, 60), y0 + rng.uniform(0.5, 60)
    pasted = masks.decode_rle(
        masks.paste_mask(cells, np.array([x0, y0, x1, y1], np.float32), (height, width))
    )
    y = ((torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1).float()
    x = ((torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1).float()
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(cells)[None, None], grid, align_corners=False
    )[0, 0].numpy()
    rows, columns = np.mgrid[:height, :width]
    box = (columns + 1 > x0) & (columns < x1) & (rows + 1 > y0) & (rows < y1)
    unambiguous = np.abs(sampled - 0.5) > 1e-4
    assert (pasted == (sampled >= 0.5) & box)[unambiguous].all()
    for box_outside in (
        (np.nan, 0, 5, 5),
        (-np.inf, 0, np.inf, 9),
        (99, 99, 120, 120),
        (3, 3, 3, 3),
    ):
        assert masks.paste_mask(cells, np.array(box_outside), (height, width))["size"] == [
            height,
            width,
        ]


# --- files


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Represent a mask as one rectangle for each horizontal run; drawn, they give the mask."""
    polygons = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        polygons += [
            [x0, y, x1, y, x1, y + 1, x0, y + 1] for x0, x1 in edges.reshape(-1, 2).tolist()
        ]
    return polygons


def write_coco(
    root: Path, encodings: tuple[str, ...], change: Any = None
) -> tuple[Path, list[Boxes]]:
    """Write two images with two objects and one with none; mask encodings alternate."""
    root.mkdir(parents=True, exist_ok=True)
    size, targets, annotations = (30, 44), [], []
    for number in range(3):
        Image.new("RGB", (size[1], size[0]), (number * 50, 0, 0)).save(root / f"{number}.png")
        object_masks = (
            [draw_shape(0, 2 + number, 3, 12, size), draw_shape(1, 20, 10 - number, 15, size)]
            if number < 2
            else []
        )
        targets.append(
            boxes_with_masks(
                object_masks,
                [0, 1][: len(object_masks)],
                crowd=np.array([False, number == 1][: len(object_masks)]),
            )
        )
        for mask, box, rle, category in zip(
            object_masks, targets[-1].xyxy.tolist(), targets[-1].masks, (1, 2), strict=False
        ):
            counts = [
                len(part)
                for part in np.split(
                    mask.ravel(order="F"),
                    np.flatnonzero(np.diff(mask.ravel(order="F").astype(int))) + 1,
                )
            ]
            shapes = {
                "polygons": mask_to_polygons(mask),
                "compressed": rle,
                "plain": {"size": list(size), "counts": counts},
            }
            shape = shapes[encodings[len(annotations) % len(encodings)]]
            area = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": area,
                    "segmentation": shape,
                    "iscrowd": int(number == 1 and category == 2),
                }
            )
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": size[1], "height": size[0]}
            for number in range(3)
        ],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
        "annotations": annotations,
    }
    if change:
        change(content)
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json", targets


def assert_targets_equal(table: Table, targets: list[Boxes]) -> None:
    assert len(table.samples) == len(targets)
    for sample, target in zip(table.samples, targets, strict=True):
        assert sample.target.names == target.names
        assert sample.target.crowd.tolist() == target.crowd.tolist()
        np.testing.assert_allclose(sample.target.xyxy, target.xyxy)
        assert (sample.target.masks or ()) == target.masks


@pytest.mark.parametrize(
    "encodings",
    [("polygons",), ("compressed",), ("plain",), ("plain", "polygons", "compressed")],
    ids="-".join,
)
def test_masks_survive_a_coco_round_trip(tmp_path, encodings):
    path, targets = write_coco(tmp_path / "made", encodings)
    assert_targets_equal(read_table(path), targets)
    result = foveate.convert(path, "coco", tmp_path / "again")
    assert not any("mask" in note for note in result.notes)
    assert_targets_equal(read_table(tmp_path / "again"), targets)
    entries = json.loads((tmp_path / "again/annotations/instances.json").read_text())["annotations"]
    assert [entry["area"] for entry in entries] == [
        masks.rle_area(mask) for target in targets for mask in target.masks
    ]
    lossy_result = foveate.convert(path, "voc", tmp_path / "voc")
    assert any(
        note.startswith("4 masks of objects not written: in this format")
        for note in lossy_result.notes
    )


@pytest.mark.parametrize(
    "segmentation",
    [
        [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[float("nan")] * 6], [[0, 0, 1e9, 0, 0, 1e9]], "x", 7, {},
        {"size": [30, 44], "counts": "PPPPPPPPPPPPPPoooooooooooooo"}, {"size": [30, 44], "counts": "人"}, {"size": [30, 44], "counts": ""}, {"size": [30, 44], "counts": "0"}, {"size": [30, 44], "counts": "P" * 40 + "0"}, {"size": [30, 44], "counts": "P"},
        {"size": [30, 44], "counts": "\x10" * 3}, {"size": [30, 44], "counts": []}, {"size": [30, 44]}, {"counts": [1320]}, {"size": 7, "counts": [1320]},
        {"size": [10**6, 10**6], "counts": "0"},
        {"size": [44, 30], "counts": [1320]}, {"size": [30, 44], "counts": [1319]}, {"size": [30, 44], "counts": [-5, 1325]}, {"size": [30, 44], "counts": [None]},
    ],
    ids=str,
)  # fmt: skip
def test_one_object_without_a_mask_means_boxes_only(tmp_path, segmentation):
    assert masks.parse_segmentation(segmentation, (30, 44)) is None
    path, targets = write_coco(
        tmp_path,
        ("polygons",),
        lambda content: content["annotations"][0].update(segmentation=segmentation),
    )
    table = read_table(path)
    assert [sample.target.masks for sample in table.samples] == [None] * 3
    assert [sample.target.names for sample in table.samples] == [target.names for target in targets]
    assert any(
        "without a mask of the image's size; therefore only boxes are read: 1 ('0.png')"
        in str(note)
        for note in table.notes
    )


def test_masks_of_another_image_size_are_ignored(tmp_path):
    path, _ = write_coco(
        tmp_path, ("polygons",), lambda content: content["images"][1].update(width=440, height=300)
    )
    table = read_table(path)
    assert all(sample.target.masks is None for sample in table.samples)
    assert any("only boxes are read: 1 ('1.png')" in str(note) for note in table.notes)


def test_dropped_boxes_drop_their_masks(tmp_path):
    def change(content: dict) -> None:
        content["annotations"][0].update(bbox=[90, 90, 5, 5])  # outside
        content["annotations"][3].update(bbox=[20, 9, 99, 15])  # clipped

    path, targets = write_coco(tmp_path, ("polygons",), change)
    first, second, _ = (sample.target for sample in read_table(path).samples)
    assert (first.names, first.masks) == (("square",), targets[0].masks[1:])
    assert (second.xyxy[1].tolist(), second.masks) == ([20, 9, 44, 24], targets[1].masks)
    assert revalidate_boxes(targets[0], (30, 44))[0].masks == targets[0].masks
    assert revalidate_boxes(targets[0], (99, 99))[0].masks is None
    other, _ = remap_classes(read_table(path), ("square",))
    assert [sample.target.masks for sample in other.samples[:2]] == [
        targets[0].masks[1:],
        targets[1].masks[1:],
    ]


# --- metrics


def random_shape(rng: np.random.Generator, size: tuple[int, int], class_index: int) -> np.ndarray:
    side = float(rng.uniform(6, 30))
    return draw_shape(
        class_index,
        float(rng.uniform(0, size[1] - side)),
        float(rng.uniform(0, size[0] - side)),
        side,
        size,
    )


def random_pair(
    rng: np.random.Generator, size: tuple[int, int], objects: int, predictions: int
) -> tuple[Boxes, Boxes]:
    class_indices = rng.integers(0, 2, objects).tolist()
    object_masks = [random_shape(rng, size, index) for index in class_indices]
    target = boxes_with_masks(object_masks, class_indices, crowd=rng.random(objects) < 0.15)
    predicted_masks, predicted_classes = [], []
    for _ in range(predictions):
        source = int(rng.integers(objects)) if objects else 0
        is_near = objects and rng.random() < 0.8
        predicted_masks.append(
            np.roll(object_masks[source], rng.integers(-3, 4, 2), (0, 1))
            if is_near
            else random_shape(rng, size, 0)
        )
        predicted_classes.append(
            class_indices[source] if is_near and rng.random() < 0.9 else int(rng.integers(2))
        )
    return boxes_with_masks(
        predicted_masks,
        predicted_classes,
        scores=rng.permutation(predictions) / max(1, predictions) * 0.9 + rng.random() * 0.1,
    ), target


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_of_masks_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    size = (60, 80)
    pairs = [
        random_pair(rng, size, int(rng.integers(0, 6)), int(rng.integers(0, 12))) for _ in range(25)
    ]
    pairs += [
        random_pair(rng, size, 0, 5),
        random_pair(rng, size, 4, 0),
        random_pair(rng, size, 0, 0),
        random_pair(rng, (40, 200), 5, 250),
    ]
    scores, expected = compute_metric(pairs), pycocotools_evaluation(pairs, NAMES, "segm")
    for name, index in {"mask_map": 0, "mask_map_50": 1, "mask_map_75": 2}.items():
        assert scores.numbers[name].value == pytest.approx(expected.stats[index], abs=1e-6), name
        assert scores.numbers[name].low <= scores.numbers[name].value <= scores.numbers[name].high
    assert scores.main == "map"
    for index, row in enumerate(scores.per_class):
        assert row["mask_map"] == pytest.approx(
            expected.eval["precision"][:, :, index, 0, -1].mean(), abs=1e-6
        )
    boxes_alone = compute_metric(
        [
            (prediction, Boxes(target.xyxy, target.names, crowd=target.crowd))
            for prediction, target in pairs
        ]
    )
    assert {
        name: score for name, score in scores.numbers.items() if "mask" not in name
    } == boxes_alone.numbers
    assert "mask_map" not in boxes_alone.per_class[0]


def compute_metric(pairs: list[tuple[Boxes, Boxes]]):
    metric = metric_for(Boxes, NAMES)
    for pair in pairs:
        metric.update(*pair)
    return metric.compute()


def test_masks_that_do_not_fit_are_refused():
    boxes, other = (
        boxes_with_masks([draw_shape(1, 1, 1, 10, size)], [1], scores=np.ones(1))
        for size in ((20, 20), (20, 30))
    )
    with pytest.raises(DataError, match="different sizes"):
        metric_for(Boxes, NAMES).update(boxes, other)
    with pytest.raises(DataError, match="a mask for each of its boxes"):
        metric_for(Boxes, NAMES).update(boxes, Boxes(boxes.xyxy, boxes.names, masks=()))


# --- predictions


def test_masks_are_drawn_under_their_boxes():
    size = (60, 90)
    boxes = boxes_with_masks(
        [draw_shape(0, 5, 5, 40, size), draw_shape(1, 45, 12, 40, size)], [0, 1]
    )
    pixels = np.full((*size, 3), 100, np.uint8)
    drawn = drawing.draw_boxes(pixels, boxes, 0, NAMES)
    middle = np.rint((np.array(drawing.class_color(1)) + 100) / 2)
    assert np.abs(drawn[40, 65] - middle).max() <= 1
    assert (drawn[25, 5] == drawing.class_color(0)).all()
    assert (drawn[50, 2] == 100).all()
    assert (pixels == 100).all()
    small = drawing.draw_boxes(pixels[:30], boxes, 0, NAMES)  # masks of another size are left out
    assert (
        small == drawing.draw_boxes(pixels[:30], Boxes(boxes.xyxy, boxes.names), 0, NAMES)
    ).all()
    unconfident = Boxes(boxes.xyxy, boxes.names, np.array([0.2, 0.9]), masks=boxes.masks)
    assert (drawing.draw_boxes(pixels, unconfident, 0.5, NAMES)[25, 25] == 100).all()


def test_predictions_are_written_as_coco_files(tmp_path):
    Image.new("RGB", (44, 30)).save(tmp_path / "a.png")
    prediction = boxes_with_masks(
        [draw_shape(0, 2, 3, 12, (30, 44)), draw_shape(1, 20, 10, 15, (30, 44))],
        [0, 1],
        scores=np.array([0.9, 0.4]),
    )
    confident = prediction.select(np.array([True, False]))
    assert (confident.names, confident.masks) == (("disc",), prediction.masks[:1])
    assert [row["mask"] for row in prediction.row(NAMES)["prediction"]] == list(prediction.masks)
    write_folder(
        [ImageResult(str(tmp_path / "a.png"), prediction, classes=NAMES)], "coco", tmp_path / "out"
    )
    rows = json.loads((tmp_path / "out/predictions.json").read_text())["annotations"]
    assert [(row["segmentation"], row["area"]) for row in rows] == [
        (mask, masks.rle_area(mask)) for mask in prediction.masks
    ]


def test_instance_segmentation_end_to_end(tmp_path, quick):
    """From files to a run, metrics, and predictions with masks."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    samples = []
    for number in range(12):
        pixels, target = random_scene(rng)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number:02d}.png")
        split = ("train", "val", "test")[max(0, number - 9)] if number < 12 else None
        samples.append(
            Sample(tmp_path / "data" / f"{number:02d}.png", f"{number:02d}.png", target, split)
        )
    (tmp_path / "coco").mkdir()
    FORMATS.get("coco")().write(
        Table(tuple(samples), NAMES, "made", tmp_path / "data"), tmp_path / "coco"
    )
    settings = {
        "data.path": str(tmp_path / "coco"),
        "task.head": "mask_rcnn",
        "task.width": 32,
        "task.depth": 1,
        "backbone.size": 64,
    }
    result = fit(
        with_settings(quick, {**settings, "training.epochs": 1, "training.batch_size": 4}),
        tmp_path / "run",
    )
    assert "mask_map" in result.numbers()
    image_result = next(iter(foveate.load(tmp_path / "run").predict([samples[0].path])))
    assert image_result.prediction.masks is not None
    foveate.convert(tmp_path / "coco", "voc", tmp_path / "voc")
    with pytest.raises(UsageError, match="a mask for each object"):
        fit(
            with_settings(quick, {**settings, "data.path": str(tmp_path / "voc")}),
            tmp_path / "none",
        )
    assert not (tmp_path / "none").exists()


def fit(recipe: Recipe, out: Path):
    from foveate.api.fit.core import fit_recipe

    return fit_recipe(recipe, out)

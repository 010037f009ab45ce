"""Instance segmentation is detection with masks: they are read, moved, learnt, measured, drawn and written."""

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
from foveate.data.dataset import ImageDataset
from foveate.data.formats import FORMATS, read_table
from foveate.data.loading import BatchSampler
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
from foveate.training.optimizer import build_optimizer, set_learning_rate
from foveate.types import Batch, InputSpec, Sample, Table
from foveate.utils import rle as masks
from helpers import Memory, batches, refereed

NAMES = ("disc", "square")
SIDE = 96
SPEC = InputSpec(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def shape_in(kind: int, x: float, y: float, side: float, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: a disc (0) or a square (1) in the box from (x, y) to (x + side, y + side)."""
    down, right = np.mgrid[: size[0], : size[1]] + 0.5
    if kind:
        return (right > x) & (right < x + side) & (down > y) & (down < y + side)
    return (right - x - side / 2) ** 2 + (down - y - side / 2) ** 2 < side**2 / 4


def box_of(mask: np.ndarray) -> list[int]:
    y, x = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return [x[0], y[0], x[-1] + 1, y[-1] + 1]


def truth_of(inside: list[np.ndarray], kinds: list[int], **more: Any) -> Boxes:
    corners = np.array([box_of(mask) for mask in inside], np.float32).reshape(-1, 4)
    runs = tuple(masks.encode_rle_at(mask, 0, 0, mask.shape) for mask in inside)
    return Boxes(corners, tuple(NAMES[kind] for kind in kinds), masks=runs, **more)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, Boxes]:
    """Two or three discs and squares of any colour on a dark ground; the second touches the first."""
    height, width = (int(side) for side in rng.integers(80, 120, 2))
    pixels = rng.integers(0, 50, (height, width, 3)).astype(np.uint8)
    inside, kinds, side = [], [], float(rng.uniform(22, 32))
    x, y = float(rng.uniform(0, width - 2 * side)), float(rng.uniform(0, height - side))
    for place in range(int(rng.integers(2, 4))):
        if place == 2:
            x, y = float(rng.uniform(0, width - side)), float(rng.uniform(0, height - side))
        kinds.append(int(rng.integers(2)))
        mask = shape_in(kinds[-1], x, y, side, (height, width))
        pixels[mask] = rng.integers(90, 256, 3)
        inside = [*(other & ~mask for other in inside), mask]
        x += side
    if min(mask.sum() for mask in inside) < 100:  # one lies on another
        return scene(rng)
    return pixels, truth_of(inside, kinds)


def task(**changed: Any):
    return TASKS.create("detect", {"head": "mask_rcnn", "width": 32, **changed}, NAMES)


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / max(1, (one | two).sum()))


# --- learning


def test_masks_are_learnt(monkeypatch):
    """Held-out objects are found, told apart where they touch, and discs are drawn round: better than by filling their boxes."""
    monkeypatch.setitem(faster_rcnn._SAMPLED, "proposals", (32, 0.25))  # a step costs half as much
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pixels, truths = zip(*(scene(rng) for _ in range(80)), strict=True)
    samples = [Sample(str(place), str(place), truth) for place, truth in enumerate(truths)]
    job = task(depth=1)
    model = Model(
        FAMILIES.get("timm")().open("test_resnet", "none", SIDE),
        job,
        Full(TuningSettings()),
        keep_norms=False,
    )
    shown = ImageDataset(
        samples[:-16],
        Memory(pixels),
        training_transform(SPEC, "whole", AugmentRecipe(policy="none", crop=0.8)),
        job.encode,
        0,
    )
    taught(model, shown, epochs=4)
    held_out = ImageDataset(
        samples[-16:], Memory(pixels), evaluation_transform(SPEC, "whole"), job.encode, 0
    )
    pairs = list(
        zip(
            answered(model.eval(), held_out),
            [sample.target for sample in held_out.samples],
            strict=True,
        )
    )
    found = [best for pair in pairs for best in best_overlaps(*pair)]
    assert np.mean([drawn for _, drawn, _ in found]) > 0.5  # masks at random overlap by about 0.05
    discs = [(drawn, box) for name, drawn, box in found if name == "disc" and drawn]
    assert np.mean([drawn > box for drawn, box in discs]) > 0.7
    metric = metric_for(Boxes, NAMES)
    for pair in pairs:
        metric.update(*pair)
    assert metric.compute().numbers["mask_map_50"].value > 0.5


def taught(model: Model, shown: ImageDataset, epochs: int) -> None:
    recipe, steps, step = (
        TrainingRecipe(lr=4e-3, layer_decay=1.0),
        epochs * len(BatchSampler(len(shown), 4)),
        0,
    )
    moving = build_optimizer(model, recipe)
    model.train()
    for epoch in range(epochs):
        for batch in batches(shown, BatchSampler(len(shown), 4, seed=0, epoch=epoch)):
            set_learning_rate(moving, recipe, step, steps)
            moving.zero_grad()
            sum(model.task.loss(model(batch), batch).values()).backward()
            moving.step()
            step += 1


@torch.inference_mode()
def answered(model: Model, pictures: ImageDataset) -> list[Boxes]:
    return [
        answer
        for batch in batches(pictures, BatchSampler(len(pictures), 4))
        for answer in model.task.decode(model(batch), batch)
    ]


def best_overlaps(answer: Boxes, truth: Boxes) -> list[tuple[str, float, float]]:
    """For each true object its class, and the IoU of the best mask, and of its filled box, among as many answers as there are
    objects, of its class."""
    sure = answer.select(np.arange(len(answer.names)) < len(truth.names))
    found = []
    for name, runs in zip(truth.names, truth.masks, strict=True):
        wanted = masks.decode_rle(runs)
        drawn = [
            overlap(masks.decode_rle(mask), wanted) if said == name else 0.0
            for said, mask in zip(sure.names, sure.masks, strict=True)
        ]
        if not any(drawn):
            found.append((name, 0.0, 0.0))
            continue
        x0, y0, x1, y1 = sure.xyxy[int(np.argmax(drawn))].round().astype(int)
        box = np.zeros(wanted.shape, bool)
        box[y0:y1, x0:x1] = True
        found.append((name, max(drawn), overlap(box, wanted)))
    return found


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
    job = task(depth=1)
    model = Model(
        FAMILIES.get("timm")().open(name, "none", side),
        job,
        Full(TuningSettings()),
        keep_norms=False,
    ).train()
    size = (50, 80)
    truths = [
        truth_of([shape_in(0, 5, 5, 30, size), shape_in(1, 40, 10, 25, size)], [0, 1]),
        Boxes(np.zeros((0, 4), np.float32), ()),
    ]
    transform = evaluation_transform(InputSpec(side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "whole")
    seen = [
        transform(np.full((*size, 3), 99, np.uint8), size, job.encode(truth, size))
        for truth in truths
    ]
    batch = Batch(
        transform.spec.normalize(torch.stack([each[0] for each in seen])),
        [each[2] for each in seen],
        torch.tensor([each[1] for each in seen]),
        torch.tensor([size, size]),
        torch.arange(2),
    )
    losses = job.loss(model(batch), batch)
    assert set(losses) == {"objectness", "proposal_box", "class", "box", "mask"}
    sum(losses.values()).backward()
    mask_head = list(model.head.network.mask_head.parameters())
    assert mask_head
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in mask_head
    )
    with torch.inference_mode():
        output = model.eval()(batch)
        assert float(job.loss(output, batch)["mask"]) > 0
        for answer in job.decode(output, batch):
            assert len(answer.masks) == len(answer.names) > 0
            assert all(mask["size"] == list(size) for mask in answer.masks)
            assert [isinstance(row["mask"]["counts"], str) for row in answer.row(NAMES)["answer"]]


def test_a_batch_without_objects_teaches_no_mask_and_breaks_nothing():
    job = task(depth=1)
    model = Model(
        FAMILIES.get("timm")().open("test_resnet", "none", 64),
        job,
        Full(TuningSettings()),
        keep_norms=False,
    ).train()
    target = job.encode(Boxes(np.zeros((0, 4), np.float32), ()), (64, 64))
    batch = Batch(
        torch.rand(2, 3, 64, 64),
        [target, target],
        torch.tensor([[0.0, 0, 64, 64]] * 2),
        torch.tensor([[64, 64]] * 2),
        torch.arange(2),
    )
    losses = job.loss(model(batch), batch)
    sum(losses.values()).backward()
    assert losses["mask"].item() == 0
    assert all(parameter.grad is not None for parameter in model.head.parameters())


# --- words


def settled(settings: dict[str, Any], truths: list[Boxes]):
    return TASKS.get("detect").resolve_settings(settings, truths, NAMES, DataFacts(False, False))


def test_masks_that_are_not_there_are_asked_for_and_those_that_are_are_told_of():
    masked = truth_of([shape_in(0, 1, 1, 10, (20, 20))], [0])
    bare = Boxes(masked.xyxy, masked.names)
    with pytest.raises(
        UsageError,
        match=r"mask_rcnn needs a mask for each object.*1 of 2 training images.*faster_rcnn",
    ):
        settled({"head": "mask_rcnn"}, [masked, bare])
    assert settled({"head": "mask_rcnn"}, [masked, Boxes(np.zeros((0, 4)), ())]) == []
    assert settled({"head": "fcos"}, [masked]) == settled({}, [bare]) == []
    ((field, head, why),) = settled({}, [masked])
    assert (field, head) == ("head", "fcos")
    assert "--set task.head=mask_rcnn uses" in why


def test_only_a_head_that_draws_carries_masks():
    truth = truth_of([shape_in(0, 1, 1, 10, (20, 20)), shape_in(1, 8, 8, 10, (20, 20))], [0, 1])
    found = task().encode(Boxes(truth.xyxy, ("disc", "zebra"), masks=truth.masks), (20, 20))
    assert (type(found["masks"]), found["masks"].shape, found["masks"].dtype) == (
        ObjectMasks,
        (1, 20, 20),
        torch.uint8,
    )
    assert "masks" not in task(head="fcos").encode(truth, (20, 20))
    assert "masks" not in task().encode(Boxes(truth.xyxy, truth.names), (20, 20))


# --- augmentation


@pytest.mark.parametrize("framing", ["whole", "crop"])
@pytest.mark.parametrize("reduced", [1, 2])
def test_augmented_masks_stay_on_their_object(framing, reduced):
    """Each object has a colour of its own, and its mask lies on that colour; where there is no picture there is no object."""
    size = (120, 160)
    inside = [shape_in(place % 2, 8 + 36 * place, 30 + 9 * place, 32, size) for place in range(4)]
    colours = np.array([(255, 60, 60), (60, 255, 60), (60, 60, 255), (255, 255, 60)], np.uint8)
    pixels = np.zeros((*size, 3), np.uint8)
    for mask, colour in zip(inside, colours, strict=True):
        pixels[mask] = colour
    pixels = pixels[::reduced, ::reduced].copy()
    recipe = AugmentRecipe(
        policy="none", color=0, rotate=20, scale=0.2, crop=0.6, flip=0.5, flip_vertical=0.5
    )
    kinds = evaluation_transform(SPEC, framing), *[training_transform(SPEC, framing, recipe)] * 10
    for seed, transform in enumerate(kinds):
        torch.manual_seed(seed)
        job = TASKS.create("detect", {"head": "mask_rcnn"}, ("a", "b", "c", "d"))
        truth = truth_of(inside, [0] * 4)
        image, _, moved = transform(
            pixels,
            size,
            job.encode(Boxes(truth.xyxy, ("a", "b", "c", "d"), masks=truth.masks), size),
        )
        assert moved["masks"].shape == (len(moved["boxes"]), SIDE, SIDE)
        assert set(moved["masks"].unique().tolist()) <= {0, 1}
        distances = [
            np.abs(image.permute(1, 2, 0).float().numpy() - colour).sum(2)
            for colour in (*colours, (0, 0, 0))
        ]
        shown = np.argmin(distances, axis=0)
        for mask, place, box in zip(
            moved["masks"].as_subclass(Tensor).numpy() > 0,
            moved["classes"].tolist(),
            moved["boxes"].tolist(),
            strict=True,
        ):
            if mask.sum() < 100:  # mostly out of the picture
                continue
            assert overlap(mask, shown == place) > 0.75
            x0, y0, x1, y1 = box_of(mask)
            assert box[0] - 2 <= x0
            assert box[1] - 2 <= y0
            assert x1 <= box[2] + 2
            assert y1 <= box[3] + 2


@pytest.mark.parametrize("framing", ["whole", "windows"])
def test_a_mosaic_keeps_every_mask_on_its_object(framing):
    """Four pictures of one object each, in a colour of its own; one has none."""
    colours, job = (
        np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8),
        TASKS.create("detect", {"head": "mask_rcnn"}, ("a", "b", "c")),
    )
    pictures = [
        (
            np.zeros((70, 90, 3), np.uint8),
            (70, 90),
            job.encode(Boxes(np.zeros((0, 4), np.float32), ()), (70, 90)),
        )
    ]
    for place, colour in enumerate(colours):
        mask = shape_in(0, 15, 5, 60, (80, 100))
        truth = Boxes(
            np.array([box_of(mask)], np.float32), ("abc"[place],), masks=truth_of([mask], [0]).masks
        )
        pictures.append(
            (
                np.where(mask[..., None], colour, 0).astype(np.uint8),
                (80, 100),
                job.encode(truth, (80, 100)),
            )
        )
    for seed in range(8):
        torch.manual_seed(seed)
        pixels, size, target = make_mosaic(SPEC, framing, AugmentRecipe(mosaic=1.0)).combine(
            pictures
        )
        assert (type(target["masks"]), target["masks"].shape) == (
            ObjectMasks,
            (len(target["classes"]), *size),
        )
        for mask, place in zip(
            target["masks"].numpy() > 0, target["classes"].tolist(), strict=True
        ):
            assert overlap(mask, np.abs(pixels.astype(int) - colours[place]).sum(2) < 250) > 0.9


# --- run lengths


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_part_at_a_corner_is_what_coco_makes_of_the_whole(height, width, seed):
    from pycocotools import mask as referee

    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    part = (
        rng.random((int(rng.integers(0, height - top + 1)), int(rng.integers(0, width - left + 1))))
        < rng.random()
    )
    whole = np.zeros((height, width), bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    runs = masks.encode_rle_at(part, top, left, (height, width))
    assert (
        runs["counts"].encode()
        == referee.encode(np.asfortranarray(whole, dtype=np.uint8))["counts"]
    )
    assert (masks.decode_rle(runs) == whole).all()
    assert masks.rle_area(runs) == whole.sum()
    assert masks.parse_segmentation(runs, (height, width)) == runs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_cells_are_stretched_as_torch_would(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 60, 2))
    cells = rng.random((7, 7)).astype(np.float32)
    x0, y0 = rng.uniform(-20, 50, 2)
    x1, y1 = x0 + rng.uniform(0.5, 60), y0 + rng.uniform(0.5, 60)
    found = masks.decode_rle(
        masks.paste_mask(cells, np.array([x0, y0, x1, y1], np.float32), (height, width))
    )
    y = ((torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1).float()
    x = ((torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1).float()
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(cells)[None, None], grid, align_corners=False
    )[0, 0].numpy()
    down, right = np.mgrid[:height, :width]
    box = (right + 1 > x0) & (right < x1) & (down + 1 > y0) & (down < y1)
    clear = np.abs(sampled - 0.5) > 1e-4
    assert (found == (sampled >= 0.5) & box)[clear].all()
    for odd in ((np.nan, 0, 5, 5), (-np.inf, 0, np.inf, 9), (99, 99, 120, 120), (3, 3, 3, 3)):
        assert masks.paste_mask(cells, np.array(odd), (height, width))["size"] == [height, width]


# --- files


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Every pixel of a run of rows as a rectangle: what is painted from them is the mask again."""
    found = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        found += [[x0, y, x1, y, x1, y + 1, x0, y + 1] for x0, x1 in edges.reshape(-1, 2).tolist()]
    return found


def coco_file(root: Path, forms: tuple[str, ...], change: Any = None) -> tuple[Path, list[Boxes]]:
    """Two pictures with two objects, and one with none; each object in the next form."""
    root.mkdir(parents=True, exist_ok=True)
    size, truths, rows = (30, 44), [], []
    for number in range(3):
        Image.new("RGB", (size[1], size[0]), (number * 50, 0, 0)).save(root / f"{number}.png")
        inside = (
            [shape_in(0, 2 + number, 3, 12, size), shape_in(1, 20, 10 - number, 15, size)]
            if number < 2
            else []
        )
        truths.append(
            truth_of(
                inside, [0, 1][: len(inside)], crowd=np.array([False, number == 1][: len(inside)])
            )
        )
        for mask, box, runs, kind in zip(
            inside, truths[-1].xyxy.tolist(), truths[-1].masks, (1, 2), strict=False
        ):
            counts = [
                len(part)
                for part in np.split(
                    mask.ravel(order="F"),
                    np.flatnonzero(np.diff(mask.ravel(order="F").astype(int))) + 1,
                )
            ]
            shapes = {
                "polygons": polygons(mask),
                "compressed": runs,
                "plain": {"size": list(size), "counts": counts},
            }
            shape = shapes[forms[len(rows) % len(forms)]]
            area = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": number,
                    "category_id": kind,
                    "bbox": area,
                    "segmentation": shape,
                    "iscrowd": int(number == 1 and kind == 2),
                }
            )
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": size[1], "height": size[0]}
            for number in range(3)
        ],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
        "annotations": rows,
    }
    if change:
        change(content)
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json", truths


def same(table: Table, truths: list[Boxes]) -> None:
    assert len(table.samples) == len(truths)
    for sample, truth in zip(table.samples, truths, strict=True):
        assert sample.target.names == truth.names
        assert sample.target.crowd.tolist() == truth.crowd.tolist()
        np.testing.assert_allclose(sample.target.xyxy, truth.xyxy)
        assert (sample.target.masks or ()) == truth.masks


@pytest.mark.parametrize(
    "forms",
    [("polygons",), ("compressed",), ("plain",), ("plain", "polygons", "compressed")],
    ids="-".join,
)
def test_masks_survive_coco_there_and_back(tmp_path, forms):
    path, truths = coco_file(tmp_path / "made", forms)
    same(read_table(path), truths)
    result = foveate.convert(path, "coco", tmp_path / "again")
    assert not any("mask" in note for note in result.notes)
    same(read_table(tmp_path / "again"), truths)
    entries = json.loads((tmp_path / "again/annotations/instances.json").read_text())["annotations"]
    assert [entry["area"] for entry in entries] == [
        masks.rle_area(mask) for truth in truths for mask in truth.masks
    ]
    lost = foveate.convert(path, "voc", tmp_path / "voc")
    assert any(
        note.startswith("4 masks of objects, which the format does not support")
        for note in lost.notes
    )


@pytest.mark.parametrize(
    "odd",
    [
        [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[float("nan")] * 6], [[0, 0, 1e9, 0, 0, 1e9]], "x", 7, {},
        {"size": [30, 44], "counts": "PPPPPPPPPPPPPPoooooooooooooo"}, {"size": [30, 44], "counts": "人"}, {"size": [30, 44], "counts": ""}, {"size": [30, 44], "counts": "0"}, {"size": [30, 44], "counts": "P" * 40 + "0"}, {"size": [30, 44], "counts": "P"},
        {"size": [30, 44], "counts": "\x10" * 3}, {"size": [30, 44], "counts": []}, {"size": [30, 44]}, {"counts": [1320]}, {"size": 7, "counts": [1320]},
        {"size": [10**6, 10**6], "counts": "0"},
        {"size": [44, 30], "counts": [1320]}, {"size": [30, 44], "counts": [1319]}, {"size": [30, 44], "counts": [-5, 1325]}, {"size": [30, 44], "counts": [None]},
    ],
    ids=str,
)  # fmt: skip
def test_one_object_without_a_mask_leaves_boxes_alone(tmp_path, odd):
    assert masks.parse_segmentation(odd, (30, 44)) is None
    path, truths = coco_file(
        tmp_path, ("polygons",), lambda content: content["annotations"][0].update(segmentation=odd)
    )
    table = read_table(path)
    assert [sample.target.masks for sample in table.samples] == [None] * 3
    assert [sample.target.names for sample in table.samples] == [truth.names for truth in truths]
    assert any(
        "without a mask of the image's size; therefore only boxes are read: 1 ('0.png')"
        in str(note)
        for note in table.notes
    )


def test_masks_for_another_size_are_not_taken(tmp_path):
    path, _ = coco_file(
        tmp_path, ("polygons",), lambda content: content["images"][1].update(width=440, height=300)
    )
    table = read_table(path)
    assert all(sample.target.masks is None for sample in table.samples)
    assert any("only boxes are read: 1 ('1.png')" in str(note) for note in table.notes)


def test_dropped_boxes_take_their_masks_along(tmp_path):
    def change(content: dict) -> None:
        content["annotations"][0].update(bbox=[90, 90, 5, 5])  # outside
        content["annotations"][3].update(bbox=[20, 9, 99, 15])  # clipped

    path, truths = coco_file(tmp_path, ("polygons",), change)
    first, second, _ = (sample.target for sample in read_table(path).samples)
    assert (first.names, first.masks) == (("square",), truths[0].masks[1:])
    assert (second.xyxy[1].tolist(), second.masks) == ([20, 9, 44, 24], truths[1].masks)
    assert revalidate_boxes(truths[0], (30, 44))[0].masks == truths[0].masks
    assert revalidate_boxes(truths[0], (99, 99))[0].masks is None
    other, _ = remap_classes(read_table(path), ("square",))
    assert [sample.target.masks for sample in other.samples[:2]] == [
        truths[0].masks[1:],
        truths[1].masks[1:],
    ]


# --- numbers


def blob(rng: np.random.Generator, size: tuple[int, int], kind: int) -> np.ndarray:
    side = float(rng.uniform(6, 30))
    return shape_in(
        kind,
        float(rng.uniform(0, size[1] - side)),
        float(rng.uniform(0, size[0] - side)),
        side,
        size,
    )


def pair_of(
    rng: np.random.Generator, size: tuple[int, int], objects: int, answers: int
) -> tuple[Boxes, Boxes]:
    kinds = rng.integers(0, 2, objects).tolist()
    inside = [blob(rng, size, kind) for kind in kinds]
    truth = truth_of(inside, kinds, crowd=rng.random(objects) < 0.15)
    said, named = [], []
    for _ in range(answers):
        source = int(rng.integers(objects)) if objects else 0
        near = objects and rng.random() < 0.8
        said.append(
            np.roll(inside[source], rng.integers(-3, 4, 2), (0, 1)) if near else blob(rng, size, 0)
        )
        named.append(kinds[source] if near and rng.random() < 0.9 else int(rng.integers(2)))
    return truth_of(
        said, named, scores=rng.permutation(answers) / max(1, answers) * 0.9 + rng.random() * 0.1
    ), truth


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_of_masks_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    size = (60, 80)
    pairs = [
        pair_of(rng, size, int(rng.integers(0, 6)), int(rng.integers(0, 12))) for _ in range(25)
    ]
    pairs += [
        pair_of(rng, size, 0, 5),
        pair_of(rng, size, 4, 0),
        pair_of(rng, size, 0, 0),
        pair_of(rng, (40, 200), 5, 250),
    ]
    found, judge = measured(pairs), refereed(pairs, NAMES, "segm")
    for name, place in {"mask_map": 0, "mask_map_50": 1, "mask_map_75": 2}.items():
        assert found.numbers[name].value == pytest.approx(judge.stats[place], abs=1e-6), name
        assert found.numbers[name].low <= found.numbers[name].value <= found.numbers[name].high
    assert found.main == "map"
    for place, row in enumerate(found.per_class):
        assert row["mask_map"] == pytest.approx(
            judge.eval["precision"][:, :, place, 0, -1].mean(), abs=1e-6
        )
    boxes_alone = measured(
        [(said, Boxes(truth.xyxy, truth.names, crowd=truth.crowd)) for said, truth in pairs]
    )
    assert {
        name: score for name, score in found.numbers.items() if "mask" not in name
    } == boxes_alone.numbers
    assert "mask_map" not in boxes_alone.per_class[0]


def measured(pairs: list[tuple[Boxes, Boxes]]):
    metric = metric_for(Boxes, NAMES)
    for pair in pairs:
        metric.update(*pair)
    return metric.compute()


def test_masks_that_do_not_fit_are_refused():
    one, other = (
        truth_of([shape_in(1, 1, 1, 10, size)], [1], scores=np.ones(1))
        for size in ((20, 20), (20, 30))
    )
    with pytest.raises(DataError, match="different sizes"):
        metric_for(Boxes, NAMES).update(one, other)
    with pytest.raises(DataError, match="a mask for each of its 1 boxes"):
        metric_for(Boxes, NAMES).update(one, Boxes(one.xyxy, one.names, masks=()))


# --- answers


def test_masks_are_drawn_under_their_boxes():
    size = (60, 90)
    truth = truth_of([shape_in(0, 5, 5, 40, size), shape_in(1, 45, 12, 40, size)], [0, 1])
    pixels = np.full((*size, 3), 100, np.uint8)
    drawn = drawing.draw_boxes(pixels, truth, 0, NAMES)
    middle = np.rint((np.array(drawing.class_color(1)) + 100) / 2)
    assert np.abs(drawn[40, 65] - middle).max() <= 1
    assert (drawn[25, 5] == drawing.class_color(0)).all()
    assert (drawn[50, 2] == 100).all()
    assert (pixels == 100).all()
    small = drawing.draw_boxes(pixels[:30], truth, 0, NAMES)  # masks of another size are left out
    assert (
        small == drawing.draw_boxes(pixels[:30], Boxes(truth.xyxy, truth.names), 0, NAMES)
    ).all()
    unsure = Boxes(truth.xyxy, truth.names, np.array([0.2, 0.9]), masks=truth.masks)
    assert (drawing.draw_boxes(pixels, unsure, 0.5, NAMES)[25, 25] == 100).all()


def test_answers_become_coco_files(tmp_path):
    Image.new("RGB", (44, 30)).save(tmp_path / "a.png")
    truth = truth_of(
        [shape_in(0, 2, 3, 12, (30, 44)), shape_in(1, 20, 10, 15, (30, 44))],
        [0, 1],
        scores=np.array([0.9, 0.4]),
    )
    sure = truth.select(np.array([True, False]))
    assert (sure.names, sure.masks) == (("disc",), truth.masks[:1])
    assert [row["mask"] for row in truth.row(NAMES)["answer"]] == list(truth.masks)
    write_folder(
        [ImageResult(str(tmp_path / "a.png"), truth, classes=NAMES)], "coco", tmp_path / "out"
    )
    rows = json.loads((tmp_path / "out/predictions.json").read_text())["annotations"]
    assert [(row["segmentation"], row["area"]) for row in rows] == [
        (mask, masks.rle_area(mask)) for mask in truth.masks
    ]


def test_the_whole_way(tmp_path, quick):
    """Files -> run -> numbers and answers with masks."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    samples = []
    for number in range(12):
        pixels, truth = scene(rng)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number:02d}.png")
        split = ("train", "val", "test")[max(0, number - 9)] if number < 12 else None
        samples.append(
            Sample(tmp_path / "data" / f"{number:02d}.png", f"{number:02d}.png", truth, split)
        )
    (tmp_path / "coco").mkdir()
    FORMATS.get("coco")().write(
        Table(tuple(samples), NAMES, "made", tmp_path / "data"), tmp_path / "coco"
    )
    words = {
        "data.path": str(tmp_path / "coco"),
        "task.head": "mask_rcnn",
        "task.width": 32,
        "task.depth": 1,
        "backbone.size": 64,
    }
    result = fitted(
        with_settings(quick, {**words, "training.epochs": 1, "training.batch_size": 4}),
        tmp_path / "run",
    )
    assert "mask_map" in result.numbers()
    answer = next(iter(foveate.load(tmp_path / "run").predict([samples[0].path])))
    assert answer.prediction.masks is not None
    foveate.convert(tmp_path / "coco", "voc", tmp_path / "voc")
    with pytest.raises(UsageError, match="a mask for each object"):
        fitted(
            with_settings(quick, {**words, "data.path": str(tmp_path / "voc")}), tmp_path / "none"
        )
    assert not (tmp_path / "none").exists()


def fitted(recipe: Recipe, out: Path):
    from foveate.api.fit.core import fit_recipe

    return fit_recipe(recipe, out)

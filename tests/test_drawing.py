"""Drawing predictions: only the intended pixels change, nothing is cut off, any script works."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SHARED
from foveate.images import drawing, sheets
from foveate.images import text as text_rendering
from foveate.images.codec import read_image
from foveate.predictions import Boxes, Labels, Regions

LABEL_TEXTS = [
    "RBC",
    "cat",
    "猫",
    "قطة كبيرة",
    "😀",
    "👩‍🚀",
    "עברית",
    "नमस्ते",
    "a" * 300,
    "<b>&\n\x00",
    "",
    "\ud800",
    "$x_1$",
]


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_boxes(*xyxy, names=None, scores=None, crowd=None) -> Boxes:
    names = names or tuple("RBC" for _ in xyxy)
    scores = None if scores is None else np.array(scores, dtype=np.float32)
    crowd = None if crowd is None else np.array(crowd)
    return Boxes(np.array(xyxy, dtype=np.float32).reshape(-1, 4), tuple(names), scores, crowd)


def drawn_area(shape, boxes: Boxes, threshold: float) -> np.ndarray:
    """Mark pixels inside a drawn box or under its label; (H, W) bool."""
    size, inside = (shape[1], shape[0]), np.zeros(shape[:2], dtype=bool)
    styled = [
        box
        for box in drawing._styled_boxes(boxes, threshold, sorted(set(boxes.names)))
        if drawing._is_visible(box.edge, size)
    ]
    for x0, y0, x1, y1 in [drawing._clip(box.edge, size) for box in styled] + [
        label_area for _, label_area, _ in drawing._place_labels(styled, size)
    ]:
        assert 0 <= x0 <= x1 <= size[0]
        assert 0 <= y0 <= y1 <= size[1]
        inside[y0:y1, x0:x1] = True
    return inside


side = st.integers(1, 160)
number = st.floats(-60, 220, width=32)


@settings(max_examples=60, deadline=None)
@given(
    side, side,
    st.lists(st.tuples(number, number, number, number, st.sampled_from(LABEL_TEXTS), st.floats(0, 1, width=32), st.booleans()), max_size=8),
    st.booleans(),
)  # fmt: skip
def test_only_boxes_and_labels_change(height, width, rows, scored):
    corners = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d, *_ in rows]
    scores = [row[5] for row in rows] if scored else None
    boxes = make_boxes(
        *corners, names=[row[4] for row in rows], scores=scores, crowd=[row[6] for row in rows]
    )
    pixels = random_image(height, width)
    before = pixels.copy()
    drawn = drawing.draw_boxes(pixels, boxes, 0.5)
    assert (pixels == before).all()
    assert (drawn.shape, drawn.dtype) == (pixels.shape, np.uint8)
    assert not (drawn != pixels).any(axis=2)[~drawn_area(pixels.shape, boxes, 0.5)].any()


@pytest.mark.parametrize(
    "xyxy",
    [
        (0, 0, 64, 48),
        (63, 47, 64, 48),
        (10, 10, 10, 10),
        (5, 5, 6, 6),
        (-9, -9, 4, 4),
        (0, 20, 64, 20),
    ],
)
def test_every_box_is_visible(xyxy):
    pixels = np.full((48, 64, 3), 77, dtype=np.uint8)
    x, y = min(max(xyxy[0], 0), 63), min(max(xyxy[3] - 1, 0), 47)
    drawn = drawing.draw_boxes(pixels, make_boxes(xyxy, names=[""]), 0)
    assert (drawn != pixels).any()
    assert (drawn[y, x] == drawing.class_color(0)).all() or (
        drawn[min(y + 1, 47), x] == drawing.class_color(0)
    ).all()


def test_no_boxes_and_boxes_below_the_threshold_change_no_pixel():
    pixels = random_image(40, 60)
    for boxes in (
        make_boxes(),
        make_boxes((5, 5, 20, 20), scores=[0.4]),
        make_boxes((70, 5, 90, 20)),
        make_boxes((5, 5, np.nan, 20)),
    ):
        assert (drawing.draw_boxes(pixels, boxes, 0.5) == pixels).all()


def test_a_class_keeps_its_color():
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    drawn = drawing.draw_boxes(
        pixels, make_boxes((10, 40, 90, 90), names=["dog"]), 0, classes=("cat", "dog")
    )
    assert tuple(drawn[60, 10]) == drawing.class_color(1)
    assert len({drawing.class_color(index) for index in range(60)}) == 60


def test_the_first_ten_colors_are_distinct():
    """In plain RGB; visibility for color-blind people was computed once (see the docstring)."""
    pairs = itertools.combinations(
        [np.array(drawing.class_color(index), dtype=float) for index in range(10)], 2
    )
    assert min(np.linalg.norm(first - second) for first, second in pairs) > 60


@pytest.mark.parametrize("index", range(40))
def test_label_text_contrasts_with_its_background(index):
    def luminance(color):
        linear = [
            channel / 255 / 12.92 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4
            for channel in color
        ]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    dark, light = sorted(
        luminance(color)
        for color in (
            drawing.class_color(index),
            text_rendering.contrasting_color(drawing.class_color(index)),
        )
    )
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


@pytest.mark.parametrize("label", LABEL_TEXTS)
def test_any_script_can_be_a_label(label):
    text = text_rendering.fit_text(label, 12, 150)
    assert text == "" or text_rendering.text_extent([text], 12)[0] <= 150
    assert (
        sheets.side_by_side(random_image(30, 50), random_image(40, 20), (label, label)).dtype
        == np.uint8
    )
    assert {ord(char) for char in text} - {32} <= text_rendering._face(text).glyphs


def test_characters_without_a_glyph_are_written_as_code_points(monkeypatch):
    monkeypatch.setattr(text_rendering, "_font_files", lambda: font_files()[:1])
    text_rendering._face.cache_clear()
    assert text_rendering.fit_text("猫 1", 12, 500) == "\\u732b 1"
    assert (
        text_rendering.fit_text("ab\u200dc\ufe0f", 12, 500)
        .replace("\u200d", "")
        .replace("\ufe0f", "")
        == "abc"
    )
    text_rendering._face.cache_clear()


font_files = text_rendering._font_files


def test_labels_never_overlap():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (40, 2))
    boxes = make_boxes(
        *np.hstack([corners, corners + rng.uniform(5, 120, (40, 2))]),
        scores=rng.uniform(0.5, 1, 40),
    )
    label_areas = [
        label_area
        for _, label_area, _ in drawing._place_labels(
            list(drawing._styled_boxes(boxes, 0, ["RBC"])), (600, 600)
        )
    ]
    assert len(label_areas) > 20
    assert not any(
        drawing._overlap(first, second) for first, second in itertools.combinations(label_areas, 2)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 12), st.sampled_from(LABEL_TEXTS))
def test_drawing_masks_changes_no_input(height, width, classes, label):
    pixels, mask = (
        random_image(height, width),
        np.random.default_rng(1).integers(-1, max(classes, 1), (height, width)),
    )
    before = pixels.copy(), mask.copy()
    drawn = drawing.draw_regions(
        pixels, mask, tuple(f"{label} {index}" for index in range(classes))
    )
    assert (pixels == before[0]).all()
    assert (mask == before[1]).all()
    assert (drawn.shape, drawn.dtype) == (pixels.shape, np.uint8)


def test_masks_are_not_drawn_over_background_and_ignored_pixels():
    pixels, mask = random_image(60, 90), np.zeros((60, 90), dtype=np.int64)
    mask[:20], mask[40:] = -1, 1
    drawn = drawing.draw_regions(pixels, mask, ("background", "road"))
    assert (drawn[:40] == pixels[:40]).all()
    assert (drawn[40] == drawing.class_color(1)).all()  # the border, in full color
    expected = np.rint((pixels[50].astype(float) + drawing.class_color(1)) / 2)
    assert np.abs(drawn[50] - expected).max() <= 1
    assert (
        drawing.draw_regions(pixels, np.zeros((60, 90), dtype=int), ("background",)) == pixels
    ).all()


def test_the_legend_counts_omitted_classes():
    mask = np.arange(200 * 200).reshape(200, 200) // 1000
    drawn = drawing.draw_regions(
        np.full((200, 200, 3), 128, dtype=np.uint8),
        mask,
        tuple(f"class number {index}" for index in range(40)),
    )
    legend = (drawn == 255).all(axis=2)
    assert 0.05 < legend.mean() < 0.34
    assert not legend[:, 110:].any()


def test_a_prediction_is_drawn_by_its_type():
    pixels, mask, boxes = (
        random_image(50, 50),
        np.eye(50, dtype=np.int64),
        make_boxes((5, 20, 40, 45), scores=[0.1]),
    )
    regions = Regions(lambda: mask)
    assert (
        drawing.draw_prediction(pixels, boxes, ("RBC",))
        == drawing.draw_boxes(pixels, boxes, 0, ("RBC",))
    ).all()
    assert (
        drawing.draw_prediction(pixels, regions, ("a", "b"))
        == drawing.draw_regions(pixels, mask, ("a", "b"))
    ).all()
    assert (
        drawing.draw_prediction(pixels, Labels(("a",)), ("a",))
        == drawing.draw_prediction(pixels, None, ())
    ).all()


def test_side_by_side_keeps_both_images():
    left, right = random_image(50, 70), random_image(80, 30, seed=1)
    sheet = sheets.side_by_side(left, right, ("left", ""))
    top = sheet.shape[0] - 80
    assert (sheet[top : top + 50, :70] == left).all()
    assert (sheet[top:, -30:] == right).all()
    assert (sheet[:top] != 255).any()
    assert sheets.side_by_side(left, left, ("", "")).shape[0] == 50


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="no shared/data/bccd")
def test_real_bccd_image():
    from xml.etree import ElementTree

    root = ElementTree.parse(SHARED / "bccd/BCCD/Annotations/BloodImage_00001.xml").getroot()
    corners = [
        [float(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        for item in root.iter("object")
    ]
    names = tuple(item.findtext("name") for item in root.iter("object"))
    pixels = read_image(SHARED / "bccd/BCCD/JPEGImages/BloodImage_00001.jpg")[0]
    styled = list(drawing._styled_boxes(make_boxes(*corners, names=names), 0, ("RBC", "WBC")))
    assert len(drawing._place_labels(styled, (640, 480))) == len(names) == 19
    assert (drawing.draw_boxes(pixels, make_boxes(*corners, names=names), 0) != pixels).any(
        axis=2
    ).mean() < 0.2

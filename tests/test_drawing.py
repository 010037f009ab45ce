"""Pictures with answers in them: nothing is changed that should not be, nothing is cut off, no script crashes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SHARED
from foveate.images import codec as images
from foveate.images import drawing, sheets
from foveate.images import text as lettering
from foveate.predictions import Boxes, Labels, Regions

WORDS = [
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


def ground(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes_of(*xyxy, names=None, scores=None, crowd=None) -> Boxes:
    names = names or tuple("RBC" for _ in xyxy)
    scores = None if scores is None else np.array(scores, dtype=np.float32)
    crowd = None if crowd is None else np.array(crowd)
    return Boxes(np.array(xyxy, dtype=np.float32).reshape(-1, 4), tuple(names), scores, crowd)


def allowed(shape, boxes: Boxes, threshold: float) -> np.ndarray:
    """(H, W) bool: inside of a box that is drawn, or under its label."""
    size, inside = (shape[1], shape[0]), np.zeros(shape[:2], dtype=bool)
    shown = [
        box
        for box in drawing._styled_boxes(boxes, threshold, sorted(set(boxes.names)))
        if drawing._is_visible(box.edge, size)
    ]
    for x0, y0, x1, y1 in [drawing._clip(box.edge, size) for box in shown] + [
        spot for _, spot, _ in drawing._place_labels(shown, size)
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
    st.lists(st.tuples(number, number, number, number, st.sampled_from(WORDS), st.floats(0, 1, width=32), st.booleans()), max_size=8),
    st.booleans(),
)  # fmt: skip
def test_only_boxes_and_labels_change(height, width, rows, scored):
    corners = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d, *_ in rows]
    scores = [row[5] for row in rows] if scored else None
    boxes = boxes_of(
        *corners, names=[row[4] for row in rows], scores=scores, crowd=[row[6] for row in rows]
    )
    pixels = ground(height, width)
    before = pixels.copy()
    drawn = drawing.draw_boxes(pixels, boxes, 0.5)
    assert (pixels == before).all()
    assert (drawn.shape, drawn.dtype) == (pixels.shape, np.uint8)
    assert not (drawn != pixels).any(axis=2)[~allowed(pixels.shape, boxes, 0.5)].any()


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
def test_every_box_leaves_a_trace(xyxy):
    pixels = np.full((48, 64, 3), 77, dtype=np.uint8)
    x, y = min(max(xyxy[0], 0), 63), min(max(xyxy[3] - 1, 0), 47)
    drawn = drawing.draw_boxes(pixels, boxes_of(xyxy, names=[""]), 0)
    assert (drawn != pixels).any()
    assert (drawn[y, x] == drawing.class_color(0)).all() or (
        drawn[min(y + 1, 47), x] == drawing.class_color(0)
    ).all()


def test_no_boxes_and_boxes_below_the_threshold_leave_the_picture_alone():
    pixels = ground(40, 60)
    for boxes in (
        boxes_of(),
        boxes_of((5, 5, 20, 20), scores=[0.4]),
        boxes_of((70, 5, 90, 20)),
        boxes_of((5, 5, np.nan, 20)),
    ):
        assert (drawing.draw_boxes(pixels, boxes, 0.5) == pixels).all()


def test_a_class_keeps_its_colour():
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    drawn = drawing.draw_boxes(
        pixels, boxes_of((10, 40, 90, 90), names=["dog"]), 0, classes=("cat", "dog")
    )
    assert tuple(drawn[60, 10]) == drawing.class_color(1)
    assert len({drawing.class_color(place) for place in range(60)}) == 60


def test_the_first_ten_colours_are_apart():
    """In plain RGB, as a guard against a slip; how the colour-blind see them was computed once (see the docstring)."""
    pairs = itertools.combinations(
        [np.array(drawing.class_color(place), dtype=float) for place in range(10)], 2
    )
    assert min(np.linalg.norm(one - other) for one, other in pairs) > 60


@pytest.mark.parametrize("place", range(40))
def test_letters_stand_out_from_their_plate(place):
    def luminance(colour):
        linear = [
            part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4
            for part in colour
        ]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    dark, light = sorted(
        luminance(colour)
        for colour in (
            drawing.class_color(place),
            lettering.contrasting_color(drawing.class_color(place)),
        )
    )
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


@pytest.mark.parametrize("word", WORDS)
def test_any_script_can_be_a_label(word):
    text = lettering.fit_text(word, 12, 150)
    assert text == "" or lettering.text_extent([text], 12)[0] <= 150
    assert sheets.side_by_side(ground(30, 50), ground(40, 20), (word, word)).dtype == np.uint8
    assert {ord(char) for char in text} - {32} <= lettering._face(text).glyphs


def test_what_no_font_has_is_written_out(monkeypatch):
    monkeypatch.setattr(lettering, "_font_files", lambda: drawing_files()[:1])
    lettering._face.cache_clear()
    assert lettering.fit_text("猫 1", 12, 500) == "\\u732b 1"
    assert (
        lettering.fit_text("ab\u200dc\ufe0f", 12, 500).replace("\u200d", "").replace("\ufe0f", "")
        == "abc"
    )
    lettering._face.cache_clear()


drawing_files = lettering._font_files


def test_labels_never_lie_on_each_other():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (40, 2))
    boxes = boxes_of(
        *np.hstack([corners, corners + rng.uniform(5, 120, (40, 2))]),
        scores=rng.uniform(0.5, 1, 40),
    )
    spots = [
        spot
        for _, spot, _ in drawing._place_labels(
            list(drawing._styled_boxes(boxes, 0, ["RBC"])), (600, 600)
        )
    ]
    assert len(spots) > 20
    assert not any(drawing._overlap(one, other) for one, other in itertools.combinations(spots, 2))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 12), st.sampled_from(WORDS))
def test_regions_change_no_input(height, width, classes, word):
    pixels, mask = (
        ground(height, width),
        np.random.default_rng(1).integers(-1, max(classes, 1), (height, width)),
    )
    before = pixels.copy(), mask.copy()
    drawn = drawing.draw_regions(pixels, mask, tuple(f"{word} {place}" for place in range(classes)))
    assert (pixels == before[0]).all()
    assert (mask == before[1]).all()
    assert (drawn.shape, drawn.dtype) == (pixels.shape, np.uint8)


def test_regions_leave_the_background_and_the_ignored_alone():
    pixels, mask = ground(60, 90), np.zeros((60, 90), dtype=np.int64)
    mask[:20], mask[40:] = -1, 1
    drawn = drawing.draw_regions(pixels, mask, ("background", "road"))
    assert (drawn[:40] == pixels[:40]).all()
    assert (drawn[40] == drawing.class_color(1)).all()  # the border, in full colour
    expected = np.rint((pixels[50].astype(float) + drawing.class_color(1)) / 2)
    assert np.abs(drawn[50] - expected).max() <= 1
    assert (
        drawing.draw_regions(pixels, np.zeros((60, 90), dtype=int), ("background",)) == pixels
    ).all()


def test_the_legend_counts_what_it_leaves_out():
    mask = np.arange(200 * 200).reshape(200, 200) // 1000
    drawn = drawing.draw_regions(
        np.full((200, 200, 3), 128, dtype=np.uint8),
        mask,
        tuple(f"class number {place}" for place in range(40)),
    )
    plate = (drawn == 255).all(axis=2)
    assert 0.05 < plate.mean() < 0.34
    assert not plate[:, 110:].any()


def test_an_answer_is_drawn_by_its_kind():
    pixels, mask, boxes = (
        ground(50, 50),
        np.eye(50, dtype=np.int64),
        boxes_of((5, 20, 40, 45), scores=[0.1]),
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


def test_side_by_side_keeps_both_pictures():
    left, right = ground(50, 70), ground(80, 30, seed=1)
    both = sheets.side_by_side(left, right, ("left", ""))
    top = both.shape[0] - 80
    assert (both[top : top + 50, :70] == left).all()
    assert (both[top:, -30:] == right).all()
    assert (both[:top] != 255).any()
    assert sheets.side_by_side(left, left, ("", "")).shape[0] == 50


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="no shared/data/bccd")
def test_real_cells():
    from xml.etree import ElementTree

    root = ElementTree.parse(SHARED / "bccd/BCCD/Annotations/BloodImage_00001.xml").getroot()
    corners = [
        [float(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        for item in root.iter("object")
    ]
    names = tuple(item.findtext("name") for item in root.iter("object"))
    pixels = images.read_image(SHARED / "bccd/BCCD/JPEGImages/BloodImage_00001.jpg")[0]
    shown = list(drawing._styled_boxes(boxes_of(*corners, names=names), 0, ("RBC", "WBC")))
    assert len(drawing._place_labels(shown, (640, 480))) == len(names) == 19
    assert (drawing.draw_boxes(pixels, boxes_of(*corners, names=names), 0) != pixels).any(
        axis=2
    ).mean() < 0.2
